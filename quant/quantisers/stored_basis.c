/* SPDX-License-Identifier: Apache-2.0
 * In: a matrix, its second moments, the rotation.  Out: both in the basis and
 * the units in which codes are searched: rows scaled by powers of two, rotated
 * and padded; moments rotated, damped and scaled to a mean diagonal of 1.
 * Scaling by powers of two is exact, so it changes no result.  At the end: the
 * errors of what the codes decode to, in either basis. */
#include "stored_basis.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "alloc.h"
#include "cancel.h"
#include "rotation.h"

/* ---- weights ---- */

/* One row: scaled so that its largest weight is in [1/2, 1), which makes the
 * search safe from overflow, then rotated. */
static qmoe_status load_row(float *dst, int *exponent, const float *src,
    int64_t n_cols, float limit, const qmi_quant_options *options,
    qmi_error *err)
{
    float largest = 0;
    for (int64_t c = 0; c < n_cols; c++) {
        /* Written with ! so that NaN is refused, too. */
        if (!(fabsf(src[c]) < limit))
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

qmoe_status qmi_basis_init(qmi_basis *b, int width, float limit, const float *w,
    int64_t n_rows, int64_t n_cols, const qmi_quant_options *options,
    qmi_error *err)
{
    /* Padded columns are zero in w and in h, so codes there cost nothing. */
    *b = (qmi_basis){.n_rows = n_rows,
        .n_cols = n_cols,
        .width = width,
        .stride = (n_cols + width - 1) / width * width};
    b->w =
        qmi_calloc((size_t)(n_rows * b->stride), sizeof *b->w, "a matrix", err);
    b->exponent =
        qmi_calloc((size_t)n_rows, sizeof *b->exponent, "a matrix", err);
    if (b->w == NULL || b->exponent == NULL)
        return QMOE_E_NOMEM;
    for (int64_t r = 0; r < n_rows; r++) {
        qmoe_status status = load_row(b->w + r * b->stride, &b->exponent[r],
            w + r * n_cols, n_cols, limit, options, err);
        if (status != QMOE_OK)
            return qmi_error_prefix(err, status, "row %" PRId64, r);
    }
    return QMOE_OK;
}

void qmi_basis_free(qmi_basis *b)
{
    qmi_free(b->w);
    qmi_free(b->exponent);
    qmi_free(b->h);
    qmi_gptq_release(&b->gptq);
    *b = (qmi_basis){0};
}

/* The exponent is put back: bf16 has the range of f32. */
uint16_t qmi_basis_stored_scale(const qmi_basis *b, int64_t row, float scale)
{
    return qmi_f32_to_bf16(ldexpf(scale, b->exponent[row]));
}

float qmi_basis_round_scale(const qmi_basis *b, int64_t row, float scale)
{
    uint16_t stored = qmi_basis_stored_scale(b, row, scale);
    return ldexpf(qmi_bf16_to_f32(stored), -b->exponent[row]);
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
    qmi_basis *b, const double *sum, double damping, qmi_error *err)
{
    int64_t n = b->n_cols, stride = b->stride;
    /* The mean after damping, so that the search works with numbers near 1. */
    b->mean = damping;
    for (int64_t i = 0; i < n; i++)
        b->mean += sum[i * n + i] / (double)n;
    b->h = qmi_calloc(
        (size_t)(stride * stride), sizeof *b->h, "second moments", err);
    if (b->h == NULL)
        return QMOE_E_NOMEM;
    for (int64_t r = 0; r < n; r++) {
        float *row = b->h + r * stride;
        for (int64_t c = 0; c < n; c++)
            row[c] = (float)(sum[r * n + c] / b->mean);
        row[r] = (float)((sum[r * n + r] + damping) / b->mean);
    }
    return QMOE_OK;
}

/* Moments in the basis of the columns: few tokens need no sum to be factored,
 * which is faster, so these are not touched. */
static qmoe_status add_plain(
    qmi_basis *b, const qmi_hessian *hessian, double damping, qmi_error *err)
{
    QMI_TRY(qmi_gptq_prepare(&b->gptq, hessian, damping, b->width, err));
    return load_moments(b, hessian->sum, b->gptq.damping, err);
}

/* `stored` is expendable and in the old basis. */
static qmoe_status add_rotated(qmi_basis *b, const qmi_hessian *stored,
    const qmi_quant_options *options, qmi_error *err)
{
    double damping = 0;
    QMI_TRY(rotate_moments(stored->sum, b->n_cols, options->rotation,
        options->rotation_seed, err));
    QMI_TRY(qmi_gptq_damping(&damping, stored, options->damping, err));
    /* Before the factorisation, which uses the moments up. */
    QMI_TRY(load_moments(b, stored->sum, damping, err));
    return qmi_gptq_prepare_in_place(
        &b->gptq, stored, options->damping, b->width, err);
}

static qmoe_status add_moments(qmi_basis *b, const qmi_hessian *hessian,
    const qmi_quant_options *options, qmi_error *err)
{
    const size_t n = (size_t)b->n_cols;
    /* A copy of the struct: the caller's own moments stay as they were unless
     * they are expendable. */
    qmi_hessian stored = *hessian;
    double *copy = NULL;
    if (options->rotation == 0)
        return add_plain(b, hessian, options->damping, err);
    if (!hessian->expendable) {
        copy = qmi_calloc(n * n, sizeof *copy, "second moments", err);
        if (copy == NULL)
            return QMOE_E_NOMEM;
        memcpy(copy, hessian->sum, n * n * sizeof *copy);
        stored.sum = copy;
        stored.expendable = true;
    }
    qmoe_status status = add_rotated(b, &stored, options, err);
    qmi_free(copy);
    return status;
}

qmoe_status qmi_basis_add_moments(qmi_basis *b, bool *fell_back,
    const qmi_hessian *hessian, const qmi_quant_options *options,
    qmi_error *err)
{
    /* Its text is dropped where rounding takes over. */
    qmi_error first = qmi_error_beside(err);
    const qmoe_status status = hessian == NULL
                                   ? QMOE_E_UNSUPPORTED
                                   : add_moments(b, hessian, options, &first);
    /* E_UNSUPPORTED alone is no failure: such moments are a property of the
     * text. */
    *fell_back = status == QMOE_E_UNSUPPORTED;
    return *fell_back || status == QMOE_OK
               ? QMOE_OK
               : qmi_fail(err, status, "%s", first.text);
}

void qmi_basis_drop_moments(qmi_basis *b)
{
    qmi_free(b->h);
    b->h = NULL;
}

/* ---- errors ---- */

/* dst [n_rows, n_cols] = what the bytes decode to: rows as stored (rotation
 * 0) or undone. */
static void decode(
    float *dst, const qmi_encoded *encoded, int32_t rotation, uint32_t seed)
{
    qmi_weight stack = {.format = encoded->format,
        .name = "a matrix",
        .n_mats = 1,
        .n_rows = encoded->n_rows,
        .n_cols = encoded->n_cols,
        .rotation = rotation,
        .rotation_seed = seed};
    /* Borrowed: the stack lives as long as `encoded`. */
    for (int i = 0; i < encoded->format->n_parts; i++)
        stack.parts[i] = (qmi_part){encoded->parts[i], encoded->part_bytes[i]};
    qmi_weight_decode(&stack, 0, 0, encoded->n_rows, dst);
}

qmoe_status qmi_basis_measure(qmi_quant_result *result, const qmi_basis *b,
    const qmi_encoded *encoded, const float *w, const qmi_hessian *hessian,
    const qmi_quant_options *options, qmi_error *err)
{
    const int64_t n = b->n_rows * b->n_cols;
    const bool stored = b->gptq.feedback != NULL;
    /* One allocation for the truth and the difference. */
    float *d = qmi_calloc(2 * (size_t)n, sizeof *d, "a matrix", err);
    if (d == NULL)
        return QMOE_E_NOMEM;
    float *truth = d + n;
    /* The weights in the stored basis are those of the problem, with their
     * exponents put back. */
    if (stored)
        for (int64_t i = 0; i < n; i++) {
            int64_t row = i / b->n_cols;
            truth[i] =
                ldexpf(b->w[row * b->stride + i % b->n_cols], b->exponent[row]);
        }
    else
        memcpy(truth, w, (size_t)n * sizeof *truth);
    /* Decoding the bytes, instead of using the search's own values, also checks
     * what was written. */
    decode(d, encoded, stored ? 0 : options->rotation, options->rotation_seed);
    for (int64_t i = 0; i < n; i++)
        d[i] = truth[i] - d[i];
    qmoe_status status = qmi_gptq_measure(
        result, d, truth, b->n_rows, b->n_cols, hessian, &b->gptq, err);
    qmi_free(d);
    return status;
}

/* ---- requests ---- */

qmoe_status qmi_basis_check(int64_t n_rows, int64_t n_cols,
    const qmi_hessian *hessian, const qmi_quant_options *options,
    qmi_error *err)
{
    const int32_t block = options->rotation;
    if (block < 0 || block > QMI_ROTATION_MAX_BLOCK || (block & (block - 1)))
        return qmi_fail(err, QMOE_E_INVALID,
            "rotation %d is not 0 or a power of two up to %d", (int)block,
            QMI_ROTATION_MAX_BLOCK);
    return qmi_gptq_check(n_rows, n_cols, hessian, err);
}

/* What qmi_basis_init allocates, then the largest of the phases after it. */
uint64_t qmi_basis_bytes(int width, int64_t n_rows, int64_t n_cols,
    bool moments, uint64_t fitting, const qmi_quant_options *options)
{
    const uint64_t stride =
        (uint64_t)((n_cols + width - 1) / width) * (uint64_t)width;
    const uint64_t rows = (uint64_t)n_rows, n = rows * stride;
    const uint64_t square = stride * stride, metric = stride * (uint64_t)width;
    uint64_t bytes = n * sizeof(float) + rows * sizeof(int);
    /* What the result is compared with, or the factorisation before. */
    uint64_t measure = 2 * n * sizeof(float), factor = 0, fit = fitting;
    if (moments) {
        measure += square * sizeof(float);
        fit += 2 * square * sizeof(float);
        factor = 2 * square * sizeof(float);
        factor += options->rotation == 0 ? square * sizeof(double) : 0;
        bytes += metric * sizeof(float);
    }
    measure = measure > factor ? measure : factor;
    return bytes + (measure > fit ? measure : fit);
}
