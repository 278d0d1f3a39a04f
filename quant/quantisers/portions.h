/* SPDX-License-Identifier: Apache-2.0
 * Products of matrices and a factorisation, by BLAS, in portions of some 30 ms
 * between which they can be cancelled.  What is one portion is one call, as if
 * it had been made here.  All return E_CANCELLED, with the result half done. */
#ifndef QMI_PORTIONS_H
#define QMI_PORTIONS_H

#include <stdint.h>

#include "blas.h"

/* A matrix whose rows are `stride` elements apart; not owned. */
typedef struct qmi_rows {
    const float *data;
    int64_t stride;
} qmi_rows;

/* dst [n_rows, n_cols] = a [n_rows, depth] b [depth, n_cols] + beta dst, all
 * row-major with rows dst_stride, a.stride and b.stride apart. */
qmoe_status qmi_multiply(float *dst, int64_t dst_stride, qmi_rows a, qmi_rows b,
    int64_t n_rows, int64_t n_cols, int64_t depth, float beta, qmi_error *err);
/* The same with a as it lies transposed, [depth, n_rows]. */
qmoe_status qmi_multiply_transposed(float *dst, int64_t dst_stride, qmi_rows a,
    qmi_rows b, int64_t n_rows, int64_t n_cols, int64_t depth, float beta,
    qmi_error *err);
/* x [n_rows, n] = x T, T the upper or lower half of t [n, n] with a unit
 * diagonal; row-major. */
qmoe_status qmi_multiply_triangle(float *x, const float *t,
    enum CBLAS_UPLO half, int64_t n_rows, int64_t n, qmi_error *err);
/* Upper half of sum [n, n] += x^T x, x [depth, n]; row-major. */
qmoe_status qmi_add_squares(
    double *sum, const double *x, int64_t n, int64_t depth, qmi_error *err);
/* The upper half of a [n, n], column-major, becomes U with a = U^T U.
 * E_UNSUPPORTED, without a text: it is not positive definite. */
qmoe_status qmi_factorise(double *a, int64_t n, qmi_error *err);

#endif
