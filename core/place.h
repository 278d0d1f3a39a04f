/* SPDX-License-Identifier: Apache-2.0
 * Finds the backend by the name a user gives. */
#ifndef QMI_PLACE_H
#define QMI_PLACE_H

#include "context.h"

/* `name`: "cpu", "opencl", ..., "auto" or NULL: CUDA, else a GPU under OpenCL,
 * else the CPU, said by the message hook.  E_INVALID: no such name, a negative
 * device; E_NO_BACKEND: not there, or without device number `device`. */
qmoe_status qmi_place_find(qmoe_context *context, const qmi_backend **out,
    const char *name, int device, qmi_error *err);

#endif
