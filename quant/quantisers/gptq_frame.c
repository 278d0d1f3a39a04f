/* SPDX-License-Identifier: Apache-2.0
 * The walk over the columns.  Blocks of 128 columns are joined pairwise: the
 * right half of a range is brought up to date with the left half by one matrix
 * product, so products are as large as they can be.  Inside a block the rows go
 * through in tiles, transposed, so that everything is a loop over rows next to
 * each other. */
#include "gptq_frame.h"

#include <math.h>
#include <string.h>

#include "alloc.h"
#include "blas.h"
#include "cancel.h"
#include "portions.h"
#include "sweep_tile.h"

enum { ROWS = QMI_SWEEP_ROWS, BLOCK = QMI_SWEEP_BLOCK, STEP = QMI_SWEEP_STEP };

/* One tile of a block. */
typedef struct tile {
    qmi_tile c; /* the values aimed at */
    qmi_tile d; /* w, then w - q */
    qmi_code_tile codes;
    float q[QMI_SWEEP_MAX_GROUP][ROWS];
    float f[BLOCK][BLOCK]; /* feedback inside the block */
    float error[ROWS];     /* sum of |(c - q) V_bb|^2 over the block */
} tile;

typedef struct walk {
    qmi_sweep *sweep;
    tile *tile;
    qmi_tile_update_fn update;
    qmi_error *err;
    int step; /* columns brought up to date together */
    int group;
} walk;

/* ---- tiles ---- */

/* Adds |(c - q) V_bb|^2 of the group at column k of the block; metric
 * [n, stride]. */
static void add_error(tile *t, int k, int n, const float *metric, int stride)
{
    for (int i = 0; i < n; i++) {
        /* D V_bb row by row: V_bb is upper triangular, so only j <= i count. */
        float e[ROWS] = {0};
        for (int j = 0; j <= i; j++) {
            const float v = metric != NULL ? metric[j * stride + i] : 1;
            for (int r = 0; r < ROWS; r++)
                e[r] += (t->c[k + j][r] - t->q[j][r]) * v;
        }
        for (int r = 0; r < ROWS; r++)
            t->error[r] += e[r] * e[r];
    }
}

/* Chooses columns [k, k + n) of the block and leaves their D. */
static void choose_group(
    const walk *w, int64_t row, int64_t block, int k, int n)
{
    qmi_sweep *s = w->sweep;
    tile *t = w->tile;
    const qmi_gptq *g = s->gptq;
    const float *metric = g != NULL ? g->metric + (block + k) * g->group : NULL;
    /* The quantiser sees all rows of the tile at once and writes values and
     * codes. */
    s->choose(s->user, row, block + k, n, t->c[k], t->q[0], t->codes[k]);
    add_error(t, k, n, metric, w->group);
    /* From here on d holds W - Q, which later columns are fed with. */
    for (int i = 0; i < n; i++)
        for (int r = 0; r < ROWS; r++)
            t->d[k + i][r] -= t->q[i][r];
}

/* Columns [k, end) of one step, group by group.  In groups of one, a column
 * still lacks the errors of its neighbours in the step. */
static void walk_step(const walk *w, int64_t row, int64_t block, int k, int end)
{
    tile *t = w->tile;
    for (int j = k; j < end; j += w->group) {
        int n = end - j < w->group ? end - j : w->group;
        /* In groups of more a step is one group: nothing in it comes before. */
        for (int i = k; w->group == 1 && i < j; i++)
            for (int r = 0; r < ROWS; r++)
                t->c[j][r] += t->d[i][r] * t->f[i][j];
        choose_group(w, row, block, j, n);
    }
}

