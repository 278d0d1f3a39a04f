/* SPDX-License-Identifier: Apache-2.0
 * Second moments of the inputs of a matrix, summed in float64. */
#ifndef QMI_HESSIAN_H
#define QMI_HESSIAN_H

#include "quantiser.h"

/* Zero moments of width n_cols.  Release with _destroy. */
qmoe_status qmi_hessian_create(
    qmi_hessian *out, int64_t n_cols, qmi_error *err);
void qmi_hessian_destroy(qmi_hessian *hessian);
/* Adds x f32 [n_tokens, n_cols].  The sum depends on the tokens and on how
 * they are cut into calls, nothing else. */
qmoe_status qmi_hessian_add(
    qmi_hessian *hessian, const float *x, int64_t n_tokens, qmi_error *err);
/* Fills the lower half; call once, after the last add. */
qmoe_status qmi_hessian_finish(qmi_hessian *hessian, qmi_error *err);

#endif
