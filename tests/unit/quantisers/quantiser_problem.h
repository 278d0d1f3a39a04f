/* SPDX-License-Identifier: Apache-2.0
 * Matrices with moments for tests of quantisers, what becomes of them, and
 * errors by their definition. */
#ifndef QMOE_TEST_QUANTISER_PROBLEM_H
#define QMOE_TEST_QUANTISER_PROBLEM_H

#include "scratch.h"

#include <math.h>
#include <stdlib.h>

#include "blas.h"
#include "mt19937.h"
#include "quant_matrix.h"

typedef struct problem {
    int64_t n_rows, n_cols;
    float *w;
    qmi_hessian hessian;
} problem;

static inline double gauss(qmi_mt19937 *rng)
{
    double r = sqrt(-2 * log(qmi_mt19937_double(rng) + 0x1p-54));
    return r * cos(6.283185307179586 * qmi_mt19937_double(rng));
}

/* Gaussian weights; tokens with a common direction and uneven columns. */
static inline problem make_problem(
    int64_t n_rows, int64_t n_cols, int64_t n_tokens, uint32_t seed)
{
    problem p = {.n_rows = n_rows, .n_cols = n_cols};
    qmi_mt19937 rng;
    qmi_mt19937_seed(&rng, seed);
    p.w = calloc((size_t)(n_rows * n_cols), sizeof *p.w);
    double *sum = calloc((size_t)(n_cols * n_cols), sizeof *sum);
    double *x = calloc((size_t)n_cols, sizeof *x);
    assert_true(p.w != NULL && sum != NULL && x != NULL);
    for (int64_t i = 0; i < n_rows * n_cols; i++)
        p.w[i] = (float)(0.1 * gauss(&rng));
    for (int64_t t = 0; t < n_tokens; t++) {
        double common = gauss(&rng);
        for (int64_t c = 0; c < n_cols; c++) {
            x[c] = (common + gauss(&rng)) * (1 + (double)(c * 7 % 5));
            for (int64_t k = 0; k <= c; k++)
                sum[c * n_cols + k] += x[c] * x[k];
        }
    }
    for (int64_t c = 0; c < n_cols; c++)
        for (int64_t k = 0; k < c; k++)
            sum[k * n_cols + c] = sum[c * n_cols + k];
    free(x);
    p.hessian =
        (qmi_hessian){.n_cols = n_cols, .n_tokens = n_tokens, .sum = sum};
    return p;
}

static inline void free_problem(problem *p)
{
    free(p->w);
    free(p->hessian.sum);
}

typedef struct outcome {
    qmi_encoded encoded;
    qmi_quant_result result;
} outcome;

static inline outcome quantise(const problem *p, const char *method,
    const char *format, const qmi_quant_options *options)
{
    outcome o;
    qmi_error err = {0};
    const qmi_quantiser *q = qmi_quantiser_find(method, format);
    assert_non_null(q);
    qmoe_status status = q->run(&o.encoded, &o.result, p->w, p->n_rows,
        p->n_cols, &p->hessian, options, &err);
    if (status != QMOE_OK)
        fail_msg("%s", err.text);
    assert_string_equal(err.text, "");
    return o;
}

static inline qmi_weight stack_of(
    const qmi_encoded *e, const qmi_quant_options *o)
{
    qmi_weight w = {.format = e->format,
        .name = "m",
        .n_mats = 1,
        .n_rows = e->n_rows,
        .n_cols = e->n_cols,
        .rotation = o->rotation,
        .rotation_seed = o->rotation_seed};
    for (int i = 0; i < e->format->n_parts; i++)
        w.parts[i] = (qmi_part){e->parts[i], e->part_bytes[i]};
    return w;
}

/* The decoded matrix, after all checks of its format. */
static inline float *decode(const qmi_encoded *e, const qmi_quant_options *o)
{
    qmi_weight w = stack_of(e, o);
    qmi_error err = {0};
    float *q = malloc((size_t)(e->n_rows * e->n_cols) * sizeof *q);
    assert_non_null(q);
    assert_int_equal(w.format->open(&w, &err), QMOE_OK);
    assert_int_equal(qmi_weight_check(&w, 0, &err), QMOE_OK);
    qmi_weight_decode(&w, 0, 0, e->n_rows, q);
    return q;
}

static inline double true_error(const problem *p, const float *q)
{
    double error = 0;
    for (int64_t r = 0; r < p->n_rows; r++)
        for (int64_t i = 0; i < p->n_cols; i++)
            for (int64_t j = 0; j < p->n_cols; j++) {
                const float *w = p->w + r * p->n_cols;
                const float *d = q + r * p->n_cols;
                error += p->hessian.sum[i * p->n_cols + j] *
                         ((double)w[i] - (double)d[i]) *
                         ((double)w[j] - (double)d[j]);
            }
    return error;
}

static inline int load_blas(void **state)
{
    (void)state;
    return qmi_blas_load(1, NULL) == QMOE_OK ? 0 : -1;
}

#endif
