/* SPDX-License-Identifier: Apache-2.0
 * The table of the CUDA backend: finding and opening devices, buffers,
 * variants.  In: calls of backend.h from one thread per device.  Out: calls of
 * the driver (driver.h) in the order they came.  Whatever reads, writes or
 * waits ends the launch run first (launches.h), so that the host never sees
 * less than it has launched. */
#include "qcuda_device.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "device_order.h"
#include "launches.h"
#include "op_gemm.h"
#include "portions.h"

/* 8.0: the oldest the kernels are built for. */
enum { MAX_DEVICES = 64, OLDEST_MAJOR = 8 };

/* Kernels count as ops.h does. */
_Static_assert((int)QCUDA_ACT_NONE == (int)QMI_ACT_NONE &&
                   (int)QCUDA_ACT_RELU == (int)QMI_ACT_RELU &&
                   (int)QCUDA_ACT_SILU == (int)QMI_ACT_SILU &&
                   (int)QCUDA_ACT_SIGMOID == (int)QMI_ACT_SIGMOID &&
                   (int)QMI_ACT_COUNT == 4,
    "activations");
_Static_assert((int)QCUDA_KV_F32 == (int)QMI_KV_F32 &&
                   (int)QCUDA_KV_F16 == (int)QMI_KV_F16 &&
                   (int)QCUDA_KV_Q8 == (int)QMI_KV_Q8 &&
                   (int)QMI_KV_COUNT == 3 &&
                   (int)QCUDA_KV_BLOCK == (int)QMI_KV_BLOCK &&
                   (int)QCUDA_KV_BLOCK_BYTES == (int)QMI_KV_BLOCK_BYTES,
    "rows of caches");
_Static_assert((int)QCUDA_SOFTMAX == (int)QMI_SOFTMAX &&
                   (int)QCUDA_SIGMOID == (int)QMI_SIGMOID,
    "scores");

/* ---- finding ---- */

/* The driver's numbers of devices in the order of ours.  Found once, so that a
 * number means one device for the life of the process. */
static int order[MAX_DEVICES];
static int n_ordered;
static char no_device[192];

static void find_devices(void)
{
    qcuda_candidate candidates[MAX_DEVICES];
    int n = qdrv_count(no_device, sizeof no_device);
    /* More devices than there is room for are left out. */
    n = n < MAX_DEVICES ? n : MAX_DEVICES;
    for (int i = 0; i < n; i++) {
        qdrv_info info;
        candidates[i] = (qcuda_candidate){.number = i};
        /* Too old a device is numbered, so that it can be described, and
         * becomes the default only if all are. */
        if (qdrv_describe(&info, i) != NULL || info.major < OLDEST_MAJOR)
            continue;
        candidates[i].usable = true;
        /* Without NVML all memory counts as free: the larger device leads. */
        if (!qdrv_free_bytes_of(&candidates[i].free_bytes, &info))
            candidates[i].free_bytes = info.total_bytes;
    }
    qcuda_order_devices(order, candidates, n);
    n_ordered = n;
}

static int device_count(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find_devices);
    return n_ordered;
}

static qmoe_status probe(int *n_devices, char *reason, size_t capacity)
{
    *n_devices = device_count();
    snprintf(reason, capacity, "%s", *n_devices == 0 ? no_device : "");
    return QMOE_OK;
}

/* The one place where our number becomes the driver's. */
static qmoe_status info_of(qdrv_info *out, int index, qmi_error *err)
{
    const int n = device_count();
    if (n == 0)
        return qmi_fail(err, QMOE_E_NO_BACKEND, "backend %s: %s",
            qdrv_backend_name, no_device);
    if (index < 0 || index >= n)
        return qmi_fail(err, QMOE_E_INVALID, "backend %s has no device %d",
            qdrv_backend_name, index);
    const char *failure = qdrv_describe(out, order[index]);
    if (failure != NULL)
        return qmi_fail(err, QMOE_E_DEVICE, "backend %s, device %d: %s",
            qdrv_backend_name, index, failure);
    return QMOE_OK;
}

