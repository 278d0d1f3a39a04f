/* SPDX-License-Identifier: Apache-2.0
 * GPTQ with blocks instead of single columns (block LDLQ): blocks are chosen
 * left to right, each under the metric that is left when all later columns
 * may still adapt, and its error is fed to them. */
#include "pvq_fit.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

#include "alloc.h"

/* ---- metrics ---- */

/* inverse = U^-1 of the upper triangular U [n, n], rows `stride` apart. */
static void invert_upper(double *inverse, const float *u, int64_t stride, int n)
{
    memset(inverse, 0, (size_t)(n * n) * sizeof *inverse);
    for (int j = 0; j < n; j++) {
        inverse[j * n + j] = 1 / (double)u[j * stride + j];
        for (int i = j - 1; i >= 0; i--) {
            double sum = 0;
            for (int k = i + 1; k <= j; k++)
                sum += (double)u[i * stride + k] * inverse[k * n + j];
            inverse[i * n + j] = -sum / (double)u[i * stride + i];
        }
    }
}

/* metric [w, w] = (U^T U)^-1 / mean, inverse [w, w] = U^-1, of a diagonal
 * block of U with n <= w real columns. */
static void load_block(float *metric, float *inverse, int width, const float *u,
    int64_t stride, int n, double mean)
{
    double v[QMI_PVQ_MAX_WIDTH * QMI_PVQ_MAX_WIDTH];
    invert_upper(v, u, stride, n);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            double sum = 0;
            for (int k = 0; k < n; k++)
                sum += v[i * n + k] * v[j * n + k];
            metric[i * width + j] = (float)(sum / mean);
            inverse[i * width + j] = (float)v[i * n + j];
        }
}

qmoe_status qmi_pvq_feedback_init(
    qmi_pvq_feedback *f, const qmi_pvq_problem *p, qmi_error *err)
{
    const int n = p->pairs.n;
    const int64_t n_cols = p->n_cols, size = n * n;
    size_t count = (size_t)(p->n_blocks * size);
    f->metric = qmi_calloc(count, sizeof *f->metric, "metrics", err);
    f->inverse = qmi_calloc(count, sizeof *f->inverse, "metrics", err);
    if (f->metric == NULL || f->inverse == NULL)
        return QMOE_E_NOMEM;
    for (int64_t b = 0; b < p->n_blocks; b++) {
        int64_t col = b * n, left = n_cols - col;
        load_block(f->metric + b * size, f->inverse + b * size, n,
            p->u + col * n_cols + col, n_cols, left < n ? (int)left : n,
            p->mean);
    }
    return QMOE_OK;
}

void qmi_pvq_feedback_free(qmi_pvq_feedback *f)
{
    qmi_free(f->metric);
    qmi_free(f->inverse);
    *f = (qmi_pvq_feedback){0};
}

/* ---- sweep ---- */

/* out[i] = sum_j in[j] m[j, i] of every lane. */
static void multiply_lanes(float out[][QMI_PVQ_LANES],
    float in[][QMI_PVQ_LANES], const float *m, int n)
{
    for (int i = 0; i < n; i++)
        for (int l = 0; l < QMI_PVQ_LANES; l++)
            out[i][l] = 0;
    for (int j = 0; j < n; j++)
        for (int i = 0; i < n; i++) {
            const float factor = m[j * n + i];
            for (int l = 0; l < QMI_PVQ_LANES; l++)
                out[i][l] += factor * in[j][l];
        }
}

/* One block of up to QMI_PVQ_LANES rows from `row` on: their candidates, and
 * into error [n, QMI_PVQ_PANEL_COLS] what is fed to the columns behind. */
static void choose(qmi_pvq_problem *p, const qmi_pvq_feedback *f, int64_t row,
    int n, int64_t block, const float *x, float *error)
{
    const int width = p->pairs.n;
    const int64_t at = block * width * width;
    float own[QMI_PVQ_MAX_WIDTH][QMI_PVQ_LANES] = {{0}};
    float gain[QMI_PVQ_MAX_WIDTH][QMI_PVQ_LANES];
    float scale[QMI_PVQ_LANES] = {0};
    float norms[QMI_PVQ_MAX_PAIRS];
    uint16_t found[QMI_PVQ_LANES];
    memcpy(scale, p->scale + row, (size_t)n * sizeof *scale);
    for (int l = 0; l < n; l++)
        for (int i = 0; i < width; i++)
            own[i][l] = x[l * p->stride + i];
    multiply_lanes(gain, own, f->metric + at, width);
    qmi_pvq_norms(norms, &p->pairs, f->metric + at, width);
    qmi_pvq_search(found, &p->pairs, norms, gain, scale);
    for (int l = 0; l < n; l++) {
        const qmi_pvq_pulses q = qmi_pvq_pulses_of(&p->pairs, found[l]);
        p->blocks[(row + l) * p->n_blocks + block] = found[l];
        own[q.a][l] -= scale[l] * q.sign_a;
        own[q.b][l] -= scale[l] * q.sign_b;
    }
    multiply_lanes(gain, own, f->inverse + at, width);
    for (int l = 0; l < n; l++)
        for (int i = 0; i < width; i++)
            error[l * QMI_PVQ_PANEL_COLS + i] = gain[i][l];
}

/* x[:, from .. to) -= error u[first .. first + depth, from .. to) */
static void feed(const qmi_pvq_problem *p, float *x, const float *error,
    int64_t n, int64_t first, int64_t depth, int64_t from, int64_t to)
{
    if (from < to)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n,
            (int)(to - from), (int)depth, -1.0f, error, QMI_PVQ_PANEL_COLS,
            p->u + first * p->n_cols + from, (int)p->n_cols, 1.0f, x + from,
            (int)p->stride);
}

void qmi_pvq_sweep(qmi_pvq_problem *p, const qmi_pvq_feedback *f, int64_t row,
    int64_t n, float *x, float *error)
{
    const int64_t n_cols = p->n_cols, width = p->pairs.n;
    for (int64_t panel = 0; panel < n_cols; panel += QMI_PVQ_PANEL_COLS) {
        int64_t end = panel + QMI_PVQ_PANEL_COLS;
        end = end < n_cols ? end : n_cols;
        for (int64_t col = panel; col < end; col += width) {
            float *e = error + (col - panel);
            for (int64_t r = 0; r < n; r += QMI_PVQ_LANES) {
                int64_t left = n - r;
                choose(p, f, row + r,
                    left < QMI_PVQ_LANES ? (int)left : QMI_PVQ_LANES,
                    col / width, x + r * p->stride + col,
                    e + r * QMI_PVQ_PANEL_COLS);
            }
            feed(p, x, e, n, col, width, col + width, end);
        }
        feed(p, x, error, n, panel, end - panel, end, n_cols);
    }
}
