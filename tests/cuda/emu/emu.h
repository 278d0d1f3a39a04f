/* SPDX-License-Identifier: Apache-2.0
 * CUDA's device language on the host, as far as the kernels use it.  The
 * threads of a block are fibers that run one after another until each waits at
 * a barrier or a warp function; blocks run one after another.  Found at run
 * time: warp functions and barriers that not all lanes or threads reach, or at
 * different calls; reads of shared memory nobody wrote (poison); accesses
 * outside of buffers (guard pages, or the address sanitizer); words and vectors
 * at addresses that are no multiple of their size (the compiler's checks);
 * results handed from block to block without the fences that takes; and,
 * because every other device runs threads and blocks in the opposite order,
 * results that depend on the order. */
#ifndef QCUDA_EMU_H
#define QCUDA_EMU_H

#include <math.h>
#include <stdint.h>
#include <string.h>

namespace emu
{

struct uint3 {
    uint32_t x, y, z;
};

struct place {
    uint3 thread_index, block_index, block_size, grid_size;
};
/* Of the fiber that runs. */
extern place now;

/* Calls of one kind at one line must be made by whole warps. */
void block_barrier(const char *where);
void warp_barrier(const char *where);
/* Gives 8 bytes to the other lanes, waits for them, and returns all 32. */
const uint64_t *exchange(uint64_t mine, const char *where);
void *shared_memory();

/* How blocks hand each other results: all threads write, a barrier, then one
 * thread fences and adds; whoever reads after seeing a sum needs a fence in
 * the thread that added, then a barrier.  Anything else ends the process. */
void fence();
uint32_t atomic_add(uint32_t *at, uint32_t value, const char *where);
void of_other_blocks(const char *where);

template <typename T>
static inline uint64_t bits_of(T value)
{
    static_assert(sizeof(T) <= 8, "one word");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    return bits;
}

template <typename T>
static inline T value_of(uint64_t bits)
{
    T value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

template <typename T>
static inline T shuffle(T value, unsigned from, const char *where)
{
    return value_of<T>(exchange(bits_of(value), where)[from & 31]);
}

static inline unsigned lane()
{
    return now.thread_index.x % 32;
}

static inline unsigned ballot(bool set, const char *where)
{
    const uint64_t *all = exchange(set, where);
    unsigned mask = 0;
    for (unsigned i = 0; i < 32; i++)
        mask |= unsigned(all[i] & 1) << i;
    return mask;
}

/* D = A B + D on fragments of mma.m16n8k16, bf16 inputs, f32 sums. */
void mma_m16n8k16(
    float d[4], const uint32_t a[4], const uint32_t b[2], const char *where);

} // namespace emu

#define EMU_TEXT_OF(x) #x
#define EMU_TEXT(x) EMU_TEXT_OF(x)
#define EMU_HERE __FILE__ ":" EMU_TEXT(__LINE__)

#define threadIdx (emu::now.thread_index)
#define blockIdx (emu::now.block_index)
#define blockDim (emu::now.block_size)
#define gridDim (emu::now.grid_size)

#define __restrict__ __restrict
#define __syncthreads() emu::block_barrier(EMU_HERE)
#define __syncwarp() emu::warp_barrier(EMU_HERE)
#define __threadfence() emu::fence()
#define atomicAdd(at, value) emu::atomic_add(at, value, EMU_HERE)
#define __ldcg(at) (emu::of_other_blocks(EMU_HERE), *(at))
#define __shfl_xor_sync(mask, value, step)                                     \
    emu::shuffle(value, emu::lane() ^ unsigned(step), EMU_HERE)
#define __shfl_sync(mask, value, from)                                         \
    emu::shuffle(value, unsigned(from), EMU_HERE)
/* Lanes without a partner keep their own value. */
#define __shfl_up_sync(mask, value, step)                                      \
    emu::shuffle(value,                                                        \
        emu::lane() >= unsigned(step) ? emu::lane() - unsigned(step)           \
                                      : emu::lane(),                           \
        EMU_HERE)
#define __ballot_sync(mask, set) emu::ballot(set, EMU_HERE)
#define __any_sync(mask, set) (emu::ballot(set, EMU_HERE) != 0)

static inline float __uint_as_float(uint32_t bits)
{
    return emu::value_of<float>(bits);
}

static inline uint32_t __float_as_uint(float value)
{
    return uint32_t(emu::bits_of(value));
}

static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}

template <typename T>
static inline T __ldg(const T *at)
{
    return *at;
}

struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct alignas(8) uint2 {
    uint32_t x, y;
};

template <typename T>
static inline T min(T a, T b)
{
    return b < a ? b : a;
}

template <typename T>
static inline T max(T a, T b)
{
    return a < b ? b : a;
}

#endif
