/* SPDX-License-Identifier: Apache-2.0
 * The CPU backend's table.  In: calls of backend.h.  Out: a device that is a
 * team of threads and work space; buffers and weights are those of the host
 * (host_buffers.c).  One operation at a time uses the work space, and every
 * result is the same for any number of threads. */
#include "cpu.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "alloc.h"
#include "cancel.h"
#include "cpu_features.h"
#include "matmul.h"

static qmoe_status probe(int *n_devices, char *reason, size_t capacity)
{
    *n_devices = 1;
    if (capacity != 0)
        reason[0] = '\0';
    return QMOE_OK;
}

/* Processors whose system names no model stay "CPU". */
static void processor_name(char *name, size_t capacity)
{
    snprintf(name, capacity, "CPU");
    FILE *file = fopen("/proc/cpuinfo", "r");
    if (file == NULL)
        return;
    char line[256];
    char value[128];
    while (fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "model name : %127[^\n]", value) != 1)
            continue;
        snprintf(name, capacity, "%s", value);
        break;
    }
    fclose(file);
}

static qmoe_status describe(qmoe_device_info *out, int index, qmi_error *err)
{
    if (index != 0)
        return qmi_fail(err, QMOE_E_INVALID, "cpu: no device %d", index);
    *out = (qmoe_device_info){.index = 0, .usable = true};
    snprintf(out->backend, sizeof out->backend, "cpu");
    processor_name(out->name, sizeof out->name);
    long pages = sysconf(_SC_PHYS_PAGES);
    long page = sysconf(_SC_PAGESIZE);
    if (pages > 0 && page > 0)
        out->memory_bytes = (uint64_t)pages * (uint64_t)page;
    snprintf(out->detail, sizeof out->detail,
        "%ld processors, threads: %s, kernels: %s",
        sysconf(_SC_NPROCESSORS_ONLN), qmi_team_kind_name(), qmi_cpu_level());
    return QMOE_OK;
}

/* The threads first: they may use the rest. */
static void device_close(qmi_device *device)
{
    if (device == NULL)
        return;
    qmi_team_close(device->team);
    qcpu_expert_cache_close(device->experts);
    qmi_free(device->scratch);
    qmi_free(device);
}

static qmoe_status device_open(qmi_device **out, int index,
    const qmi_device_options *options, qmi_error *err)
{
    *out = NULL;
    if (index != 0)
        return qmi_fail(err, QMOE_E_INVALID, "cpu: no device %d", index);
    /* A wish in QMOE_CPU that cannot be met is an error, not a slow run. */
    QMI_TRY(qmi_cpu_check_level(err));
    qmi_device *device = qmi_calloc(1, sizeof *device, "a device", err);
    if (device == NULL)
        return QMOE_E_NOMEM;
    device->n_threads = options->n_threads;
    device->exact_inputs = options->exact_inputs;
    qmoe_status status = qmi_team_open(&device->team, options->n_threads, err);
    if (status == QMOE_OK && options->expert_cache_bytes != 0)
        status = qcpu_expert_cache_open(
            &device->experts, options->expert_cache_bytes, err);
    if (status != QMOE_OK) {
        device_close(device);
        return status;
    }
    *out = device;
    return QMOE_OK;
}

/* A bounded stack's number in the cache, plus 1, is its binding's `device`. */
static qmoe_status weight_bind(qmi_bound_weight *out, qmi_device *device,
    const qmi_weight *host, qmi_error *err)
{
    int stack = -1;
    *out = (qmi_bound_weight){.host = host};
    /* Without a bound, experts stay wherever the system pages them. */
    if (device->experts == NULL || host->role != QMOE_ROLE_EXPERTS)
        return QMOE_OK;
    QMI_TRY(qcpu_expert_cache_add(device->experts, &stack, host, err));
    out->device = (void *)((uintptr_t)stack + 1);
    return QMOE_OK;
}

static void weight_unbind(qmi_device *device, qmi_bound_weight *weight)
{
    if (weight->device != NULL)
        qcpu_expert_cache_remove(
            device->experts, (int)((uintptr_t)weight->device - 1));
    *weight = (qmi_bound_weight){0};
}

/* Grows and stays: after the first pass nothing is allocated.  What it held is
 * lost. */
/* Values, half a nanosecond or more each. */
enum { MIN_PARALLEL_VALUES = 32768 };

qmoe_status qcpu_each_token(qmi_device *device, int64_t n_tokens,
    int64_t n_values, qmi_task task, void *context, qmi_error *err)
{
    if (n_tokens > 1 && n_tokens * n_values >= MIN_PARALLEL_VALUES)
        return qmi_team_run(device->team, n_tokens, task, context, err);
    for (int64_t t = 0; t < n_tokens; t++) {
        if (t % QCPU_LOOK_TOKENS == 0)
            QMI_TRY(qmi_check_cancel(err));
        task(context, t, 0);
    }
    return QMOE_OK;
}

void *qcpu_scratch(qmi_device *device, size_t n_bytes, qmi_error *err)
{
    if (n_bytes <= device->scratch_bytes)
        return device->scratch;
    qmi_free(device->scratch);
    /* If the allocation fails, the next caller must not trust the size. */
    device->scratch_bytes = 0;
    device->scratch = qmi_calloc(n_bytes, 1, "operation work space", err);
    if (device->scratch != NULL)
        device->scratch_bytes = n_bytes;
    return device->scratch;
}

static const qmi_variant *variants(
    const qmi_device *device, qmi_op_kind kind, size_t *n)
{
    /* Operations and functions from one list: none can be forgotten. */
    static const qmi_variant *(*const table[QMI_OP_COUNT])(size_t * n) = {
#define X(name, member, text) qcpu_##member,
        QMI_OP_MAP(X)
#undef X
    };
    (void)device;
    return table[kind](n);
}

static qmi_inputs inputs(const qmi_variant *variant)
{
#define X(symbol, text)                                                        \
    if (strcmp(variant->name, text) == 0)                                      \
        return qcpu_matmul_##symbol.inputs;
    QCPU_KERNELS(X)
#undef X
    return QMI_INPUTS_F32;
}

const qmi_backend *qmi_backend_cpu(void)
{
    static const qmi_backend backend = {
        .bounds_experts = true,
        .api = QMI_BACKEND_API,
        .name = "cpu",
        .probe = probe,
        .describe = describe,
        .device_open = device_open,
        .device_close = device_close,
        .buffer_alloc = qmi_host_buffer_alloc,
        .buffer_free = qmi_host_buffer_free,
        .buffer_write = qmi_host_buffer_write,
        .buffer_read = qmi_host_buffer_read,
        .buffer_copy = qmi_host_buffer_copy,
        .weights_plan = qmi_host_weights_plan,
        .weight_bind = weight_bind,
        .weight_unbind = weight_unbind,
        .sync = qmi_host_sync,
        .variants = variants,
        .inputs = inputs,
    };
    return &backend;
}
