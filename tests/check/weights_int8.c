/* SPDX-License-Identifier: Apache-2.0
 * Weights in the format "int8" of docs/format.md: any code, -128 among them, and
 * scales as large as they may be. */
#include "weights.h"

#include <math.h>
#include <stdlib.h>

#include "int8.h"

static uint16_t draw_scale(value_kind kind, rng *r)
{
    const bool plain = kind == VALUES_SPECIAL || kind == VALUES_STRUCTURED;
    /* A row of 127 times this is about as large as a row of other formats. */
    const float value =
        draw_value(r, plain ? VALUES_RANDOM : kind) * (1.0f / 128);
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)(bits >> 16);
}

static float from_bf16(uint16_t bits)
{
    const uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

void store_int8(gen_weight *w, const weight_request *q, rng *r)
{
    static const int8_t patterns[] = {0, 127, -128, -1};
    const size_t n_rows = (size_t)(q->n_mats * q->n_rows);
    const size_t n = n_rows * (size_t)q->n_cols;
    int8_t *codes = check_calloc(n, 1);
    uint16_t *scales = check_calloc(n_rows, sizeof *scales);
    for (size_t row = 0; row < n_rows; row++) {
        const int8_t pattern = patterns[rng_below(r, 4)];
        scales[row] = draw_scale(q->values, r);
        for (int64_t c = 0; c < q->n_cols; c++) {
            const size_t at = row * (size_t)q->n_cols + (size_t)c;
            codes[at] =
                q->values == VALUES_STRUCTURED ? pattern : (int8_t)rng_next(r);
            w->values[at] = from_bf16(scales[row]) * (float)codes[at];
        }
    }
    const bool odd = q->layout != LAYOUT_ALIGNED;
    w->host.parts[QMI_INT8_CODES] =
        (qmi_part){weight_place(w, codes, n, odd), n};
    w->host.parts[QMI_INT8_SCALES] =
        (qmi_part){weight_place(w, scales, n_rows * sizeof *scales, odd),
            n_rows * sizeof *scales};
    free(codes);
    free(scales);
}

void corrupt_int8(gen_weight *w)
{
    const void *scales = w->host.parts[QMI_INT8_SCALES].data;
    const uint16_t infinity = 0xff80;
    memcpy((uint8_t *)(uintptr_t)scales, &infinity, sizeof infinity);
}
