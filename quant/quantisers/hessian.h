/* SPDX-License-Identifier: Apache-2.0
 * Second moments of the inputs of a matrix, summed in float64.  The sum depends
 * on the tokens and their order alone, never on how they are cut into calls.
 * BLAS must run single-threaded. */
#ifndef QMI_HESSIAN_H
#define QMI_HESSIAN_H

#include "quantiser.h"

/* Tokens of one rank update, counted from the first one. */
enum { QMI_HESSIAN_BLOCK = 128 };

/* Bytes qmi_hessian_create takes; UINT64_MAX on overflow. */
uint64_t qmi_hessian_bytes(int64_t n_cols);
/* Zero moments of width n_cols.  Release with _destroy. */
qmoe_status qmi_hessian_create(
    qmi_hessian *out, int64_t n_cols, qmi_error *err);
void qmi_hessian_destroy(qmi_hessian *hessian);
/* Adds x f32 [n_tokens, n_cols].  Values that are not finite make moments that
 * no quantiser uses.  E_INVALID: the sum is complete already. */
qmoe_status qmi_hessian_add(
    qmi_hessian *hessian, const float *x, int64_t n_tokens, qmi_error *err);
/* Completes `sum`; call once, after the last add. */
qmoe_status qmi_hessian_finish(qmi_hessian *hessian, qmi_error *err);

#endif
