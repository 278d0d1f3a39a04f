/* SPDX-License-Identifier: Apache-2.0
 * In: second moments H and a damping d.  Out: the factor V of H + d I in the
 * forms the column walk needs (gptq_frame.h): feedback and the diagonal blocks.
 * All arithmetic is in double until the results are stored; what is not
 * positive definite or not finite is refused, never passed on. */
#include "gptq_frame.h"

#include <math.h>

#include "alloc.h"
#include "blas.h"
#include "cancel.h"
#include "portions.h"

static const double default_damping = 0.1;
/* The paper's floor is 1e-6 on a Hessian scaled by tokens / 2. */
static const double damping_floor = 1e-6;

static qmoe_status fail_unusable(qmi_error *err, const char *why)
{
    return qmi_fail(err, QMOE_E_UNSUPPORTED, "Hessian %s", why);
}

static bool all_finite(const double *x, size_t n)
{
    /* 0 times a number is 0, and NaN times or infinity times 0 is NaN: one
     * addition per element, without a branch. */
    double sum = 0; /* of zeros, or NaN */
    for (size_t i = 0; i < n; i++)
        sum += x[i] * 0;
    return sum == 0;
}

static double trace_of(const qmi_hessian *hessian)
{
    double trace = 0;
    for (int64_t i = 0; i < hessian->n_cols; i++)
        trace += hessian->sum[i * hessian->n_cols + i];
    return trace;
}

/* Called before anything is divided by a pivot: after this only definiteness
 * can fail. */
bool qmi_hessian_usable(const qmi_hessian *hessian)
{
    if (hessian == NULL || hessian->n_tokens <= 0)
        return false;
    const size_t n = (size_t)hessian->n_cols;
    const double trace = trace_of(hessian);
    return trace > 0 && isfinite(trace) && all_finite(hessian->sum, n * n);
}

static qmoe_status check_usable(const qmi_hessian *hessian, qmi_error *err)
{
    if (qmi_hessian_usable(hessian))
        return QMOE_OK;
    return fail_unusable(err, "of no tokens, zero or not finite");
}

static double absolute_damping(const qmi_hessian *hessian, double relative)
{
    const double floor = damping_floor * 2 / (double)hessian->n_tokens;
    const double mean = trace_of(hessian) / (double)hessian->n_cols;
    const double d = (relative > 0 ? relative : default_damping) * mean;
    return d > floor ? d : floor;
}

/* An n x n matrix stored back to front: element (i, j) of the row-major matrix
 * is at [n * n - 1 - (i * n + j)].  LAPACK's A = R^T R of the reversed matrix
 * then is A = V V^T of the matrix itself, V upper triangular and stored back to
 * front too: the one factorisation GPTQ needs, without an inverse. */
typedef struct reversed {
    double *last; /* element (0, 0) */
    int64_t n;
    double *block;
} reversed;

static const double *reversed_row(const reversed *m, int64_t row)
{
    return m->last - row * m->n; /* element (row, j) is at [-j] */
}

static qmoe_status allocate_factor(reversed *v, int64_t n, qmi_error *err)
{
    const size_t count = (size_t)n * (size_t)n;
    *v = (reversed){.n = n};
    v->block = qmi_calloc(count, sizeof(double), "a factored Hessian", err);
    if (v->block == NULL)
        return QMOE_E_NOMEM;
    v->last = v->block + count - 1;
    return QMOE_OK;
}

/* Rows worked on between two looks at the wish to end early: looking at each
 * row would cost, at none would make a cancel wait. */
enum { LOOK_ROWS = 64 };

/* ---- few tokens ---- */

/* Measured crossover: below this share of the width the low-rank way wins. */
enum { LOW_RANK_SHARE = 16 };

static bool has_low_rank(const qmi_hessian *hessian)
{
    return hessian->waiting != NULL &&
           hessian->n_tokens * LOW_RANK_SHARE <= hessian->n_cols;
}

/* y = P x and P -= y y^T / (1 + x y): P becomes (P^-1 + x x^T)^-1.  Returns
 * 1 + x y with the old P. */
