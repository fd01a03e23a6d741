// Products with weights: c[m][n] = finish(a[m][k] * w[n][k]^T + bias[n]), times another matrix where there is one.
//
// On the matrix units, which keep 11 of a factor's 24 bits: each factor is two numbers, its leading bits and the rest, and three products
// stand for one (Ootomo and Yokota, "Recovering single precision accuracy from Tensor Cores", 2022). What they add up they don't round to the nearest,
// so that each slice of 32 is added to the sum by the ordinary units.
//
// An element's sum takes the same steps in the same order whatever the size of the tiles and of the batch.

#define SLICE 32
// A row of a slice in shared memory: eight rows begin in different banks.
#define ROW 36

// One slice of a tile: rows `a` and `w` of this warp in shared memory.
template <int MI, int NI>
__device__ __forceinline__ void slice(float (&sums)[MI][NI][4], u32 a, u32 w, int lane)
{
    const int matrix = lane / 8, row = lane % 8;
    // Of a: rows 0 and 8 at column 0, then both at column 4. Of w: columns 0 and 4 of row 0, then of row 8.
    const u32 from_a = a + ((matrix % 2 * 8 + row) * ROW + matrix / 2 * 4) * 4;
    const u32 from_w = w + ((matrix / 2 * 8 + row) * ROW + matrix % 2 * 4) * 4;
#pragma unroll
    for (int k = 0; k < SLICE; k += 8) {
        u32 leading[MI][4], rest[MI][4], other_leading[NI][2], other_rest[NI][2];
#pragma unroll
        for (int i = 0; i < MI; i++) {
            float x[4];
            load_four(x, from_a + (i * 16 * ROW + k) * 4);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                Parts both = parts(x[j]);
                leading[i][j] = both.leading;
                rest[i][j] = both.rest;
            }
        }
#pragma unroll
        for (int i = 0; i < NI; i += 2) {
            float x[4];
            load_four(x, from_w + (i * 8 * ROW + k) * 4);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                Parts both = parts(x[j]);
                other_leading[i + j / 2][j % 2] = both.leading;
                other_rest[i + j / 2][j % 2] = both.rest;
            }
        }
#pragma unroll
        for (int i = 0; i < MI; i++)
#pragma unroll
            for (int j = 0; j < NI; j++) multiply_add(sums[i][j], rest[i], other_leading[j]);
#pragma unroll
        for (int i = 0; i < MI; i++)
#pragma unroll
            for (int j = 0; j < NI; j++) multiply_add(sums[i][j], leading[i], other_rest[j]);
#pragma unroll
        for (int i = 0; i < MI; i++)
#pragma unroll
            for (int j = 0; j < NI; j++) multiply_add(sums[i][j], leading[i], other_leading[j]);
    }
}

template <int MI, int NI, class Each>
__device__ __forceinline__ void each(float (&sums)[MI][NI][4], Each finished)
{
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int j = 0; j < NI; j++)
#pragma unroll
            for (int k = 0; k < 4; k++) sums[i][j][k] = finished(sums[i][j][k]);
}

// Chosen once, not for each number.
template <int MI, int NI>
__device__ __forceinline__ void finish(float (&sums)[MI][NI][4], int by)
{
    switch (by) {
    case GELU:
        return each(sums, [](float x) { return gelu(x); });
    case GELU_TANH:
        return each(sums, [](float x) { return gelu_tanh(x); });
    case RELU:
        // Not fmaxf, which swallows a NaN.
        return each(sums, [](float x) { return x < 0.0f ? 0.0f : x; });
    case TANH:
        return each(sums, [](float x) { return tanhf(x); });
    case SIGMOID:
        return each(sums, [](float x) { return sigmoid(x); });
    case SILU:
        return each(sums, [](float x) { return silu(x); });
    }
}

struct Sizes {
    int m, n, k;
    // Numbers from one row to the next: multiples of 4, with zeros after the last number.
    int row_a, row_w, row_c;
    // Numbers from one product of a batch to the next.
    long long next_a, next_w, next_c;
    int finish;
};

