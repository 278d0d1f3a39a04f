/* SPDX-License-Identifier: Apache-2.0
 * Memory of a device, its errors, and the tuning of its kernels.  In: sizes and
 * what they are for.  Out: buffers that count against the device's bound, or an
 * error that says needed and available bytes.  Streamed experts make room when
 * memory is asked for (stream.h), so the bound holds at every moment. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "program_cache.h"

#include "stream.h"

/* Devices that allocate late report it from any call. */
static qmoe_status status_of(cl_int status)
{
    return status == CL_MEM_OBJECT_ALLOCATION_FAILURE ||
                   status == CL_OUT_OF_HOST_MEMORY
               ? QMOE_E_NOMEM
               : QMOE_E_DEVICE;
}

qmoe_status qocl_fail(
    const qmi_device *device, const char *what, cl_int status, qmi_error *err)
{
    return qmi_fail(err, status_of(status), "OpenCL device '%s': %s: %s (%d)",
        device->name, what, qocl_error_name(status), (int)status);
}

static uint64_t left_of(const qmi_device *device)
{
    return device->limits.memory > device->allocated
               ? device->limits.memory - device->allocated
               : 0;
}

/* Three things can be missing: a buffer as large, room within the bound, and
 * memory that others have taken. */
qmoe_status qocl_alloc(cl_mem *out, qmi_device *device, uint64_t n_bytes,
    const char *what, qmi_error *err)
{
    const qocl_limits *limits = &device->limits;
    *out = NULL;
    if (n_bytes > limits->max_alloc)
        return qmi_fail(err, QMOE_E_DEVICE,
            "OpenCL device '%s': '%s' needs a buffer of %" PRIu64
            " bytes, the largest has %" PRIu64,
            device->name, what, n_bytes, limits->max_alloc);
    /* Experts that are not in use go first, the one used longest ago in
     * front. */
    while (n_bytes > left_of(device)) {
        bool gone;
        QMI_TRY(qocl_evict(device, &gone, err));
        if (!gone)
            return qmi_fail(err, QMOE_E_NOMEM,
                "OpenCL device '%s': '%s' needs %" PRIu64 " bytes, %" PRIu64
                " of %" PRIu64 " are left",
                device->name, what, n_bytes, left_of(device), limits->memory);
    }
    cl_int status;
    /* Ends: each round sends one away, and without one the error stays. */
    bool evicted = true;
    /* Others use the device too: less may be there than it says. */
    do {
        /* A buffer of no bytes is an error of OpenCL; an empty operand is none
         * here. */
        *out = qmi_cl.CreateBuffer(device->context, CL_MEM_READ_WRITE,
            n_bytes != 0 ? (size_t)n_bytes : 4, NULL, &status);
        if (status == CL_MEM_OBJECT_ALLOCATION_FAILURE)
            QMI_TRY(qocl_evict(device, &evicted, err));
    } while (status == CL_MEM_OBJECT_ALLOCATION_FAILURE && evicted);
    if (status != CL_SUCCESS) {
        *out = NULL;
        return qmi_fail(err, status_of(status),
            "OpenCL device '%s': '%s', %" PRIu64 " bytes: %s", device->name,
            what, n_bytes, qocl_error_name(status));
    }
    device->allocated += n_bytes;
    return QMOE_OK;
}

void qocl_release(qmi_device *device, cl_mem mem, uint64_t n_bytes)
{
    if (mem == NULL)
        return;
    qmi_cl.ReleaseMemObject(mem);
    device->allocated -= n_bytes;
}

qmoe_status qocl_upload(qmi_device *device, cl_mem mem, uint64_t offset,
    const void *src, uint64_t n_bytes, qmi_error *err)
{
    if (n_bytes == 0)
        return QMOE_OK;
    /* Blocking: `src` may be a block that goes when this returns. */
    cl_int status = qmi_cl.EnqueueWriteBuffer(device->queue, mem, CL_TRUE,
        (size_t)offset, (size_t)n_bytes, src, 0, NULL, NULL);
    return status == CL_SUCCESS ? QMOE_OK
                                : qocl_fail(device, "an upload", status, err);
}

