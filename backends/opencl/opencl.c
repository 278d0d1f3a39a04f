/* SPDX-License-Identifier: Apache-2.0
 * The table of the OpenCL backend: opening devices, buffers, variants.  In:
 * calls of backend.h from one thread per device.  Out: commands in one queue,
 * which keeps their order; uploads of streamed experts in another (stream.h).
 * A device that is opened has passed its self-test; whatever fails while it is
 * opened, device_close takes what was made. */
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
    /* With the platform's version: a driver may be updated without changing its
     * own. */
    uint64_t hash = QOCL_HASH_START;
    char text[512];
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        qocl_text_of(text, sizeof text, id, parts[i]);
        /* With the end of the text, so that two texts cannot run into each
         * other. */
        hash = qocl_hash(hash, text, strlen(text) + 1);
    }
    cl_platform_id platform;
    if (qmi_cl.GetDeviceInfo(id, CL_DEVICE_PLATFORM, sizeof platform, &platform,
            NULL) == CL_SUCCESS &&
        qmi_cl.GetPlatformInfo(platform, CL_PLATFORM_VERSION, sizeof text, text,
            NULL) == CL_SUCCESS)
        hash = qocl_hash(hash, text, strnlen(text, sizeof text));
    return hash;
}

static void device_close(qmi_device *device)
{
    if (device == NULL)
        return;
    if (device->queue != NULL)
        /* What runs may use everything below. */
        qmi_cl.Finish(device->queue);
    for (int i = 0; i < QOCL_N_SCRATCH; i++)
        qocl_release(
            device, device->scratch[i].mem, device->scratch[i].n_bytes);
    /* The count of bytes is of no use any more. */
    qocl_release(device, device->generic_dict, 0);
    qocl_release(device, device->dummy, 0);
    for (int p = 0; p < QOCL_N_PROGRAMS; p++)
        qocl_release_program(&device->programs[p]);
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
    /* The name first: every error below uses it. */
    qocl_text_of(device->name, sizeof device->name, device->id, CL_DEVICE_NAME);
    qocl_missing(what, sizeof what, device->id);
    if (what[0] != '\0')
        return qmi_fail(err, QMOE_E_NO_BACKEND,
            "OpenCL device '%s' cannot be used: %s", device->name, what);
    device->limits = qocl_read_limits(device->id);
    /* 0 turns the variant off. */
    if (!qocl_clblast_load())
        device->limits.clblast_tokens = 0;
    /* Before the context: a model that cannot fit is refused before anything is
     * made. */
    QMI_TRY(qocl_plan(device, options, err));
    device->identity = identity_of(device->id);
    QMI_TRY(qocl_choose_tuning(device, device->limits.is_cpu, err));
    device->context =
        qmi_cl.CreateContext(NULL, 1, &device->id, NULL, NULL, &status);
    if (status != CL_SUCCESS)
        return qocl_fail(device, "no context", status, err);
    device->queue =
        qmi_cl.CreateCommandQueue(device->context, device->id, 0, &status);
    if (status != CL_SUCCESS)
        return qocl_fail(device, "no command queue", status, err);
    if (device->streams) {
        device->transfers =
            qmi_cl.CreateCommandQueue(device->context, device->id, 0, &status);
        if (status != CL_SUCCESS)
            return qocl_fail(device, "no second command queue", status, err);
    }
    /* One buffer for all absent operands. */
    QMI_TRY(qocl_alloc(&device->dummy, device, 16, "work space", err));
    /* Without this program nothing runs; those of formats are built when a
     * weight needs them. */
    QMI_TRY(qocl_build(device, QOCL_BASE_PROGRAM, err));
    return qocl_test_device(device, err);
}

