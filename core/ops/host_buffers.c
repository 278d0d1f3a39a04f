/* SPDX-License-Identifier: Apache-2.0
 * Buffers and weight bindings of backends that compute in host memory.  In:
 * calls of the backend table (backend.h).  Out: plain memory, and weights used
 * where the file map has them.  All operations have ended when their call
 * returns, so nothing here waits. */
#include "backend.h"

#include <string.h>

#include "alloc.h"

struct qmi_buffer {
    uint8_t *data;
    uint64_t n_bytes;
};

qmoe_status qmi_host_buffer_alloc(
    qmi_buffer **out, qmi_device *device, uint64_t n_bytes, qmi_error *err)
{
    (void)device;
    *out = NULL;
    qmi_buffer *buffer = qmi_calloc(1, sizeof *buffer, "a buffer", err);
    if (buffer == NULL)
        return QMOE_E_NOMEM;
    /* Zeros, though nobody may rely on it (backend.h). */
    buffer->data = qmi_calloc(n_bytes, 1, "a buffer", err);
    if (buffer->data == NULL) {
        qmi_free(buffer);
        return QMOE_E_NOMEM;
    }
    buffer->n_bytes = n_bytes;
    *out = buffer;
    return QMOE_OK;
}

void qmi_host_buffer_free(qmi_device *device, qmi_buffer *buffer)
{
    (void)device;
    if (buffer == NULL)
        return;
    qmi_free(buffer->data);
    qmi_free(buffer);
}

/* Written without a sum that could overflow. */
static bool in_range(qmi_view view, uint64_t n_bytes)
{
    return view.buffer != NULL && view.offset <= view.buffer->n_bytes &&
           n_bytes <= view.buffer->n_bytes - view.offset;
}

qmoe_status qmi_host_buffer_write(qmi_device *device, qmi_view dst,
    const void *src, uint64_t n_bytes, qmi_error *err)
{
    (void)device;
    if (!in_range(dst, n_bytes))
        return qmi_fail(err, QMOE_E_INVALID, "write outside a buffer");
    /* memcpy must not be given NULL, not even for no bytes. */
    if (n_bytes != 0)
        memcpy(dst.buffer->data + dst.offset, src, n_bytes);
    return QMOE_OK;
}

qmoe_status qmi_host_buffer_read(qmi_device *device, void *dst, qmi_view src,
    uint64_t n_bytes, qmi_error *err)
{
    (void)device;
    if (!in_range(src, n_bytes))
        return qmi_fail(err, QMOE_E_INVALID, "read outside a buffer");
    if (n_bytes != 0)
        memcpy(dst, src.buffer->data + src.offset, n_bytes);
    return QMOE_OK;
}

qmoe_status qmi_host_buffer_copy(qmi_device *device, qmi_view dst, qmi_view src,
    uint64_t n_bytes, qmi_error *err)
{
    (void)device;
    if (!in_range(dst, n_bytes) || !in_range(src, n_bytes))
        return qmi_fail(err, QMOE_E_INVALID, "copy outside a buffer");
    /* Ranges of one buffer may overlap. */
    if (n_bytes != 0)
        memmove(dst.buffer->data + dst.offset, src.buffer->data + src.offset,
            n_bytes);
    return QMOE_OK;
}

/* Weights stay in the file map. */
qmoe_status qmi_host_weights_plan(qmi_device *device, const qmi_weight *weights,
    size_t n, bool with_experts, qmi_error *err)
{
    (void)with_experts;
    (void)device;
    (void)weights;
    (void)n;
    (void)err;
    return QMOE_OK;
}

/* Uploads nothing; `check` follows when an operation first uses a matrix. */
qmoe_status qmi_host_weight_bind(qmi_bound_weight *out, qmi_device *device,
    const qmi_weight *host, qmi_error *err)
{
    (void)device;
    (void)err;
    *out = (qmi_bound_weight){.host = host};
    return QMOE_OK;
}

void qmi_host_weight_unbind(qmi_device *device, qmi_bound_weight *weight)
{
    (void)device;
    *weight = (qmi_bound_weight){0};
}

/* Operations on the host have ended when they return. */
qmoe_status qmi_host_sync(qmi_device *device, qmi_error *err)
{
    (void)device;
    (void)err;
    return QMOE_OK;
}

void *qmi_host_pointer(qmi_view view)
{
    return view.buffer == NULL ? NULL : view.buffer->data + view.offset;
}
