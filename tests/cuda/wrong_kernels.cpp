/* SPDX-License-Identifier: Apache-2.0
 * Kernels that are right, and wrong in every way the emulator must see. */
#include "wrong_kernels.h"

#include "kernels/device.cuh"

QCUDA_KERNEL(toy, toy_args, 128, 1)
{
    QCUDA_SHARED(float, x);
    const int n = int(blockDim.x), thread = int(threadIdx.x);
    const int first = int(blockIdx.x) * n;
    if (p.mode == TOY_MISALIGNED) {
        const float4 v =
            __ldg(reinterpret_cast<const float4 *>(p.src + 1 + thread));
        p.dst[thread] = v.x + v.w;
    }
    if (p.mode == TOY_SHIFT)
        p.dst[thread] = float(1u << (n / 2 + thread / n));
    if (p.mode == TOY_OVERFLOW)
        p.dst[thread] = float((n << 20) * (n << 10));
    if (p.mode != TOY_UNWRITTEN_SHARED || thread != 5)
        x[thread] = p.src[first + thread];
    if (p.mode == TOY_PAST_SHARED)
        x[n + thread] = 0.0f;
    if (p.mode == TOY_EARLY_RETURN && thread == n - 1)
        return;
    if (p.mode == TOY_HALF_A_BARRIER) {
        if (thread >= n / 2)
            __syncthreads();
    } else if (p.mode != TOY_NO_BARRIER) {
        __syncthreads();
    }
    float y = x[n - 1 - thread];
    if (p.mode == TOY_MISSING_LANES) {
        if (lane_of_thread() < 16)
            y = warp_sum(y);
    } else if (p.mode == TOY_TWO_PLACES) {
        if (lane_of_thread() < 16)
            y = __shfl_xor_sync(ALL_LANES, y, 1);
        else
            y = __shfl_xor_sync(ALL_LANES, y, 2);
    } else {
        y = warp_sum(y);
    }
    if (p.mode == TOY_PAST_BUFFER)
        p.dst[4 * n + 4 + thread] = y;
    p.dst[p.mode == TOY_BLOCKS_RACE ? thread : first + thread] = y;
}

QCUDA_KERNEL(toy_sum, toy_args, 128, 1)
{
    QCUDA_SHARED(uint32_t, arrived);
    const int n = int(gridDim.x), thread = int(threadIdx.x);
    uint32_t *count = reinterpret_cast<uint32_t *>(p.dst + 1 + n);
    const float sum =
        warp_sum(p.src[int(blockIdx.x) * int(blockDim.x) + thread] +
                 p.src[int(blockIdx.x) * int(blockDim.x) + (thread ^ 32)]);
    if (thread == 0)
        p.dst[1 + blockIdx.x] = sum;
    if (p.mode == SUM_EARLY_FENCE)
        __threadfence();
    __syncthreads();
    if (thread == 0) {
        if (p.mode != SUM_NO_RELEASE && p.mode != SUM_EARLY_FENCE)
            __threadfence();
        *arrived = atomicAdd(count, 1u);
        if (p.mode != SUM_NO_ACQUIRE && p.mode != SUM_LATE_FENCE)
            __threadfence();
    }
    __syncthreads();
    if (*arrived != gridDim.x - 1)
        return;
    if (p.mode == SUM_LATE_FENCE && thread != 0)
        __threadfence();
    if (thread != 0)
        return;
    float all = 0.0f;
    for (int i = 0; i < n; i++)
        all += __ldcg(p.dst + 1 + i);
    p.dst[0] = all;
}

QCUDA_KERNEL(toy_fragments, toy_args, 32, 1)
{
    const float *at = p.src + lane_of_thread() * 6;
    uint32_t a[4];
    for (int i = 0; i < 4; i++)
        a[i] = __float_as_uint(at[i]);
    uint2 b;
    b.x = __float_as_uint(at[4]);
    b.y = __float_as_uint(at[5]);
    float d[4] = {0, 0, 0, 0};
    mma_bf16(d, a, b);
    for (int i = 0; i < 4; i++)
        p.dst[lane_of_thread() * 4 + i] = d[i];
}

QCUDA_KERNEL(toy_mma, toy_args, 32, 1)
{
    const int group = lane_of_thread() / 4, member = lane_of_thread() % 4;
    uint32_t a[4];
    uint2 b;
    const float *left = p.src, *right = p.src + 256;
    for (int i = 0; i < 4; i++) {
        const float *at =
            left + (group + i % 2 * 8) * 16 + member * 2 + i / 2 * 8;
        a[i] = __float_as_uint(at[0]) >> 16 |
               (__float_as_uint(at[1]) & 0xffff0000u);
    }
    const float *at = right + member * 2 * 8 + group;
    b.x = __float_as_uint(at[0]) >> 16 | (__float_as_uint(at[8]) & 0xffff0000u);
    b.y =
        __float_as_uint(at[64]) >> 16 | (__float_as_uint(at[72]) & 0xffff0000u);
    float d[4] = {0, 0, 0, 0};
    mma_bf16(d, a, b);
    for (int i = 0; i < 4; i++)
        p.dst[(group + i / 2 * 8) * 8 + member * 2 + i % 2] = d[i];
}
