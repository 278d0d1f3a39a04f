/* SPDX-License-Identifier: Apache-2.0
 * Weights in the formats "tlut-*" of docs/format.md.  Any bytes are valid
 * strings, so strings are random bytes (in padding too) and the values are read
 * from them here, bit by bit, without the library's decoder. */
#include "weights.h"

#include <math.h>
#include <stdlib.h>

#include "tlut.h"

enum { TILE = 64, GROUP = 4, WINDOW_BITS = 6 };

typedef struct layout {
    int k, v, n_words;
    const int8_t *table;
    size_t tile_bytes;
} layout;

static layout layout_of(const qmi_format *format, int64_t n_cols)
{
    const qmi_tlut_rate *rate = qmi_tlut_rate_of(format);
    layout l = {.k = rate->k, .v = rate->v, .table = rate->table};
    l.n_words = TILE * l.k / l.v / 16;
    l.tile_bytes = (size_t)((n_cols + GROUP - 1) / GROUP * l.n_words) * 8;
    return l;
}

static float from_bf16(uint16_t bits)
{
    const uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

static uint16_t to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)(bits >> 16);
}

/* Bit `bit` of the string of a column; strings are rings. */
static int bit_of(const layout *l, const uint8_t *tile, int64_t col, int bit)
{
    bit %= 16 * l->n_words;
    const size_t qword = (size_t)(col / GROUP * l->n_words + bit / 16);
    const size_t byte = 8 * qword + 2 * (size_t)(col % GROUP) + bit % 16 / 8;
    return tile[byte] >> bit % 8 & 1;
}

static int table_value(
    const layout *l, const uint8_t *tile, int64_t row, int64_t col)
{
    const int step = (int)(row % TILE) / l->v;
    int window = 0;
    for (int i = 0; i < WINDOW_BITS; i++)
        window |= bit_of(l, tile, col, l->k * step + i) << i;
    return l->table[window * l->v + row % l->v];
}

/* Finite; negative ones are valid, too. */
static float draw_row_scale(value_kind kind, rng *r)
{
    const bool plain = kind == VALUES_SPECIAL || kind == VALUES_STRUCTURED;
    return draw_value(r, plain ? VALUES_RANDOM : kind);
}

/* Near 1, so that neither their product with x nor that with the row's scale
 * underflows where the weight does not; some are zero. */
static float draw_col_scale(rng *r)
{
    const float size = 1 + rng_unit(r);
    switch (rng_below(r, 16)) {
    case 0:
        return 0;
    case 1:
        return -size;
    default:
        return size;
    }
}

static void fill_row(gen_weight *w, const layout *l, const uint8_t *codes,
    const uint16_t *cols, int64_t row, float scale)
{
    const int64_t n_cols = w->host.n_cols, in_mat = row % w->host.n_rows;
    const uint8_t *tile = codes + (size_t)(in_mat / TILE) * l->tile_bytes;
    float *values = w->values + row * n_cols;
    for (int64_t c = 0; c < n_cols; c++)
        values[c] =
            scale * from_bf16(cols[c]) * (float)table_value(l, tile, in_mat, c);
    if (w->stored == NULL)
        return;
    memcpy(w->stored + row * n_cols, values, (size_t)n_cols * sizeof *values);
    rotate_back(values, &w->host);
}

static void place(gen_weight *w, int part, const weight_request *q,
    const void *bytes, size_t n_bytes)
{
    w->host.parts[part] = (qmi_part){
        weight_place(w, bytes, n_bytes, q->layout != LAYOUT_ALIGNED), n_bytes};
}

void store_tlut(gen_weight *w, const weight_request *q, rng *r)
{
    static const uint8_t patterns[] = {0x00, 0xff, 0x55, 0x36};
    const layout l = layout_of(w->host.format, q->n_cols);
    const size_t n_mats = (size_t)q->n_mats;
    const size_t n_rows = (size_t)q->n_rows, n_cols = (size_t)q->n_cols;
    const size_t mat_bytes = (n_rows + TILE - 1) / TILE * l.tile_bytes;
    uint8_t *codes = check_calloc(n_mats, mat_bytes);
    uint16_t *scales = check_calloc(n_mats * n_rows, sizeof *scales);
    uint16_t *cols = check_calloc(n_mats * n_cols, sizeof *cols);
    const uint8_t pattern = patterns[rng_below(r, 4)];
    for (size_t i = 0; i < n_mats * mat_bytes; i++)
        codes[i] =
            q->values == VALUES_STRUCTURED ? pattern : (uint8_t)rng_next(r);
    for (size_t i = 0; i < n_mats * n_cols; i++)
        cols[i] = to_bf16(draw_col_scale(r));
    w->cols = check_calloc(n_mats * n_cols, sizeof *w->cols);
    for (size_t i = 0; i < n_mats * n_cols; i++)
        w->cols[i] = from_bf16(cols[i]);
    for (size_t row = 0; row < n_mats * n_rows; row++) {
        const size_t mat = row / n_rows;
        scales[row] = to_bf16(draw_row_scale(q->values, r));
        fill_row(w, &l, codes + mat * mat_bytes, cols + mat * n_cols,
            (int64_t)row, from_bf16(scales[row]));
    }
    place(w, QMI_TLUT_CODES, q, codes, n_mats * mat_bytes);
    place(w, QMI_TLUT_SCALES, q, scales, 2 * n_mats * n_rows);
    place(w, QMI_TLUT_COL_SCALES, q, cols, 2 * n_mats * n_cols);
    free(codes);
    free(scales);
    free(cols);
}

/* A scale that is no number would spread into every output. */
void corrupt_tlut(gen_weight *w)
{
    const void *scales = w->host.parts[QMI_TLUT_COL_SCALES].data;
    const uint16_t infinity = 0x7f80;
    memcpy((uint8_t *)(uintptr_t)scales, &infinity, sizeof infinity);
}

double input_error_of(
    qmi_inputs inputs, const gen_weight *w, int64_t row, const float *x)
{
    /* Between, a variant may decide either way: its sums are rounded. */
    const double outlier = 1.05 * QMI_OUTLIER;
    const int64_t n = w->host.n_cols;
    if (inputs == QMI_INPUTS_F32 || w->cols == NULL)
        return 0;
    const float *cols = w->cols + row / w->host.n_rows * n;
    const float *values = stored_row(w, row);
    double most = 0, squares = 0, sum = 0, sum_of_squares = 0;
    for (int64_t c = 0; c < n; c++) {
        const double z = fabs((double)x[c] * cols[c]);
        /* A column of scale 0 is rounded to 0, without an error. */
        const double v = cols[c] != 0 ? fabs((double)values[c] / cols[c]) : 0;
        most = fmax(most, z);
        squares += z * z;
        sum += v;
        sum_of_squares += v * v;
    }
    const bool outliers = most * most * (double)n > outlier * outlier * squares;
    return qmi_inputs_rounding(inputs, outliers) * most *
           fmin(sum, 6 * sqrt(sum_of_squares));
}
