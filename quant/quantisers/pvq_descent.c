/* SPDX-License-Identifier: Apache-2.0
 * Coordinate descent on the blocks of a row under the second moments H, with
 * over-relaxation, and closed-form scales.
 *
 * With R = (W - cQ) H kept up to date, the cost of replacing block b's q' by q
 * while all others stay is, up to a constant,
 *     c^2 q^T H_bb q - 2c (R_b + c H_bb q') . q
 * A descent that takes the least of it in every step stops in the first of
 * very many local minima: the other blocks could follow a larger step, but it
 * is judged as if they did not.  So H_bb is taken (1 - relax) times as large
 * in the formula, above all in early passes; in the last pass relax is 0. */
#include <math.h>
#include <string.h>

#include "alloc.h"
#include "blas.h"
#include "cancel.h"
#include "portions.h"
#include "pvq_fit.h"

/* Found by measuring (docs/quantisers.md "PVQ"). */
static const float relax_most = 0.15f;

/* Rows in work at once, [rows, stride] each: their share of H fits the cache.
 * Rows are independent, so a panel is finished before the next begins. */
typedef struct panel {
    int64_t row, n_rows;
    float *residual; /* R */
    float *target;   /* W H */
    float *scratch;  /* the weights as a sweep changes them; W - cQ */
    float *error;    /* [rows, QMI_PVQ_PANEL_COLS] */
} panel;

/* ---- residual and scale ---- */

/* dst = src H for the panel's rows. */
static qmoe_status multiply_moments(float *dst, const qmi_pvq_problem *p,
    const float *src, int64_t n_rows, qmi_error *err)
{
    const int64_t n = p->basis.stride;
    return qmi_multiply(dst, n, (qmi_rows){src, n}, (qmi_rows){p->basis.h, n},
        n_rows, n, n, 0, err);
}

static qmi_pvq_pulses pulses_at(
    const qmi_pvq_problem *p, int64_t row, int64_t block)
{
    return qmi_pvq_pulses_of(&p->pairs, p->blocks[row * p->n_blocks + block]);
}

/* Computed anew only here; every change of a block then updates it. */
static qmoe_status set_residual(
    panel *t, const qmi_pvq_problem *p, qmi_error *err)
{
    /* e = W - cQ: the padding stays 0 - cQ, which H turns into nothing. */
    memcpy(t->scratch, p->basis.w + t->row * p->basis.stride,
        (size_t)(t->n_rows * p->basis.stride) * sizeof *t->scratch);
    for (int64_t r = 0; r < t->n_rows; r++)
        for (int64_t b = 0; b < p->n_blocks; b++) {
            const qmi_pvq_pulses q = pulses_at(p, t->row + r, b);
            float *e = t->scratch + r * p->basis.stride + b * p->pairs.n;
            e[q.a] -= p->scale[t->row + r] * q.sign_a;
            e[q.b] -= p->scale[t->row + r] * q.sign_b;
        }
    return multiply_moments(t->residual, p, t->scratch, t->n_rows, err);
}

/* The scale that minimises the cost, c = <W H, q> / <q H, q>, where
 * q H = (W H - R) / c. */
static void refit_row(panel *t, qmi_pvq_problem *p, int64_t r)
{
    const float *target = t->target + r * p->basis.stride;
    float *residual = t->residual + r * p->basis.stride;
    const float old = p->scale[t->row + r];
    /* In double: a row has thousands of terms of both signs. */
    double num = 0, den = 0;
    for (int64_t b = 0; b < p->n_blocks; b++) {
        const qmi_pvq_pulses q = pulses_at(p, t->row + r, b);
        int64_t i = b * p->pairs.n + q.a, j = b * p->pairs.n + q.b;
        double wi = q.sign_a * target[i], wj = q.sign_b * target[j];
        num += wi + wj;
        den += wi - q.sign_a * residual[i] + wj - q.sign_b * residual[j];
    }
    /* A pulse pattern that is worth nothing keeps its scale. */
    if (!(num > 0 && den > 0 && old > 0))
        return;
    /* Rounded as stored, so that the residual is that of the result. */
    float scale =
        qmi_basis_round_scale(&p->basis, t->row + r, (float)(num / den * old));
    if (scale == old || !(scale > 0))
        return;
    const float factor = scale / old;
    for (int64_t i = 0; i < p->basis.stride; i++)
        /* R = W H - c q H, and only c changes. */
        residual[i] = target[i] - factor * (target[i] - residual[i]);
    p->scale[t->row + r] = scale;
}

