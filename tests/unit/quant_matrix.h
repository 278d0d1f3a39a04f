/* SPDX-License-Identifier: Apache-2.0
 * Random matrices, their inputs, and encoded matrices decoded again, for tests
 * of quantisers. */
#ifndef QMOE_TEST_QUANT_MATRIX_H
#define QMOE_TEST_QUANT_MATRIX_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "hessian.h"
#include "quantiser.h"

static inline double random_unit(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (double)(*state >> 11) / 9007199254740992.0;
}

/* About normal, mean 0, variance 1. */
static inline float random_normal(uint64_t *state)
{
    double sum = -6;
    for (int i = 0; i < 12; i++)
        sum += random_unit(state);
    return (float)sum;
}

/* [n_rows, n_cols] normal numbers; release with free. */
static inline float *random_matrix(
    int64_t n_rows, int64_t n_cols, uint64_t seed)
{
    uint64_t state = seed * 2654435761u + 88172645463325252u;
    const size_t n = (size_t)(n_rows * n_cols);
    float *m = malloc(n * sizeof *m);
    assert_non_null(m);
    for (size_t i = 0; i < n; i++)
        m[i] = random_normal(&state);
    return m;
}

/* Moments of tokens whose neighbouring columns are correlated, with columns of
 * different size.  Release with qmi_hessian_destroy. */
static inline qmi_hessian random_moments(
    int64_t n_cols, int64_t n_tokens, uint64_t seed)
{
    qmi_hessian h;
    float *x = random_matrix(n_tokens, n_cols, seed + 7);
    for (int64_t t = 0; t < n_tokens; t++)
        for (int64_t c = 1; c < n_cols; c++) {
            float *at = x + t * n_cols + c;
            at[0] = (0.8f * at[-1] + 0.6f * at[0]);
        }
    for (int64_t t = 0; t < n_tokens; t++)
        for (int64_t c = 0; c < n_cols; c++)
            x[t * n_cols + c] *= 0.3f + (float)(c % 5);
    assert_int_equal(qmi_hessian_create(&h, n_cols, NULL), QMOE_OK);
    assert_int_equal(qmi_hessian_add(&h, x, n_tokens, NULL), QMOE_OK);
    assert_int_equal(qmi_hessian_finish(&h, NULL), QMOE_OK);
    free(x);
    return h;
}

static inline qmi_hessian scaled_identity(int64_t n_cols, double scale)
{
    qmi_hessian h;
    assert_int_equal(qmi_hessian_create(&h, n_cols, NULL), QMOE_OK);
    assert_int_equal(qmi_hessian_finish(&h, NULL), QMOE_OK);
    h.n_tokens = n_cols;
    for (int64_t i = 0; i < n_cols; i++)
        h.sum[i * n_cols + i] = scale;
    return h;
}

/* What a matrix decodes to, [n_rows, n_cols]; release with free. */
static inline float *decode_matrix(const qmi_encoded *encoded)
{
    const qmi_format *format = encoded->format;
    float *decoded =
        malloc((size_t)(encoded->n_rows * encoded->n_cols) * sizeof *decoded);
    uint64_t offsets[2] = {0, 0};
    qmi_error err = {0};
    qmi_weight w = {.format = format,
        .name = "matrix",
        .n_mats = 1,
        .n_rows = encoded->n_rows,
        .n_cols = encoded->n_cols};
    for (int i = 0; i < format->n_parts; i++)
        w.parts[i] = (qmi_part){encoded->parts[i], encoded->part_bytes[i]};
    if (format->variable) {
        offsets[1] = encoded->part_bytes[format->variable_part] / 2;
        w.parts[format->offsets_part] = (qmi_part){offsets, sizeof offsets};
    }
    assert_non_null(decoded);
    if (format->open(&w, &err) != QMOE_OK ||
        qmi_weight_check(&w, 0, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    qmi_weight_decode(&w, 0, 0, w.n_rows, decoded);
    return decoded;
}

static inline void assert_same_matrix(
    const qmi_encoded *a, const qmi_encoded *b)
{
    assert_ptr_equal(a->format, b->format);
    for (int i = 0; i < QMI_MAX_PARTS; i++) {
        assert_int_equal(a->part_bytes[i], b->part_bytes[i]);
        if (a->part_bytes[i] != 0)
            assert_memory_equal(a->parts[i], b->parts[i], a->part_bytes[i]);
    }
}

#endif
