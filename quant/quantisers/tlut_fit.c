/* SPDX-License-Identifier: Apache-2.0
 * GPTQ and coordinate descent whose coordinates are columns.  In: rows in the
 * stored basis, with moments or without.  Out: windows and scales, which are
 * always values that can be stored.
 *
 * Everything is held column by column, [n_cols, height], since a string runs
 * down a column.  With G = (W - Q) H up to date, the cost of column j, while
 * all others stay, is H_jj |t - q|^2 with t = G_j / H_jj + Q_j, plus a constant:
 * so a step of the sweep and one of a descent differ in t alone.  Over-
 * relaxation is as in pvq_descent.c. */
#include "tlut_fit.h"

#include <limits.h>
#include <math.h>
#include <string.h>

#include "alloc.h"
#include "cancel.h"
#include "portions.h"

/* Found by measuring (docs/quantisers.md "TLUT"). */
static const float relax_most = 0.15f;

/* Columns between matrix products. */
enum { BLOCK = 64 };

/* Scales stay below 2^20 of a row whose weights are below 1, so that their
 * products with what a row was divided by can be stored. */
static const float largest_col_scale = 0x1p20f;

typedef struct work {
    float *residual;   /* [n_cols, height] weights of the sweep; G */
    float *target;     /* [n_cols, height] W H */
    float *change;     /* [BLOCK, height] of Q, with its sign turned */
    float *aim;        /* [height] t */
    float *values;     /* [height] Q of a column */
    double *num, *den; /* [height] of least squares */
    int64_t n_done, n_rounds;
    _Atomic(int64_t) *n_coded;
} work;

/* ---- columns ---- */

void qmi_tlut_values(
    float *q, const qmi_tlut_problem *p, int64_t col, int64_t tile)
{
    const qmi_tlut_rate *rate = p->trellis.rate;
    const uint8_t *windows = qmi_tlut_windows_at(p, col, tile);
    for (int step = 0; step < p->trellis.n_steps; step++)
        for (int i = 0; i < rate->v; i++)
            *q++ = rate->table[windows[step] * rate->v + i];
}

/* dst [height] = q of a column times the scales of its rows. */
static void expand(const qmi_tlut_problem *p, int64_t col, float *dst)
{
    for (int64_t tile = 0; tile < p->n_tiles; tile++)
        qmi_tlut_values(dst + tile * QMI_TLUT_TILE, p, col, tile);
    for (int64_t r = 0; r < p->height; r++)
        dst[r] *= p->scale[r];
}

/* dst [n, height] = columns [first, first + n) of W. */
static void load_columns(
    const qmi_tlut_problem *p, int64_t first, int64_t n, float *dst)
{
    for (int64_t r = 0; r < p->basis.n_rows; r++)
        for (int64_t c = 0; c < n; c++)
            dst[c * p->height + r] =
                p->basis.w[r * p->basis.stride + first + c];
}

static float round_col_scale(double scale)
{
    return qmi_bf16_to_f32(
        qmi_f32_to_bf16(fminf((float)scale, largest_col_scale)));
}

/* The scale for which the column, with q of scale 1, fits the values aimed at
 * best as a whole. */
static float first_col_scale(const qmi_tlut_problem *p, const float *aim)
{
    double num = 0, den = 0;
    for (int64_t r = 0; r < p->height; r++) {
        const double c = p->scale[r] / p->trellis.rate->unit;
        num += (double)p->weight[r] * aim[r] * aim[r];
        den += (double)p->weight[r] * c * c;
    }
    return den > 0 ? round_col_scale(sqrt(num / den)) : 0;
}

/* The least-squares one; q: the column without its scale. */
static void refit_column(
    qmi_tlut_problem *p, int64_t col, const float *aim, const float *q)
{
    double num = 0, den = 0;
    for (int64_t r = 0; r < p->height; r++) {
        const float f = p->weight[r] * q[r];
        num += (double)(f * aim[r]);
        den += (double)(f * q[r]);
    }
    /* A column that is worth nothing keeps its scale. */
    if (num > 0 && den > 0)
        p->col_scale[col] = round_col_scale(num / den);
}

