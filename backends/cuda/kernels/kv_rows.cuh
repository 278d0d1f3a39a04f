/* SPDX-License-Identifier: Apache-2.0
 * Rows of keys and values as core/ops/kv_rows.h has them, bit by bit.  A row
 * begins at a multiple of 4 bytes. */
#ifndef QCUDA_KV_ROWS_CUH
#define QCUDA_KV_ROWS_CUH

#include "device.cuh"

/* ---- writing, by all threads of a block ---- */

/* Rounded to nearest even, as qmi_f32_to_f16 does. */
DEVICE uint32_t kv_f16_bits(float x)
{
    const uint32_t u = __float_as_uint(x), size = u & 0x7fffffffu;
    const uint32_t sign = u >> 16 & 0x8000u;
    if (size > 0x7f800000u)
        return sign | 0x7e00u;
    /* 65520 is halfway between the largest and what would be the next. */
    if (size >= 0x477ff000u)
        return sign | 0x7c00u;
    /* Subnormal: adding 0.5 leaves multiples of 2^-24 in the low bits. */
    if (size < 0x38800000u)
        return sign |
               (__float_as_uint(__uint_as_float(size) + 0.5f) - 0x3f000000u);
    return sign | ((size - 0x38000000u + 0xfffu + (size >> 13 & 1u)) >> 13);
}

DEVICE void kv_pack_f16(uint32_t *row, const float *src, int n_cols)
{
    for (int i = int(threadIdx.x); 2 * i < n_cols; i += int(blockDim.x)) {
        /* What pads the row is zero. */
        const float next = 2 * i + 1 < n_cols ? src[2 * i + 1] : 0.0f;
        row[i] = kv_f16_bits(src[2 * i]) | kv_f16_bits(next) << 16;
    }
}

/* A warp per block of values, a lane per value. */
DEVICE void kv_pack_q8(uint8_t *row, const float *src, int n_cols)
{
    const int lane = lane_of_thread();
    const int n_blocks = (n_cols + QCUDA_KV_BLOCK - 1) / QCUDA_KV_BLOCK;
    for (int i = warp_of_thread(); i < n_blocks; i += int(blockDim.x) / WARP) {
        const int c = i * QCUDA_KV_BLOCK + lane;
        const float x = c < n_cols ? src[c] : 0.0f;
        const float scale = fmaxf(warp_max(fabsf(x)), 0.0f) / 127.0f;
        uint8_t *block = row + int64_t(i) * QCUDA_KV_BLOCK_BYTES;
        if (lane == 0)
            *reinterpret_cast<float *>(block) = scale;
        block[4 + lane] =
            uint8_t(int8_t(scale > 0.0f ? int(rintf(x / scale)) : 0));
    }
}

/* ---- reading, by one thread ---- */

/* A row of type K: the value of a column, and of four from a multiple of 4 on. */
template <int K>
struct kv_row {
    const uint8_t *at;
    DEVICE_MEMBER float one(int c) const
    {
        if (K == QCUDA_KV_F32)
            return __ldg(reinterpret_cast<const float *>(at) + c);
        if (K == QCUDA_KV_F16)
            return f16_value(__ldg(reinterpret_cast<const uint16_t *>(at) + c));
        const uint8_t *block = at + c / QCUDA_KV_BLOCK * QCUDA_KV_BLOCK_BYTES;
        return __ldg(reinterpret_cast<const float *>(block)) *
               float(int8_t(__ldg(block + 4 + c % QCUDA_KV_BLOCK)));
    }
    DEVICE_MEMBER void four(float out[4], int c) const
    {
        if (K == QCUDA_KV_F32) {
#pragma unroll
            for (int i = 0; i < 4; i++)
                out[i] = one(c + i);
        } else if (K == QCUDA_KV_F16) {
            const uint32_t *words =
                reinterpret_cast<const uint32_t *>(at) + c / 2;
#pragma unroll
            for (int i = 0; i < 4; i++)
                out[i] =
                    f16_value(uint16_t(__ldg(words + i / 2) >> 16 * (i % 2)));
        } else {
            const uint8_t *block =
                at + c / QCUDA_KV_BLOCK * QCUDA_KV_BLOCK_BYTES;
            const float scale = __ldg(reinterpret_cast<const float *>(block));
            const uint32_t codes = __ldg(reinterpret_cast<const uint32_t *>(
                block + 4 + c % QCUDA_KV_BLOCK));
#pragma unroll
            for (int i = 0; i < 4; i++)
                out[i] = scale * float(int8_t(codes >> 8 * i));
        }
    }
};

#endif
