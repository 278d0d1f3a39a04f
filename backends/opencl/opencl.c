/* SPDX-License-Identifier: Apache-2.0
 * The table of the OpenCL backend: opening devices, buffers, variants. */
#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "clblast.h"
#include "find.h"
#include "program_cache.h"

/* ---- opening ---- */

static uint64_t identity_of(cl_device_id id)
{
    static const cl_device_info parts[] = {
        CL_DEVICE_NAME, CL_DEVICE_VENDOR, CL_DEVICE_VERSION, CL_DRIVER_VERSION};
    uint64_t hash = OCL_HASH_START;
    char text[512];
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        ocl_text_of(text, sizeof text, id, parts[i]);
        hash = ocl_hash(hash, text, strlen(text) + 1);
    }
    cl_platform_id platform;
    if (qmi_cl.GetDeviceInfo(id, CL_DEVICE_PLATFORM, sizeof platform, &platform,
            NULL) == CL_SUCCESS &&
        qmi_cl.GetPlatformInfo(platform, CL_PLATFORM_VERSION, sizeof text, text,
            NULL) == CL_SUCCESS)
        hash = ocl_hash(hash, text, strnlen(text, sizeof text));
    return hash;
}

static void device_close(qmi_device *device)
{
    if (device == NULL)
        return;
    if (device->queue != NULL)
        qmi_cl.Finish(device->queue);
    for (int i = 0; i < OCL_N_SCRATCH; i++)
        ocl_release(device, device->scratch[i].mem, device->scratch[i].n_bytes);
    ocl_release(device, device->generic_dict, 0);
    ocl_release(device, device->dummy, 0);
    for (int p = 0; p < OCL_N_PROGRAMS; p++) {
        for (int k = 0; k < OCL_MAX_KERNELS; k++)
            if (device->programs[p].kernels[k] != NULL)
                qmi_cl.ReleaseKernel(device->programs[p].kernels[k]);
        if (device->programs[p].program != NULL)
            qmi_cl.ReleaseProgram(device->programs[p].program);
    }
    if (device->transfers != NULL)
        qmi_cl.ReleaseCommandQueue(device->transfers);
    if (device->queue != NULL)
        qmi_cl.ReleaseCommandQueue(device->queue);
    if (device->context != NULL)
        qmi_cl.ReleaseContext(device->context);
    qmi_free(device);
}

static qmoe_status set_up(
    qmi_device *device, const qmi_device_options *options, qmi_error *err)
{
    char what[256];
    cl_int status;
    ocl_text_of(device->name, sizeof device->name, device->id, CL_DEVICE_NAME);
    ocl_missing(what, sizeof what, device->id);
    if (what[0] != '\0')
        return qmi_fail(err, QMOE_E_NO_BACKEND,
            "OpenCL device '%s' cannot be used: %s", device->name, what);
    device->limits = ocl_read_limits(device->id);
    if (!ocl_clblast_load())
        device->limits.clblast_tokens = 0;
    QMI_TRY(ocl_plan(device, options, err));
    device->identity = identity_of(device->id);
    QMI_TRY(ocl_choose_tuning(device, device->limits.is_cpu, err));
    device->context =
        qmi_cl.CreateContext(NULL, 1, &device->id, NULL, NULL, &status);
    if (status != CL_SUCCESS)
        return ocl_fail(device, "no context", status, err);
    device->queue =
        qmi_cl.CreateCommandQueue(device->context, device->id, 0, &status);
    if (status != CL_SUCCESS)
        return ocl_fail(device, "no command queue", status, err);
    if (device->streams) {
        device->transfers =
            qmi_cl.CreateCommandQueue(device->context, device->id, 0, &status);
        if (status != CL_SUCCESS)
            return ocl_fail(device, "no second command queue", status, err);
    }
    QMI_TRY(ocl_alloc(&device->dummy, device, 16, "work space", err));
    QMI_TRY(ocl_build(device, OCL_BASE_PROGRAM, err));
    return ocl_test_device(device, err);
}

static qmoe_status open_with(qmi_device **out, int index,
    const qmi_device_options *options, const ocl_tuning *forced, qmi_error *err)
{
    cl_device_id id;
    *out = NULL;
    QMI_TRY(ocl_device_at(&id, index, err));
    qmi_device *device = qmi_calloc(1, sizeof *device, "a device", err);
    if (device == NULL)
        return QMOE_E_NOMEM;
    device->id = id;
    device->forced = forced;
    qmoe_status status = set_up(device, options, err);
    device->forced = NULL;
    if (status != QMOE_OK) {
        device_close(device);
        return status;
    }
    *out = device;
    return QMOE_OK;
}

static qmoe_status device_open(qmi_device **out, int index,
    const qmi_device_options *options, qmi_error *err)
{
    return open_with(out, index, options, NULL, err);
}

qmoe_status ocl_open_tuned(
    qmi_device **out, int index, const ocl_tuning *tuning, qmi_error *err)
{
    static const ocl_tuning by_default;
    static const qmi_device_options unbounded = {.n_threads = 1};
    return open_with(
        out, index, &unbounded, tuning != NULL ? tuning : &by_default, err);
}

/* ---- buffers ---- */

static qmoe_status buffer_alloc(
    qmi_buffer **out, qmi_device *device, uint64_t n_bytes, qmi_error *err)
{
    *out = NULL;
    qmi_buffer *buffer = qmi_calloc(1, sizeof *buffer, "a buffer", err);
    if (buffer == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status =
        ocl_alloc(&buffer->mem, device, n_bytes, "activations", err);
    if (status != QMOE_OK) {
        qmi_free(buffer);
        return status;
    }
    buffer->n_bytes = n_bytes;
    *out = buffer;
    return QMOE_OK;
}

static void buffer_free(qmi_device *device, qmi_buffer *buffer)
{
    if (buffer == NULL)
        return;
    ocl_release(device, buffer->mem, buffer->n_bytes);
    qmi_free(buffer);
}

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
    return ocl_upload(device, dst.buffer->mem, dst.offset, src, n_bytes, err);
}