static void search_column(qmi_tlut_problem *p, int64_t col, const float *aim)
{
    const float s = p->col_scale[col];
    float a[QMI_TLUT_TILE], b[QMI_TLUT_TILE];
    for (int64_t tile = 0; tile < p->n_tiles; tile++) {
        const int64_t first = tile * QMI_TLUT_TILE;
        for (int r = 0; r < QMI_TLUT_TILE; r++) {
            const float c = p->scale[first + r] * s;
            b[r] = p->weight[first + r] * c;
            a[r] = b[r] * c;
            b[r] *= aim[first + r];
        }
        p->trellis.search(&p->trellis, a, b, qmi_tlut_windows_at(p, col, tile));
    }
}

static void count_columns(work *k, const qmi_tlut_problem *p, int64_t n)
{
    const int64_t before = k->n_done / k->n_rounds;
    k->n_done += n * p->basis.n_rows;
    qmi_count_coded(k->n_coded, k->n_done / k->n_rounds - before);
}

/* ---- sweep ---- */

/* x [n, height] += the errors of the first `n` columns of a block, fed to
 * column `col` of the matrix; `first`: that of the block. */
static void feed_column(const qmi_tlut_problem *p, float *restrict x,
    const float *restrict errors, int64_t first, int64_t col)
{
    const float *f = p->basis.gptq.feedback;
    for (int64_t i = first; f != NULL && i < col; i++) {
        const float factor = f[i * p->basis.n_cols + col];
        const float *error = errors + (i - first) * p->height;
        for (int64_t r = 0; r < p->height; r++)
            x[r] += factor * error[r];
    }
}

/* Columns [first, end) of the sweep; k->change: what they miss of W. */
static qmoe_status sweep_block(
    qmi_tlut_problem *p, work *k, int64_t first, int64_t end, qmi_error *err)
{
    load_columns(p, first, end - first, k->change);
    for (int64_t col = first; col < end; col++) {
        float *x = k->residual + col * p->height;
        float *error = k->change + (col - first) * p->height;
        QMI_TRY(qmi_check_cancel(err));
        feed_column(p, x, k->change, first, col);
        p->col_scale[col] = first_col_scale(p, x);
        search_column(p, col, x);
        expand(p, col, k->values);
        refit_column(p, col, x, k->values);
        /* The error is taken of the original weights, not of x: feedback
         * counts each error once (gptq_frame.h). */
        for (int64_t r = 0; r < p->height; r++)
            error[r] -= p->col_scale[col] * k->values[r];
    }
    return QMOE_OK;
}

static qmoe_status sweep(qmi_tlut_problem *p, work *k, qmi_error *err)
{
    const int64_t n = p->basis.n_cols, height = p->height;
    const float *f = p->basis.gptq.feedback;
    for (int64_t first = 0; first < n; first += BLOCK) {
        const int64_t end = n - first < BLOCK ? n : first + BLOCK;
        QMI_TRY(sweep_block(p, k, first, end, err));
        if (f != NULL && end < n)
            QMI_TRY(qmi_multiply_transposed(k->residual + end * height, height,
                (qmi_rows){f + first * n + end, n},
                (qmi_rows){k->change, height}, n - end, height, end - first, 1,
                err));
        count_columns(k, p, end - first);
    }
    return QMOE_OK;
}

/* ---- residual and scales of rows ---- */

/* G += change H for the changes of columns [first, end). */
static qmoe_status add_change(const qmi_tlut_problem *p, work *k, int64_t first,
    int64_t end, qmi_error *err)
{
    const int64_t n = p->basis.n_cols, height = p->height;
    if (p->basis.h != NULL)
        return qmi_multiply(k->residual, height,
            (qmi_rows){p->basis.h + first, n}, (qmi_rows){k->change, height}, n,
            height, end - first, 1, err);
    float *g = k->residual + first * height;
    for (int64_t i = 0; i < (end - first) * height; i++)
        g[i] += k->change[i];
    return QMOE_OK;
}

/* G = W H - Q H. */
static qmoe_status set_residual(qmi_tlut_problem *p, work *k, qmi_error *err)
{
    const int64_t n = p->basis.n_cols, height = p->height;
    memcpy(k->residual, k->target, (size_t)(n * height) * sizeof(float));
    for (int64_t first = 0; first < n; first += BLOCK) {
        const int64_t end = n - first < BLOCK ? n : first + BLOCK;
        for (int64_t col = first; col < end; col++) {
            float *change = k->change + (col - first) * height;
            expand(p, col, change);
            for (int64_t r = 0; r < height; r++)
                change[r] *= -p->col_scale[col];
        }
        QMI_TRY(add_change(p, k, first, end, err));
    }
    return QMOE_OK;
}

