/* SPDX-License-Identifier: Apache-2.0
 * The table of the OpenCL backend: finding and opening devices, buffers,
 * variants. */
#include "opencl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "program_cache.h"

enum { MAX_PLATFORMS = 16, MAX_DEVICES = 64 };

/* ---- finding ---- */

static bool is_cpu(cl_device_id id)
{
    cl_device_type type = 0;
    qmi_cl.GetDeviceInfo(id, CL_DEVICE_TYPE, sizeof type, &type, NULL);
    return (type & CL_DEVICE_TYPE_CPU) != 0;
}

/* GPUs and accelerators before processors, else as the loader lists them. */
static int list_devices(cl_device_id *out, char *reason, size_t capacity)
{
    cl_platform_id platforms[MAX_PLATFORMS];
    cl_uint n_platforms = 0;
    cl_int status =
        qmi_cl.GetPlatformIDs(MAX_PLATFORMS, platforms, &n_platforms);
    if (status != CL_SUCCESS || n_platforms == 0) {
        snprintf(reason, capacity, "no OpenCL driver is installed (%s)",
            status == CL_SUCCESS ? "no platform" : qmi_cl_error_name(status));
        return 0;
    }
    if (n_platforms > MAX_PLATFORMS)
        n_platforms = MAX_PLATFORMS;
    cl_device_id found[MAX_DEVICES];
    cl_uint n_found = 0;
    for (cl_uint p = 0; p < n_platforms && n_found < MAX_DEVICES; p++) {
        cl_uint n = 0, room = MAX_DEVICES - n_found;
        if (qmi_cl.GetDeviceIDs(platforms[p], CL_DEVICE_TYPE_ALL, room,
                found + n_found, &n) == CL_SUCCESS)
            n_found += n < room ? n : room;
    }
    int n = 0;
    for (int cpus = 0; cpus < 2; cpus++)
        for (cl_uint i = 0; i < n_found; i++)
            if (is_cpu(found[i]) == (cpus != 0))
                out[n++] = found[i];
    if (n == 0)
        snprintf(reason, capacity, "the OpenCL drivers have no device");
    return n;
}

static qmoe_status probe(int *n_devices, char *reason, size_t capacity)
{
    cl_device_id ids[MAX_DEVICES];
    *n_devices = 0;
    if (capacity != 0)
        reason[0] = '\0';
    if (qmi_cl_load(reason, capacity))
        *n_devices = list_devices(ids, reason, capacity);
    return QMOE_OK;
}

static qmoe_status device_at(cl_device_id *out, int index, qmi_error *err)
{
    cl_device_id ids[MAX_DEVICES];
    char reason[256] = "";
    int n = 0;
    if (qmi_cl_load(reason, sizeof reason))
        n = list_devices(ids, reason, sizeof reason);
    if (n == 0)
        return qmi_fail(err, QMOE_E_NO_BACKEND, "backend opencl: %s", reason);
    if (index < 0 || index >= n)
        return qmi_fail(
            err, QMOE_E_INVALID, "backend opencl has no device %d", index);
    *out = ids[index];
    return QMOE_OK;
}

/* ---- limits ---- */

/* QMOE_OPENCL_LIMITS, for tests: comma-separated local=, group=, alloc=,
 * memory=, chunk= lower a limit; style=cpu or style=gpu choose the kernels. */
static void apply_environment(ocl_limits *limits, bool *cpu)
{
    const char *text = getenv("QMOE_OPENCL_LIMITS");
    for (; text != NULL && *text != '\0';
         text = strchr(text, ','), text += text != NULL) {
        uint64_t n = 0;
        if (strncmp(text, "style=gpu", 9) == 0)
            *cpu = false;
        if (strncmp(text, "style=cpu", 9) == 0)
            *cpu = true;
        if (sscanf(text, "local=%" SCNu64, &n) == 1 && n < limits->local_memory)
            limits->local_memory = n;
        if (sscanf(text, "group=%" SCNu64, &n) == 1 && n >= 1 &&
            n < limits->max_group)
            limits->max_group = (size_t)n;
        if (sscanf(text, "alloc=%" SCNu64, &n) == 1 && n < limits->max_alloc)
            limits->max_alloc = n;
        if (sscanf(text, "chunk=%" SCNu64, &n) == 1)
            limits->max_chunk = n;
        if (sscanf(text, "memory=%" SCNu64, &n) == 1 && n < limits->memory)
            limits->memory = n;
        if (strchr(text, ',') == NULL)
            return;
    }
}