static qmoe_status open_with(qmi_device **out, int index,
    const qmi_device_options *options, const qocl_tuning *forced,
    qmi_error *err)
{
    cl_device_id id;
    *out = NULL;
    QMI_TRY(qocl_device_at(&id, index, err));
    qmi_device *device = qmi_calloc(1, sizeof *device, "a device", err);
    if (device == NULL)
        return QMOE_E_NOMEM;
    device->id = id;
    /* Only while it is opened: the caller's tuning goes then. */
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

/* For measuring: no cache of tunings, no bounds. */
qmoe_status qocl_open_tuned(
    qmi_device **out, int index, const qocl_tuning *tuning, qmi_error *err)
{
    static const qocl_tuning by_default;
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
        qocl_alloc(&buffer->mem, device, n_bytes, "activations", err);
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
    qocl_release(device, buffer->mem, buffer->n_bytes);
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
    return qocl_upload(device, dst.buffer->mem, dst.offset, src, n_bytes, err);
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
    /* A blocking read has waited for all before it. */
    device->queued_seconds = 0;
    return status == CL_SUCCESS ? QMOE_OK
                                : qocl_fail(device, "a read", status, err);
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
                                : qocl_fail(device, "a copy", status, err);
}

static qmoe_status sync_device(qmi_device *device, qmi_error *err)
{
    cl_int status = qmi_cl.Finish(device->queue);
    device->queued_seconds = 0;
    return status == CL_SUCCESS ? QMOE_OK
                                : qocl_fail(device, "waiting", status, err);
}

/* ---- variants ---- */

/* Kernels count rows, columns and items in int, rounded up by 64 at most. */
static bool fits(int64_t a, int64_t b)
{
    return a <= INT32_MAX - 64 && (b == 0 || a <= (INT32_MAX - 64) / b);
}

static bool fits_attention(const qmi_op_attention *o)
{
    /* Rows of keys and values are no wider than four bytes a value, but for
     * blocks that are filled up. */
    return qocl_has_vector(o->sinks) && fits(o->n_heads, o->d_key) &&
           fits(o->n_heads, o->d_value) && fits(o->n_queries, o->n_heads) &&
           fits(o->max_keys, 1) && fits(o->max_distance, 2) &&
           fits(o->window, 1);
}

static bool supports(const qmi_device *device, const qmi_op *op)
{
    (void)device;
    /* Formats are not asked here: a weight without kernels was refused when it
     * was bound. */
    switch (op->kind) {
    case QMI_OP_EMBED:
        return fits(op->u.embed.n_tokens, 1);
    case QMI_OP_RMSNORM:
        return qocl_has_vector(op->u.rmsnorm.weight) &&
               fits(op->u.rmsnorm.n_tokens, 64);
    case QMI_OP_ROPE:
        return fits(op->u.rope.n_tokens, 1) &&
               fits(op->u.rope.n_heads, op->u.rope.d_head);
    case QMI_OP_LINEAR:
        return qocl_has_vector(op->u.linear.bias) &&
               fits(op->u.linear.n_tokens, 1);
    case QMI_OP_GLU:
        return fits(op->u.glu.n_tokens, 1) && fits(op->u.glu.n_cols, 1);
    case QMI_OP_KV_STORE:
        return fits(op->u.kv_store.n_tokens, 1) &&
               fits(op->u.kv_store.n_cols, 1);
    case QMI_OP_ATTENTION:
        return fits_attention(&op->u.attention);
    case QMI_OP_ROUTE:
        return qocl_has_vector(op->u.route.bias) &&
               fits(op->u.route.n_tokens, op->u.route.top_k) &&
               fits(op->u.route.n_experts, 1);
    case QMI_OP_EXPERT_FFN:
        return fits(op->u.expert_ffn.n_tokens, op->u.expert_ffn.top_k);
    case QMI_OP_DECODE:
        return true;
    case QMI_OP_TOP_LOGITS:
        break; /* qocl_variants_top_logits */
    case QMI_OP_COUNT:
        break;
    }
    return false;
}

static const qmi_variant *variants(
    const qmi_device *device, qmi_op_kind kind, size_t *n)
{
    static const qmi_variant table[QMI_OP_COUNT] = {
#define X(name, member, text) {"plain", supports, qocl_run_##member},
        QMI_OP_MAP(X)
#undef X
    };
    static const qmi_variant linear[] = {
        {"clblast", qocl_clblast_supports, qocl_clblast_linear},
        {"plain", supports, qocl_run_linear},
    };
    /* Only where it is wanted: the first variant is what a session runs. */
    if (kind == QMI_OP_LINEAR && device->limits.clblast_tokens != 0) {
        *n = 2;
        return linear;
    }
    if (kind == QMI_OP_TOP_LOGITS)
        return qocl_variants_top_logits(device, n);
    *n = 1;
    return &table[kind];
}

const qmi_backend qocl_backend = {
    .bounds_memory = true,
    .api = QMI_BACKEND_API,
    .name = "opencl",
    .probe = qocl_probe,
    .describe = qocl_describe,
    .device_open = device_open,
    .device_close = device_close,
    .buffer_alloc = buffer_alloc,
    .buffer_free = buffer_free,
    .buffer_write = buffer_write,
    .buffer_read = buffer_read,
    .buffer_copy = buffer_copy,
    .weights_plan = qmi_host_weights_plan,
    .weight_bind = qocl_weight_bind,
    .weight_unbind = qocl_weight_unbind,
    .sync = sync_device,
    .variants = variants,
    .tune = qocl_run_tune,
};

/* The module's only symbol. */
__attribute__((visibility("default"))) const qmi_backend *qmoe_backend_entry(
    void);
const qmi_backend *qmoe_backend_entry(void)
{
    return &qocl_backend;
}