static double add_column(double *p, double *y, const double *x, int r)
{
    qmi_blas.dsymv(CblasRowMajor, CblasUpper, r, 1.0, p, r, x, 1, 0.0, y, 1);
    const double pivot = 1 + qmi_blas.ddot(r, x, 1, y, 1);
    qmi_blas.dsyr(CblasRowMajor, CblasUpper, r, -1 / pivot, y, 1, p, r);
    return pivot;
}

/* H + d I = d I + X^T X with X [r, n], r small: eliminating columns from the
 * last to the first leaves d (delta_ij + x_i P x_j), where x_i is column i of
 * X / sqrt(d) and P the inverse of I + sum of x x^T over the columns that are
 * gone (Sherman and Morrison).  Costs n^2 r / 2 instead of n^3 / 3. */
static qmoe_status factorise_columns(reversed *v, const double *columns,
    double *p, double *work, double d, int r, qmi_error *err)
{
    const int64_t n = v->n;
    double *y = work, *products = work + r;
    for (int64_t j = n - 1; j >= 0; j--) {
        if (j % LOOK_ROWS == 0)
            QMI_TRY(qmi_check_cancel(err));
        const double *x = columns + j * r;
        const double pivot = add_column(p, y, x, r);
        const double scale = sqrt(d / pivot);
        qmi_blas.dgemv(CblasRowMajor, CblasNoTrans, (int)j, r, scale, columns,
            r, y, 1, 0.0, products, 1);
        /* Column j of V above its diagonal. */
        for (int64_t i = 0; i < j; i++)
            v->last[-(ptrdiff_t)(i * n + j)] = products[i];
        v->last[-(ptrdiff_t)(j * n + j)] = sqrt(d * pivot);
    }
    return QMOE_OK;
}

static qmoe_status factorise_low_rank(
    reversed *v, const qmi_hessian *hessian, double damping, qmi_error *err)
{
    const int64_t n = hessian->n_cols;
    const int r = (int)hessian->n_tokens;
    const double scale = 1 / sqrt(damping);
    const size_t wide = (size_t)r * (size_t)n;
    /* One allocation for X, P and both vectors: nothing to undo when it
     * fails. */
    double *columns = qmi_calloc(wide + (size_t)r * (size_t)r + (size_t)(r + n),
        sizeof *columns, "a factored Hessian", err);
    if (columns == NULL)
        return QMOE_E_NOMEM;
    double *p = columns + wide;
    qmoe_status status = allocate_factor(v, n, err);
    if (status == QMOE_OK) {
        for (int t = 0; t < r; t++) {
            /* P begins as the identity: the inverse of I, before any column is
             * gone. */
            p[t * r + t] = 1;
            for (int64_t c = 0; c < n; c++)
                /* Transposed: a column of X is then contiguous. */
                columns[c * r + t] = hessian->waiting[t * n + c] * scale;
        }
        status = factorise_columns(
            v, columns, p, p + (size_t)r * (size_t)r, damping, r, err);
        if (status != QMOE_OK)
            qmi_free(v->block);
    }
    qmi_free(columns);
    return status;
}

static qmoe_status factorise_block(reversed *v, double damping, qmi_error *err)
{
    const int64_t n = v->n;
    /* The diagonal of the reversed matrix is the same diagonal, back to
     * front. */
    for (int64_t i = 0; i < n; i++)
        v->block[i * n + i] += damping;
    const qmoe_status status = qmi_factorise(v->block, n, err);
    return status != QMOE_E_UNSUPPORTED
               ? status
               : fail_unusable(err, "is not positive definite");
}

/* V of H + damping I.  Release `block`. */
static qmoe_status factorise(
    reversed *v, const qmi_hessian *hessian, double damping, qmi_error *err)
{
    const int64_t n = hessian->n_cols;
    const size_t count = (size_t)n * (size_t)n;
    if (has_low_rank(hessian))
        return factorise_low_rank(v, hessian, damping, err);
    QMI_TRY(allocate_factor(v, n, err));
    /* Copied in reverse; the sum itself stays for whoever needs it. */
    for (size_t i = 0; i < count; i++)
        v->last[-(ptrdiff_t)i] = hessian->sum[i];
    qmoe_status status = factorise_block(v, damping, err);
    if (status != QMOE_OK) {
        qmi_free(v->block);
        v->block = NULL;
    }
    return status;
}

