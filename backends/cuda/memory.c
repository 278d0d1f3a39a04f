/* SPDX-License-Identifier: Apache-2.0
 * Memory of a device: what may be used, work space, uploads.  In: sizes and
 * what they are for.  Out: device memory that counts against the device's
 * bound, or an error that says needed and free bytes.  Memory goes back only
 * when nothing that was launched can use it. */
#include "qcuda_device.h"

#include <inttypes.h>

#include "launches.h"

qmoe_status qcuda_fail(const qmi_device *device, const char *what,
    const char *text, qmi_error *err)
{
    return qmi_fail(err, QMOE_E_DEVICE, "CUDA device '%s': %s: %s",
        device->info.name, what, text);
}

qmoe_status qcuda_available(uint64_t *out, qmi_device *device, qmi_error *err)
{
    const char *failure = qdrv_free_bytes(out, device->driver);
    if (failure != NULL)
        return qcuda_fail(device, "asking for its memory", failure, err);
    /* Both bounds hold: what the driver has, and what this process may use. */
    const uint64_t left = device->limit > device->allocated
                              ? device->limit - device->allocated
                              : 0;
    *out = *out < left ? *out : left;
    return QMOE_OK;
}

/* Asks for the free bytes only here: the question costs a call. */
static qmoe_status no_room(qmi_device *device, uint64_t n_bytes,
    const char *what, const char *text, qmi_error *err)
{
    uint64_t available = 0;
    QMI_TRY(qcuda_available(&available, device, err));
    return qmi_fail(err, QMOE_E_NOMEM,
        "CUDA device '%s': %" PRIu64 " bytes for %s, %" PRIu64 " are free (%s)",
        device->info.name, n_bytes, what, available, text);
}

qmoe_status qcuda_alloc(qmi_buffer *out, qmi_device *device, uint64_t n_bytes,
    const char *what, qmi_error *err)
{
    *out = (qmi_buffer){0};
    /* allocated <= limit always, so the difference does not wrap. */
    if (n_bytes > device->limit - device->allocated)
        return no_room(
            device, n_bytes, what, "the bound set for this process", err);
    const char *failure = qdrv_alloc(&out->data, device->driver, n_bytes);
    if (failure != NULL)
        return no_room(device, n_bytes, what, failure, err);
    out->n_bytes = n_bytes;
    device->allocated += n_bytes;
    return QMOE_OK;
}

void qcuda_release(qmi_device *device, qmi_buffer *buffer)
{
    if (buffer->data == NULL)
        return;
    /* Held launches may use it. */
    if (device->launches != NULL)
        qcuda_flush_quietly(device);
    qdrv_free(device->driver, buffer->data);
    device->allocated -= buffer->n_bytes;
    *buffer = (qmi_buffer){0};
}

qmoe_status qcuda_upload(qmi_device *device, void *dst, const void *src,
    uint64_t n_bytes, qmi_error *err)
{
    /* Launches before the write must read the old bytes. */
    QMI_TRY(qcuda_end_run(device, err));
    const char *failure = qdrv_write(device->driver, dst, src, n_bytes);
    return failure == NULL ? QMOE_OK
                           : qcuda_fail(device, "a write", failure, err);
}

qmoe_status qcuda_reserve(void **out, qmi_device *device, qcuda_scratch which,
    uint64_t n_bytes, qmi_error *err)
{
    qmi_buffer *scratch = &device->scratch[which];
    *out = scratch->data;
    /* Work space never shrinks: the next pass needs it again. */
    if (n_bytes <= scratch->n_bytes && scratch->data != NULL)
        return QMOE_OK;
    /* Operations that use the old block may still run: freeing waits. */
    qcuda_release(device, scratch);
    QMI_TRY(qcuda_alloc(scratch, device, n_bytes, "work space", err));
    *out = scratch->data;
    /* Kernels leave the counters of arrived blocks at zero, so they are cleared
     * once, when the memory is new. */
    if (which != QCUDA_ARRIVED)
        return QMOE_OK;
    return qcuda_zero(device, scratch->data, n_bytes, err);
}

void *qcuda_pointer(qmi_view view)
{
    return view.buffer == NULL ? NULL : (char *)view.buffer->data + view.offset;
}
