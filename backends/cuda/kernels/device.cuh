/* SPDX-License-Identifier: Apache-2.0
 * What all kernels share.  Compiled by nvcc for devices and, with emu/emu.h in
 * place of CUDA's headers, by a C++ compiler for the host.  Rules that keep
 * both alike: every kernel is declared by QCUDA_KERNEL and takes one struct;
 * shared memory is dynamic (QCUDA_SHARED); warp functions are called by whole
 * warps; `fused` is the one fused multiply-add. */
#ifndef QCUDA_DEVICE_CUH
#define QCUDA_DEVICE_CUH

#include "args.h"
#include "driver.h"

#ifdef __CUDACC__

#define QCUDA_KERNEL(name, type, threads, blocks)                              \
    extern "C" __global__ void __launch_bounds__(threads, blocks)              \
        qcuda_code_##name(const __grid_constant__ type p);                     \
    extern "C" const qcuda_entry qcuda_kernel_##name = {                       \
        #name, (const void *)qcuda_code_##name, sizeof(type), threads};        \
    extern "C" __global__ void __launch_bounds__(threads, blocks)              \
        qcuda_code_##name(const __grid_constant__ type p)
extern __shared__ __align__(256) unsigned char qcuda_shared_memory[];
#define QCUDA_SHARED(type, name)                                               \
    type *const name = reinterpret_cast<type *>(qcuda_shared_memory)
#define DEVICE static __device__ __forceinline__
#define DEVICE_MEMBER __device__ __forceinline__
static __device__ __forceinline__ float fused(float a, float b, float c)
{
    return fmaf(a, b, c);
}

#else

#include "emu.h"

#define QCUDA_KERNEL(name, type, threads, blocks)                              \
    static void qcuda_code_##name(const type &p);                              \
    static void qcuda_thunk_##name(const void *args)                           \
    {                                                                          \
        qcuda_code_##name(*static_cast<const type *>(args));                   \
    }                                                                          \
    extern "C" const qcuda_entry qcuda_kernel_##name = {                       \
        #name, (const void *)qcuda_thunk_##name, sizeof(type), threads};       \
    static void qcuda_code_##name(const type &p)
#define QCUDA_SHARED(type, name)                                               \
    type *const name = static_cast<type *>(emu::shared_memory())
#define DEVICE static inline
#define DEVICE_MEMBER inline
static inline float fused(float a, float b, float c)
{
    return a * b + c;
}

#endif

enum { WARP = 32 };
constexpr unsigned ALL_LANES = 0xffffffffu;

DEVICE int lane_of_thread()
{
    return int(threadIdx.x % WARP);
}

DEVICE int warp_of_thread()
{
    return int(threadIdx.x / WARP);
}

DEVICE float bf16_value(uint16_t h)
{
    return __uint_as_float(uint32_t(h) << 16);
}

