/* SPDX-License-Identifier: Apache-2.0
 * Reading of the tlut formats (docs/format.md section 9): where the windows of
 * a string lie, and the table in shared memory. */
#ifndef QCUDA_TLUT_CUH
#define QCUDA_TLUT_CUH

#include "device.cuh"

enum {
    TLUT_TILE = 64, /* rows */
    TLUT_GROUP = 4, /* columns */
    TLUT_WINDOWS = 64,
    TLUT_TABLE_WORDS = TLUT_WINDOWS * WARP
};

/* Where the window of a step begins: words of a group, and a bit of the first.
 * Strings are rings. */
struct tlut_place {
    int word, next;
    uint32_t shift;
};

DEVICE int tlut_words(const qcuda_stack &w)
{
    return TLUT_TILE / 16 * w.k / w.v;
}

DEVICE tlut_place tlut_find(const qcuda_stack &w, int step)
{
    tlut_place out;
    const int bit = w.k * step;
    out.word = bit / 16;
    out.next = out.word + 1 == tlut_words(w) ? 0 : out.word + 1;
    out.shift = uint32_t(bit % 16);
    return out;
}

/* A word of the four columns of a group: a string of 16 bits each. */
DEVICE uint2 tlut_load(const uint8_t *group, int word)
{
    return __ldg(reinterpret_cast<const uint2 *>(group) + word);
}

/* 32 bits of the string of column `j`, from the words `first` and `next`. */
DEVICE uint32_t tlut_pair(uint2 first, uint2 next, int j)
{
    const uint32_t low = j < 2 ? first.x : first.y;
    const uint32_t high = j < 2 ? next.x : next.y;
    return j % 2 == 0 ? (low & 0xffffu) | high << 16
                      : low >> 16 | (high & 0xffff0000u);
}

DEVICE uint32_t tlut_window(uint32_t pair, uint32_t shift)
{
    return pair >> shift & (TLUT_WINDOWS - 1);
}

DEVICE const uint8_t *tlut_tile(const qcuda_stack *w, int64_t mat, int tile)
{
    return w->codes + uint64_t(mat) * w->mat_bytes +
           uint64_t(tile) * w->tile_bytes;
}

/* The table as bf16, 32 words per window: with 4 rows per step 16 copies of two
 * words, else 32 copies of one, so that lanes that look up in copies of their
 * own meet no conflict of banks.  Values of two rows lie in a word, the first one
 * lowest; that of one row in the upper half, where it is an f32. */
DEVICE void tlut_copy_table(uint32_t *table, const qcuda_stack &w)
{
    for (int i = int(threadIdx.x); i < TLUT_TABLE_WORDS; i += int(blockDim.x)) {
        const uint16_t *values = w.table + i / WARP * w.v;
        const int pair = w.v == 4 ? i % 2 * 2 : 0;
        const uint32_t first = __ldg(values + pair);
        table[i] = w.v == 1 ? first << 16
                            : first | uint32_t(__ldg(values + pair + 1)) << 16;
    }
}

#endif
