/* SPDX-License-Identifier: Apache-2.0
 * Reading of the pvq formats (docs/format.md section 8): where the bits of a
 * block lie.  N is the width of a block, 16 or 8. */
#ifndef QCUDA_PVQ_CUH
#define QCUDA_PVQ_CUH

#include "device.cuh"

/* A tile: chunks of 32 blocks, then a tail; blocks in groups of 4. */
template <int N>
struct pvq_layout {
    static const int chunk_bytes = N == 16 ? 1152 : 896;
    static const int group_bytes = N == 16 ? 128 : 96;
    static const int sign_offset = 8 * group_bytes; /* in a chunk */
};

/* The position bytes a | b << 4 of the four blocks of a group of one lane, and
 * their signs in bits 0..3; blocks that do not exist read as zero. */
struct pvq_group {
    uint32_t positions, signs;
};

/* 24 bits, 6 per block, to four bytes. */
DEVICE uint32_t pvq_spread(uint32_t bits)
{
    uint32_t out = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint32_t one = bits >> 6 * i;
        out |= ((one & 7) | (one & 0x38) << 1) << 8 * i;
    }
    return out;
}

DEVICE uint32_t pvq_load_word(const uint8_t *at)
{
    return __ldg(reinterpret_cast<const uint32_t *>(at));
}

/* A lane's position bits of a whole group as they lie: one word, or three
 * bytes; `group` points at its first byte. */
template <int N>
DEVICE void pvq_load_stored(uint32_t *out, const uint8_t *group, int lane)
{
    if constexpr (N == 16) {
        out[0] = pvq_load_word(group + 4 * lane);
    } else {
#pragma unroll
        for (int i = 0; i < 3; i++)
            out[i] = __ldg(group + 32 * i + lane);
    }
}

template <int N>
DEVICE uint32_t pvq_positions_of(const uint32_t *stored)
{
    if constexpr (N == 16)
        return stored[0];
    else
        return pvq_spread(stored[0] | stored[1] << 8 | stored[2] << 16);
}

template <int N>
DEVICE uint32_t pvq_positions(const uint8_t *group, int lane)
{
    uint32_t stored[3];
    pvq_load_stored<N>(stored, group, lane);
    return pvq_positions_of<N>(stored);
}

/* Group `g` (0..7) of the tail of `n_blocks` (1..31) blocks. */
template <int N>
DEVICE pvq_group pvq_tail_group(
    const uint8_t *tail, int n_blocks, int g, int lane)
{
    pvq_group out;
    int sign_offset;
    if (N == 16) {
        const int whole = n_blocks / 4, rest = n_blocks % 4;
        sign_offset = 128 * whole + 32 * rest;
        out.positions = 0;
        if (g < whole)
            out.positions = pvq_positions<N>(tail + 128 * g, lane);
        else
            for (int i = 0; i < rest; i++)
                out.positions |=
                    uint32_t(__ldg(tail + 128 * whole + 32 * i + lane))
                    << 8 * i;
    } else {
        const int groups = (n_blocks + 3) / 4;
        sign_offset = 96 * groups;
        out.positions = pvq_positions<N>(tail + 96 * g, lane);
    }
    const uint32_t column = __ldg(tail + sign_offset + 32 * (g / 2) + lane);
    out.signs = column >> 4 * (g % 2) & 15;
    return out;
}

/* Group `g` of a row's `n_blocks`, any `g` below ceil(n_blocks / 4); `tile` is
 * the row's tile and `lane` its number in it. */
template <int N>
DEVICE pvq_group pvq_load_group(
    const uint8_t *tile, int n_blocks, int g, int lane)
{
    typedef pvq_layout<N> layout;
    const int chunk = g / 8, in_chunk = g % 8;
    const uint8_t *base = tile + size_t(chunk) * layout::chunk_bytes;
    if (chunk >= n_blocks / 32)
        return pvq_tail_group<N>(base, n_blocks % 32, in_chunk, lane);
    pvq_group out;
    out.positions =
        pvq_positions<N>(base + in_chunk * layout::group_bytes, lane);
    out.signs =
        pvq_load_word(base + layout::sign_offset + 4 * lane) >> 4 * in_chunk &
        15;
    return out;
}

DEVICE const uint8_t *pvq_tile(const qcuda_stack *w, int64_t mat, int tile)
{
    return w->codes + uint64_t(mat) * w->mat_bytes +
           uint64_t(tile) * w->tile_bytes;
}

/* bf16; who asks early should widen it late, for that waits. */
DEVICE uint16_t pvq_stored_scale(const qcuda_stack *w, int64_t mat, int row)
{
    return __ldg(w->levels + mat * w->n_rows + row);
}

DEVICE float pvq_scale(const qcuda_stack *w, int64_t mat, int row)
{
    return bf16_value(pvq_stored_scale(w, mat, row));
}

#endif