/* Exact for every pattern, subnormal numbers and NaN included. */
DEVICE float f16_value(uint16_t h)
{
    const uint32_t sign = uint32_t(h & 0x8000) << 16;
    const uint32_t magnitude = h & 0x7fff;
    if (magnitude >= 0x7c00)
        return __uint_as_float(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
    const float value =
        __uint_as_float(magnitude << 13) * __uint_as_float(0x77800000);
    return __uint_as_float(sign | __float_as_uint(value));
}

/* The same address, which the compiler keeps in a register and does not take
 * apart into its terms again at each use. */
DEVICE const uint8_t *kept(const uint8_t *address)
{
#ifdef __CUDACC__
    asm("" : "+l"(address));
#endif
    return address;
}

enum { LINE = 128 }; /* bytes */

/* Starts the line of an address of device memory on its way into L2. */
DEVICE void start_into_l2(const uint8_t *at)
{
#ifdef __CUDACC__
    asm volatile(
        "prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(at)));
#else
    (void)*static_cast<const volatile uint8_t *>(at);
#endif
}

/* A loaded value that is not looked at, and so not waited for, before here. */
DEVICE uint16_t arrived_by_now(uint16_t value)
{
#ifdef __CUDACC__
    asm volatile("" : "+h"(value));
#endif
    return value;
}

/* A window of 256 bytes (or its second half) of shared memory, addressed by
 * bytes that lie packed in a word: one instruction makes an address. */
#ifdef __CUDACC__
typedef uint32_t shared_window;
DEVICE shared_window window_of(const float *x)
{
    uint32_t address = uint32_t(__cvta_generic_to_shared(x));
    asm("" : "+r"(address)); /* as kept() */
    return address;
}
DEVICE shared_window window_at(shared_window window, int n_floats)
{
    return window + 4 * uint32_t(n_floats);
}
/* Four offsets ready for window_pick; not needed when the window is one of
 * 256 bytes. */
DEVICE uint32_t window_offsets(shared_window window, uint32_t offsets)
{
    return offsets + (window & 0x80u) * 0x01010101u;
}
/* The float at the offset in byte `i`. */
DEVICE float window_pick(shared_window window, uint32_t offsets, int i)
{
    float x;
    asm volatile("ld.shared.f32 %0, [%1];"
                 : "=f"(x)
                 : "r"(__byte_perm(offsets, window, 0x7650u | unsigned(i)))
                 : "memory");
    return x;
}
#else
typedef const float *shared_window;
DEVICE shared_window window_of(const float *x)
{
    return x;
}
DEVICE shared_window window_at(shared_window window, int n_floats)
{
    return window + n_floats;
}
DEVICE uint32_t window_offsets(shared_window, uint32_t offsets)
{
    return offsets;
}
DEVICE float window_pick(shared_window window, uint32_t offsets, int i)
{
    return window[(offsets >> 8 * i & 0xff) / 4];
}
#endif

/* Sum over a warp in every lane, always in the same order. */
DEVICE float warp_sum(float x)
{
#pragma unroll
    for (int step = WARP / 2; step > 0; step /= 2)
        x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}

DEVICE float warp_max(float x)
{
#pragma unroll
    for (int step = WARP / 2; step > 0; step /= 2)
        x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, step));
    return x;
}

/* Sum over lanes 0..own, 5 steps. */
DEVICE int warp_scan(int x)
{
#pragma unroll
    for (int step = 1; step < WARP; step *= 2) {
        const int below = __shfl_up_sync(ALL_LANES, x, step);
        x += lane_of_thread() >= step ? below : 0;
    }
    return x;
}

DEVICE int warp_total(int x)
{
#pragma unroll
    for (int step = WARP / 2; step > 0; step /= 2)
        x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}

/* D = A B + D of mma.m16n8k16: A, B bf16, D f32. */
DEVICE void mma_bf16(float d[4], const uint32_t a[4], uint2 b)
{
#ifdef __CUDACC__
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
#else
    const uint32_t both[2] = {b.x, b.y};
    emu::mma_m16n8k16(d, a, both, EMU_HERE);
#endif
}

/* One of QCUDA_ACT_*. */
DEVICE float activated(float x, int act)
{
    if (act == QCUDA_ACT_NONE)
        return x;
    if (act == QCUDA_ACT_RELU)
        return x < 0.0f ? 0.0f : x; /* a NaN stays */
    return (act == QCUDA_ACT_SILU ? x : 1.0f) / (1.0f + expf(-x));
}

/* x with its sign flipped if bit 31 of `flip` is set. */
DEVICE float flipped(float x, uint32_t flip)
{
    return __uint_as_float(__float_as_uint(x) ^ flip);
}

/* The scale of a column; 0 beyond the last. */
DEVICE float column_scale(const qcuda_stack &w, int64_t mat, int c)
{
    return c < w.n_cols ? bf16_value(__ldg(w.col_scales + mat * w.n_cols + c))
                        : 0.0f;
}

#endif
