/* SPDX-License-Identifier: Apache-2.0
 * In: products and a factorisation of any size.  Out: the same numbers as one
 * call of BLAS would give for each portion; between portions a wish to end is
 * heard.  Where a cut is follows from the shapes alone, so the same operands
 * give the same bits. */
#include "portions.h"

#include <math.h>

#include "blas.h"
#include "cancel.h"

/* Multiply-adds of a portion, in float; in double, they take twice as long.
 * 2^29 of them are some 30 ms of one core (portions.h). */
static const int64_t portion = INT64_C(1) << 29;

/* A multiple of what kernels take at once, so that all parts of a product but
 * the last are computed alike. */
static int64_t whole_units(int64_t n)
{
    enum { UNIT = 64 };
    return n > UNIT ? n / UNIT * UNIT : UNIT;
}

/* Squares of the result, where it has several: what BLAS copies of a factor for
 * each of them is then little beside the work. */
static qmoe_status multiply(float *dst, int64_t dst_stride,
    enum CBLAS_TRANSPOSE a_lies, qmi_rows a, qmi_rows b, int64_t n_rows,
    int64_t n_cols, int64_t depth, float beta, qmi_error *err)
{
    int64_t rows = n_rows, cols = n_cols;
    /* Without an overflow: the product of all three could have one. */
    if (n_rows * n_cols > portion / depth) {
        const int64_t side =
            whole_units((int64_t)sqrt((double)portion / (double)depth));
        rows = n_rows < side ? n_rows : side;
        /* Narrow results give longer portions of columns. */
        cols = whole_units(portion / depth / rows);
    }
    /* Each part of dst is written by one call, over the full depth: its sums
     * have the same order as in one call. */
    for (int64_t r = 0; r < n_rows; r += rows)
        for (int64_t c = 0; c < n_cols; c += cols) {
            const int64_t height = n_rows - r < rows ? n_rows - r : rows;
            const int64_t width = n_cols - c < cols ? n_cols - c : cols;
            QMI_TRY(qmi_check_cancel(err));
            qmi_blas.sgemm(CblasRowMajor, a_lies, CblasNoTrans, (int)height,
                (int)width, (int)depth, 1,
                a.data + (a_lies == CblasTrans ? r : r * a.stride),
                (int)a.stride, b.data + c, (int)b.stride, beta,
                dst + r * dst_stride + c, (int)dst_stride);
        }
    return QMOE_OK;
}

qmoe_status qmi_multiply(float *dst, int64_t dst_stride, qmi_rows a, qmi_rows b,
    int64_t n_rows, int64_t n_cols, int64_t depth, float beta, qmi_error *err)
{
    return multiply(
        dst, dst_stride, CblasNoTrans, a, b, n_rows, n_cols, depth, beta, err);
}

qmoe_status qmi_multiply_transposed(float *dst, int64_t dst_stride, qmi_rows a,
    qmi_rows b, int64_t n_rows, int64_t n_cols, int64_t depth, float beta,
    qmi_error *err)
{
    return multiply(
        dst, dst_stride, CblasTrans, a, b, n_rows, n_cols, depth, beta, err);
}

/* Columns [c, c + width) of x T, in place: those that others still need come
 * last. */
static qmoe_status multiply_columns(float *x, const float *t,
    enum CBLAS_UPLO half, int64_t n_rows, int64_t n, int64_t c, int64_t width,
    qmi_error *err)
{
    const int64_t end = c + width;
    QMI_TRY(qmi_check_cancel(err));
    qmi_blas.strmm(CblasRowMajor, CblasRight, half, CblasNoTrans, CblasUnit,
        (int)n_rows, (int)width, 1, t + c * n + c, (int)n, x + c, (int)n);
    if (half == CblasUpper && c > 0)
        return qmi_multiply(x + c, n, (qmi_rows){x, n}, (qmi_rows){t + c, n},
            n_rows, width, c, 1, err);
    if (half == CblasLower && end < n)
        return qmi_multiply(x + c, n, (qmi_rows){x + end, n},
            (qmi_rows){t + end * n + c, n}, n_rows, width, n - end, 1, err);
    return QMOE_OK;
}

