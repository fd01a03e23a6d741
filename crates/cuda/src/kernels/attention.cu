// Attention within each text, head by head, without the scores ever being stored (Dao et al., "FlashAttention", 2022).
//
// A warp takes 16 queries of one head through the keys, some at a time from the text's beginning on, so that a text's sums take the same steps
// whatever else is in the batch. Factors are split as in product.cu.
//
// Compiled for heads of WIDTH numbers, and for how tokens see each other, which is VIEW.

#define QUERIES 16
// Fewer where heads are wide: registers hold the scores.
#define KEYS (WIDTH > 64 ? 32 : 64)

// Numbers that a lane reads at once. Of keys they stand for those of two steps, of values for those of four: which columns a step takes is free.
#define AT_ONCE (WIDTH % 32 == 0 ? 4 : 1)

#define WHOLE 0
#define BIASED 1
#define WINDOW 2
#define PLACED 3

struct Heads {
    // Numbers from one token's queries, keys and values to the next's, and of the result.
    int row, row_out;
    int hidden, width;
    float scale;
    // The furthest distance with a bias of its own, or within the window.
    int reach;
    // Of embedded distances: columns of a head, those of a token, the first one's row, and rows of each direction.
    int columns, row_places, first, span;
    // The last distance that has a step of its own.
    int last_step;
};

// Adds a product of split factors to sums by the ordinary units: over a long text what the matrix units cut off would add up.
__device__ __forceinline__ void multiply_apart(
    float (&sums)[4], const u32 (&leading)[4], const u32 (&rest)[4], const u32 (&other_leading)[2], const u32 (&other_rest)[2])
{
    float part[4] = {};
    multiply_add(part, rest, other_leading);
    multiply_add(part, leading, other_rest);
    multiply_add(part, leading, other_leading);
#pragma unroll
    for (int i = 0; i < 4; i++) sums[i] += part[i];
}

// The row of the table of distances from one token to another, less the first.
__device__ __forceinline__ int place(int from, int to, const int* steps, const Heads& of)
{
    const int step = steps[min(abs(from - to), of.last_step)];
    return (from < to ? max(of.span - step, 0) : min(of.span + step, 2 * of.span - 1)) - of.first;
}

// Which column of a head lane t takes in step d, for the first and for the second number of a factor.
__device__ __forceinline__ int key_column(int d, int t, int i)
{
    return AT_ONCE == 4 ? d / 2 * 16 + t * 4 + d % 2 * 2 + i : d * 8 + t + i * 4;
}

// Which column of a head is the one with that number of the sums of step d.
__device__ __forceinline__ int value_column(int d, int number)
{
    return AT_ONCE == 4 ? d / 4 * 32 + number * 4 + d % 4 : d * 8 + number;
}

__device__ __forceinline__ void read(float (&x)[4], const float* from, bool is_there)
{
    float4 all = {0.0f, 0.0f, 0.0f, 0.0f};
    if (is_there) all = *(const float4*)from;
    x[0] = all.x;
    x[1] = all.y;
    x[2] = all.z;
    x[3] = all.w;
}

__device__ __forceinline__ void read(float (&x)[1], const float* from, bool is_there)
{
    x[0] = is_there ? *from : 0.0f;
}

