/* SPDX-License-Identifier: Apache-2.0
 * The formats "tlut-*" without instruction-set extensions.  In: codes of a tile
 * of 64 rows, planes of digits.  Out: integer sums.  Groups are decoded window
 * by window into bytes, and multiplied from there. */
#include "tlut_kernel.h"

#define ISA
#define NAME(x) x##_portable
#include "tlut_digits_template.h"

#define INLINE static inline __attribute__((always_inline))

enum { TILE = QMI_TLUT_TILE };

/* One column of a group, [places]. */
INLINE void decode_column(
    uint8_t *decoded, const int8_t *table, const uint8_t *string, int k, int v)
{
    const int n_words = TILE * k / v / 16;
    for (int step = 0; step < TILE / v; step++) {
        const int word = k * step / 16;
        const int next = word + 1 == n_words ? 0 : word + 1;
        const uint32_t pair = qmi_load_u16(string + 8 * word) |
                              (uint32_t)qmi_load_u16(string + 8 * next) << 16;
        const uint32_t window = pair >> k * step % 16 & (QMI_TLUT_WINDOWS - 1);
        for (int j = 0; j < v; j++)
            decoded[qcpu_tlut_place(step, j, v)] =
                (uint8_t)(table[window * (uint32_t)v + (uint32_t)j] +
                          QCPU_TLUT_OFFSET);
    }
}

/* [groups, 4 columns, places]. */
INLINE void decode_groups(uint8_t *decoded, const int8_t *table,
    const uint8_t *codes, int64_t n_groups, int k, int v)
{
    const int64_t group_bytes = TILE * k / v / 16 * 8;
    for (int64_t g = 0; g < n_groups; g++, codes += group_bytes)
        for (int c = 0; c < QMI_TLUT_GROUP; c++, decoded += TILE)
            decode_column(decoded, table, codes + 2 * c, k, v);
}

static void decode(uint8_t *decoded, const qmi_tlut_rate *rate,
    const uint8_t *codes, int64_t n_groups)
{
    /* Constants in each call, so that each rate is compiled for itself. */
#define X(name, k, v)                                                          \
    if (rate == &qmi_tlut_rate_##name)                                         \
        decode_groups(decoded, rate->table, codes, n_groups, k, v);
    QCPU_TLUT_RATES(X)
#undef X
}

/* Weights are below 128, so products of two columns fit 16 bits. */
static void multiply(int32_t *restrict sums, const uint8_t *restrict decoded,
    int64_t n_groups, const int32_t *digits, int64_t stride)
{
    for (int64_t g = 0; g < n_groups; g++, digits += stride) {
        int8_t d[QMI_TLUT_GROUP];
        memcpy(d, digits, sizeof d);
        const int16_t d0 = d[0], d1 = d[1], d2 = d[2], d3 = d[3];
        for (int r = 0; r < TILE; r++) {
            const int16_t a =
                (int16_t)(decoded[r] * d0 + decoded[TILE + r] * d1);
            const int16_t b = (int16_t)(decoded[2 * TILE + r] * d2 +
                                        decoded[3 * TILE + r] * d3);
            sums[r] += a + b;
        }
        decoded += QCPU_TLUT_GROUP_WEIGHTS;
    }
}

static void any_tile(int32_t *sums, const qmi_tlut_rate *rate,
    const uint8_t *codes, int64_t n_groups, const qcpu_tlut_planes *planes,
    uint8_t *decoded)
{
    qcpu_tlut_blocks(
        sums, rate, codes, n_groups, planes, decoded, decode, multiply);
}

QCPU_TLUT_KERNELS(portable, 0, 1, any_tile);