/* V of H + damping I where H was. */
static qmoe_status factorise_in_place(
    reversed *v, double *sum, int64_t n, double damping, qmi_error *err)
{
    const size_t count = (size_t)n * (size_t)n;
    *v = (reversed){.last = sum + count - 1, .n = n, .block = sum};
    /* Reverses in place: the moments are used up, and no second matrix
     * exists. */
    for (size_t i = 0; i < count / 2; i++) {
        double kept = sum[i];
        sum[i] = sum[count - 1 - i];
        sum[count - 1 - i] = kept;
    }
    return factorise_block(v, damping, err);
}

static qmoe_status allocate(
    qmi_gptq *out, int64_t n_cols, int group, qmi_error *err)
{
    *out = (qmi_gptq){.n_cols = n_cols, .group = group};
    out->feedback = qmi_calloc((size_t)n_cols * (size_t)n_cols, sizeof(float),
        "the feedback of a Hessian", err);
    out->metric = qmi_calloc((size_t)n_cols * (size_t)group, sizeof(float),
        "the metric of a Hessian", err);
    if (out->feedback != NULL && out->metric != NULL)
        return QMOE_OK;
    qmi_gptq_release(out);
    return QMOE_E_NOMEM;
}

void qmi_gptq_release(qmi_gptq *gptq)
{
    qmi_free(gptq->feedback);
    qmi_free(gptq->metric);
    *gptq = (qmi_gptq){0};
}

/* The diagonal blocks of V, [n_cols, group]: row k of V_bb for column k.  They
 * are kept in double for the divisions in solve_group. */
static double *diagonal_blocks(const reversed *v, int group, qmi_error *err)
{
    double *blocks = qmi_calloc((size_t)v->n * (size_t)group, sizeof *blocks,
        "the metric of a Hessian", err);
    for (int64_t row = 0; blocks != NULL && row < v->n; row++)
        for (int64_t k = row; k < v->n && k < row / group * group + group; k++)
            blocks[row * group + k % group] = reversed_row(v, row)[-k];
    return blocks;
}

/* f[n] = x V_bb^-1 for a group of n columns, by forward substitution;
 * x[-k] is element k, block [n, group] is V_bb. */
static void solve_group(
    float *f, const double *x, const double *block, int group, int n)
{
    /* Sums in double, although F is stored in float: errors of one column would
     * enter all later ones. */
    double solved[QMI_SWEEP_MAX_GROUP];
    for (int k = 0; k < n; k++) {
        double sum = x[-k];
        for (int j = 0; j < k; j++)
            sum -= solved[j] * block[j * group + k];
        solved[k] = sum / block[k * group + k];
        f[k] = (float)solved[k];
    }
}

static qmoe_status fill_feedback(
    qmi_gptq *out, const reversed *v, const double *blocks, qmi_error *err)
{
    const int64_t n = v->n;
    const int group = out->group;
    for (int64_t row = 0; row < n; row++) {
        if (row % LOOK_ROWS == 0)
            QMI_TRY(qmi_check_cancel(err));
        const double *source = reversed_row(v, row);
        float *f = out->feedback + row * n;
        /* The identity on diagonal blocks lets one matrix product bring later
         * columns up to date without special cases. */
        f[row] = 1;
        for (int64_t b = row / group * group + group; b < n; b += group)
            solve_group(f + b, source - b, blocks + b * group, group,
                (int)(n - b < group ? n - b : group));
    }
    /* What the sweep weighs errors with. */
    for (int64_t i = 0; i < n * group; i++)
        out->metric[i] = (float)blocks[i];
    return QMOE_OK;
}

static bool all_finite_f32(const float *x, size_t n)
{
    float sum = 0; /* of zeros, or NaN */
    for (size_t i = 0; i < n; i++)
        sum += x[i] * 0;
    return sum == 0;
}

