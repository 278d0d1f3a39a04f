/* SPDX-License-Identifier: Apache-2.0
 * The rotation of docs/format.md section 8.4 by the threads of a block, in the
 * order of additions of core/rotation.c, so that decoded bits are the same. */
#ifndef QCUDA_ROTATION_CUH
#define QCUDA_ROTATION_CUH

#include "device.cuh"

DEVICE uint32_t rotation_mix(uint32_t x)
{
    x ^= x >> 16;
    x *= 0x6a09e667u;
    x ^= x >> 15;
    x *= 0xbb67ae85u;
    x ^= x >> 16;
    return x;
}

DEVICE uint32_t rotation_mixed_seed(uint32_t seed)
{
    return rotation_mix(seed + 0x9e3779b9u);
}

/* Bit 31: the sign of a column. */
DEVICE uint32_t rotation_flip(uint32_t mixed_seed, int column)
{
    return rotation_mix(mixed_seed ^ uint32_t(column)) & 0x80000000u;
}

/* Width of the part that holds `column` of `n`; its first column is a multiple
 * of the width. */
DEVICE int rotation_part(int column, int n, int block)
{
    int end = n / block * block;
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
    float norm = 1.0f;
    for (; width >= 4; width /= 4)
        norm *= 0.5f;
    return width == 2 ? norm * __uint_as_float(0x3f3504f3) : norm;
}

/* One step of the transform on 32 columns a warp holds. */
DEVICE float rotation_step(float x, int step, int width)
{
    const float other = __shfl_xor_sync(ALL_LANES, x, step);
    if (step >= width)
        return x;
    return (lane_of_thread() & step) != 0 ? other - x : x + other;
}

/* The transform of columns [begin, end) of a row of n_cols without signs.
 * Column c is at x[(c - begin) * stride]; `begin` is a multiple of the block
 * and so is `end`, or it is n_cols.  All threads call it, after a barrier; it
 * ends with one. */
DEVICE void rotation_transform(
    float *x, int stride, int begin, int end, int n_cols, int block)
{
    const int n_threads = int(blockDim.x), thread = int(threadIdx.x);
    const int n = end - begin;
    for (int base = 0; base < n; base += n_threads) {
        const int at = base + thread;
        const bool inside = at < n;
        const int width = inside ? rotation_part(begin + at, n_cols, block) : 1;
        float y = inside ? x[at * stride] : 0.0f;
#pragma unroll
        for (int step = 1; step < WARP; step *= 2)
            y = rotation_step(y, step, width);
        if (inside)
            x[at * stride] = y;
    }
    for (int step = WARP; step < block; step *= 2) {
        __syncthreads();
        for (int pair = thread; pair < n; pair += n_threads) {
            if ((pair & step) != 0 ||
                step >= rotation_part(begin + pair, n_cols, block))
                continue;
            float *low = x + pair * stride, *high = low + step * stride;
            const float a = *low, b = *high;
            *low = a + b;
            *high = a - b;
        }
    }
    __syncthreads();
}

#endif
