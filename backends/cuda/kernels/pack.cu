/* SPDX-License-Identifier: Apache-2.0
 * Activations of a tile made ready for product_many: rotated as the weight is,
 * times the scales of its columns if it has them, each split exactly into three bf16 (8 + 8 + 8 bits of its significand), and
 * laid out as the B fragments of mma.m16n8k16.  The columns of a step of 16
 * are dealt to the four members of a lane group in runs of four, which is what
 * the A fragments of product_many follow; the sum does not care. */
#include "product.cuh"
#include "rotation.cuh"

enum { ITEMS = 8, STEP = 16 };

/* Upper, middle and lower part; their sum is x.  Cut, not rounded, so that
 * nothing overflows. */
DEVICE void split_in_three(uint32_t part[3], float x)
{
    float rest = x;
#pragma unroll
    for (int i = 0; i < 3; i++) {
        const uint32_t bits = __float_as_uint(rest) & 0xffff0000u;
        part[i] = bits >> 16;
        rest -= __uint_as_float(bits);
    }
    /* An infinity has no rest, and a NaN must stay one. */
    if ((__float_as_uint(x) & 0x7f800000u) == 0x7f800000u) {
        part[0] |= x != x ? 0x7fc0u : 0u;
        part[1] = part[2] = 0;
    }
}

/* Inputs [begin, end) of eight items into x [ITEMS, width], rotated; eight are
 * asked for before the first is waited for. */
DEVICE void pack_stage(float *x, const qcuda_product_args &p,
    const product_tile &t, int first, int begin, int end, int width)
{
    const uint32_t seed = rotation_mixed_seed(p.w.rotation_seed);
    const bool rotated = p.w.rotation != 0;
    const float *src[ITEMS];
#pragma unroll
    for (int i = 0; i < ITEMS; i++)
        src[i] = product_source(p, t, min(first + i, t.count - 1)) + begin;
    for (int base = 0; base < width; base += int(blockDim.x)) {
        const int c = base + int(threadIdx.x);
        float v[ITEMS];
#pragma unroll
        for (int i = 0; i < ITEMS; i++)
            v[i] = c < end - begin && first + i < t.count ? __ldg(src[i] + c)
                                                          : 0.0f;
        if (rotated) {
            const uint32_t flip = rotation_flip(seed, begin + c);
            const int part = c < end - begin ? rotation_part(begin + c,
                                                   p.w.n_cols, p.w.rotation)
                                             : 1;
#pragma unroll
            for (int i = 0; i < ITEMS; i++)
                v[i] = flipped(v[i], flip);
            rotation_in_warp<ITEMS, ITEMS>(v, &part);
        }
#pragma unroll
        for (int i = 0; i < ITEMS && c < width; i++)
            x[i * width + c] = v[i];
    }
    if (rotated)
        rotation_across<ITEMS>(
            x, 1, width, begin, end, p.w.n_cols, p.w.rotation);
    else
        __syncthreads();
}

/* grid.x: units of columns, grid.y: tiles, grid.z: eight items each. */
QCUDA_KERNEL(pack, qcuda_product_args, 256, 2)
{
    QCUDA_SHARED(float, x);
    const product_tile t = product_find_tile(p);
    const int first = int(blockIdx.z) * ITEMS;
    if (first >= t.count || t.mat < 0)
        return;
    const int begin = int(blockIdx.x) * p.split_cols;
    const int end = min(begin + p.split_cols, p.w.n_cols);
    const int n_steps = (end - begin + STEP - 1) / STEP;
    const int width = n_steps * STEP;
    pack_stage(x, p, t, first, begin, end, width);
    if (p.w.col_scales != nullptr) {
        for (int i = int(threadIdx.x); i < ITEMS * width; i += int(blockDim.x))
            x[i] *= column_scale(p.w, t.mat, begin + i % width);
        __syncthreads();
    }
    /* [slot, steps of the row, 3, 32 lanes] */
    uint2 *out = p.packed + (int64_t(t.slot + int(blockIdx.z)) * p.n_steps +
                                begin / STEP) *
                                3 * WARP;
    for (int i = int(threadIdx.x); i < n_steps * WARP; i += int(blockDim.x)) {
        const int step = i / WARP, lane = i % WARP;
        const float *at = x + lane / 4 * width + step * STEP + lane % 4 * 4;
        uint32_t part[4][3];
#pragma unroll
        for (int k = 0; k < 4; k++)
            split_in_three(part[k], at[k]);
#pragma unroll
        for (int s = 0; s < 3; s++) {
            uint2 both;
            both.x = part[0][s] | part[1][s] << 16;
            both.y = part[2][s] | part[3][s] << 16;
            out[(step * 3 + s) * WARP + lane] = both;
        }
    }
}

/* What dense products (op_gemm.c) take: the parts as matrices. */
QCUDA_KERNEL(split, qcuda_split_args, 256, 2)
{
    const int64_t step = int64_t(gridDim.x) * blockDim.x;
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < p.n;
         i += step) {
        uint32_t part[3];
        split_in_three(part, p.src[i]);
#pragma unroll
        for (int s = 0; s < 3; s++)
            p.dst[s * p.n + i] = uint16_t(part[s]);
    }
}