qmoe_status qmi_multiply_triangle(float *x, const float *t,
    enum CBLAS_UPLO half, int64_t n_rows, int64_t n, qmi_error *err)
{
    enum { BLOCK = 512 };
    /* Small ones in one call. */
    const int64_t width = n_rows * (n * n / 2) <= portion ? n : BLOCK;
    const int64_t n_blocks = (n + width - 1) / width;
    /* Upper: from the right, since a block needs all columns to its left as
     * they were; lower: from the left. */
    for (int64_t i = 0; i < n_blocks; i++) {
        const int64_t b = half == CblasUpper ? n_blocks - 1 - i : i;
        const int64_t c = b * width;
        QMI_TRY(multiply_columns(
            x, t, half, n_rows, n, c, n - c < width ? n - c : width, err));
    }
    return QMOE_OK;
}

/* ---- squares ---- */

static int64_t at(enum CBLAS_ORDER order, int64_t stride, int64_t r, int64_t c)
{
    return order == CblasRowMajor ? r * stride + c : r + c * stride;
}

/* Upper half of sum [n, n] += alpha x^T x, x [depth, n], rows (columns)
 * `stride` apart in both.  By blocks of rows: the square on the diagonal, then
 * what is right of it. */
static qmoe_status add_squares(enum CBLAS_ORDER order, double *sum,
    const double *x, int64_t stride, int64_t n, int64_t depth, double alpha,
    qmi_error *err)
{
    /* Rows of the result per portion; a square on the diagonal is half as much
     * work. */
    const int64_t most = portion / 2;
    const int64_t step =
        n * n / 2 * depth <= most ? n : whole_units(most / (n * depth));
    for (int64_t row = 0; row < n; row += step) {
        const int64_t end = row + step < n ? row + step : n;
        const double *own = x + at(order, stride, 0, row);
        QMI_TRY(qmi_check_cancel(err));
        qmi_blas.dsyrk(order, CblasUpper, CblasTrans, (int)(end - row),
            (int)depth, alpha, own, (int)stride, 1,
            sum + at(order, stride, row, row), (int)stride);
        if (end < n)
            qmi_blas.dgemm(order, CblasTrans, CblasNoTrans, (int)(end - row),
                (int)(n - end), (int)depth, alpha, own, (int)stride,
                x + at(order, stride, 0, end), (int)stride, 1,
                sum + at(order, stride, row, end), (int)stride);
    }
    return QMOE_OK;
}

qmoe_status qmi_add_squares(
    double *sum, const double *x, int64_t n, int64_t depth, qmi_error *err)
{
    return add_squares(CblasRowMajor, sum, x, n, n, depth, 1, err);
}

/* ---- factorisation ---- */

static qmoe_status factorise_block(double *a, int64_t stride, int64_t n)
{
    int order = (int)n, lda = (int)stride, info = 0;
    qmi_blas.dpotrf("U", &order, a, &lda, &info);
    return info == 0 ? QMOE_OK : QMOE_E_UNSUPPORTED;
}

qmoe_status qmi_factorise(double *a, int64_t n, qmi_error *err)
{
    enum { WHOLE = 1024, BLOCK = 256 };
    /* Up to 1024 columns LAPACK's own factorisation is a portion. */
    const int64_t block = n <= WHOLE ? n : BLOCK;
    /* Right-looking: a block is factored, the rows right of it solved, and what
     * is left corrected by their squares. */
    for (int64_t k = 0; k < n; k += block) {
        const int64_t width = n - k < block ? n - k : block;
        const int64_t left = n - k - width;
        /* Element (k, k) of a column-major matrix; `right` is the block row
         * behind it. */
        double *own = a + k * (n + 1), *right = own + width * n;
        QMI_TRY(qmi_check_cancel(err));
        QMI_TRY(factorise_block(own, n, width));
        if (left == 0)
            break;
        qmi_blas.dtrsm(CblasColMajor, CblasLeft, CblasUpper, CblasTrans,
            CblasNonUnit, (int)width, (int)left, 1, own, (int)n, right, (int)n);
        QMI_TRY(add_squares(
            CblasColMajor, right + width, right, n, left, width, -1, err));
    }
    return QMOE_OK;
}