static qmoe_status buffer_read(qmi_device *device, void *dst, qmi_view src,
    uint64_t n_bytes, qmi_error *err)
{
    if (!in_range(src, n_bytes))
        return qmi_fail(err, QMOE_E_INVALID, "read outside a buffer");
    if (n_bytes == 0)
        return QMOE_OK;
    cl_int status = qmi_cl.EnqueueReadBuffer(device->queue, src.buffer->mem,
        CL_TRUE, (size_t)src.offset, (size_t)n_bytes, dst, 0, NULL, NULL);
    device->queued_seconds = 0;
    return status == CL_SUCCESS ? QMOE_OK
                                : ocl_fail(device, "a read", status, err);
}

static qmoe_status buffer_copy(qmi_device *device, qmi_view dst, qmi_view src,
    uint64_t n_bytes, qmi_error *err)
{
    if (!in_range(dst, n_bytes) || !in_range(src, n_bytes))
        return qmi_fail(err, QMOE_E_INVALID, "copy outside a buffer");
    if (n_bytes == 0)
        return QMOE_OK;
    cl_int status = qmi_cl.EnqueueCopyBuffer(device->queue, src.buffer->mem,
        dst.buffer->mem, (size_t)src.offset, (size_t)dst.offset,
        (size_t)n_bytes, 0, NULL, NULL);
    return status == CL_SUCCESS ? QMOE_OK
                                : ocl_fail(device, "a copy", status, err);
}

static qmoe_status sync_device(qmi_device *device, qmi_error *err)
{
    cl_int status = qmi_cl.Finish(device->queue);
    device->queued_seconds = 0;
    return status == CL_SUCCESS ? QMOE_OK
                                : ocl_fail(device, "waiting", status, err);
}

/* ---- variants ---- */

/* Kernels count rows, columns and items in int. */
static bool fits(int64_t a, int64_t b)
{
    return a <= INT32_MAX - 64 && (b == 0 || a <= (INT32_MAX - 64) / b);
}

static bool supports(const qmi_device *device, const qmi_op *op)
{
    (void)device;
    switch (op->kind) {
    case QMI_OP_EMBED:
        return fits(op->u.embed.n_tokens, 1);
    case QMI_OP_RMSNORM:
        return ((const ocl_weight *)op->u.rmsnorm.weight->device)->vector !=
                   NULL &&
               fits(op->u.rmsnorm.n_tokens, 64);
    case QMI_OP_LINEAR:
        return fits(op->u.linear.n_tokens, 1);
    case QMI_OP_KV_STORE:
        return fits(op->u.kv_store.n_tokens, 1) &&
               fits(op->u.kv_store.n_cols, 1);
    case QMI_OP_ATTENTION:
        return fits(op->u.attention.n_heads, op->u.attention.d_head) &&
               fits(op->u.attention.n_queries, op->u.attention.n_heads) &&
               fits(op->u.attention.max_keys, 1) &&
               fits(op->u.attention.max_distance, 2);
    case QMI_OP_ROUTE:
        return fits(op->u.route.n_tokens, op->u.route.top_k) &&
               fits(op->u.route.n_experts, 1);
    case QMI_OP_EXPERT_FFN:
        return fits(op->u.expert_ffn.n_tokens, op->u.expert_ffn.top_k);
    case QMI_OP_DECODE:
        return true;
    case QMI_OP_TOP_LOGITS:
        break; /* ocl_variants_top_logits */
    case QMI_OP_COUNT:
        break;
    }
    return false;
}

static const qmi_variant *variants(
    const qmi_device *device, qmi_op_kind kind, size_t *n)
{
    static const qmi_variant table[QMI_OP_COUNT] = {
#define X(name, member, text) {"plain", supports, ocl_run_##member},
        QMI_OP_MAP(X)
#undef X
    };
    static const qmi_variant linear[] = {
        {"clblast", ocl_clblast_supports, ocl_clblast_linear},
        {"plain", supports, ocl_run_linear},
    };
    if (kind == QMI_OP_LINEAR && device->limits.clblast_tokens != 0) {
        *n = 2;
        return linear;
    }
    if (kind == QMI_OP_TOP_LOGITS)
        return ocl_variants_top_logits(device, n);
    *n = 1;
    return &table[kind];
}

const qmi_backend qmi_opencl_backend = {
    .bounds_memory = true,
    .api = QMI_BACKEND_API,
    .name = "opencl",
    .probe = ocl_probe,
    .describe = ocl_describe,
    .device_open = device_open,
    .device_close = device_close,
    .buffer_alloc = buffer_alloc,
    .buffer_free = buffer_free,
    .buffer_write = buffer_write,
    .buffer_read = buffer_read,
    .buffer_copy = buffer_copy,
    .weights_plan = qmi_host_weights_plan,
    .weight_bind = ocl_weight_bind,
    .weight_unbind = ocl_weight_unbind,
    .sync = sync_device,
    .variants = variants,
    .tune = ocl_run_tune,
};

/* The module's only symbol. */
__attribute__((visibility("default"))) const qmi_backend *qmoe_backend_entry(
    void);
const qmi_backend *qmoe_backend_entry(void)
{
    return &qmi_opencl_backend;
}
