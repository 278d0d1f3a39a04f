/* SPDX-License-Identifier: Apache-2.0
 * Rotated rows (docs/format.md "Rotation"), written from that text: the values
 * a stored row stands for, what x becomes, and how far results may be off
 * because somebody rotates in float32. */
#include "weights.h"

#include <math.h>
#include <stdlib.h>

static uint32_t mix(uint32_t v)
{
    v ^= v >> 16;
    v *= 0x6a09e667u;
    v ^= v >> 15;
    v *= 0xbb67ae85u;
    return v ^ v >> 16;
}

static bool is_flipped(const qmi_weight *w, int64_t column)
{
    const uint32_t v = mix(w->rotation_seed + 0x9e3779b9u) ^ (uint32_t)column;
    return mix(v) >> 31 != 0;
}

/* Columns of the part that begins at `c`; *block is halved on the way. */
static int64_t part_at(const qmi_weight *w, int64_t c, int64_t *block)
{
    while (*block > w->n_cols - c)
        *block /= 2;
    return *block;
}

/* In the order of the remark of the format, so that bits agree. */
static void transform_floats(float *x, int64_t m)
{
    for (int64_t step = 1; step < m; step *= 2)
        for (int64_t i = 0; i < m; i++) {
            if ((i & step) != 0)
                continue;
            const float a = x[i], b = x[i + step];
            x[i] = a + b;
            x[i + step] = a - b;
        }
    const float norm = (float)(1 / sqrt((double)m));
    for (int64_t i = 0; i < m; i++)
        x[i] *= norm;
}

void rotate_back(float *row, const qmi_weight *w)
{
    int64_t block = w->rotation;
    for (int64_t c = 0; c < w->n_cols; c += block) {
        const int64_t m = part_at(w, c, &block);
        transform_floats(row + c, m);
        for (int64_t i = c; i < c + m; i++)
            row[i] = is_flipped(w, i) ? -row[i] : row[i];
    }
}

/* By the formula. */
static void rotate_part(
    float *dst, const qmi_weight *w, const float *x, int64_t c, int64_t m)
{
    for (int64_t i = 0; i < m; i++) {
        double sum = 0;
        for (int64_t j = 0; j < m; j++) {
            const bool minus = __builtin_parityll((uint64_t)(i & j)) != 0;
            const double value = (double)x[c + j];
            sum += minus != is_flipped(w, c + j) ? -value : value;
        }
        dst[c + i] = (float)(sum / sqrt((double)m));
    }
}

float *stored_x(const gen_weight *w, const float *x, int64_t n_tokens)
{
    const qmi_weight *h = &w->host;
    const size_t n = (size_t)(n_tokens * h->n_cols);
    float *out = check_calloc(n, sizeof *out);
    memcpy(out, x, n * sizeof *out);
    for (int64_t t = 0; t < n_tokens && h->rotation != 0; t++) {
        int64_t block = h->rotation;
        for (int64_t c = 0; c < h->n_cols; c += block) {
            const int64_t m = part_at(h, c, &block);
            rotate_part(out + t * h->n_cols, h, x + t * h->n_cols, c, m);
        }
    }
    return out;
}

const float *stored_row(const gen_weight *w, int64_t row)
{
    return (w->stored != NULL ? w->stored : w->values) + row * w->host.n_cols;
}

static double norm_of(const float *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    return sqrt(sum);
}

rotation_error rotation_error_of(
    const gen_weight *w, int64_t row, const float *x)
{
    const qmi_weight *h = &w->host;
    const float *values = w->values + row * h->n_cols;
    rotation_error e = {0};
    int64_t block = h->rotation;
    for (int64_t c = 0; h->rotation != 0 && c < h->n_cols; c += block) {
        const int64_t m = part_at(h, c, &block);
        const double steps = log2((double)m) + 2;
        const double of_w = norm_of(values + c, m), of_x = norm_of(x + c, m);
        e.roundings += 2 * steps * of_w * of_x;
        e.flushed += steps * sqrt((double)m) * (of_w + of_x);
    }
    return e;
}

void add_decode_bound(double *bound, const gen_weight *w, int64_t row)
{
    const qmi_weight *h = &w->host;
    const float *values = w->values + row * h->n_cols;
    int64_t block = h->rotation;
    for (int64_t c = 0; h->rotation != 0 && c < h->n_cols; c += block) {
        const int64_t m = part_at(h, c, &block);
        const double steps = log2((double)m) + 2;
        for (int64_t i = c; i < c + m; i++)
            bound[i] +=
                2 * steps *
                (0x1p-24 * norm_of(values + c, m) + 0x1p-126 * sqrt((double)m));
    }
}