static qmoe_status check_finite(qmi_gptq *gptq, qmi_error *err)
{
    const size_t n = (size_t)gptq->n_cols;
    if (all_finite_f32(gptq->feedback, n * n) &&
        all_finite_f32(gptq->metric, n * (size_t)gptq->group))
        return QMOE_OK;
    qmi_gptq_release(gptq);
    return fail_unusable(err, "is not finite");
}

static qmoe_status fill(
    qmi_gptq *out, const reversed *v, double damping, int group, qmi_error *err)
{
    double *blocks = diagonal_blocks(v, group, err);
    qmoe_status status =
        blocks != NULL ? allocate(out, v->n, group, err) : QMOE_E_NOMEM;
    if (status == QMOE_OK) {
        out->damping = damping;
        status = fill_feedback(out, v, blocks, err);
    }
    if (status == QMOE_OK)
        status = check_finite(out, err);
    else
        qmi_gptq_release(out);
    qmi_free(blocks);
    return status;
}

/* For a caller that needs d before the moments are used up. */
qmoe_status qmi_gptq_damping(
    double *out, const qmi_hessian *hessian, double damping, qmi_error *err)
{
    *out = 0;
    QMI_TRY(check_usable(hessian, err));
    *out = absolute_damping(hessian, damping);
    return QMOE_OK;
}

qmoe_status qmi_gptq_prepare(qmi_gptq *out, const qmi_hessian *hessian,
    double damping, int group, qmi_error *err)
{
    reversed v;
    double d = 0;
    *out = (qmi_gptq){0};
    QMI_TRY(qmi_gptq_damping(&d, hessian, damping, err));
    QMI_TRY(factorise(&v, hessian, d, err));
    qmoe_status status = fill(out, &v, d, group, err);
    qmi_free(v.block);
    return status;
}

qmoe_status qmi_gptq_prepare_in_place(qmi_gptq *out, const qmi_hessian *hessian,
    double damping, int group, qmi_error *err)
{
    reversed v;
    double d = 0;
    *out = (qmi_gptq){0};
    if (!hessian->expendable)
        return qmi_fail(
            err, QMOE_E_INVALID, "the second moments are needed elsewhere");
    QMI_TRY(qmi_gptq_damping(&d, hessian, damping, err));
    QMI_TRY(factorise_in_place(&v, hessian->sum, hessian->n_cols, d, err));
    return fill(out, &v, d, group, err);
}

qmoe_status qmi_gptq_prepare_descent(
    qmi_gptq *out, const qmi_hessian *hessian, double damping, qmi_error *err)
{
    const int64_t n = hessian->n_cols;
    *out = (qmi_gptq){0};
    /* H itself is usable, not its factor: descent needs no inverse. */
    QMI_TRY(check_usable(hessian, err));
    const double d = absolute_damping(hessian, damping);
    QMI_TRY(allocate(out, n, 1, err));
    out->damping = d;
    for (int64_t i = 0; i < n; i++) {
        const double *row = hessian->sum + i * n;
        /* Row i of F: what an error in column i changes in the best value of
         * column j. */
        for (int64_t j = 0; j < n; j++)
            out->feedback[i * n + j] =
                (float)(row[j] / (hessian->sum[j * n + j] + d));
        out->feedback[i * n + i] = 1;
        out->metric[i] = (float)sqrt(row[i] + d);
    }
    return check_finite(out, err);
}

/* U = V^-1 of the usual form: tests compare the walk with it. */
qmoe_status qmi_gptq_factor(
    float *u, const qmi_hessian *hessian, double damping, qmi_error *err)
{
    reversed v;
    int info = 0;
    QMI_TRY(check_usable(hessian, err));
    const int64_t n = hessian->n_cols;
    const int order = (int)n;
    QMI_TRY(factorise(&v, hessian, absolute_damping(hessian, damping), err));
    /* The inverse of a triangle stored back to front is a triangle stored back
     * to front. */
    qmi_blas.dtrtri("U", "N", &order, v.block, &order, &info);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++)
            u[i * n + j] = j < i ? 0 : (float)reversed_row(&v, i)[-j];
    qmi_free(v.block);
    if (info == 0 && all_finite_f32(u, (size_t)n * (size_t)n))
        return QMOE_OK;
    return fail_unusable(err, "is not positive definite");
}
