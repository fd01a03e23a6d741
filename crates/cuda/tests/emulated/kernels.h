// What the kernels' sources need to be C++ for a processor: a block's threads take turns on one thread of the system, each on a stack of its own.
// Copies arrive as late as they may, shared memory holds no numbers at first, and the matrix units drop what doesn't fit, as the real ones do.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define __shared__
#define __align__(bytes)
#define __restrict__

struct dim3 {
    unsigned x, y, z;
};
struct int2 {
    int x, y;
};
struct int4 {
    int x, y, z, w;
};
struct float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

namespace emulated {

constexpr int LANES = 32;

struct Copy {
    float* to;
    const float* from;
    bool is_there;
};

struct Warp {
    int running = 0, arrived = 0;
    unsigned turn = 0;
    // Of even and of odd turns: a lane may be one turn ahead of one that still reads.
    float given[2][LANES][8];
};

struct Thread {
    void* stack = nullptr;
    std::vector<char> room;
    dim3 index{};
    bool is_done = false;
    unsigned barriers = 0;
    std::vector<std::vector<Copy>> groups;
    std::vector<Copy> open;
};

inline std::vector<Thread> threads;
inline std::vector<Warp> warps;
inline int current, running, arrived;
inline unsigned barrier;
inline void* scheduler;
inline void (*kernel)(void**);
inline void** arguments;

// Keeps what a call must keep on the stack that is left, and goes on from the other one.
extern "C" void emulated_switch(void** left, void* entered);
asm(R"(
.text
.globl emulated_switch
.hidden emulated_switch
emulated_switch:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret
)");

inline void pass() { emulated_switch(&threads[current].stack, scheduler); }

inline void begin()
{
    kernel(arguments);
    Thread& self = threads[current];
    self.is_done = true;
    running--;
    warps[current / LANES].running--;
    pass();
    abort();
}

// Hands numbers to the other lanes, and returns those of all once every lane has given its own.
inline const float (*exchange(const float* numbers, int count))[8]
{
    Warp& warp = warps[current / LANES];
    const unsigned turn = warp.turn;
    auto* given = warp.given[turn % 2];
    memcpy(given[current % LANES], numbers, count * sizeof(float));
    if (++warp.arrived == warp.running) {
        warp.arrived = 0;
        warp.turn++;
    }
    while (warp.turn == turn) pass();
    return given;
}

inline float as_float(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

inline uint32_t as_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

// As a float that isn't further from 0.
inline float cut(double x)
{
    float near = (float)x;
    return std::fabs((double)near) > std::fabs(x) ? std::nextafter(near, 0.0f) : near;
}

inline void launch(void (*called)(void**), void** given, dim3 grid, dim3 block);

} // namespace emulated

inline dim3 blockIdx, blockDim, gridDim;
#define threadIdx (emulated::threads[emulated::current].index)
// The names by which kernels declare the memory of a block.
alignas(16) inline float shared[64 * 1024], rows[16 * 1024];

inline float __int_as_float(int bits) { return emulated::as_float(bits); }
inline float __uint_as_float(uint32_t bits) { return emulated::as_float(bits); }
inline uint32_t __float_as_uint(float x) { return emulated::as_bits(x); }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }

inline void __syncthreads()
{
    const unsigned at = emulated::barrier;
    if (++emulated::arrived == emulated::running) {
        emulated::arrived = 0;
        emulated::barrier++;
    }
    while (emulated::barrier == at) emulated::pass();
}

inline float __shfl_xor_sync(unsigned, float x, int step)
{
    return emulated::exchange(&x, 1)[(emulated::current % emulated::LANES) ^ step][0];
}

inline void multiply_add(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    float mine[6];
    for (int i = 0; i < 6; i++) mine[i] = emulated::as_float((i < 4 ? a[i] : b[i - 4]) & ~0x1fffu);
    const float(*all)[8] = emulated::exchange(mine, 6);
    const int lane = emulated::current % emulated::LANES, g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; i++) {
        const int row = g + i / 2 * 8, column = 2 * t + i % 2;
        double sum = sums[i];
        for (int k = 0; k < 8; k++) {
            const double left = all[row % 8 * 4 + k % 4][row / 8 + k / 4 * 2];
            sum += left * all[column * 4 + k % 4][4 + k / 4];
        }
        sums[i] = emulated::cut(sum);
    }
}

inline uint32_t shared_address(const float* at) { return (uint32_t)((const char*)at - (const char*)shared); }

inline void copy(uint32_t to, const float* from, bool is_there)
{
    if (to % 16 || (uintptr_t)from % 16) abort();
    emulated::threads[emulated::current].open.push_back({(float*)((char*)shared + to), from, is_there});
}

inline void commit()
{
    auto& self = emulated::threads[emulated::current];
    self.groups.push_back(std::move(self.open));
    self.open.clear();
}

template <int GROUPS>
inline void wait()
{
    auto& groups = emulated::threads[emulated::current].groups;
    while (groups.size() > GROUPS) {
        for (const emulated::Copy& one : groups.front())
            for (int i = 0; i < 4; i++) one.to[i] = one.is_there ? one.from[i] : 0.0f;
        groups.erase(groups.begin());
    }
}

inline void load_four(float (&x)[4], uint32_t row)
{
    if (row % 16) abort();
    const float mine = emulated::as_float(row);
    const float(*all)[8] = emulated::exchange(&mine, 1);
    const int lane = emulated::current % emulated::LANES;
    for (int i = 0; i < 4; i++) {
        const uint32_t from = emulated::as_bits(all[i * 8 + lane / 4][0]);
        x[i] = *(const float*)((const char*)shared + from + lane % 4 * 4);
    }
}

inline void emulated::launch(void (*called)(void**), void** given, dim3 grid, dim3 block)
{
    const int count = block.x;
    kernel = called;
    arguments = given;
    gridDim = grid;
    blockDim = block;
    threads.resize(count);
    for (blockIdx.z = 0; blockIdx.z < grid.z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++) {
                for (float& x : shared) x = NAN;
                for (float& x : rows) x = NAN;
                warps.assign(count / LANES, Warp{});
                running = count;
                arrived = 0;
                for (int i = 0; i < count; i++) {
                    Thread& one = threads[i];
                    one.room.resize(64 * 1024);
                    one.index = {(unsigned)i, 0, 0};
                    one.is_done = false;
                    one.groups.clear();
                    one.open.clear();
                    warps[i / LANES].running++;
                    // Six registers, and where to go on: as after a call.
                    void** top = (void**)((uintptr_t)(one.room.data() + one.room.size()) / 16 * 16) - 1;
                    *--top = (void*)begin;
                    one.stack = top - 6;
                }
                while (running > 0)
                    for (current = 0; current < count; current++)
                        if (!threads[current].is_done) emulated_switch(&scheduler, threads[current].stack);
            }
}

namespace emulated {
// Calls a kernel with what its arguments point to.
template <class... A, size_t... I>
void call_each(void (*kernel)(A...), void** given, std::index_sequence<I...>)
{
    kernel(*(std::remove_const_t<std::remove_reference_t<A>>*)given[I]...);
}
template <class... A>
void call(void (*kernel)(A...), void** given)
{
    call_each(kernel, given, std::index_sequence_for<A...>{});
}
} // namespace emulated
