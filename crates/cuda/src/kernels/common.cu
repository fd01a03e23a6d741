// What the other files share. Everything is compiled at run time for compute capability 8.0, without any header.

typedef unsigned int u32;

#define INFINITE __int_as_float(0x7f800000)

// Instructions that C++ has no name for. The tests' emulated device brings its own.
#ifdef __CUDACC__

// sums[16][8] += a[16][8] * b[8][8]. Of lane 4 * g + t are a's (g, t), (g + 8, t), (g, t + 4) and (g + 8, t + 4), b's (t, g) and (t + 4, g), and
// the sums (g, 2 * t), (g, 2 * t + 1), (g + 8, 2 * t) and (g + 8, 2 * t + 1).
__device__ __forceinline__ void multiply_add(float (&sums)[4], const u32 (&a)[4], const u32 (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ u32 shared_address(const float* at)
{
    return (u32)__cvta_generic_to_shared(at);
}

// Copies 16 bytes, or zeros where there are none, without waiting.
__device__ __forceinline__ void copy(u32 to, const float* from, bool is_there)
{
    int bytes = is_there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

// Four matrices of eight rows of four numbers: of lane 4 * g + t is the number (g, t) of each. Lane i names row i % 8 of matrix i / 8.
__device__ __forceinline__ void load_four(float (&x)[4], u32 row)
{
    u32 bits[4];
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(bits[0]), "=r"(bits[1]), "=r"(bits[2]), "=r"(bits[3])
                 : "r"(row)
                 : "memory");
    for (int i = 0; i < 4; i++) x[i] = __uint_as_float(bits[i]);
}

// Closes a group of copies.
__device__ __forceinline__ void commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits for this thread's copies, but for the latest groups.
template <int GROUPS>
__device__ __forceinline__ void wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
}

#endif

// What happens to a product's sums; the numbers are those of `finish_number` in launch.rs.
#define PLAIN 0
#define GELU 1
#define GELU_TANH 2
#define RELU 3
#define TANH 4
#define SIGMOID 5
#define SILU 6

__device__ __forceinline__ float gelu(float x)
{
    return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
}

__device__ __forceinline__ float gelu_tanh(float x)
{
    return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * fmaf(0.044715f * x * x, x, x)));
}

__device__ __forceinline__ float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

__device__ __forceinline__ float silu(float x)
{
    return x / (1.0f + expf(-x));
}

// The sum over a warp, in one order whatever the warp.
__device__ __forceinline__ float sum_of_warp(float x)
{
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

// A number as two of the 11 bits that the matrix units read: the nearest, and what is left without its last bit. By whole numbers: the
// instruction that rounds takes several times as long. A NaN lives on in the rest.
struct Parts {
    u32 leading, rest;
};

__device__ __forceinline__ Parts parts(float x)
{
    Parts both;
    both.leading = (__float_as_uint(x) + 0x1000) & 0xffffe000;
    both.rest = __float_as_uint(x - __uint_as_float(both.leading)) & 0xffffe000;
    return both;
}
