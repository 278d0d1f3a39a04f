/* SPDX-License-Identifier: Apache-2.0
 * Which device of which backend a caller means. */
#ifndef QMI_PLACE_H
#define QMI_PLACE_H

#include "context.h"

typedef struct qmi_place {
    const qmi_backend *backend;
    qmoe_device_info info; /* of the device; its index within the backend */
} qmi_place;

/* `backend`: a name, or "auto" / NULL: CUDA, else a GPU under OpenCL, else the
 * CPU, told by the message hook.  `device`: a number, a type ("gpu", "cpu",
 * "accelerator") or a part of a name in any case; a whole name wins over parts.
 * NULL or "": the first.  With "auto" the first backend that has such a device.
 * E_INVALID: unknown backend, several devices are meant; E_NO_BACKEND: the
 * backend or the device is not there.  Errors list the devices there are. */
qmoe_status qmi_place_find(qmi_place *out, qmoe_context *context,
    const char *backend, const char *device, qmi_error *err);

/* The same for options that hold a number and a text, which wins unless NULL. */
qmoe_status qmi_place_choose(qmi_place *out, qmoe_context *context,
    const char *backend, int device, const char *device_name, qmi_error *err);

/* E_INVALID: a bound that is not 0 and that the backend does not keep to. */
qmoe_status qmi_place_check_bounds(const qmi_place *place,
    uint64_t expert_cache_bytes, uint64_t memory_bytes, qmi_error *err);

/* The backend's describe, with the device's type filled in. */
qmoe_status qmi_place_describe(qmoe_device_info *out,
    const qmi_backend *backend, int index, qmi_error *err);

#endif
