/* SPDX-License-Identifier: Apache-2.0
 * Weights in the format "q2" of docs/format.md.  Unused bits at the end of a
 * row are random: they are to be ignored. */
#include "weights.h"

#include <stdlib.h>

#include "q2.h"

enum { VALUES_PER_ROW = 4 };

static float from_bf16(uint16_t bits)
{
    const uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

/* Finite, in no order; sometimes all equal. */
static void draw_levels(
    uint16_t levels[VALUES_PER_ROW], value_kind kind, rng *r)
{
    const bool plain = kind == VALUES_SPECIAL || kind == VALUES_STRUCTURED;
    for (int i = 0; i < VALUES_PER_ROW; i++) {
        const float value = draw_value(r, plain ? VALUES_RANDOM : kind);
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        levels[i] = (uint16_t)(bits >> 16);
    }
    for (int i = 1; i < VALUES_PER_ROW && rng_below(r, 8) == 0; i++)
        levels[i] = levels[0];
}

static void store_row(gen_weight *w, uint8_t *codes, int64_t row,
    const uint16_t levels[VALUES_PER_ROW], value_kind kind, rng *r)
{
    static const uint8_t patterns[] = {0x00, 0xff, 0x1b, 0xe4};
    const int64_t n_cols = w->host.n_cols, n_bytes = (n_cols + 3) / 4;
    const uint8_t pattern = patterns[rng_below(r, 4)];
    float *values = w->values + row * n_cols;
    for (int64_t i = 0; i < n_bytes; i++)
        codes[i] = kind == VALUES_STRUCTURED ? pattern : (uint8_t)rng_next(r);
    for (int64_t c = 0; c < n_cols; c++)
        values[c] = from_bf16(levels[codes[c / 4] >> 2 * (c % 4) & 3]);
}

void store_q2(gen_weight *w, const weight_request *q, rng *r)
{
    const size_t row_bytes = (size_t)(q->n_cols + 3) / 4;
    const size_t n_rows = (size_t)(q->n_mats * q->n_rows);
    const size_t level_bytes = n_rows * VALUES_PER_ROW * sizeof(uint16_t);
    uint8_t *codes = check_calloc(n_rows, row_bytes);
    uint16_t *levels = check_calloc(level_bytes, 1);
    for (size_t row = 0; row < n_rows; row++) {
        uint16_t *of_row = levels + row * VALUES_PER_ROW;
        draw_levels(of_row, q->values, r);
        store_row(
            w, codes + row * row_bytes, (int64_t)row, of_row, q->values, r);
    }
    const bool odd = q->layout != LAYOUT_ALIGNED;
    w->host.parts[QMI_Q2_CODES] = (qmi_part){
        weight_place(w, codes, n_rows * row_bytes, odd), n_rows * row_bytes};
    w->host.parts[QMI_Q2_LEVELS] =
        (qmi_part){weight_place(w, levels, level_bytes, odd), level_bytes};
    free(codes);
    free(levels);
}

void corrupt_q2(gen_weight *w)
{
    const void *levels = w->host.parts[QMI_Q2_LEVELS].data;
    const uint16_t infinity = 0xff80;
    memcpy((uint8_t *)(uintptr_t)levels, &infinity, sizeof infinity);
}
