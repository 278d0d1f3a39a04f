/* SPDX-License-Identifier: Apache-2.0
 * Least-squares levels for given ternary codes. */
#ifndef QMI_TERNARY_LEVELS_H
#define QMI_TERNARY_LEVELS_H

#include "gptq_frame.h"
#include "ternary_grid.h"

typedef struct qmi_ternary_levels {
    int64_t n_rows, n_cols;
    const uint8_t *codes;    /* [n_rows, n_cols] */
    const float *target;     /* [n_rows, n_cols] W A */
    const qmi_gptq *descent; /* of A; NULL: A = I */
    double unit;             /* of the grid */
} qmi_ternary_levels;

/* Replaces the levels low < 0 < high of each row of `grid` by bf16 values that
 * minimise tr((W - Q) A (W - Q)^T) for these codes, unless the present ones do
 * better.  A level that no code of the row uses stays. */
qmoe_status qmi_ternary_levels_fit(
    qmi_ternary_grid *grid, const qmi_ternary_levels *fit, qmi_error *err);
/* The bf16 values next to x, the one nearer to zero first; both finite if x
 * is. */
void qmi_bf16_neighbours(float out[2], double x);

#endif