static ocl_limits read_limits(cl_device_id id, bool *cpu)
{
    cl_ulong alloc = 0, memory = 0, local = 0;
    size_t group = 1;
    qmi_cl.GetDeviceInfo(
        id, CL_DEVICE_MAX_MEM_ALLOC_SIZE, sizeof alloc, &alloc, NULL);
    qmi_cl.GetDeviceInfo(
        id, CL_DEVICE_GLOBAL_MEM_SIZE, sizeof memory, &memory, NULL);
    qmi_cl.GetDeviceInfo(
        id, CL_DEVICE_LOCAL_MEM_SIZE, sizeof local, &local, NULL);
    qmi_cl.GetDeviceInfo(
        id, CL_DEVICE_MAX_WORK_GROUP_SIZE, sizeof group, &group, NULL);
    ocl_limits limits = {
        .max_alloc = alloc,
        .memory = memory,
        .local_memory = local,
        .max_chunk = UINT64_MAX,
        .max_group = group,
    };
    *cpu = is_cpu(id);
    apply_environment(&limits, cpu);
    if (limits.max_chunk > limits.max_alloc)
        limits.max_chunk = limits.max_alloc;
    return limits;
}

static void text_of(
    char *out, size_t capacity, cl_device_id id, cl_device_info what)
{
    char text[512] = "";
    if (qmi_cl.GetDeviceInfo(id, what, sizeof text, text, NULL) != CL_SUCCESS)
        text[0] = '\0';
    text[sizeof text - 1] = '\0';
    snprintf(out, capacity, "%s", text);
}

/* Empty when the device can be used. */
static void missing(char *out, size_t capacity, cl_device_id id)
{
    cl_bool available = CL_FALSE, compiler = CL_FALSE, little = CL_FALSE;
    bool cpu;
    ocl_tuning tuning;
    const ocl_limits limits = read_limits(id, &cpu);
    char version[64];
    int major = 0, minor = 0;
    qmi_cl.GetDeviceInfo(
        id, CL_DEVICE_AVAILABLE, sizeof available, &available, NULL);
    qmi_cl.GetDeviceInfo(
        id, CL_DEVICE_COMPILER_AVAILABLE, sizeof compiler, &compiler, NULL);
    qmi_cl.GetDeviceInfo(
        id, CL_DEVICE_ENDIAN_LITTLE, sizeof little, &little, NULL);
    text_of(version, sizeof version, id, CL_DEVICE_VERSION);
    const char *what = "";
    if (!available)
        what = "it is not available";
    else if (!compiler)
        what = "its driver has no compiler";
    else if (!little)
        what = "it is big-endian";
    else if (sscanf(version, "OpenCL %d.%d", &major, &minor) != 2 ||
             10 * major + minor < 12)
        what = "it is older than OpenCL 1.2";
    else if (!ocl_tune(&tuning, &limits, cpu))
        what = "its work-groups are smaller than 32";
    snprintf(out, capacity, "%s", what);
}