extern "C" __global__ void __launch_bounds__(128) attend(const float* qkv, const int4* items, float* out, const float* biases,
    const float* query_places, const float* key_places, const int* steps, Heads of)
{
    constexpr int DEPTH = (WIDTH + 7) / 8, TILES = KEYS / 8, STEPS = AT_ONCE == 4 ? 2 : 1;
    const int4 item = items[blockIdx.x];
    const int first = item.x, tokens = item.y;
    const int query = item.z + threadIdx.x / 32 * QUERIES;
    if (query >= tokens) return;
    const int head = blockIdx.y, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const float* queries = qkv + (long long)first * of.row + head * WIDTH;
    const float* keys = queries + of.hidden;
    const float* values = keys + of.hidden;
    const int at[2] = {query + g, query + g + 8};

    float q[DEPTH][4];
#pragma unroll
    for (int d = 0; d < DEPTH; d++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int row = at[i % 2], column = key_column(d, t, i / 2);
            q[d][i] = row < tokens && column < WIDTH ? queries[(long long)row * of.row + column] : 0.0f;
        }

    float sums[DEPTH][4] = {};
    float highest[2] = {-INFINITE, -INFINITE}, total[2] = {0.0f, 0.0f};
    int from = 0, to = tokens;
    if (VIEW == WINDOW) {
        from = max(query - of.reach, 0) / KEYS * KEYS;
        to = min(query + QUERIES + of.reach, tokens);
    }
    for (int key = from; key < to; key += KEYS) {
        float scores[TILES][4] = {};
#pragma unroll
        for (int d = 0; d < DEPTH; d += STEPS) {
            u32 leading[STEPS][4], rest[STEPS][4];
#pragma unroll
            for (int i = 0; i < STEPS * 4; i++) {
                Parts both = parts(q[d + i / 4][i % 4]);
                leading[i / 4][i % 4] = both.leading;
                rest[i / 4][i % 4] = both.rest;
            }
#pragma unroll
            for (int n = 0; n < TILES; n++) {
                if (key + n * 8 >= to) continue;
                const int row = key + n * 8 + g;
                const float* from = keys + (long long)row * of.row;
                float x[STEPS * 2 / AT_ONCE][AT_ONCE];
#pragma unroll
                for (int i = 0; i < STEPS * 2; i += AT_ONCE) {
                    const int column = key_column(d, t, i);
                    read(x[i / AT_ONCE], from + column, row < tokens && column < WIDTH);
                }
#pragma unroll
                for (int step = 0; step < STEPS; step++) {
                    u32 other_leading[2], other_rest[2];
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        const int number = step * 2 + i;
                        Parts both = parts(x[number / AT_ONCE][number % AT_ONCE]);
                        other_leading[i] = both.leading;
                        other_rest[i] = both.rest;
                    }
                    multiply_apart(scores[n], leading[step], rest[step], other_leading, other_rest);
                }
            }
        }

        float peak[2] = {highest[0], highest[1]};
#pragma unroll
        for (int n = 0; n < TILES; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int row = at[i / 2], column = key + n * 8 + t * 2 + i % 2;
                bool is_seen = column < tokens;
                if (VIEW == WINDOW) is_seen = is_seen && abs(column - row) <= of.reach;
                float score = scores[n][i];
                if (VIEW == PLACED && is_seen && row < tokens) {
                    const int where = place(row, column, steps, of) + head * of.columns;
                    score += query_places[(long long)(first + row) * of.row_places + where];
                    score += key_places[(long long)(first + column) * of.row_places + where];
                }
                score *= of.scale;
                if (VIEW == BIASED) {
                    const int distance = min(max(column - row, -of.reach), of.reach) + of.reach;
                    score += biases[head * (2 * of.reach + 1) + distance];
                }
                scores[n][i] = is_seen ? score : -INFINITE;
                peak[i / 2] = fmaxf(peak[i / 2], scores[n][i]);
            }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            peak[i] = fmaxf(peak[i], __shfl_xor_sync(0xffffffffu, peak[i], 1));
            peak[i] = fmaxf(peak[i], __shfl_xor_sync(0xffffffffu, peak[i], 2));
            // Where nothing was seen yet, every exponential is to be 0, not of infinity less infinity.
            const float base = peak[i] == -INFINITE ? 0.0f : peak[i];
            const float factor = expf(highest[i] - base);
            highest[i] = peak[i];
            peak[i] = base;
            total[i] *= factor;
#pragma unroll
            for (int d = 0; d < DEPTH; d++) {
                sums[d][i * 2] *= factor;
                sums[d][i * 2 + 1] *= factor;
            }
        }
#pragma unroll
        for (int n = 0; n < TILES; n++) {
            if (key + n * 8 >= to) continue;
            u32 leading[4], rest[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                // Keys 2 * t and 2 * t + 1 of the sums stand for t and t + 4 of the factor.
                const int of_sums = i % 2 * 2 + i / 2;
                const float share = expf(scores[n][of_sums] - peak[i % 2]);
                total[i % 2] += share;
                Parts both = parts(share);
                leading[i] = both.leading;
                rest[i] = both.rest;
            }
#pragma unroll
            for (int d = 0; d < DEPTH; d += AT_ONCE) {
                float x[2][AT_ONCE];
                const int column = value_column(d, g);
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const int row = key + n * 8 + t * 2 + i;
                    read(x[i], values + (long long)row * of.row + column, row < tokens && column < WIDTH);
                }
#pragma unroll
                for (int step = 0; step < AT_ONCE; step++) {
                    u32 other_leading[2], other_rest[2];
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        Parts both = parts(x[i][step]);
                        other_leading[i] = both.leading;
                        other_rest[i] = both.rest;
                    }
                    multiply_apart(sums[d + step], leading, rest, other_leading, other_rest);
                }
            }
        }
    }

#pragma unroll
    for (int i = 0; i < 2; i++) {
        total[i] += __shfl_xor_sync(0xffffffffu, total[i], 1);
        total[i] += __shfl_xor_sync(0xffffffffu, total[i], 2);
        if (at[i] >= tokens) continue;
        float* into = out + (long long)(first + at[i]) * of.row_out;
#pragma unroll
        for (int d = 0; d < DEPTH; d++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const int column = value_column(d, t * 2 + j);
                if (column < WIDTH) into[head * WIDTH + column] = sums[d][i * 2 + j] / total[i];
            }
        if (head + 1 == gridDim.y && t == 0)
            for (int column = of.hidden; column < of.row_out; column++) into[column] = 0.0f;
    }
}