static void walk_tile(
    const walk *w, int64_t row, int n_rows, int64_t block, int n_cols)
{
    qmi_sweep *s = w->sweep;
    tile *t = w->tile;
    const int64_t stride = s->n_cols, at = row * stride + block;
    /* Transposed on the way in: a column of 32 rows lies in two cache lines. */
    qmi_tile_load(t->c, s->work + at, stride, n_rows, n_cols);
    qmi_tile_load(t->d, s->w + at, stride, n_rows, n_cols);
    memset(t->error, 0, sizeof t->error);
    for (int k = 0; k < n_cols; k += w->step) {
        int end = k + w->step < n_cols ? k + w->step : n_cols;
        /* First the errors of all columns of this block before the step, as one
         * small product; those inside the step follow in walk_step. */
        for (int i = k; s->gptq != NULL && i < end; i += STEP)
            w->update(&t->c[i], (const float(*)[ROWS])t->d, &t->f[0][i], k);
        walk_step(w, row, block, k, end);
    }
    /* Rows that fill up the tile are left out. */
    for (int r = 0; r < n_rows; r++)
        s->error += (double)t->error[r];
    qmi_tile_store(s->work + at, stride, t->d, n_rows, n_cols);
    if (s->codes != NULL)
        qmi_tile_store_codes(s->codes + at, stride, t->codes, n_rows, n_cols);
}

/* ---- blocks ---- */

static void walk_block(const walk *w, int64_t block, int n_cols)
{
    const qmi_sweep *s = w->sweep;
    /* The block's feedback is copied once and used by all tiles of rows. */
    for (int i = 0; s->gptq != NULL && i < n_cols; i++) {
        const float *f = s->gptq->feedback + (block + i) * s->n_cols + block;
        memcpy(w->tile->f[i], f, (size_t)n_cols * sizeof *f);
    }
    /* In order of rows, within a block in order of columns: sums have one
     * order. */
    for (int64_t row = 0; row < s->n_rows; row += ROWS) {
        int64_t left = s->n_rows - row;
        walk_tile(w, row, left < ROWS ? (int)left : ROWS, block, n_cols);
    }
}

/* Columns [begin, end); those before `begin` are already in `work`. */
static qmoe_status walk_range(const walk *w, int64_t begin, int64_t end)
{
    const qmi_sweep *s = w->sweep;
    const int64_t n = s->n_cols;
    QMI_TRY(qmi_check_cancel(w->err));
    if (end - begin <= BLOCK) {
        walk_block(w, begin, (int)(end - begin));
        qmi_count_coded(s->n_coded, s->n_rows * (end - begin));
        return QMOE_OK;
    }
    /* Cut at a whole number of blocks, so that only the last block can be
     * narrower. */
    int64_t n_blocks = (end - begin + BLOCK - 1) / BLOCK;
    int64_t middle = begin + n_blocks / 2 * BLOCK;
    QMI_TRY(walk_range(w, begin, middle));
    /* The errors of the left half reach the right half in one product. */
    if (s->gptq != NULL)
        QMI_TRY(
            qmi_multiply(s->work + middle, n, (qmi_rows){s->work + begin, n},
                (qmi_rows){s->gptq->feedback + begin * n + middle, n},
                s->n_rows, end - middle, middle - begin, 1, w->err));
    return walk_range(w, middle, end);
}

qmoe_status qmi_sweep_run(qmi_sweep *sweep, qmi_error *err)
{
    const int group = sweep->gptq != NULL ? sweep->gptq->group : 1;
    walk w = {
        .sweep = sweep,
        .update = qmi_tile_update(),
        .err = err,
        .group = group,
        .step = group == 1 ? STEP : group,
    };
    sweep->error = 0;
    w.tile = qmi_calloc(1, sizeof *w.tile, "a tile of a matrix", err);
    if (w.tile == NULL)
        return QMOE_E_NOMEM;
    const qmoe_status status = walk_range(&w, 0, sweep->n_cols);
    qmi_free(w.tile);
    return status;
}

qmoe_status qmi_sweep_look_ahead(
    float *work, int64_t n_rows, const qmi_gptq *descent, qmi_error *err)
{
    return qmi_multiply_triangle(
        work, descent->feedback, CblasLower, n_rows, descent->n_cols, err);
}

/* ---- errors ---- */

/* In double: rows times columns of small squares. */
static double sum_of_squares(const float *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sum;
}

