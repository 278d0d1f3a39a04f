/* SPDX-License-Identifier: Apache-2.0
 * Devices before they are opened. */
#ifndef QOCL_FIND_H
#define QOCL_FIND_H

#include "qocl_device.h"

/* qmi_backend.probe and .describe. */
qmoe_status qocl_probe(int *n_devices, char *reason, size_t capacity);
qmoe_status qocl_describe(qmoe_device_info *out, int index, qmi_error *err);

qmoe_status qocl_device_at(cl_device_id *out, int index, qmi_error *err);
/* CL_DEVICE_TYPE_GPU, _CPU or _ACCELERATOR. */
cl_device_type qocl_type(cl_device_id id);
/* A text of CL_DEVICE_...; "" when there is none. */
void qocl_text_of(
    char *out, size_t capacity, cl_device_id id, cl_device_info what);
/* Why the device cannot be used; "" when it can. */
void qocl_missing(char *out, size_t capacity, cl_device_id id);
/* What the device allows, lowered by QMOE_OPENCL_LIMITS (limits.c). */
qocl_limits qocl_read_limits(cl_device_id id);

#endif