qmoe_status qocl_upload_later(qmi_device *device, cl_mem mem, const void *src,
    uint64_t n_bytes, cl_event *event, qmi_error *err)
{
    if (n_bytes == 0)
        return QMOE_OK;
    cl_event written;
    cl_int status = qmi_cl.EnqueueWriteBuffer(device->transfers, mem, CL_FALSE,
        0, (size_t)n_bytes, src, 0, NULL, &written);
    if (status != CL_SUCCESS)
        return qocl_fail(device, "an upload", status, err);
    /* The queue keeps order: the last write's end is that of all. */
    if (*event != NULL)
        qmi_cl.ReleaseEvent(*event);
    *event = written;
    return QMOE_OK;
}

/* Builds with tests fill work space with NaN before each use when
 * QMOE_OPENCL_POISON is set, so that reads before writes show. */
static qmoe_status poison(
    qmi_device *device, const qmi_buffer *b, qmi_error *err)
{
#ifdef QMOE_OPENCL_BREAK
    if (getenv("QMOE_OPENCL_POISON") == NULL)
        return QMOE_OK;
    void *nan = qmi_calloc(b->n_bytes, 1, "poison", err);
    if (nan == NULL)
        return QMOE_E_NOMEM;
    memset(nan, 0xff, b->n_bytes);
    const qmoe_status status =
        qocl_upload(device, b->mem, 0, nan, b->n_bytes, err);
    qmi_free(nan);
    return status;
#else
    (void)device;
    (void)b;
    (void)err;
    return QMOE_OK;
#endif
}

qmoe_status qocl_reserve(
    qmi_device *device, qocl_scratch which, uint64_t n_bytes, qmi_error *err)
{
    qmi_buffer *b = &device->scratch[which];
    /* Work space never shrinks: the next pass needs it again. */
    if (b->mem != NULL && n_bytes <= b->n_bytes)
        return poison(device, b, err);
    /* Kernels that still run keep the old memory alive themselves. */
    qocl_release(device, b->mem, b->n_bytes);
    *b = (qmi_buffer){0};
    QMI_TRY(qocl_alloc(&b->mem, device, n_bytes, "work space", err));
    b->n_bytes = n_bytes;
    return poison(device, b, err);
}

qmi_view qocl_scratch_view(qmi_device *device, qocl_scratch which)
{
    return (qmi_view){.buffer = &device->scratch[which]};
}

/* ---- tuning ---- */

qmoe_status qocl_choose_tuning(qmi_device *device, bool is_cpu, qmi_error *err)
{
    qocl_tuning chosen;
    size_t n = 0;
    /* From the general to the special: default of the kind, what was measured
     * here, what the user says. */
    qocl_tuning_default(&device->tuning, &device->limits, is_cpu);
    if (device->forced != NULL) {
        /* many 0: the default itself, which a measurement starts from. */
        if (device->forced->many != 0)
            device->tuning = *device->forced;
        return QMOE_OK;
    }
    char *kept = (char *)qocl_cache_load(&n, qocl_tuning_key(device));
    /* From a file: it must end as text before it is read as text. */
    if (kept != NULL && n != 0 && kept[n - 1] == '\0') {
        /* A text names a few parameters; the others stay. */
        chosen = device->tuning;
        if (qocl_tuning_parse(&chosen, kept, NULL) == QMOE_OK &&
            qocl_tuning_fits(&chosen, &device->limits))
            device->tuning = chosen;
    }
    qmi_free(kept);
    const char *text = getenv("QMOE_OPENCL_TUNING");
    if (text == NULL)
        return QMOE_OK;
    QMI_TRY(qocl_tuning_parse(&device->tuning, text, err));
    if (!qocl_tuning_fits(&device->tuning, &device->limits))
        return qmi_fail(err, QMOE_E_INVALID,
            "OpenCL device '%s' cannot use this tuning: %s", device->name,
            text);
    return QMOE_OK;
}

void qocl_keep_tuning(const qmi_device *device, const qocl_tuning *tuning)
{
    char text[QOCL_TUNING_TEXT];
    qocl_tuning_print(text, tuning);
    qocl_cache_store(
        qocl_tuning_key(device), (unsigned char *)text, strlen(text) + 1);
}