double qmi_quadratic_error(const float *d, int64_t n_rows, int64_t n_cols,
    const qmi_hessian *hessian, qmi_error *err)
{
    const int n = (int)n_cols;
    double error = 0;
    if (hessian == NULL || hessian->n_tokens == 0)
        return sum_of_squares(d, n_rows * n_cols);
    /* A tile of rows at a time: product and copy stay in the cache. */
    double *wide = qmi_calloc((size_t)n_cols * ROWS * 2, sizeof *wide,
        "rows of a quadratic error", err);
    if (wide == NULL)
        return NAN;
    double *product = wide + n_cols * ROWS;
    for (int64_t row = 0; row < n_rows && !qmi_cancelled(err); row += ROWS) {
        int64_t height = n_rows - row < ROWS ? n_rows - row : ROWS;
        for (int64_t i = 0; i < height * n_cols; i++)
            wide[i] = (double)d[row * n_cols + i];
        qmi_blas.dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)height,
            n, n, 1, wide, n, hessian->sum, n, 0, product, n);
        for (int64_t i = 0; i < height * n_cols; i++)
            /* Row by row and left to right: with BLAS on one thread the sum has
             * one order. */
            error += wide[i] * product[i];
    }
    qmi_free(wide);
    return qmi_check_cancel(err) == QMOE_OK ? error : NAN;
}

qmoe_status qmi_gptq_error(
    double *out, float *d, int64_t n_rows, const qmi_gptq *gptq, qmi_error *err)
{
    const int n = (int)gptq->n_cols, group = gptq->group;
    const double square = sum_of_squares(d, n_rows * n);
    double error = 0;
    *out = 0;
    /* D F first, then each group times V_bb: together D V, whose square is the
     * error with damping. */
    QMI_TRY(qmi_multiply_triangle(
        d, gptq->feedback, CblasUpper, n_rows, gptq->n_cols, err));
    for (int64_t row = 0; row < n_rows; row++)
        for (int k = 0; k < n; k++) {
            const float *c = d + row * n + k / group * group;
            const float *v = gptq->metric + k / group * group * group;
            float e = 0;
            for (int j = 0; j <= k % group; j++)
                e += c[j] * v[j * group + k % group];
            error += (double)e * (double)e;
        }
    /* Damping is taken off again: the error is that of the moments as they are.
     * Rounding can leave a small negative number. */
    error -= gptq->damping * square;
    *out = error > 0 ? error : 0;
    return QMOE_OK;
}

qmoe_status qmi_gptq_measure(qmi_quant_result *result, float *d, const float *w,
    int64_t n_rows, int64_t n_cols, const qmi_hessian *hessian,
    const qmi_gptq *gptq, qmi_error *err)
{
    /* Whether the error is one of outputs: the factor, or moments that were not
     * factored. */
    result->on_inputs =
        gptq->feedback != NULL || (hessian != NULL && hessian->n_tokens != 0);
    result->weight_error = sum_of_squares(d, n_rows * n_cols);
    result->weight_energy = sum_of_squares(w, n_rows * n_cols);
    if (gptq->feedback != NULL) {
        QMI_TRY(qmi_gptq_error(&result->error, d, n_rows, gptq, err));
        /* d is used up, so the energy takes its place. */
        memcpy(d, w, (size_t)(n_rows * n_cols) * sizeof *d);
        return qmi_gptq_error(&result->energy, d, n_rows, gptq, err);
    }
    result->error = qmi_quadratic_error(d, n_rows, n_cols, hessian, err);
    result->energy = qmi_quadratic_error(w, n_rows, n_cols, hessian, err);
    QMI_TRY(qmi_check_cancel(err));
    return isnan(result->error) || isnan(result->energy) ? QMOE_E_NOMEM
                                                         : QMOE_OK;
}

qmoe_status qmi_gptq_check(
    int64_t n_rows, int64_t n_cols, const qmi_hessian *hessian, qmi_error *err)
{
    uint64_t n = 0;
    if (n_rows <= 0 || n_cols <= 0 ||
        (hessian != NULL && hessian->n_cols != n_cols))
        return qmi_fail(err, QMOE_E_INVALID,
            "a matrix of %lld x %lld with second moments of width %lld",
            (long long)n_rows, (long long)n_cols,
            hessian != NULL ? (long long)hessian->n_cols : 0);
    /* The BLAS interface has int sizes, and OpenBLAS int products of them. */
    if (!qmi_mul_u64((uint64_t)n_rows, (uint64_t)n_cols, &n) || n > INT32_MAX ||
        (hessian != NULL && n_cols > 46340))
        return qmi_fail(err, QMOE_E_UNSUPPORTED,
            "a matrix of %lld x %lld is too large to be quantised",
            (long long)n_rows, (long long)n_cols);
    return QMOE_OK;
}