/* Scales of rows that minimise the cost, c = <W H, q> / <q H, q>, where
 * q H = (W H - G) / c. */
static qmoe_status refit_rows(qmi_tlut_problem *p, work *k, qmi_error *err)
{
    const int64_t n = p->basis.n_cols, height = p->height;
    memset(k->num, 0, (size_t)height * sizeof *k->num);
    memset(k->den, 0, (size_t)height * sizeof *k->den);
    for (int64_t col = 0; col < n; col++) {
        const float *target = k->target + col * height;
        const float *g = k->residual + col * height;
        QMI_TRY(qmi_check_cancel(err));
        expand(p, col, k->values);
        for (int64_t r = 0; r < height; r++) {
            const float q = k->values[r] * p->col_scale[col];
            k->num[r] += (double)(q * target[r]);
            k->den[r] += (double)(q * (target[r] - g[r]));
        }
    }
    /* How much each scale grows; rows that are worth nothing keep theirs. */
    for (int64_t r = 0; r < height; r++) {
        const float old = p->scale[r];
        k->aim[r] = 1;
        if (!(k->num[r] > 0 && k->den[r] > 0 && old > 0))
            continue;
        const float wish = fminf(1, (float)(k->num[r] / k->den[r] * old));
        const float scale = qmi_basis_round_scale(&p->basis, r, wish);
        if (!(scale > 0))
            continue;
        k->aim[r] = scale / old;
        p->scale[r] = scale;
    }
    for (int64_t col = 0; col < n; col++) {
        const float *target = k->target + col * height;
        float *g = k->residual + col * height;
        for (int64_t r = 0; r < height; r++)
            g[r] = target[r] - k->aim[r] * (target[r] - g[r]);
    }
    return QMOE_OK;
}

/* ---- descent ---- */

/* g [height] += H of the changes before `col` in its block. */
static void add_changes(const qmi_tlut_problem *p, float *restrict g,
    const float *restrict changes, int64_t first, int64_t col)
{
    const float *h = p->basis.h;
    for (int64_t i = first; h != NULL && i < col; i++) {
        const float factor = h[col * p->basis.n_cols + i];
        const float *change = changes + (i - first) * p->height;
        for (int64_t r = 0; r < p->height; r++)
            g[r] += factor * change[r];
    }
}

/* One step; the residual stays as it was before the block. */
static void descend_column(
    qmi_tlut_problem *p, work *k, int64_t first, int64_t col, float relax)
{
    const int64_t height = p->height;
    const float h =
        p->basis.h != NULL ? p->basis.h[col * p->basis.n_cols + col] : 1;
    const float full = 1 / h, relaxed = 1 / ((1 - relax) * h);
    float *change = k->change + (col - first) * height;
    const float *old = change;
    memcpy(k->aim, k->residual + col * height, (size_t)height * sizeof(float));
    add_changes(p, k->aim, k->change, first, col);
    expand(p, col, change);
    for (int64_t r = 0; r < height; r++) {
        change[r] *= p->col_scale[col];
        k->values[r] = old[r] + relaxed * k->aim[r];
        k->aim[r] = old[r] + full * k->aim[r];
    }
    search_column(p, col, k->values);
    expand(p, col, k->values);
    refit_column(p, col, k->aim, k->values);
    for (int64_t r = 0; r < height; r++)
        change[r] -= p->col_scale[col] * k->values[r];
}

static qmoe_status descend(
    qmi_tlut_problem *p, work *k, float relax, qmi_error *err)
{
    const int64_t n = p->basis.n_cols;
    for (int64_t first = 0; first < n; first += BLOCK) {
        const int64_t end = n - first < BLOCK ? n : first + BLOCK;
        for (int64_t col = first; col < end; col++) {
            QMI_TRY(qmi_check_cancel(err));
            descend_column(p, k, first, col, relax);
        }
        QMI_TRY(add_change(p, k, first, end, err));
        count_columns(k, p, end - first);
    }
    return QMOE_OK;
}

