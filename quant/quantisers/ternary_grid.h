/* SPDX-License-Identifier: Apache-2.0
 * The ternary choice inside a column walk: per row the levels {low, 0, high}
 * and thresholds, which may move with a price per column for not being zero. */
#ifndef QMI_TERNARY_GRID_H
#define QMI_TERNARY_GRID_H

#include "quantiser.h"

/* A value c becomes HIGH above `above + price[col] * above_slope`, LOW below
 * `below + price[col] * below_slope`, else ZERO; strict comparisons.  Without
 * a price these are half the levels; with one they minimise
 * (c - q)^2 + price * unit * [q != 0]. */
typedef struct qmi_ternary_grid {
    float *low, *high, *below, *above, *below_slope, *above_slope;
    const float *price; /* [n_cols]; NULL: nothing */
    float *memory;
} qmi_ternary_grid;

qmoe_status qmi_ternary_grid_create(
    qmi_ternary_grid *out, int64_t n_rows, qmi_error *err);
void qmi_ternary_grid_release(qmi_ternary_grid *grid);
/* Levels low <= 0 <= high of a row; a level of zero is never chosen. */
void qmi_ternary_grid_set(
    qmi_ternary_grid *grid, int64_t row, float low, float high, double unit);
/* A qmi_choose_fn for groups of one; `user` is a const qmi_ternary_grid *,
 * codes are QMI_CODE_*. */
void qmi_ternary_choose(void *user, int64_t row, int64_t col, int n,
    const float *c, float *q, uint8_t *codes);

#endif
