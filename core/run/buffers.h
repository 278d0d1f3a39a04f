/* SPDX-License-Identifier: Apache-2.0
 * Device buffers that grow on demand. */
#ifndef QMI_BUFFERS_H
#define QMI_BUFFERS_H

#include "backend.h"

/* Begins as zeros. */
typedef struct qmi_growing {
    qmi_buffer *buffer;
    uint64_t n_bytes;
} qmi_growing;

/* Makes room for n_bytes; contents are lost when it grows. */
qmoe_status qmi_grow(const qmi_backend *backend, qmi_device *device,
    qmi_growing *g, uint64_t n_bytes, qmi_error *err);
/* Makes room and writes. */
qmoe_status qmi_upload(const qmi_backend *backend, qmi_device *device,
    qmi_growing *g, const void *data, uint64_t n_bytes, qmi_error *err);
void qmi_shrink(const qmi_backend *backend, qmi_device *device, qmi_growing *g);

/* Index of the first of n floats of a buffer that is not finite; n if none. */
qmoe_status qmi_buffer_non_finite(const qmi_backend *backend,
    qmi_device *device, int64_t *at, const qmi_growing *g, int64_t n,
    qmi_error *err);

#endif
