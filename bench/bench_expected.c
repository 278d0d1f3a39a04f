/* SPDX-License-Identifier: Apache-2.0
 * Expected products (bench_expected.h).  In: a matrix in any format, inputs.
 * Out: products in double, and for each the error that a sum in f32 may have.
 * All rows are computed for the first token and a sample of rows for the
 * others, since the reference is slow; what was not computed has an infinite
 * bound and is not compared. */
#include "bench_expected.h"

#include <math.h>

#include "alloc.h"

/* A prime, so that no tile size meets the same rows. */
enum { ROW_STEP = 61 };

/* The bound of docs/numerics.md, section "A sum of products". */
static double allowed(double size, int64_t n_cols)
{
    const double u = 0x1p-24, n = (double)n_cols;
    const double growth = 1 + fmin(n, 6 * sqrt(n));
    return u * (growth + 3) * size + 0x1p-100;
}

static void product(
    qmi_bench_expected *e, const float *w, const float *x, int64_t r, int64_t n)
{
    /* The last row, too: it is where tiles end. */
    const bool every_token = r % ROW_STEP == 0 || r == e->n_rows - 1;
    for (int64_t t = 0; t < e->n_tokens; t++) {
        double sum = 0, size = 0, most = 0, squares = 0;
        const int64_t place = t * e->n_rows + r;
        e->error[place] = INFINITY;
        if (t != 0 && !every_token)
            continue;
        for (int64_t c = 0; c < n; c++) {
            const double p = (double)w[c] * (double)x[t * n + c];
            sum += p;
            size += fabs(p);
            squares += (double)w[c] * (double)w[c];
            most = fmax(most, fabs((double)x[t * n + c]));
        }
        e->value[place] = sum;
        e->error[place] = allowed(size, n);
        /* The scales of the columns lie within a factor of two. */
        e->size[place] = 2 * most * 6 * sqrt(squares);
    }
}

qmoe_status qmi_bench_expected_make(qmi_bench_expected *out,
    const qmi_weight *w, const float *x, int64_t n_tokens, qmi_error *err)
{
    const size_t n = (size_t)(n_tokens * w->n_rows);
    *out = (qmi_bench_expected){
        .n_tokens = n_tokens,
        .n_rows = w->n_rows,
        .value = qmi_calloc(n, sizeof(double), "expected results", err),
        .error = qmi_calloc(n, sizeof(double), "expected results", err),
        .size = qmi_calloc(n, sizeof(double), "expected results", err),
    };
    float *row = qmi_calloc((size_t)w->n_cols, sizeof *row, "a row", err);
    if (out->value == NULL || out->error == NULL || out->size == NULL ||
        row == NULL) {
        qmi_free(row);
        qmi_bench_expected_free(out);
        return QMOE_E_NOMEM;
    }
    /* Matrix 0 stands for all: the stack repeats it. */
    for (int64_t r = 0; r < w->n_rows; r++) {
        qmi_weight_decode(w, 0, r, 1, row);
        product(out, row, x, r, w->n_cols);
    }
    qmi_free(row);
    return QMOE_OK;
}

void qmi_bench_expected_free(qmi_bench_expected *expected)
{
    qmi_free(expected->value);
    qmi_free(expected->error);
    qmi_free(expected->size);
    *expected = (qmi_bench_expected){0};
}

bool qmi_bench_expected_agrees(const qmi_bench_expected *expected,
    const float *y, int64_t n_tokens, qmi_inputs inputs)
{
    const double rounding = qmi_inputs_rounding(inputs, false);
    const int64_t n = n_tokens * expected->n_rows;
    for (int64_t i = 0; i < n; i++)
        /* A NaN is never within the bound. */
        if (!(fabs((double)y[i] - expected->value[i]) <=
                expected->error[i] + rounding * expected->size[i]) &&
            !isinf(expected->error[i]))
            return false;
    return true;
}
