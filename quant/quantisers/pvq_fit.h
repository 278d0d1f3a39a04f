/* SPDX-License-Identifier: Apache-2.0
 * Fitting scale * q of format "pvq" or "pvq8" to a matrix (docs/quantisers.md
 * "PVQ").  Everything happens in the basis of stored_basis.h.  Rows are
 * independent of each other. */
#ifndef QMI_PVQ_FIT_H
#define QMI_PVQ_FIT_H

#include "pvq.h"
#include "stored_basis.h"

enum {
    QMI_PVQ_LANES = 16,     /* rows searched at once */
    QMI_PVQ_MAX_WIDTH = 16, /* of a block */
    QMI_PVQ_MAX_PAIRS = 256
};

/* ---- candidates (pvq_search.c) ---- */

/* The blocks of width n up to their sign: pairs a <= b of positions whose
 * pulses have equal signs, then pairs a < b with opposite ones. */
typedef struct qmi_pvq_pairs {
    int n, count, n_equal;
    uint8_t a[QMI_PVQ_MAX_PAIRS], b[QMI_PVQ_MAX_PAIRS];
} qmi_pvq_pairs;
void qmi_pvq_pairs_of(qmi_pvq_pairs *pairs, int n);

/* A candidate: 2 * pair + (1 when the pulse at a is negative). */
typedef struct qmi_pvq_pulses {
    int a, b;
    float sign_a, sign_b;
} qmi_pvq_pulses;

static inline qmi_pvq_pulses qmi_pvq_pulses_of(
    const qmi_pvq_pairs *pairs, uint16_t candidate)
{
    int pair = candidate >> 1;
    float sign = candidate & 1 ? -1.0f : 1.0f;
    return (qmi_pvq_pulses){pairs->a[pair], pairs->b[pair], sign,
        pair < pairs->n_equal ? sign : -sign};
}

/* q^T M q of every pair; m [n, n] symmetric with rows `stride` apart. */
void qmi_pvq_norms(float norms[QMI_PVQ_MAX_PAIRS], const qmi_pvq_pairs *pairs,
    const float *m, int64_t stride);

/* For each lane the candidate q that makes scale * q^T M q - 2 gain . q least
 * (the first one of equals): what is left of the cost of scale * q. */
void qmi_pvq_search(uint16_t candidate[QMI_PVQ_LANES],
    const qmi_pvq_pairs *pairs, const float norms[QMI_PVQ_MAX_PAIRS],
    float gain[QMI_PVQ_MAX_WIDTH][QMI_PVQ_LANES],
    const float scale[QMI_PVQ_LANES]);

/* ---- the problem ---- */

typedef struct qmi_pvq_problem {
    qmi_pvq_pairs pairs;
    qmi_basis basis; /* of blocks of pairs.n columns */
    int64_t n_blocks;
    float *scale;     /* [n_rows] of w; rounded as it will be stored */
    uint16_t *blocks; /* [n_rows, n_blocks] candidates */
} qmi_pvq_problem;

/* ---- fitting ---- */

/* Nearest blocks and least-squares scales in turn (pvq_nearest.c).
 * E_CANCELLED. */
qmoe_status qmi_pvq_fit_nearest(
    qmi_pvq_problem *p, _Atomic(int64_t) *n_coded, qmi_error *err);

/* Metrics [n_blocks, n, n] of a sweep, padded with zeros: what is left of h for
 * a block when all later columns may still adapt (pvq_sweep.c).  NULL: out of
 * memory.  Release with qmi_free. */
float *qmi_pvq_sweep_metrics(const qmi_pvq_problem *p, qmi_error *err);
/* Sweeps rows [row, row + n) left to right with the scales they have; x
 * [n, stride] holds their weights and is used up, error [n,
 * QMI_PVQ_PANEL_COLS] is scratch.  E_CANCELLED. */
qmoe_status qmi_pvq_sweep(qmi_pvq_problem *p, const float *metrics, int64_t row,
    int64_t n, float *x, float *error, qmi_error *err);
enum { QMI_PVQ_PANEL_COLS = 128, QMI_PVQ_PANEL_ROWS = 64 };

/* Sweep and options->passes passes of coordinate descent over all rows; start from
 * the scales of qmi_pvq_fit_nearest (pvq_descent.c). */
qmoe_status qmi_pvq_fit_moments(
    qmi_pvq_problem *p, const qmi_quant_options *options, qmi_error *err);

#endif
