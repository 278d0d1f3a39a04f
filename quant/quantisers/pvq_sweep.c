/* SPDX-License-Identifier: Apache-2.0
 * GPTQ with blocks instead of single columns (block LDLQ).  In: rows with their
 * scales, and the factor of the moments.  Out: a candidate for each block.
 * Blocks are chosen left to right, each under the metric that is left when all
 * later columns may still adapt, and what it misses is fed to them
 * (gptq_frame.h; rows and scales are this format's own, so the walk is too). */
#include "pvq_fit.h"

#include <string.h>

#include "alloc.h"
#include "blas.h"
#include "cancel.h"

/* ---- metrics ---- */

/* metric = V_bb V_bb^T / mean; v [n, n], V_bb upper triangular. */
static void load_metric(
    float *metric, const float *v, int n, int n_real, double mean)
{
    /* Padded columns keep a metric of zero. */
    for (int i = 0; i < n_real; i++)
        for (int j = 0; j < n_real; j++) {
            double sum = 0;
            /* V_bb is upper triangular: the terms before max(i, j) are zero. */
            for (int k = i > j ? i : j; k < n_real; k++)
                sum += (double)v[i * n + k] * (double)v[j * n + k];
            metric[i * n + j] = (float)(sum / mean);
        }
}

float *qmi_pvq_sweep_metrics(const qmi_pvq_problem *p, qmi_error *err)
{
    const int n = p->pairs.n, size = n * n;
    float *metrics = qmi_calloc(
        (size_t)p->n_blocks * (size_t)size, sizeof *metrics, "metrics", err);
    for (int64_t b = 0; metrics != NULL && b < p->n_blocks; b++) {
        int64_t left = p->basis.n_cols - b * n;
        load_metric(metrics + b * size, p->basis.gptq.metric + b * size, n,
            left < n ? (int)left : n, p->basis.mean);
    }
    return metrics;
}

/* ---- sweep ---- */

/* out[i] = sum_j in[j] m[j, i] of every lane. */
static void multiply_lanes(float out[][QMI_PVQ_LANES],
    float in[][QMI_PVQ_LANES], const float *m, int n)
{
    for (int i = 0; i < n; i++)
        for (int l = 0; l < QMI_PVQ_LANES; l++)
            out[i][l] = 0;
    /* In order of j: sums of a lane have one order. */
    for (int j = 0; j < n; j++)
        for (int i = 0; i < n; i++) {
            const float factor = m[j * n + i];
            for (int l = 0; l < QMI_PVQ_LANES; l++)
                out[i][l] += factor * in[j][l];
        }
}

/* One block of up to QMI_PVQ_LANES rows from `row` on: their candidates, and
 * into error [n, QMI_PVQ_PANEL_COLS] what they miss of the weights w. */
static void choose(qmi_pvq_problem *p, const float *metric, int64_t row, int n,
    int64_t block, const float *x, float *error)
{
    const int width = p->pairs.n;
    float own[QMI_PVQ_MAX_WIDTH][QMI_PVQ_LANES] = {{0}};
    float gain[QMI_PVQ_MAX_WIDTH][QMI_PVQ_LANES];
    float scale[QMI_PVQ_LANES] = {0};
    float norms[QMI_PVQ_MAX_PAIRS];
    uint16_t found[QMI_PVQ_LANES];
    memcpy(scale, p->scale + row, (size_t)n * sizeof *scale);
    for (int l = 0; l < n; l++)
        for (int i = 0; i < width; i++)
            own[i][l] = x[l * p->basis.stride + i];
    multiply_lanes(gain, own, metric, width);
    /* Once for each 16 rows: small beside the search. */
    qmi_pvq_norms(norms, &p->pairs, metric, width);
    qmi_pvq_search(found, &p->pairs, norms, gain, scale);
    for (int l = 0; l < n; l++) {
        const qmi_pvq_pulses q = qmi_pvq_pulses_of(&p->pairs, found[l]);
        float *e = error + l * QMI_PVQ_PANEL_COLS;
        p->blocks[(row + l) * p->n_blocks + block] = found[l];
        /* The error is taken of the original weights, not of x: feedback counts
         * each error once (C_b = W_b + ... in gptq_frame.h). */
        memcpy(e, p->basis.w + (row + l) * p->basis.stride + block * width,
            (size_t)width * sizeof *e);
        e[q.a] -= scale[l] * q.sign_a;
        e[q.b] -= scale[l] * q.sign_b;
    }
}

/* x[:, from .. to) += error F[first .. first + depth, from .. to): the columns
 * of the panel by one small product per block, those behind it by one large
 * product per panel. */
static void feed(const qmi_pvq_problem *p, float *x, const float *error,
    int64_t n, int64_t first, int64_t depth, int64_t from, int64_t to)
{
    if (from < to)
        qmi_blas.sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n,
            (int)(to - from), (int)depth, 1.0f, error, QMI_PVQ_PANEL_COLS,
            p->basis.gptq.feedback + first * p->basis.n_cols + from,
            (int)p->basis.n_cols, 1.0f, x + from, (int)p->basis.stride);
}

qmoe_status qmi_pvq_sweep(qmi_pvq_problem *p, const float *metrics, int64_t row,
    int64_t n, float *x, float *error, qmi_error *err)
{
    const int64_t n_cols = p->basis.n_cols, width = p->pairs.n;
    for (int64_t panel = 0; panel < n_cols; panel += QMI_PVQ_PANEL_COLS) {
        QMI_TRY(qmi_check_cancel(err));
        int64_t end = panel + QMI_PVQ_PANEL_COLS;
        end = end < n_cols ? end : n_cols;
        /* A block that crosses the end of the matrix is the last one. */
        for (int64_t col = panel; col < end; col += width) {
            float *e = error + (col - panel);
            for (int64_t r = 0; r < n; r += QMI_PVQ_LANES) {
                int64_t left = n - r;
                choose(p, metrics + col * width, row + r,
                    left < QMI_PVQ_LANES ? (int)left : QMI_PVQ_LANES,
                    col / width, x + r * p->basis.stride + col,
                    e + r * QMI_PVQ_PANEL_COLS);
            }
            feed(p, x, e, n, col, width, col + width, end);
        }
        feed(p, x, error, n, panel, end - panel, end, n_cols);
    }
    return QMOE_OK;
}
