/* SPDX-License-Identifier: Apache-2.0
 * The rotation of docs/format.md section 8.4 by the threads of a block, in the
 * order of additions of core/formats/rotation.c, so that decoded bits are the same.
 * The steps within 32 columns are shuffles of what a thread has just loaded,
 * the others go through memory. */
#ifndef QCUDA_ROTATION_CUH
#define QCUDA_ROTATION_CUH

#include "device.cuh"
#include "rotation_hash.h"

DEVICE uint32_t rotation_mix(uint32_t x)
{
    QMI_ROTATION_MIX(x);
    return x;
}

DEVICE uint32_t rotation_mixed_seed(uint32_t seed)
{
    return rotation_mix(seed + QMI_ROTATION_SEED);
}

/* Bit 31: the sign of a column. */
DEVICE uint32_t rotation_flip(uint32_t mixed_seed, int column)
{
    return rotation_mix(mixed_seed ^ uint32_t(column)) & 0x80000000u;
}

/* Width of the part that holds `column` of `n`; its first column is a multiple
 * of the width.  `block` is a power of two. */
DEVICE int rotation_part(int column, int n, int block)
{
    int end = n & -block;
    if (column < end)
        return block;
    for (int width = block / 2;; width /= 2) {
        if (n - end >= width)
            end += width;
        if (column < end)
            return width;
    }
}

/* 1 / sqrt(width) for a power of two. */
DEVICE float rotation_norm(int width)
{
    const uint32_t log = uint32_t(__popc(unsigned(width) - 1));
    const float whole = __uint_as_float((127 - log / 2) << 23);
    return log % 2 != 0 ? whole * __uint_as_float(0x3f3504f3) : whole;
}

/* The steps within 32 columns that a warp holds, on K such sets side by side
 * (their shuffles are on their way together), every T of them of one part of
 * `width`; parts that need no more are done, and get their norm. */
template <int K, int T>
DEVICE void rotation_in_warp(float x[K], const int width[K / T])
{
    const uint32_t lane = uint32_t(lane_of_thread());
#pragma unroll
    for (int i = 0; i < 5; i++)
#pragma unroll
        for (int k = 0; k < K; k++) {
            const float other = __shfl_xor_sync(ALL_LANES, x[k], 1 << i);
            const float y = other + flipped(x[k], lane << (31 - i) & 1u << 31);
            x[k] = 1 << i < width[k / T] ? y : x[k];
        }
#pragma unroll
    for (int k = 0; k < K; k++)
        x[k] *= width[k / T] <= WARP ? rotation_norm(width[k / T]) : 1.0f;
}

/* The steps across warps and the norm, on T rows at once: column c of row i is
 * at x[(c - begin) * stride + i * apart].  Columns [begin, end) of n_cols;
 * `begin` is a multiple of the block and so is `end`, or it is n_cols.  All
 * threads call it; it begins and ends with a barrier. */
template <int T>
DEVICE void rotation_across(
    float *x, int stride, int apart, int begin, int end, int n_cols, int block)
{
    const int n = end - begin;
    for (int step = WARP; step < block; step *= 2) {
        __syncthreads();
        const int n_pairs = ((n + 2 * step - 1) & -(2 * step)) / 2;
        for (int k = int(threadIdx.x); k < n_pairs; k += int(blockDim.x)) {
            const int at = 2 * k - (k & (step - 1));
            const int width =
                at < n ? rotation_part(begin + at, n_cols, block) : 0;
            if (step >= width)
                continue;
            const float norm = 2 * step == width ? rotation_norm(width) : 1.0f;
            float *low = x + at * stride, *high = low + step * stride;
#pragma unroll
            for (int i = 0; i < T; i++) {
                const float a = low[i * apart], b = high[i * apart];
                low[i * apart] = (a + b) * norm;
                high[i * apart] = (a - b) * norm;
            }
        }
    }
    __syncthreads();
}

#endif
