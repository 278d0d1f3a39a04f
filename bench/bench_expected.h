/* SPDX-License-Identifier: Apache-2.0
 * What a timed product must give: a wrong kernel gets no number. */
#ifndef QMB_BENCH_EXPECTED_H
#define QMB_BENCH_EXPECTED_H

#include "backend.h"
#include "weight.h"

typedef struct qmi_bench_expected {
    int64_t n_tokens, n_rows;
    /* [n_tokens, n_rows]: the product in double precision and the largest
     * error allowed; an error of infinity: not computed. */
    double *value, *error;
    double *size; /* of inputs rounded as qmi_inputs_rounding says */
} qmi_bench_expected;

/* Matrix 0 of `w`, decoded plainly, times x f32 [n_tokens, n_cols]: all rows
 * of token 0 and every 61st row, with the last one, of all tokens.  Release
 * with qmi_bench_expected_free. */
qmoe_status qmi_bench_expected_make(qmi_bench_expected *out,
    const qmi_weight *w, const float *x, int64_t n_tokens, qmi_error *err);
void qmi_bench_expected_free(qmi_bench_expected *expected);
/* Whether y f32 [n_tokens, n_rows] is the product of the first tokens, taken as
 * `inputs` says. */
bool qmi_bench_expected_agrees(const qmi_bench_expected *expected,
    const float *y, int64_t n_tokens, qmi_inputs inputs);

#endif
