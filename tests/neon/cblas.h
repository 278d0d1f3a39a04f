/* SPDX-License-Identifier: Apache-2.0
 * The part of OpenBLAS that the CPU backend uses, for a build without it. */
#ifndef CBLAS_H
#define CBLAS_H

enum CBLAS_ORDER { CblasRowMajor = 101 };
enum CBLAS_TRANSPOSE { CblasNoTrans = 111, CblasTrans = 112 };

void cblas_sgemv(enum CBLAS_ORDER order, enum CBLAS_TRANSPOSE trans, int m,
    int n, float alpha, const float *a, int lda, const float *x, int incx,
    float beta, float *y, int incy);
void cblas_sgemm(enum CBLAS_ORDER order, enum CBLAS_TRANSPOSE trans_a,
    enum CBLAS_TRANSPOSE trans_b, int m, int n, int k, float alpha,
    const float *a, int lda, const float *b, int ldb, float beta, float *c,
    int ldc);
char *openblas_get_corename(void);
void openblas_set_num_threads(int n);

#endif
