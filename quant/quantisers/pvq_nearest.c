/* SPDX-License-Identifier: Apache-2.0
 * In: the problem without moments.  Out: the nearest blocks and the scale of
 * least squares of each row.  This is the result when nothing is known of the
 * inputs, and gives the scales that a sweep starts from.  Blocks and scale are
 * found in turn, and each step lowers the error. */
#include "pvq_fit.h"

#include <math.h>
#include <string.h>

#include "cancel.h"

/* The cost falls with every round; scales settle after a few. */
enum { MAX_ROUNDS = 12 };

/* Norms of whole blocks and of the last one, in whose padding a pulse costs
 * nothing. */
typedef struct plain_norms {
    float whole[QMI_PVQ_MAX_PAIRS], last[QMI_PVQ_MAX_PAIRS];
} plain_norms;

static void plain_norms_of(plain_norms *norms, const qmi_pvq_problem *p)
{
    const int n = p->pairs.n;
    const int64_t last = (p->n_blocks - 1) * n;
    float metric[QMI_PVQ_MAX_WIDTH * QMI_PVQ_MAX_WIDTH] = {0};
    for (int i = 0; i < n; i++)
        metric[i * n + i] = 1;
    qmi_pvq_norms(norms->whole, &p->pairs, metric, n);
    /* 0 for columns that do not exist. */
    for (int i = 0; i < n; i++)
        metric[i * n + i] = last + i < p->basis.n_cols;
    qmi_pvq_norms(norms->last, &p->pairs, metric, n);
}

/* Nearest blocks of rows [row, row + n), n <= QMI_PVQ_LANES, to their
 * scales. */
static void round_lanes(
    qmi_pvq_problem *p, int64_t row, int n, const plain_norms *norms)
{
    float gain[QMI_PVQ_MAX_WIDTH][QMI_PVQ_LANES] = {{0}};
    float scale[QMI_PVQ_LANES] = {0};
    uint16_t found[QMI_PVQ_LANES];
    /* Lanes past n keep a scale of 0: whatever is found for them is not
     * used. */
    memcpy(scale, p->scale + row, (size_t)n * sizeof *scale);
    for (int64_t block = 0; block < p->n_blocks; block++) {
        const float *w =
            p->basis.w + row * p->basis.stride + block * p->pairs.n;
        const bool last = block == p->n_blocks - 1;
        for (int l = 0; l < n; l++)
            for (int i = 0; i < p->pairs.n; i++)
                gain[i][l] = w[l * p->basis.stride + i];
        qmi_pvq_search(
            found, &p->pairs, last ? norms->last : norms->whole, gain, scale);
        for (int l = 0; l < n; l++)
            p->blocks[(row + l) * p->n_blocks + block] = found[l];
    }
}

/* <w, q> / <q, q> over the real columns. */
static bool refit_row(qmi_pvq_problem *p, int64_t row)
{
    double num = 0, den = 0;
    for (int64_t block = 0; block < p->n_blocks; block++) {
        const int64_t col = block * p->pairs.n;
        const float *w = p->basis.w + row * p->basis.stride + col;
        const qmi_pvq_pulses q =
            qmi_pvq_pulses_of(&p->pairs, p->blocks[row * p->n_blocks + block]);
        num += q.sign_a * w[q.a] + q.sign_b * w[q.b];
        /* Both pulses at one place count as 2: its square is 4. */
        if (q.a == q.b)
            den += col + q.a < p->basis.n_cols ? 4 : 0;
        else
            den +=
                (col + q.a < p->basis.n_cols) + (col + q.b < p->basis.n_cols);
    }
    float old = p->scale[row];
    /* A row of zeros, or pulses in the padding alone: the scale stays. */
    if (num > 0 && den > 0)
        p->scale[row] =
            qmi_basis_round_scale(&p->basis, row, (float)(num / den));
    return p->scale[row] != old;
}

/* Two pulses of a Gaussian block of n weights are worth about this. */
static float first_scale(const qmi_pvq_problem *p, int64_t row)
{
    double sum = 0;
    for (int64_t c = 0; c < p->basis.n_cols; c++) {
        double w = p->basis.w[row * p->basis.stride + c];
        sum += w * w;
    }
    double rms = sqrt(sum / (double)p->basis.n_cols);
    return (float)(0.75 * rms * sqrt(p->pairs.n / 2.0));
}

qmoe_status qmi_pvq_fit_nearest(
    qmi_pvq_problem *p, _Atomic(int64_t) *n_coded, qmi_error *err)
{
    plain_norms norms;
    plain_norms_of(&norms, p);
    /* Rows by groups of lanes, which do not depend on each other. */
    for (int64_t row = 0; row < p->basis.n_rows; row += QMI_PVQ_LANES) {
        QMI_TRY(qmi_check_cancel(err));
        int64_t left = p->basis.n_rows - row;
        int n = left < QMI_PVQ_LANES ? (int)left : QMI_PVQ_LANES;
        for (int l = 0; l < n; l++)
            p->scale[row + l] = qmi_basis_round_scale(
                &p->basis, row + l, first_scale(p, row + l));
        bool changed = true;
        for (int round = 0; changed && round < MAX_ROUNDS; round++) {
            changed = false;
            round_lanes(p, row, n, &norms);
            for (int l = 0; l < n; l++)
                changed |= refit_row(p, row + l);
        }
        /* The scale changed last, so the blocks are chosen once more for it. */
        if (changed)
            round_lanes(p, row, n, &norms);
        qmi_count_coded(n_coded, n * p->basis.n_cols);
    }
    return QMOE_OK;
}
