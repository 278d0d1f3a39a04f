/* SPDX-License-Identifier: Apache-2.0
 * In: a matrix, its second moments, the rotation.  Out: both in the basis and
 * the units in which codes are searched: rows scaled by powers of two, rotated
 * and padded; moments rotated, damped and scaled to a mean diagonal of 1.
 * Scaling by powers of two is exact, so it changes no result. */
#include "pvq_fit.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "alloc.h"
#include "cancel.h"
#include "rotation.h"

/* No sum or product of weights below this overflows in f32. */
static const float largest_weight = 0x1p100f;

/* ---- weights ---- */

/* One row: scaled so that its largest weight is in [1/2, 1), which makes the
 * search safe from overflow, then rotated. */
static qmoe_status load_row(float *dst, int *exponent, const float *src,
    int64_t n_cols, const qmi_quant_options *options, qmi_error *err)
{
    float largest = 0;
    for (int64_t c = 0; c < n_cols; c++) {
        /* Written with ! so that NaN is refused, too. */
        if (!(fabsf(src[c]) < largest_weight))
            return qmi_fail(err, QMOE_E_FORMAT, "column %" PRId64 ": %s weight",
                c, isfinite(src[c]) ? "too large a" : "non-finite");
        largest = fmaxf(largest, fabsf(src[c]));
    }
    /* 0 for a row of zeros. */
    frexpf(largest, exponent);
    for (int64_t c = 0; c < n_cols; c++)
        dst[c] = ldexpf(src[c], -*exponent);
    if (options->rotation != 0)
        qmi_rotate(dst, n_cols, options->rotation, options->rotation_seed);
    return QMOE_OK;
}

static qmoe_status allocate(qmi_pvq_problem *p, qmi_error *err)
{
    size_t n_rows = (size_t)p->n_rows, stride = (size_t)p->stride;
    p->w = qmi_calloc(n_rows * stride, sizeof *p->w, "a matrix", err);
    p->exponent = qmi_calloc(n_rows, sizeof *p->exponent, "a matrix", err);
    p->scale = qmi_calloc(n_rows, sizeof *p->scale, "a matrix", err);
    p->blocks = qmi_calloc(
        n_rows * (size_t)p->n_blocks, sizeof *p->blocks, "a matrix", err);
    return p->w != NULL && p->exponent != NULL && p->scale != NULL &&
                   p->blocks != NULL
               ? QMOE_OK
               : QMOE_E_NOMEM;
}

qmoe_status qmi_pvq_problem_init(qmi_pvq_problem *p, int width, const float *w,
    int64_t n_rows, int64_t n_cols, const qmi_quant_options *options,
    qmi_error *err)
{
    *p = (qmi_pvq_problem){.n_rows = n_rows, .n_cols = n_cols};
    qmi_pvq_pairs_of(&p->pairs, width);
    /* Padded columns are zero in w and in h, so pulses there cost nothing. */
    p->n_blocks = (n_cols + width - 1) / width;
    p->stride = p->n_blocks * width;
    QMI_TRY(allocate(p, err));
    for (int64_t r = 0; r < n_rows; r++) {
        qmoe_status status = load_row(p->w + r * p->stride, &p->exponent[r],
            w + r * n_cols, n_cols, options, err);
        if (status != QMOE_OK)
            return qmi_error_prefix(err, status, "row %" PRId64, r);
    }
    return QMOE_OK;
}

void qmi_pvq_problem_free(qmi_pvq_problem *p)
{
    qmi_free(p->w);
    qmi_free(p->exponent);
    qmi_free(p->h);
    qmi_gptq_release(&p->gptq);
    qmi_free(p->scale);
    qmi_free(p->blocks);
    *p = (qmi_pvq_problem){0};
}

/* The exponent is put back: bf16 has the range of f32. */
uint16_t qmi_pvq_stored_scale(
    const qmi_pvq_problem *p, int64_t row, float scale)
{
    return qmi_f32_to_bf16(ldexpf(scale, p->exponent[row]));
}

float qmi_pvq_round_scale(const qmi_pvq_problem *p, int64_t row, float scale)
{
    uint16_t stored = qmi_pvq_stored_scale(p, row, scale);
    return ldexpf(qmi_bf16_to_f32(stored), -p->exponent[row]);
}

/* ---- second moments ---- */

/* Rows i and i + step of m to their sum and difference. */
static void butterfly(double *restrict x, double *restrict y, int64_t n)
{
    for (int64_t c = 0; c < n; c++) {
        double sum = x[c] + y[c];
        y[c] = x[c] - y[c];
        x[c] = sum;
    }
}

/* m = R' m for m [size, n]: one block of the transform, without signs. */
static void transform_rows(double *m, int64_t size, int64_t n)
{
    /* The steps of a fast Walsh-Hadamard transform; each pair of rows is one
     * butterfly. */
    for (int64_t step = 1; step < size; step *= 2)
        for (int64_t i = 0; i < size; i += 2 * step)
            for (int64_t j = i; j < i + step; j++)
                butterfly(m + j * n, m + (j + step) * n, n);
    const double norm = 1 / sqrt((double)size);
    for (int64_t i = 0; i < size * n; i++)
        m[i] *= norm;
}

/* Tiles: a whole row against a whole column would miss the cache at each
 * element. */
static void transpose(double *m, int64_t n)
{
    enum { TILE = 32 };
    for (int64_t i = 0; i < n; i += TILE)
        for (int64_t j = 0; j <= i; j += TILE)
            for (int64_t r = i; r < i + TILE && r < n; r++)
                for (int64_t c = j; c < j + TILE && c < r; c++) {
                    double t = m[r * n + c];
                    m[r * n + c] = m[c * n + r];
                    m[c * n + r] = t;
                }
}