static qmoe_status describe(qmoe_device_info *out, int index, qmi_error *err)
{
    qdrv_info info;
    *out = (qmoe_device_info){.index = index};
    QMI_TRY(info_of(&info, index, err));
    const char *gemm = qdrv_gemm_name();
    snprintf(out->backend, sizeof out->backend, "%s", qdrv_backend_name);
    snprintf(out->name, sizeof out->name, "%s", info.name);
    out->is_gpu = true;
    out->memory_bytes = info.total_bytes;
    /* A device that is too old is listed, with the reason. */
    out->usable = info.major >= OLDEST_MAJOR;
    if (out->usable)
        snprintf(out->detail, sizeof out->detail,
            "compute capability %d.%d, %d multiprocessors, driver %d.%d, PCI "
            "%s, %s",
            info.major, info.minor, info.n_multiprocessors,
            info.driver_version / 1000, info.driver_version % 1000 / 10,
            info.bus, gemm != NULL ? gemm : "no cuBLAS");
    else
        snprintf(out->detail, sizeof out->detail,
            "compute capability %d.%d is too old (8.0 is needed)", info.major,
            info.minor);
    return QMOE_OK;
}

static qmoe_status facts(qmoe_device_facts *out, int index, qmi_error *err)
{
    qdrv_info info;
    qdrv_clocks clocks;
    *out = (qmoe_device_facts){0};
    QMI_TRY(info_of(&info, index, err));
    const char *gemm = qdrv_gemm_name();
    qdrv_clocks_of(&clocks, &info); /* or zeros */
    *out = (qmoe_device_facts){
        .capability_major = info.major,
        .capability_minor = info.minor,
        .n_multiprocessors = info.n_multiprocessors,
        .driver_version = info.driver_version,
        .l2_bytes = info.l2_bytes,
        .core_mhz = clocks.now_mhz,
        .most_core_mhz = clocks.most_mhz,
        .memory_mhz = clocks.memory_now_mhz,
        .most_memory_mhz = clocks.memory_most_mhz,
    };
    snprintf(
        out->products, sizeof out->products, "%s", gemm != NULL ? gemm : "");
    return QMOE_OK;
}

/* ---- opening ---- */

/* In the order of use: launches may still name the scratch, and the driver owns
 * the memory of all. */
static void device_close(qmi_device *device)
{
    if (device == NULL)
        return;
    qcuda_launches_destroy(device->launches);
    /* So that qcuda_release below does not flush what is gone. */
    device->launches = NULL;
    for (int i = 0; i < QCUDA_N_SCRATCH; i++)
        qcuda_release(device, &device->scratch[i]);
    qcuda_release(device, &device->generic_dict);
    qcuda_release(device, &device->paper_table);
    qdrv_close(device->driver);
    qmi_free(device);
}

static qmoe_status device_open(qmi_device **out, int index,
    const qmi_device_options *options, qmi_error *err)
{
    qdrv_info info;
    *out = NULL;
    QMI_TRY(info_of(&info, index, err));
    if (info.major < OLDEST_MAJOR)
        return qmi_fail(err, QMOE_E_DEVICE,
            "CUDA device '%s': compute capability %d.%d is too old (8.0 is "
            "needed)",
            info.name, info.major, info.minor);
    qmi_device *device = qmi_calloc(1, sizeof *device, "a CUDA device", err);
    if (device == NULL)
        return QMOE_E_NOMEM;
    device->info = info;
    device->limit =
        options->memory_bytes != 0 ? options->memory_bytes : UINT64_MAX;
    const char *failure =
        qdrv_open(&device->driver, order[index], options->n_threads);
    if (failure != NULL) {
        qmoe_status status = qcuda_fail(device, "opening it", failure, err);
        qmi_free(device);
        return status;
    }
    /* From here on device_close can clean up, however far it came. */
    qmoe_status status =
        qcuda_launches_create(&device->launches, device->driver, err);
    if (status != QMOE_OK) {
        device_close(device);
        return status;
    }
    *out = device;
    return QMOE_OK;
}

/* ---- buffers ---- */

