/* SPDX-License-Identifier: Apache-2.0
 * Factorisation, sweep and error measure shared by quantisers. */
#include "gptq_frame.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

#include "alloc.h"

/* LAPACK, column-major, as OpenBLAS exports it. */
void dpotrf_(
    const char *uplo, const int *n, double *a, const int *lda, int *info);
void dpotri_(
    const char *uplo, const int *n, double *a, const int *lda, int *info);

enum { BLOCK = 128, PANEL_ROWS = 64 };

static double damping_of(const qmi_hessian *h, double damping)
{
    double mean = 0;
    for (int64_t i = 0; i < h->n_cols; i++)
        mean += h->sum[i * h->n_cols + i];
    mean /= (double)h->n_cols;
    return fmax(damping * mean, 1e-6);
}

/* In place: A (upper triangle, row-major) to the factor U of A^-1 = U^T U,
 * U upper triangular.  A row-major upper triangle is LAPACK's lower one. */
static bool factor_in_place(double *a, int n)
{
    int info = 0;
    dpotrf_("L", &n, a, &n, &info);
    if (info == 0)
        dpotri_("L", &n, a, &n, &info);
    if (info == 0)
        /* Now the upper triangle (row-major) of A^-1; its Cholesky factor
         * L with A^-1 = L L^T in LAPACK's view is U^T in ours. */
        dpotrf_("L", &n, a, &n, &info);
    return info == 0;
}

qmoe_status qmi_gptq_factor(
    float *u, const qmi_hessian *hessian, double damping, qmi_error *err)
{
    int64_t n = hessian->n_cols;
    size_t count = (size_t)n * (size_t)n;
    double *a = qmi_calloc(count, sizeof *a, "a factorisation", err);
    if (a == NULL)
        return QMOE_E_NOMEM;
    memcpy(a, hessian->sum, count * sizeof *a);
    double added = damping_of(hessian, damping);
    for (int64_t i = 0; i < n; i++)
        a[i * n + i] += added;
    bool good = factor_in_place(a, (int)n);
    for (int64_t r = 0; good && r < n; r++)
        for (int64_t c = 0; c < n; c++) {
            u[r * n + c] = c < r ? 0 : (float)a[r * n + c];
            good = good && isfinite(u[r * n + c]);
        }
    qmi_free(a);
    if (good)
        return QMOE_OK;
    return qmi_fail(err, QMOE_E_UNSUPPORTED,
        "the second moments are not positive definite");
}

/* Columns [first, last) of one row: round, keep the scaled errors, feed them
 * forward within the block. */
static void sweep_row(float *w, float *error, const float *u, int64_t n_cols,
    int64_t first, int64_t last, qmi_round_fn round, void *rule, int64_t row)
{
    for (int64_t j = first; j < last; j++) {
        const float *u_row = u + j * n_cols;
        float e = (w[j] - round(rule, row, j, w[j])) / u_row[j];
        error[j - first] = e;
        for (int64_t k = j + 1; k < last; k++)
            w[k] -= e * u_row[k];
    }
}

qmoe_status qmi_gptq_sweep(float *w, int64_t n_rows, int64_t n_cols,
    const float *u, qmi_round_fn round, void *rule, qmi_error *err)
{
    float *error =
        qmi_calloc(PANEL_ROWS * BLOCK, sizeof *error, "a sweep", err);
    if (error == NULL)
        return QMOE_E_NOMEM;
    /* Rows are independent: a panel of them goes through all blocks while its
     * weights stay in the cache. */
    for (int64_t row = 0; row < n_rows; row += PANEL_ROWS) {
        int64_t rows = n_rows - row < PANEL_ROWS ? n_rows - row : PANEL_ROWS;
        float *panel = w + row * n_cols;
        for (int64_t j = 0; j < n_cols; j += BLOCK) {
            int64_t end = j + BLOCK < n_cols ? j + BLOCK : n_cols;
            for (int64_t r = 0; r < rows; r++)
                sweep_row(panel + r * n_cols, error + r * BLOCK, u, n_cols, j,
                    end, round, rule, row + r);
            if (end < n_cols)
                cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans,
                    (int)rows, (int)(n_cols - end), (int)(end - j), -1.0f,
                    error, BLOCK, u + j * n_cols + end, (int)n_cols, 1.0f,
                    panel + end, (int)n_cols);
        }
    }
    qmi_free(error);
    return QMOE_OK;
}

/* ---- error measure ---- */

static double sum_of_squares(const float *d, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)d[i] * d[i];
    return sum;
}

double qmi_quadratic_error(const float *d, int64_t n_rows, int64_t n_cols,
    const qmi_hessian *hessian, qmi_error *err)
{
    if (hessian == NULL || hessian->n_tokens == 0)
        return sum_of_squares(d, n_rows * n_cols);
    size_t n = (size_t)(PANEL_ROWS * n_cols);
    double *wide = qmi_calloc(2 * n, sizeof *wide, "an error sum", err);
    if (wide == NULL)
        return NAN;
    double *product = wide + n;
    double sum = 0;
    for (int64_t row = 0; row < n_rows; row += PANEL_ROWS) {
        int64_t rows = n_rows - row < PANEL_ROWS ? n_rows - row : PANEL_ROWS;
        for (int64_t i = 0; i < rows * n_cols; i++)
            wide[i] = d[row * n_cols + i];
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows,
            (int)n_cols, (int)n_cols, 1.0, wide, (int)n_cols, hessian->sum,
            (int)n_cols, 0.0, product, (int)n_cols);
        for (int64_t i = 0; i < rows * n_cols; i++)
            sum += product[i] * wide[i];
    }
    qmi_free(wide);
    return sum;
}
