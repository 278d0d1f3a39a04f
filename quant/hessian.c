/* SPDX-License-Identifier: Apache-2.0
 * Accumulation of second moments. */
#include "hessian.h"

#include <cblas.h>

#include "alloc.h"

qmoe_status qmi_hessian_create(qmi_hessian *out, int64_t n_cols, qmi_error *err)
{
    *out = (qmi_hessian){.n_cols = n_cols};
    out->sum = qmi_calloc((size_t)n_cols * (size_t)n_cols, sizeof *out->sum,
        "second moments", err);
    return out->sum != NULL ? QMOE_OK : QMOE_E_NOMEM;
}

void qmi_hessian_destroy(qmi_hessian *hessian)
{
    qmi_free(hessian->sum);
    *hessian = (qmi_hessian){0};
}

qmoe_status qmi_hessian_add(
    qmi_hessian *hessian, const float *x, int64_t n_tokens, qmi_error *err)
{
    size_t n = (size_t)(n_tokens * hessian->n_cols);
    double *wide = qmi_calloc(n, sizeof *wide, "calibration inputs", err);
    if (wide == NULL)
        return QMOE_E_NOMEM;
    for (size_t i = 0; i < n; i++)
        wide[i] = x[i];
    cblas_dsyrk(CblasRowMajor, CblasUpper, CblasTrans, (int)hessian->n_cols,
        (int)n_tokens, 1.0, wide, (int)hessian->n_cols, 1.0, hessian->sum,
        (int)hessian->n_cols);
    qmi_free(wide);
    hessian->n_tokens += n_tokens;
    return QMOE_OK;
}

qmoe_status qmi_hessian_finish(qmi_hessian *hessian, qmi_error *err)
{
    int64_t n = hessian->n_cols;
    (void)err;
    for (int64_t r = 1; r < n; r++)
        for (int64_t c = 0; c < r; c++)
            hessian->sum[r * n + c] = hessian->sum[c * n + r];
    return QMOE_OK;
}