/* m = R m R^T, R as in core/formats/rotation.h but in double: the factorisation
 * that follows is sensitive to rounding. */
static qmoe_status rotate_moments(
    double *m, int64_t n, int64_t block, uint32_t seed, qmi_error *err)
{
    double *sign = qmi_calloc((size_t)n, sizeof *sign, "column signs", err);
    if (sign == NULL)
        return QMOE_E_NOMEM;
    for (int64_t c = 0; c < n; c++)
        sign[c] = qmi_rotation_sign(seed, c);
    /* D m D, with D the random signs, before the blocks. */
    for (int64_t r = 0; r < n; r++)
        for (int64_t c = 0; c < n; c++)
            m[r * n + c] *= sign[r] * sign[c];
    qmi_free(sign);
    /* Rows, transpose, rows, transpose: both sides of m by the same loop over
     * rows. */
    for (int side = 0; side < 2; side++) {
        int64_t size = block;
        for (int64_t i = 0; i < n; i += size) {
            QMI_TRY(qmi_check_cancel(err));
            /* The last blocks are smaller where the width is no multiple, as in
             * core/formats/rotation.h. */
            while (size > n - i)
                size /= 2;
            transform_rows(m + i * n, size, n);
        }
        transpose(m, n);
    }
    return QMOE_OK;
}

/* h = (sum + d I) / mean in f32, padded with zeros. */
static qmoe_status load_moments(
    qmi_pvq_problem *p, const double *sum, double damping, qmi_error *err)
{
    int64_t n = p->n_cols, stride = p->stride;
    /* The mean after damping, so that the search works with numbers near 1. */
    p->mean = damping;
    for (int64_t i = 0; i < n; i++)
        p->mean += sum[i * n + i] / (double)n;
    p->h = qmi_calloc(
        (size_t)(stride * stride), sizeof *p->h, "second moments", err);
    if (p->h == NULL)
        return QMOE_E_NOMEM;
    for (int64_t r = 0; r < n; r++) {
        float *row = p->h + r * stride;
        for (int64_t c = 0; c < n; c++)
            row[c] = (float)(sum[r * n + c] / p->mean);
        row[r] = (float)((sum[r * n + r] + damping) / p->mean);
    }
    return QMOE_OK;
}

/* Moments in the basis of the columns: few tokens need no sum to be factored,
 * which is faster, so these are not touched. */
static qmoe_status add_plain(qmi_pvq_problem *p, const qmi_hessian *hessian,
    double damping, qmi_error *err)
{
    QMI_TRY(qmi_gptq_prepare(&p->gptq, hessian, damping, p->pairs.n, err));
    return load_moments(p, hessian->sum, p->gptq.damping, err);
}

/* `stored` is expendable and in the old basis. */
static qmoe_status add_rotated(qmi_pvq_problem *p, const qmi_hessian *stored,
    const qmi_quant_options *options, qmi_error *err)
{
    double damping = 0;
    QMI_TRY(rotate_moments(stored->sum, p->n_cols, options->rotation,
        options->rotation_seed, err));
    QMI_TRY(qmi_gptq_damping(&damping, stored, options->damping, err));
    /* Before the factorisation, which uses the moments up. */
    QMI_TRY(load_moments(p, stored->sum, damping, err));
    return qmi_gptq_prepare_in_place(
        &p->gptq, stored, options->damping, p->pairs.n, err);
}

qmoe_status qmi_pvq_problem_add_moments(qmi_pvq_problem *p,
    const qmi_hessian *hessian, const qmi_quant_options *options,
    qmi_error *err)
{
    const size_t n = (size_t)p->n_cols;
    /* A copy of the struct: the caller's own moments stay as they were unless
     * they are expendable. */
    qmi_hessian stored = *hessian;
    double *copy = NULL;
    if (options->rotation == 0)
        return add_plain(p, hessian, options->damping, err);
    if (!hessian->expendable) {
        copy = qmi_calloc(n * n, sizeof *copy, "second moments", err);
        if (copy == NULL)
            return QMOE_E_NOMEM;
        memcpy(copy, hessian->sum, n * n * sizeof *copy);
        stored.sum = copy;
        stored.expendable = true;
    }
    qmoe_status status = add_rotated(p, &stored, options, err);
    qmi_free(copy);
    return status;
}

/* What qmi_pvq_problem_init allocates, then the larger of the two phases after
 * it. */
uint64_t qmi_pvq_problem_bytes(int width, int64_t n_rows, int64_t n_cols,
    bool moments, const qmi_quant_options *options)
{
    const uint64_t n_blocks = (uint64_t)((n_cols + width - 1) / width);
    const uint64_t stride = n_blocks * (uint64_t)width;
    const uint64_t rows = (uint64_t)n_rows, n = rows * stride;
    const uint64_t square = stride * stride, metric = stride * (uint64_t)width;
    uint64_t bytes = n * sizeof(float) + rows * 8 + rows * n_blocks * 2;
    /* What the result is compared with, or the factorisation before. */
    uint64_t measure = 2 * n * sizeof(float), factor = 0;
    if (moments) {
        measure += square * sizeof(float);
        factor = 2 * square * sizeof(float);
        factor += options->rotation == 0 ? square * sizeof(double) : 0;
        bytes += metric * (2 * sizeof(float) + sizeof(double)) +
                 3 * QMI_PVQ_PANEL_ROWS * stride * sizeof(float);
    }
    return bytes + (measure > factor ? measure : factor);
}
