/* SPDX-License-Identifier: Apache-2.0
 * In: rows of inputs, in any cut into calls.  Out: the sum of x x^T over them
 * in double, both halves.  Rows wait until there are QMI_HESSIAN_BLOCK of them,
 * so the sum depends on the tokens and their order alone.  With no more tokens
 * than that the rows themselves stay, for the factorisation of few tokens. */
#include "hessian.h"

#include "alloc.h"
#include "portions.h"

/* Edge of the squares in which the upper half is mirrored: two of them in
 * double fit the first-level cache. */
enum { MIRROR_TILE = 32 };

uint64_t qmi_hessian_bytes(int64_t n_cols)
{
    uint64_t n = 0;
    /* The sum and the waiting rows. */
    if (n_cols < 0 || !qmi_add_u64((uint64_t)n_cols, QMI_HESSIAN_BLOCK, &n) ||
        !qmi_mul_u64(n, (uint64_t)n_cols, &n) ||
        !qmi_mul_u64(n, sizeof(double), &n))
        return UINT64_MAX;
    return n;
}

qmoe_status qmi_hessian_create(qmi_hessian *out, int64_t n_cols, qmi_error *err)
{
    uint64_t n = 0;
    *out = (qmi_hessian){0};
    if (n_cols <= 0 || n_cols > INT32_MAX ||
        !qmi_mul_u64((uint64_t)n_cols, (uint64_t)n_cols, &n))
        return qmi_fail(err, QMOE_E_INVALID,
            "second moments cannot have %lld columns", (long long)n_cols);
    out->n_cols = n_cols;
    out->sum = qmi_calloc(n, sizeof(double), "second moments", err);
    /* In double already: BLAS has no product that widens. */
    out->waiting = qmi_calloc((size_t)n_cols * QMI_HESSIAN_BLOCK,
        sizeof(double), "calibration inputs", err);
    if (out->sum != NULL && out->waiting != NULL)
        return QMOE_OK;
    qmi_hessian_destroy(out);
    return QMOE_E_NOMEM;
}

void qmi_hessian_destroy(qmi_hessian *hessian)
{
    qmi_free(hessian->sum);
    qmi_free(hessian->waiting);
    *hessian = (qmi_hessian){0};
}

static qmoe_status add_waiting(qmi_hessian *h, qmi_error *err)
{
    const int64_t n_waiting = h->n_waiting;
    /* Set before the product: a cancelled one is not added twice. */
    h->n_waiting = 0;
    return n_waiting != 0
               ? qmi_add_squares(h->sum, h->waiting, h->n_cols, n_waiting, err)
               : QMOE_OK;
}

static qmoe_status check_open(const qmi_hessian *hessian, qmi_error *err)
{
    if (!hessian->complete)
        return QMOE_OK;
    return qmi_fail(err, QMOE_E_INVALID, "second moments are complete already");
}

qmoe_status qmi_hessian_add(
    qmi_hessian *hessian, const float *x, int64_t n_tokens, qmi_error *err)
{
    const int64_t n_cols = hessian->n_cols;
    QMI_TRY(check_open(hessian, err));
    for (int64_t t = 0; t < n_tokens; t++) {
        double *row = hessian->waiting + hessian->n_waiting * n_cols;
        for (int64_t c = 0; c < n_cols; c++)
            row[c] = (double)x[t * n_cols + c];
        if (++hessian->n_waiting == QMI_HESSIAN_BLOCK)
            QMI_TRY(add_waiting(hessian, err));
    }
    hessian->n_tokens += n_tokens;
    return QMOE_OK;
}

/* Square by square: reading a column and writing a row of a large matrix would
 * miss the cache at each element. */
static void mirror(double *h, int64_t n, int64_t row, int64_t col)
{
    int64_t row_end = row + MIRROR_TILE < n ? row + MIRROR_TILE : n;
    int64_t col_end = col + MIRROR_TILE < n ? col + MIRROR_TILE : n;
    for (int64_t i = row; i < row_end; i++)
        /* Above the diagonal only, also in the squares that it crosses. */
        for (int64_t j = i + 1 > col ? i + 1 : col; j < col_end; j++)
            h[j * n + i] = h[i * n + j];
}

qmoe_status qmi_hessian_finish(qmi_hessian *hessian, qmi_error *err)
{
    const int64_t n = hessian->n_cols;
    QMI_TRY(check_open(hessian, err));
    /* The rest, fewer than a block. */
    QMI_TRY(add_waiting(hessian, err));
    for (int64_t row = 0; row < n; row += MIRROR_TILE)
        for (int64_t col = row; col < n; col += MIRROR_TILE)
            mirror(hessian->sum, n, row, col);
    hessian->complete = true;
    /* Everything fitted into the first block: the inputs are still there. */
    if (hessian->n_tokens <= QMI_HESSIAN_BLOCK)
        return QMOE_OK;
    qmi_free(hessian->waiting);
    hessian->waiting = NULL;
    return QMOE_OK;
}
