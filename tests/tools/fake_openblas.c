/* SPDX-License-Identifier: Apache-2.0
 * Stands for OpenBLAS (QMOE_OPENBLAS=.../fake_openblas.so): one that does not
 * know this processor, must be loaded for one thread, and multiplies plainly
 * where the CPU backend asks for it.  Nothing else may be called. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *openblas_get_corename(void);
void cblas_sgemv(int order, int trans, int m, int n, float alpha,
    const float *a, int lda, const float *x, int incx, float beta, float *y,
    int incy);
void cblas_sgemm(int order, int trans_a, int trans_b, int m, int n, int k,
    float alpha, const float *a, int lda, const float *b, int ldb, float beta,
    float *c, int ldc);

static char core[32] = "Prescott";

/* OpenBLAS reads its environment while it is loaded, and only then. */
__attribute__((constructor)) static void read_environment(void)
{
    const char *type = getenv("OPENBLAS_CORETYPE");
    const char *threads = getenv("OPENBLAS_NUM_THREADS");
    if (type != NULL)
        snprintf(core, sizeof core, "%s", type);
    if (threads == NULL || strcmp(threads, "1") != 0)
        abort();
}

char *openblas_get_corename(void)
{
    return core;
}

static float dot(const float *a, const float *b, int n)
{
    float sum = 0;
    for (int i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* Row-major, no transposition, strides of 1, beta 0. */
void cblas_sgemv(int order, int trans, int m, int n, float alpha,
    const float *a, int lda, const float *x, int incx, float beta, float *y,
    int incy)
{
    (void)order, (void)trans, (void)incx, (void)beta, (void)incy;
    for (int i = 0; i < m; i++)
        y[i] = alpha * dot(a + (long)i * lda, x, n);
}

/* Row-major, b transposed, beta 0. */
void cblas_sgemm(int order, int trans_a, int trans_b, int m, int n, int k,
    float alpha, const float *a, int lda, const float *b, int ldb, float beta,
    float *c, int ldc)
{
    (void)order, (void)trans_a, (void)trans_b, (void)beta;
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++)
            c[(long)i * ldc + j] =
                alpha * dot(a + (long)i * lda, b + (long)j * ldb, k);
}

#define UNUSED(name)                                                           \
    void name(void);                                                           \
    void name(void)                                                            \
    {                                                                          \
        abort();                                                               \
    }
UNUSED(cblas_saxpy)
UNUSED(cblas_strmm)
UNUSED(cblas_ddot)
UNUSED(cblas_dgemm)
UNUSED(cblas_dgemv)
UNUSED(cblas_dsymv)
UNUSED(cblas_dsyr)
UNUSED(cblas_dsyrk)
UNUSED(cblas_dtrsm)
UNUSED(dpotrf_)
UNUSED(dtrtri_)
