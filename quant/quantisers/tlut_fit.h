/* SPDX-License-Identifier: Apache-2.0
 * Fitting the strings and scales of a format "tlut-*" to a matrix
 * (docs/quantisers.md "TLUT").  Everything happens in the basis of
 * stored_basis.h.  A string runs down the rows of a tile, moments couple
 * columns: so one column after the other, each in one exact step. */
#ifndef QMI_TLUT_FIT_H
#define QMI_TLUT_FIT_H

#include "stored_basis.h"
#include "tlut.h"

enum { QMI_TLUT_MAX_ROWS = 4 /* of a step */ };

/* ---- one string (tlut_search.c) ---- */

struct qmi_tlut_trellis;
/* Takes the costs of the rows of a tile, a[r] q^2 - 2 b[r] q of a value q, and
 * the windows [steps] of its string; leaves those of a string of less cost, or
 * the same. */
typedef void (*qmi_tlut_search_fn)(const struct qmi_tlut_trellis *trellis,
    const float a[QMI_TLUT_TILE], const float b[QMI_TLUT_TILE],
    uint8_t *windows);

/* A rate, with its table in the order in which the search goes through the
 * windows. */
typedef struct qmi_tlut_trellis {
    const qmi_tlut_rate *rate;
    int n_steps;
    int reach; /* steps on both sides of its cut that a ring is searched in to
                * find the window there */
    qmi_tlut_search_fn search;
    float value[QMI_TLUT_MAX_ROWS][QMI_TLUT_WINDOWS];
    float square[QMI_TLUT_MAX_ROWS][QMI_TLUT_WINDOWS];
} qmi_tlut_trellis;
void qmi_tlut_trellis_init(
    qmi_tlut_trellis *trellis, const qmi_tlut_rate *rate);

/* ---- a matrix (tlut_fit.c) ---- */

typedef struct qmi_tlut_problem {
    qmi_basis basis;
    qmi_tlut_trellis trellis;
    int64_t n_tiles;
    int64_t height;   /* rows, padded to whole tiles */
    float *weight;    /* [height] by which errors of rows in units of basis.w
                       * count; 0 of the padding */
    float *scale;     /* [height] of rows, in units of basis.w */
    float *col_scale; /* [n_cols] */
    uint8_t *windows; /* [n_cols, n_tiles, n_steps] */
} qmi_tlut_problem;

/* Strings and scales: a sweep and `passes` rounds of descent under
 * basis.h, or without moments as near as they get.  E_NOMEM, E_CANCELLED. */
qmoe_status qmi_tlut_fit(qmi_tlut_problem *p, int passes,
    const qmi_quant_options *options, qmi_error *err);
/* Most bytes that it allocates. */
uint64_t qmi_tlut_fit_bytes(int64_t n_rows, int64_t n_cols);
/* q of the rows of a tile in a column; [QMI_TLUT_TILE]. */
void qmi_tlut_values(
    float *q, const qmi_tlut_problem *p, int64_t col, int64_t tile);

static inline uint8_t *qmi_tlut_windows_at(
    const qmi_tlut_problem *p, int64_t col, int64_t tile)
{
    return p->windows + (col * p->n_tiles + tile) * p->trellis.n_steps;
}

#endif
