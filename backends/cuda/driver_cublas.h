/* SPDX-License-Identifier: Apache-2.0
 * cuBLAS for driver_cuda.c.  The library is hundreds of megabytes, so nothing
 * links against it: it is opened when it is first asked for.  $QMOE_CUBLAS is
 * the path of libcublas.so, or "off"; otherwise the loader's places are
 * searched for the versions 13, 12 and 11. */
#ifndef QCUDA_DRIVER_CUBLAS_H
#define QCUDA_DRIVER_CUBLAS_H

#include "driver.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qcublas qcublas; /* a handle of the library */

/* "cuBLAS 13.1.0", or NULL: not found, or not to be used. */
const char *qcublas_name(void);
/* For the current device; products go to `stream`.  A failure is a static
 * text, and NULL in *out. */
const char *qcublas_open(qcublas **out, void *stream);
void qcublas_close(qcublas *handle); /* accepts NULL */
const char *qcublas_gemm(qcublas *handle, const qdrv_gemm_args *args);

#ifdef __cplusplus
}
#endif

#endif