static void refit(panel *t, qmi_pvq_problem *p)
{
    for (int64_t r = 0; r < t->n_rows; r++)
        refit_row(t, p, r);
}

/* ---- descent ---- */

/* Columns of a block whose integer changed, and by how much of R. */
typedef struct change {
    int n;
    int col[4];
    float amount[4];
} change;

static void add_change(change *d, int col, float amount)
{
    /* Old and new pulses may share columns: they are merged, so each row of H
     * is read once at most. */
    for (int i = 0; i < d->n; i++)
        if (d->col[i] == col) {
            d->amount[i] += amount;
            return;
        }
    d->col[d->n] = col;
    d->amount[d->n++] = amount;
}

/* R -= amount H_col for the changed columns. */
static void update_residual(
    float *restrict residual, const float *h, int64_t stride, const change *d)
{
    for (int k = 0; k < d->n; k++)
        /* What cancelled costs nothing. */
        if (d->amount[k] != 0)
            qmi_blas.saxpy((int)stride, -d->amount[k], h + d->col[k] * stride,
                1, residual, 1);
}

static void replace(
    panel *t, qmi_pvq_problem *p, int64_t r, int64_t block, uint16_t candidate)
{
    const float scale = p->scale[t->row + r];
    const qmi_pvq_pulses old = pulses_at(p, t->row + r, block);
    const qmi_pvq_pulses new = qmi_pvq_pulses_of(&p->pairs, candidate);
    change d = {0};
    add_change(&d, new.a, scale * new.sign_a);
    add_change(&d, new.b, scale * new.sign_b);
    add_change(&d, old.a, -scale * old.sign_a);
    add_change(&d, old.b, -scale * old.sign_b);
    /* The rows of H that belong to the block. */
    update_residual(t->residual + r * p->basis.stride,
        p->basis.h + block * p->pairs.n * p->basis.stride, p->basis.stride, &d);
    p->blocks[(t->row + r) * p->n_blocks + block] = candidate;
}

/* Chooses one block anew in rows r .. r + n - 1 of the panel. */
static void descend_lanes(panel *t, qmi_pvq_problem *p, int64_t r, int n,
    int64_t block, const float *metric, const float *norms)
{
    const int width = p->pairs.n;
    float gain[QMI_PVQ_MAX_WIDTH][QMI_PVQ_LANES] = {{0}};
    float scale[QMI_PVQ_LANES] = {0};
    uint16_t found[QMI_PVQ_LANES];
    /* Lanes are rows: one candidate search serves 16 of them. */
    for (int l = 0; l < n; l++) {
        const float *residual =
            t->residual + (r + l) * p->basis.stride + block * width;
        const qmi_pvq_pulses q = pulses_at(p, t->row + r + l, block);
        const float *ma = metric + q.a * width, *mb = metric + q.b * width;
        scale[l] = p->scale[t->row + r + l];
        float fa = scale[l] * q.sign_a, fb = scale[l] * q.sign_b;
        for (int i = 0; i < width; i++)
            gain[i][l] = residual[i] + (fa * ma[i] + fb * mb[i]);
    }
    qmi_pvq_search(found, &p->pairs, norms, gain, scale);
    const uint16_t *old = p->blocks + (t->row + r) * p->n_blocks + block;
    /* Most blocks stay as they are in later rounds. */
    for (int l = 0; l < n; l++)
        if (found[l] != old[l * p->n_blocks])
            replace(t, p, r + l, block, found[l]);
}

