// What happens row by row: embeddings, norms, and one vector a text. A warp takes a row, and keeps it in shared memory; each lane
// reads back only what it wrote.

struct Norm {
    int width;
    // Numbers from one row to the next.
    int row;
    float eps;
    int rows;
};

__device__ __forceinline__ int row_of_warp()
{
    return blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
}

// Layer norm of a row (Ba, Kiros and Hinton, 2016), in two passes; zeros after it.
__device__ __forceinline__ void normed(const float* row, float* into, const float* weight, const float* bias, const Norm& norm, int lane)
{
    float sum = 0.0f, squares = 0.0f;
    for (int i = lane; i < norm.width; i += 32) sum += row[i];
    const float mean = sum_of_warp(sum) / norm.width;
    for (int i = lane; i < norm.width; i += 32) squares += (row[i] - mean) * (row[i] - mean);
    const float factor = 1.0f / sqrtf(sum_of_warp(squares) / norm.width + norm.eps);
    for (int i = lane; i < norm.row; i += 32)
        into[i] = i < norm.width ? fmaf((row[i] - mean) * factor, weight[i], bias[i]) : 0.0f;
}

extern "C" __global__ void embed(float* x, const u32* ids, const u32* types, const u32* places, const float* words,
    const float* of_types, const float* of_places, const float* weight, const float* bias, Norm norm)
{
    extern __shared__ float rows[];
    const int token = row_of_warp(), lane = threadIdx.x % 32;
    if (token >= norm.rows) return;
    float* row = rows + threadIdx.x / 32 * norm.width;
    const float* word = words + (long long)ids[token] * norm.width;
    for (int i = lane; i < norm.width; i += 32) {
        float sum = word[i];
        if (of_types) sum += of_types[(long long)types[token] * norm.width + i];
        if (of_places) sum += of_places[(long long)places[token] * norm.width + i];
        row[i] = sum;
    }
    normed(row, x + (long long)token * norm.row, weight, bias, norm, lane);
}

// x = norm(x + added); or where sums are kept, sums += added and x = norm(sums).
extern "C" __global__ void add_norm(float* x, const float* added, float* sums, const float* weight, const float* bias, Norm norm)
{
    extern __shared__ float rows[];
    const int token = row_of_warp(), lane = threadIdx.x % 32;
    if (token >= norm.rows) return;
    float* row = rows + threadIdx.x / 32 * norm.width;
    const long long start = (long long)token * norm.row;
    float* before = (sums ? sums : x) + start;
    for (int i = lane; i < norm.width; i += 32) {
        row[i] = before[i] + added[start + i];
        if (sums) before[i] = row[i];
    }
    normed(row, x + start, weight, bias, norm, lane);
}

// One vector a text, from the tokens after the first `skipped`, or the first token where `skipped` is below 0. `texts` are each one's first row and its tokens.
extern "C" __global__ void pool(float* vectors, const float* x, const int2* texts, int width, int row, int row_out, int skipped)
{
    const int2 text = texts[blockIdx.x];
    const int from = skipped < 0 ? 0 : min(skipped, text.y), to = skipped < 0 ? 1 : text.y;
    for (int i = threadIdx.x; i < row_out; i += blockDim.x) {
        float sum = 0.0f;
        if (i < width)
            for (int token = from; token < to; token++) sum += x[(long long)(text.x + token) * row + i];
        vectors[(long long)blockIdx.x * row_out + i] = sum / max(to - from, 1);
    }
}

// Turns queries and keys by their places (Su et al., "RoFormer", 2021).
extern "C" __global__ void turn(float* qkv, int row, int hidden, int width, const int* within, const float2* turns, int tokens)
{
    const int half = width / 2, pairs = hidden / 2;
    const long long number = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    const int token = number / pairs, pair = number % pairs;
    if (token >= tokens) return;
    const float2 by = turns[(long long)within[token] * half + pair % half];
    float* at = qkv + (long long)token * row + pair / half * width + pair % half;
    for (int part = 0; part < 2; part++, at += hidden) {
        const float x = at[0], y = at[half];
        at[0] = fmaf(x, by.x, -(y * by.y));
        at[half] = fmaf(y, by.x, x * by.y);
    }
}
