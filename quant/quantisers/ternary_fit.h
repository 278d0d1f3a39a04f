/* SPDX-License-Identifier: Apache-2.0
 * Ternary quantisation with fitted levels: thresholds are set by a price per
 * non-zero weight, levels by least squares under the Hessian. */
#ifndef QMI_TERNARY_FIT_H
#define QMI_TERNARY_FIT_H

#include "gptq_frame.h"

typedef struct qmi_ternary_fit {
    const float *w; /* [n_rows, n_cols], finite */
    int64_t n_rows, n_cols;
    const qmi_gptq *gptq;    /* groups of one; NULL: round, no feedback */
    const qmi_gptq *descent; /* of the same Hessian; NULL: A = I */
    double zeros;            /* share of zero codes aimed at, in (0, 1) */
    int passes;              /* of coordinate descent; none when gptq is NULL */
} qmi_ternary_fit;

/* codes [n_rows, n_cols] (QMI_CODE_*), levels bf16 [n_rows, 2]: low <= 0 <=
 * high; a level no code uses is zero.  work f32 [n_rows, n_cols] is scratch. */
qmoe_status qmi_ternary_fit_run(uint8_t *codes, uint16_t *levels, float *work,
    const qmi_ternary_fit *fit, qmi_error *err);

#endif