/* Counts against the bound of memory_bytes, as all allocations do. */
static qmoe_status buffer_alloc(
    qmi_buffer **out, qmi_device *device, uint64_t n_bytes, qmi_error *err)
{
    *out = NULL;
    qmi_buffer *buffer = qmi_calloc(1, sizeof *buffer, "a buffer", err);
    if (buffer == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status =
        qcuda_alloc(buffer, device, n_bytes, "activations", err);
    if (status != QMOE_OK) {
        qmi_free(buffer);
        return status;
    }
    *out = buffer;
    return QMOE_OK;
}

static void buffer_free(qmi_device *device, qmi_buffer *buffer)
{
    if (buffer == NULL)
        return;
    qcuda_release(device, buffer);
    qmi_free(buffer);
}

/* Written without a sum that could overflow. */
static bool in_range(qmi_view view, uint64_t n_bytes)
{
    return view.buffer != NULL && view.offset <= view.buffer->n_bytes &&
           n_bytes <= view.buffer->n_bytes - view.offset;
}

static qmoe_status buffer_write(qmi_device *device, qmi_view dst,
    const void *src, uint64_t n_bytes, qmi_error *err)
{
    if (!in_range(dst, n_bytes))
        return qmi_fail(err, QMOE_E_INVALID, "write outside a buffer");
    if (n_bytes == 0)
        return QMOE_OK;
    return qcuda_upload(device, qcuda_pointer(dst), src, n_bytes, err);
}

static qmoe_status buffer_read(qmi_device *device, void *dst, qmi_view src,
    uint64_t n_bytes, qmi_error *err)
{
    if (!in_range(src, n_bytes))
        return qmi_fail(err, QMOE_E_INVALID, "read outside a buffer");
    if (n_bytes == 0)
        return QMOE_OK;
    /* What is held back may write what is to be read. */
    QMI_TRY(qcuda_end_run(device, err));
    const char *failure =
        qdrv_read(device->driver, dst, qcuda_pointer(src), n_bytes);
    if (failure != NULL)
        return qcuda_fail(device, "a read", failure, err);
    device->given = 0; /* reading waits */
    return QMOE_OK;
}

static qmoe_status buffer_copy(qmi_device *device, qmi_view dst, qmi_view src,
    uint64_t n_bytes, qmi_error *err)
{
    if (!in_range(dst, n_bytes) || !in_range(src, n_bytes))
        return qmi_fail(err, QMOE_E_INVALID, "copy outside a buffer");
    return qcuda_copy(
        device, qcuda_pointer(dst), qcuda_pointer(src), n_bytes, err);
}

static qmoe_status sync_device(qmi_device *device, qmi_error *err)
{
    QMI_TRY(qcuda_end_run(device, err));
    return qcuda_wait(device, err);
}

/* A switch over the same list as the enum: an operation without variants is an
 * error of the linker. */
static const qmi_variant *variants(
    const qmi_device *device, qmi_op_kind kind, size_t *n)
{
    (void)device;
    switch (kind) {
#define X(name, member, text)                                                  \
    case QMI_OP_##name:                                                        \
        return qcuda_variants_##member(n);
        QMI_OP_MAP(X)
#undef X
    default:
        *n = 0;
        return NULL;
    }
}

static const qmi_backend backend = {
    .bounds_memory = true,
    .api = QMI_BACKEND_API,
    .name = qdrv_backend_name,
    .probe = probe,
    .describe = describe,
    .device_open = device_open,
    .device_close = device_close,
    .buffer_alloc = buffer_alloc,
    .buffer_free = buffer_free,
    .buffer_write = buffer_write,
    .buffer_read = buffer_read,
    .buffer_copy = buffer_copy,
    .weights_plan = qcuda_weights_plan,
    .weight_bind = qcuda_weight_bind,
    .weight_unbind = qcuda_weight_unbind,
    .sync = sync_device,
    .launch_counts = qcuda_launch_counts,
    .variants = variants,
    .facts = facts,
    .baselines = qcuda_gemm_baselines,
};

/* The only symbol that leaves the module. */
__attribute__((visibility("default"))) const qmi_backend *qmoe_backend_entry(
    void);
const qmi_backend *qmoe_backend_entry(void)
{
    return &backend;
}
