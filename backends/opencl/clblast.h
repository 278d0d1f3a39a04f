/* SPDX-License-Identifier: Apache-2.0
 * CLBlast, looked for at run time like the OpenCL loader. */
#ifndef QOCL_CLBLAST_H
#define QOCL_CLBLAST_H

#include "qocl_device.h"

/* Loads libclblast once; false when it is absent (or the build had not its
 * headers). */
bool qocl_clblast_load(void);

/* c [m, n] = a [m, k] * b [n, k]^T, row-major float32; offsets and leading
 * dimensions in elements. */
typedef struct qocl_gemm {
    cl_mem a, b, c;
    size_t m, n, k, a_at, b_at, c_at, a_step, b_step, c_step;
} qocl_gemm;
qmoe_status qocl_clblast_run(
    qmi_device *device, const qocl_gemm *g, qmi_error *err);

/* The variant "clblast" of the linear operation: dense weights, at least
 * limits.clblast_tokens tokens. */
bool qocl_clblast_supports(const qmi_device *device, const qmi_op *op);
qmoe_status qocl_clblast_linear(
    qmi_device *device, const qmi_op *op, qmi_error *err);

#endif