static qmoe_status describe(qmoe_device_info *out, int index, qmi_error *err)
{
    cl_device_id id;
    char version[96], driver[96];
    bool cpu;
    *out = (qmoe_device_info){.index = index};
    QMI_TRY(device_at(&id, index, err));
    snprintf(out->backend, sizeof out->backend, "opencl");
    text_of(out->name, sizeof out->name, id, CL_DEVICE_NAME);
    text_of(version, sizeof version, id, CL_DEVICE_VERSION);
    text_of(driver, sizeof driver, id, CL_DRIVER_VERSION);
    missing(out->detail, sizeof out->detail, id);
    out->usable = out->detail[0] == '\0';
    if (out->usable)
        snprintf(
            out->detail, sizeof out->detail, "%s, driver %s", version, driver);
    out->is_gpu = !is_cpu(id);
    out->memory_bytes = read_limits(id, &cpu).memory;
    return QMOE_OK;
}

/* ---- opening ---- */

static uint64_t identity_of(cl_device_id id)
{
    static const cl_device_info parts[] = {
        CL_DEVICE_NAME, CL_DEVICE_VENDOR, CL_DEVICE_VERSION, CL_DRIVER_VERSION};
    uint64_t hash = OCL_HASH_START;
    char text[512];
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        text_of(text, sizeof text, id, parts[i]);
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
    if (device->queue != NULL)
        qmi_cl.ReleaseCommandQueue(device->queue);
    if (device->context != NULL)
        qmi_cl.ReleaseContext(device->context);
    qmi_free(device);
}

static qmoe_status set_up(qmi_device *device, qmi_error *err)
{
    char what[256];
    bool cpu;
    cl_int status;
    text_of(device->name, sizeof device->name, device->id, CL_DEVICE_NAME);
    missing(what, sizeof what, device->id);
    if (what[0] != '\0')
        return qmi_fail(err, QMOE_E_NO_BACKEND,
            "OpenCL device '%s' cannot be used: %s", device->name, what);
    device->limits = read_limits(device->id, &cpu);
    ocl_tune(&device->tuning, &device->limits, cpu);
    device->identity = identity_of(device->id);
    device->context =
        qmi_cl.CreateContext(NULL, 1, &device->id, NULL, NULL, &status);
    if (status != CL_SUCCESS)
        return ocl_fail(device, "no context", status, err);
    device->queue =
        qmi_cl.CreateCommandQueue(device->context, device->id, 0, &status);
    if (status != CL_SUCCESS)
        return ocl_fail(device, "no command queue", status, err);
    QMI_TRY(ocl_alloc(&device->dummy, device, 16, "work space", err));
    QMI_TRY(ocl_build(device, OCL_BASE_PROGRAM, err));
    return ocl_test_device(device, err);
}

static qmoe_status device_open(qmi_device **out, int index,
    const qmi_device_options *options, qmi_error *err)
{
    cl_device_id id;
    (void)options;
    *out = NULL;
    QMI_TRY(device_at(&id, index, err));
    qmi_device *device = qmi_calloc(1, sizeof *device, "a device", err);
    if (device == NULL)
        return QMOE_E_NOMEM;
    device->id = id;
    qmoe_status status = set_up(device, err);
    if (status != QMOE_OK) {
        device_close(device);
        return status;
    }
    *out = device;
    return QMOE_OK;
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
    return status == CL_SUCCESS ? QMOE_OK
                                : ocl_fail(device, "a read", status, err);
}

static qmoe_status sync_device(qmi_device *device, qmi_error *err)
{
    cl_int status = qmi_cl.Finish(device->queue);
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
    (void)device;
    *n = 1;
    return &table[kind];
}

const qmi_backend qmi_opencl_backend = {
    .api = QMI_BACKEND_API,
    .name = "opencl",
    .probe = probe,
    .describe = describe,
    .device_open = device_open,
    .device_close = device_close,
    .buffer_alloc = buffer_alloc,
    .buffer_free = buffer_free,
    .buffer_write = buffer_write,
    .buffer_read = buffer_read,
    .weight_bind = ocl_weight_bind,
    .weight_unbind = ocl_weight_unbind,
    .sync = sync_device,
    .variants = variants,
};

/* The module's only symbol. */
__attribute__((visibility("default"))) const qmi_backend *qmoe_backend_entry(
    void);
const qmi_backend *qmoe_backend_entry(void)
{
    return &qmi_opencl_backend;
}
