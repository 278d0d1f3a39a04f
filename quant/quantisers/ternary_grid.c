/* SPDX-License-Identifier: Apache-2.0
 * In: a column of 32 values aimed at.  Out: LOW, ZERO or HIGH for each, and the
 * level's value.  Thresholds are kept per row, with slopes for the price of the
 * column, so that the choice is two comparisons without a branch. */
#include "ternary_grid.h"

#include <math.h>
#include <string.h>

#include "alloc.h"
#include "gptq_frame.h"
#include "ternary_dict.h"

enum { ROWS = QMI_SWEEP_ROWS, N_ARRAYS = 6 };

qmoe_status qmi_ternary_grid_create(
    qmi_ternary_grid *out, int64_t n_rows, qmi_error *err)
{
    /* Whole tiles: the choice reads rows past the end. */
    const int64_t padded = (n_rows + ROWS - 1) / ROWS * ROWS;
    *out = (qmi_ternary_grid){0};
    out->memory = qmi_calloc((size_t)padded * N_ARRAYS, sizeof *out->memory,
        "levels of a matrix", err);
    if (out->memory == NULL)
        return QMOE_E_NOMEM;
    float **const arrays[N_ARRAYS] = {&out->low, &out->high, &out->below,
        &out->above, &out->below_slope, &out->above_slope};
    for (int i = 0; i < N_ARRAYS; i++)
        *arrays[i] = out->memory + padded * i;
    /* A row of zero levels always chooses ZERO. */
    for (int64_t row = 0; row < padded; row++)
        qmi_ternary_grid_set(out, row, 0, 0, 0);
    return QMOE_OK;
}

void qmi_ternary_grid_release(qmi_ternary_grid *grid)
{
    qmi_free(grid->memory);
    *grid = (qmi_ternary_grid){0};
}

void qmi_ternary_grid_set(
    qmi_ternary_grid *grid, int64_t row, float low, float high, double unit)
{
    grid->low[row] = low;
    grid->high[row] = high;
    /* Infinite: a level of zero is never chosen. */
    grid->below[row] = low != 0 ? low / 2 : -INFINITY;
    grid->above[row] = high != 0 ? high / 2 : INFINITY;
    grid->below_slope[row] = low != 0 ? (float)(unit / 2 / (double)low) : 0;
    grid->above_slope[row] = high != 0 ? (float)(unit / 2 / (double)high) : 0;
}

/* Vectors: compilers leave a choice among three values to branches. */
enum { LANES = 4 };
typedef float floats __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t masks __attribute__((vector_size(LANES * sizeof(int32_t))));

static inline floats load(const float *p)
{
    floats v;
    memcpy(&v, p, sizeof v);
    return v;
}

void qmi_ternary_choose(void *user, int64_t row, int64_t col, int n,
    const float *c, float *q, uint8_t *codes)
{
    const qmi_ternary_grid *g = user;
    const float price = g->price != NULL ? g->price[col] : 0;
    int32_t chosen[ROWS];
    (void)n;
    for (int r = 0; r < ROWS; r += LANES) {
        const int64_t at = row + r;
        const floats value = load(c + r);
        const masks high =
            value > load(g->above + at) + price * load(g->above_slope + at);
        const masks low =
            value < load(g->below + at) + price * load(g->below_slope + at);
        /* At most one of the masks is set: `below` is negative, `above`
         * positive. */
        const masks level = (high & (masks)load(g->high + at)) |
                            (low & (masks)load(g->low + at));
        const masks code = (high & QMI_CODE_HIGH) | (low & QMI_CODE_LOW);
        memcpy(q + r, &level, sizeof level);
        memcpy(chosen + r, &code, sizeof code);
    }
    /* Narrowed in a loop of its own, as in gptq_q2.c. */
    for (int r = 0; r < ROWS; r++)
        codes[r] = (uint8_t)chosen[r];
}