static void descend(panel *t, qmi_pvq_problem *p, float relax)
{
    const int width = p->pairs.n;
    float metric[QMI_PVQ_MAX_WIDTH * QMI_PVQ_MAX_WIDTH];
    float norms[QMI_PVQ_MAX_PAIRS];
    /* Left to right: a block sees the changes of those before it in the same
     * round. */
    for (int64_t block = 0; block < p->n_blocks; block++) {
        const float *h = p->basis.h + block * width * (p->basis.stride + 1);
        /* The block's part of H, relaxed; the residual stays that of H
         * itself. */
        for (int i = 0; i < width; i++)
            for (int j = 0; j < width; j++)
                metric[i * width + j] =
                    (1 - relax) * h[i * p->basis.stride + j];
        qmi_pvq_norms(norms, &p->pairs, metric, width);
        for (int64_t r = 0; r < t->n_rows; r += QMI_PVQ_LANES) {
            int64_t left = t->n_rows - r;
            descend_lanes(t, p, r,
                left < QMI_PVQ_LANES ? (int)left : QMI_PVQ_LANES, block, metric,
                norms);
        }
    }
}

/* Full over-relaxation in the first half of the passes, then less and less. */
static float relax_of(int pass, int passes)
{
    if (passes < 2)
        return 0;
    float left = (float)(passes - 1 - pass) / (float)(passes - 1);
    return relax_most * fminf(1, 2 * left);
}

/* ---- all rows ---- */

static qmoe_status fit_panel(panel *t, qmi_pvq_problem *p, const float *metrics,
    int passes, qmi_error *err)
{
    const float *w = p->basis.w + t->row * p->basis.stride;
    QMI_TRY(multiply_moments(t->target, p, w, t->n_rows, err));
    /* The sweep changes its copy of the weights. */
    memcpy(t->scratch, w,
        (size_t)(t->n_rows * p->basis.stride) * sizeof *t->scratch);
    QMI_TRY(qmi_pvq_sweep(
        p, metrics, t->row, t->n_rows, t->scratch, t->error, err));
    QMI_TRY(set_residual(t, p, err));
    refit(t, p);
    /* The number of rounds is known, since the last one must be a plain
     * descent. */
    for (int pass = 0; pass < passes; pass++) {
        QMI_TRY(qmi_check_cancel(err));
        descend(t, p, relax_of(pass, passes));
        refit(t, p);
    }
    return QMOE_OK;
}

static qmoe_status panel_init(
    panel *t, const qmi_pvq_problem *p, qmi_error *err)
{
    static const char what[] = "rows in work";
    size_t n = QMI_PVQ_PANEL_ROWS * (size_t)p->basis.stride;
    *t = (panel){.residual = qmi_calloc(n, sizeof(float), what, err),
        .target = qmi_calloc(n, sizeof(float), what, err),
        .scratch = qmi_calloc(n, sizeof(float), what, err),
        .error = qmi_calloc(
            QMI_PVQ_PANEL_ROWS * QMI_PVQ_PANEL_COLS, sizeof(float), what, err)};
    return t->residual != NULL && t->target != NULL && t->scratch != NULL &&
                   t->error != NULL
               ? QMOE_OK
               : QMOE_E_NOMEM;
}

static void panel_free(panel *t)
{
    qmi_free(t->residual);
    qmi_free(t->target);
    qmi_free(t->scratch);
    qmi_free(t->error);
}

qmoe_status qmi_pvq_fit_moments(
    qmi_pvq_problem *p, const qmi_quant_options *options, qmi_error *err)
{
    panel t;
    float *metrics = qmi_pvq_sweep_metrics(p, err);
    qmoe_status status = panel_init(&t, p, err);
    if (metrics == NULL)
        status = QMOE_E_NOMEM;
    /* In order of rows, one panel after the other, with one set of buffers. */
    for (int64_t row = 0; status == QMOE_OK && row < p->basis.n_rows;
         row += QMI_PVQ_PANEL_ROWS) {
        t.row = row;
        t.n_rows = p->basis.n_rows - row < QMI_PVQ_PANEL_ROWS
                       ? p->basis.n_rows - row
                       : QMI_PVQ_PANEL_ROWS;
        status = fit_panel(&t, p, metrics, options->passes, err);
        qmi_count_coded(options->n_coded, t.n_rows * p->basis.n_cols);
    }
    qmi_free(metrics);
    panel_free(&t);
    return status;
}