template <int BM, int BN, int WM, int WN, int STAGES>
__device__ __forceinline__ void product(
    const float* a, const float* w, const float* bias, const float* times, float* c, const Sizes& of)
{
    constexpr int THREADS = BM / WM * (BN / WN) * 32, MI = WM / 16, NI = WN / 8;
    extern __shared__ __align__(16) float shared[];
    a += blockIdx.z * of.next_a;
    w += blockIdx.z * of.next_w;
    c += blockIdx.z * of.next_c;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int m0 = blockIdx.y * BM, n0 = blockIdx.x * BN;
    const int wm = warp / (BN / WN) * WM, wn = warp % (BN / WN) * WN;
    const int slices = (of.k + SLICE - 1) / SLICE, k4 = (of.k + 3) / 4 * 4;
    const u32 base = shared_address(shared);

    auto load = [&](int number) {
        const u32 stage = base + number % STAGES * (BM + BN) * ROW * 4;
        const int k0 = number * SLICE;
#pragma unroll
        for (int i = threadIdx.x; i < BM * 8; i += THREADS) {
            const int row = i / 8, column = i % 8 * 4;
            const bool is_there = m0 + row < of.m && k0 + column < k4;
            const float* from = is_there ? a + (long long)(m0 + row) * of.row_a + k0 + column : a;
            copy(stage + (row * ROW + column) * 4, from, is_there);
        }
#pragma unroll
        for (int i = threadIdx.x; i < BN * 8; i += THREADS) {
            const int row = i / 8, column = i % 8 * 4;
            const bool is_there = n0 + row < of.n && k0 + column < k4;
            const float* from = is_there ? w + (long long)(n0 + row) * of.row_w + k0 + column : w;
            copy(stage + ((BM + row) * ROW + column) * 4, from, is_there);
        }
    };

    float sums[MI][NI][4] = {};
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) {
        if (i < slices) load(i);
        commit();
    }
    for (int i = 0; i < slices; i++) {
        wait<STAGES - 2>();
        __syncthreads();
        if (i + STAGES - 1 < slices) load(i + STAGES - 1);
        commit();
        const u32 stage = base + i % STAGES * (BM + BN) * ROW * 4;
        float part[MI][NI][4] = {};
        slice<MI, NI>(part, stage + wm * ROW * 4, stage + (BM + wn) * ROW * 4, lane);
#pragma unroll
        for (int j = 0; j < MI * NI * 4; j++) sums[j / (NI * 4)][j / 4 % NI][j % 4] += part[j / (NI * 4)][j / 4 % NI][j % 4];
    }

    if (bias) {
#pragma unroll
        for (int j = 0; j < NI * 2; j++) {
            const int column = n0 + wn + j / 2 * 8 + lane % 4 * 2 + j % 2;
            const float added = column < of.n ? bias[column] : 0.0f;
#pragma unroll
            for (int i = 0; i < MI * 2; i++) sums[i / 2][j / 2][i % 2 * 2 + j % 2] += added;
        }
    }
    finish(sums, of.finish);

    const int n4 = (of.n + 3) / 4 * 4;
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int j = 0; j < NI; j++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int row = m0 + wm + i * 16 + half * 8 + lane / 4, column = n0 + wn + j * 8 + lane % 4 * 2;
                if (row >= of.m || column >= n4) continue;
                float2 both;
                const long long at = (long long)row * of.row_c + column;
                both.x = column < of.n ? sums[i][j][half * 2] : 0.0f;
                both.y = column + 1 < of.n ? sums[i][j][half * 2 + 1] : 0.0f;
                if (times) {
                    const float2 other = *(const float2*)(times + at);
                    both.x *= other.x;
                    both.y *= other.y;
                }
                *(float2*)(c + at) = both;
            }
}

#define PRODUCT(name, BM, BN, WM, WN, STAGES)                                                                   \
    extern "C" __global__ void __launch_bounds__(BM / WM * (BN / WN) * 32) name(                                \
        const float* a, const float* w, const float* bias, const float* times, float* c, Sizes of)             \
    {                                                                                                           \
        product<BM, BN, WM, WN, STAGES>(a, w, bias, times, c, of);                                              \
    }

PRODUCT(product_large, 128, 128, 64, 32, 3)
// Where a block has less shared memory.
PRODUCT(product_large_short, 128, 128, 64, 32, 2)
PRODUCT(product_middle, 64, 64, 32, 32, 3)
PRODUCT(product_small, 32, 32, 16, 16, 3)