/* Full over-relaxation in the first half of the passes, then less and less. */
static float relax_of(int pass, int passes)
{
    if (passes < 2)
        return 0;
    float left = (float)(passes - 1 - pass) / (float)(passes - 1);
    return relax_most * fminf(1, 2 * left);
}

/* ---- all of it ---- */

/* The root of a row's mean square, as its scale. */
static void first_scales(qmi_tlut_problem *p)
{
    for (int64_t r = 0; r < p->basis.n_rows; r++) {
        double sum = 0;
        for (int64_t c = 0; c < p->basis.n_cols; c++) {
            const double w = p->basis.w[r * p->basis.stride + c];
            sum += w * w;
        }
        const double rms = sqrt(sum / (double)p->basis.n_cols);
        p->scale[r] = qmi_basis_round_scale(
            &p->basis, r, (float)(rms * p->trellis.rate->unit));
    }
}

/* A string serves many rows, so errors must be compared in the units of the
 * matrix, which a row's exponent hides. */
static void set_weights(qmi_tlut_problem *p, const float *row_weights)
{
    enum { LEAST = -30 }; /* far from an underflow */
    int largest = INT_MIN;
    for (int64_t r = 0; r < p->basis.n_rows; r++)
        if (p->scale[r] > 0 && p->basis.exponent[r] > largest)
            largest = p->basis.exponent[r];
    for (int64_t r = 0; r < p->basis.n_rows; r++) {
        /* Rows of zeros have the exponent 0. */
        const int e = p->scale[r] > 0 ? p->basis.exponent[r] - largest : 0;
        p->weight[r] = ldexpf(row_weights != NULL ? row_weights[r] : 1,
            2 * (e > LEAST ? e : LEAST));
    }
}

static qmoe_status fit(qmi_tlut_problem *p, work *k, int passes, qmi_error *err)
{
    const int64_t n = p->basis.n_cols, height = p->height;
    const size_t bytes = (size_t)(n * height) * sizeof(float);
    load_columns(p, 0, n, k->residual);
    if (p->basis.h != NULL)
        QMI_TRY(qmi_multiply(k->target, height, (qmi_rows){p->basis.h, n},
            (qmi_rows){k->residual, height}, n, height, n, 0, err));
    else
        memcpy(k->target, k->residual, bytes);
    QMI_TRY(sweep(p, k, err));
    QMI_TRY(set_residual(p, k, err));
    QMI_TRY(refit_rows(p, k, err));
    for (int pass = 0; pass < passes; pass++) {
        QMI_TRY(descend(
            p, k, p->basis.h != NULL ? relax_of(pass, passes) : 0, err));
        QMI_TRY(refit_rows(p, k, err));
    }
    return QMOE_OK;
}

static uint64_t work_floats(int64_t height, int64_t n_cols)
{
    return (uint64_t)height * (2 * (uint64_t)n_cols + BLOCK + 2);
}

static int64_t height_of(int64_t n_rows)
{
    return (n_rows + QMI_TLUT_TILE - 1) / QMI_TLUT_TILE * QMI_TLUT_TILE;
}

uint64_t qmi_tlut_fit_bytes(int64_t n_rows, int64_t n_cols)
{
    const int64_t height = height_of(n_rows);
    return work_floats(height, n_cols) * sizeof(float) +
           2 * (uint64_t)height * sizeof(double);
}

qmoe_status qmi_tlut_fit(qmi_tlut_problem *p, int passes,
    const qmi_quant_options *options, qmi_error *err)
{
    static const char what[] = "rows in work";
    const int64_t n = p->basis.n_cols, height = p->height;
    work k = {.n_rounds = 1 + passes, .n_coded = options->n_coded};
    float *floats =
        qmi_calloc((size_t)work_floats(height, n), sizeof *floats, what, err);
    double *doubles =
        qmi_calloc(2 * (size_t)height, sizeof *doubles, what, err);
    qmoe_status status = QMOE_E_NOMEM;
    if (floats != NULL && doubles != NULL) {
        k.residual = floats;
        k.target = k.residual + n * height;
        k.change = k.target + n * height;
        k.aim = k.change + BLOCK * height;
        k.values = k.aim + height;
        k.num = doubles;
        k.den = doubles + height;
        first_scales(p);
        set_weights(p, options->row_weights);
        status = fit(p, &k, passes, err);
    }
    qmi_free(doubles);
    qmi_free(floats);
    return status;
}
