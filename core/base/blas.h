/* SPDX-License-Identifier: Apache-2.0
 * OpenBLAS, opened when something first needs it and kept until the process
 * ends.  Nothing links against it: while it is loaded it starts threads and
 * later it maps buffers, and where the system refuses either it waits for ever
 * or raises SIGINT.  What needs no BLAS must not be exposed to that, and the
 * rest only after a check (docs/architecture.md, section 5). */
#ifndef QMI_BLAS_H
#define QMI_BLAS_H

#include <cblas.h>

#include "error.h"

/* LAPACK, in OpenBLAS: column-major, everything by pointer. */
void dpotrf_(
    const char *uplo, const int *n, double *a, const int *lda, int *info);
void dtrtri_(const char *uplo, const char *diag, const int *n, double *a,
    const int *lda, int *info);

/* X(member, symbol); tests/tools/fake_openblas.c has them all, too. */
#define QMI_BLAS_MAP(X)                                                        \
    X(saxpy, cblas_saxpy)                                                      \
    X(sgemm, cblas_sgemm)                                                      \
    X(sgemv, cblas_sgemv)                                                      \
    X(strmm, cblas_strmm)                                                      \
    X(ddot, cblas_ddot)                                                        \
    X(dgemm, cblas_dgemm)                                                      \
    X(dgemv, cblas_dgemv)                                                      \
    X(dsymv, cblas_dsymv)                                                      \
    X(dsyr, cblas_dsyr)                                                        \
    X(dsyrk, cblas_dsyrk)                                                      \
    X(dtrsm, cblas_dtrsm)                                                      \
    X(dpotrf, dpotrf_)                                                         \
    X(dtrtri, dtrtri_)

typedef struct qmi_blas_functions {
#define X(member, symbol) __typeof__(symbol) *member;
    QMI_BLAS_MAP(X)
#undef X
} qmi_blas_functions;

/* Valid after qmi_blas_load; each call runs in the calling thread alone. */
extern qmi_blas_functions qmi_blas;

/* Opens OpenBLAS ($QMOE_OPENBLAS names another file) and makes it map the
 * buffers that `n_callers` threads need to call it at the same time.  Cheap
 * when that is done already; any thread.
 * E_UNSUPPORTED: there is no OpenBLAS; E_NOMEM: no room for it. */
qmoe_status qmi_blas_load(int n_callers, qmi_error *err);
/* The kernels it chose, e.g. "Haswell"; "" before it was loaded. */
const char *qmi_blas_core(void);
/* The value of OPENBLAS_CORETYPE that would be faster; NULL when all is well
 * or nothing is loaded. */
const char *qmi_blas_core_wanted(void);

#endif
