/* SPDX-License-Identifier: Apache-2.0
 * Inputs of products for few items, on their way into shared memory. */
#ifndef QCUDA_STAGE_CUH
#define QCUDA_STAGE_CUH

#include "product.cuh"
#include "rotation.cuh"

/* Inputs [begin, end) of the tile's items into x [padded, T], rotated as the
 * weight is; columns and items that do not exist are zero.  A thread has eight
 * inputs on their way at a time. */
template <int T>
DEVICE void product_stage(float *x, const qcuda_product_args &p,
    const product_tile &t, int begin, int end, int padded)
{
    enum { COUNT = 8 };
    const uint32_t seed = rotation_mixed_seed(p.w.rotation_seed);
    const bool rotated = p.w.rotation != 0;
    const float *src[T];
#pragma unroll
    for (int i = 0; i < T; i++)
        src[i] = product_source(p, t, min(i, t.count - 1)) + begin;
    for (int base = 0; base < padded; base += COUNT / T * int(blockDim.x)) {
        float v[COUNT];
        int width[COUNT / T];
        const int first = base + int(threadIdx.x);
#pragma unroll
        for (int k = 0; k < COUNT; k++) {
            const int c = first + k / T * int(blockDim.x), i = k % T;
            v[k] = c < end - begin && i < t.count ? __ldg(src[i] + c) : 0.0f;
        }
        if (rotated) {
#pragma unroll
            for (int k = 0; k < COUNT; k += T) {
                const int c = first + k / T * int(blockDim.x);
                const uint32_t flip = rotation_flip(seed, begin + c);
                width[k / T] = c < end - begin ? rotation_part(begin + c,
                                                     p.w.n_cols, p.w.rotation)
                                               : 1;
#pragma unroll
                for (int i = 0; i < T; i++)
                    v[k + i] = flipped(v[k + i], flip);
            }
            rotation_in_warp<COUNT, T>(v, width);
        }
#pragma unroll
        for (int k = 0; k < COUNT; k++) {
            const int c = first + k / T * int(blockDim.x), i = k % T;
            if (c < padded)
                x[c * T + i] = v[k];
        }
    }
    if (rotated)
        rotation_across<T>(x, T, 1, begin, end, p.w.n_cols, p.w.rotation);
    else
        __syncthreads();
}

#endif
