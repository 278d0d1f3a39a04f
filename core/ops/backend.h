/* SPDX-License-Identifier: Apache-2.0
 * What a backend is.  One table of functions; only the last four may be absent.
 * A backend built into the library is listed in registry.c; a loadable one is a
 * shared module "qmoe-<name>.so" exporting qmoe_backend_entry.  Modules carry
 * their own copy of the stateless parts of core, so they need no symbol of the
 * program. */
#ifndef QMI_BACKEND_H
#define QMI_BACKEND_H

#include "ops.h"

/* Raised whenever a struct of ops.h, weight.h or this file changes. */
enum { QMI_BACKEND_API = 12 };

typedef struct qmi_device qmi_device; /* opaque outside its backend */

/* How a variant takes the inputs of its products (docs/numerics.md): as they
 * are; as one digit of 8 bits, or two where the largest magnitude of a token is
 * more than QMI_OUTLIER times its root mean square; as two digits; as three. */
typedef enum qmi_inputs {
    QMI_INPUTS_F32,
    QMI_INPUTS_INT8,
    QMI_INPUTS_INT16,
    QMI_INPUTS_INT24
} qmi_inputs;

enum { QMI_OUTLIER = 12 };

/* By how much each input may be off, relative to the largest of its token. */
static inline double qmi_inputs_rounding(qmi_inputs inputs, bool outliers)
{
    const double step = 1.0 / 254, scaling = 0x1p-23;
    switch (inputs) {
    case QMI_INPUTS_INT8:
        return (outliers ? step * step : step) + scaling;
    case QMI_INPUTS_INT16:
        return step * step + scaling;
    case QMI_INPUTS_INT24:
        return step * step * step + scaling;
    case QMI_INPUTS_F32:
        break;
    }
    return 0;
}

/* One way to run one operation, e.g. "blas", "avx2", "sm86". */
typedef struct qmi_variant {
    const char *name;
    /* Exact answer from shapes and formats alone; run may then assume it. */
    bool (*supports)(const qmi_device *device, const qmi_op *op);
    /* Enqueues the operation; order of one device's operations is kept.
     * Overwrites every output element.  An error may also surface at sync. */
    qmoe_status (*run)(qmi_device *device, const qmi_op *op, qmi_error *err);
} qmi_variant;

typedef struct qmi_device_options {
    int n_threads; /* host threads, >= 1 */
    /* Bounds on memory, 0 = none: bytes of compressed or dense experts kept
     * in host memory by a backend that uses them through the file map, and
     * bytes of the device's own memory this process may use. */
    uint64_t expert_cache_bytes;
    uint64_t memory_bytes;
    /* No variant is to take inputs as one or two digits (qmi_inputs). */
    bool exact_inputs;
    /* What will be bound, in this order, so that a backend can decide what
     * stays on the device.  NULL, 0: unknown, everything is to stay. */
    const qmi_weight *weights;
    size_t n_weights;
} qmi_device_options;

/* Told of each candidate measured; seconds < 0: it does not run here.  What is
 * not QMOE_OK ends the tuning without a change. */
typedef qmoe_status qmi_tune_report(void *user, const char *format,
    int64_t n_tokens, const char *candidate, double seconds);

/* Kernels, copies and fills a device was given since it was opened. */
typedef struct qmi_launch_counts {
    uint64_t single;        /* one by one */
    uint64_t replayed;      /* as parts of graphs */
    uint64_t graphs;        /* launches of graphs */
    uint64_t made, updated; /* graphs made; parts of graphs replaced */
} qmi_launch_counts;

typedef struct qmi_backend {
    uint32_t api; /* QMI_BACKEND_API */
    const char *name;
    /* Number of devices; without a driver: 0 and the reason in `reason`. */
    qmoe_status (*probe)(int *n_devices, char *reason, size_t capacity);
    qmoe_status (*describe)(qmoe_device_info *out, int index, qmi_error *err);
    qmoe_status (*device_open)(qmi_device **out, int index,
        const qmi_device_options *options, qmi_error *err);
    void (*device_close)(qmi_device *device);

    /* Device memory, uninitialised.  write and read are ordered with the
     * device's operations; read returns when the bytes are there. */
    qmoe_status (*buffer_alloc)(
        qmi_buffer **out, qmi_device *device, uint64_t n_bytes, qmi_error *err);
    void (*buffer_free)(qmi_device *device, qmi_buffer *buffer);
    qmoe_status (*buffer_write)(qmi_device *device, qmi_view dst,
        const void *src, uint64_t n_bytes, qmi_error *err);
    qmoe_status (*buffer_read)(qmi_device *device, void *dst, qmi_view src,
        uint64_t n_bytes, qmi_error *err);
    /* From one buffer to another of the device; ordered with operations. */
    qmoe_status (*buffer_copy)(qmi_device *device, qmi_view dst, qmi_view src,
        uint64_t n_bytes, qmi_error *err);

    /* Before the first weight_bind of a model, with all of its weights, of which
     * experts' will not be bound unless with_experts: E_NOMEM with needed and
     * free bytes when the device's memory cannot hold them, so that nothing is
     * uploaded in vain. */
    qmoe_status (*weights_plan)(qmi_device *device, const qmi_weight *weights,
        size_t n, bool with_experts, qmi_error *err);
    /* Makes a weight usable by operations.  `host` must outlive the binding.
     * E_UNSUPPORTED: no operation of the backend takes the format. */
    qmoe_status (*weight_bind)(qmi_bound_weight *out, qmi_device *device,
        const qmi_weight *host, qmi_error *err);
    void (*weight_unbind)(qmi_device *device, qmi_bound_weight *weight);

    qmoe_status (*sync)(qmi_device *device, qmi_error *err);
    /* Ways to run `kind`, best first, the portable one last. */
    const qmi_variant *(*variants)(
        const qmi_device *device, qmi_op_kind kind, size_t *n);
    /* Measures how kernels run best on a device and keeps that for devices
     * opened later.  NULL: the backend has nothing to choose. */
    qmoe_status (*tune)(
        int index, qmi_tune_report *report, void *user, qmi_error *err);
    /* NULL: the backend does not count. */
    void (*launch_counts)(const qmi_device *device, qmi_launch_counts *out);
    /* What a device is made of.  NULL: nothing is known. */
    qmoe_status (*facts)(qmoe_device_facts *out, int index, qmi_error *err);
    /* What others compute instead, to be timed beside the variants and never
     * run for a model: `linear` with `src` in bf16, dst as ever.  NULL: none. */
    const qmi_variant *(*baselines)(
        const qmi_device *device, qmi_op_kind kind, size_t *n);
    /* How a variant takes inputs.  NULL: all take them as they are. */
    qmi_inputs (*inputs)(const qmi_variant *variant);
    /* Which bounds of qmi_device_options it keeps to. */
    bool bounds_experts, bounds_memory;
} qmi_backend;

static inline qmi_inputs qmi_inputs_of(
    const qmi_backend *backend, const qmi_variant *variant)
{
    return backend->inputs != NULL ? backend->inputs(variant) : QMI_INPUTS_F32;
}

/* The symbol a module exports. */
typedef const qmi_backend *(*qmi_backend_entry_fn)(void);
#define QMI_BACKEND_ENTRY "qmoe_backend_entry"

/* Runs `op` by the first variant that supports it.  E_UNSUPPORTED names the
 * operation and the formats when none does. */
qmoe_status qmi_run(const qmi_backend *backend, qmi_device *device,
    const qmi_op *op, qmi_error *err);

/* Complete the table of the reference backend (ops_reference.c): operations
 * on host memory, written plainly, double accumulators, single thread. */
const qmi_backend *qmi_backend_reference(void);
/* Host-memory buffers and bindings shared by the reference and CPU backends
 * (host_buffers.c). */
qmoe_status qmi_host_buffer_alloc(
    qmi_buffer **out, qmi_device *device, uint64_t n_bytes, qmi_error *err);
void qmi_host_buffer_free(qmi_device *device, qmi_buffer *buffer);
qmoe_status qmi_host_buffer_write(qmi_device *device, qmi_view dst,
    const void *src, uint64_t n_bytes, qmi_error *err);
qmoe_status qmi_host_buffer_read(qmi_device *device, void *dst, qmi_view src,
    uint64_t n_bytes, qmi_error *err);
qmoe_status qmi_host_buffer_copy(qmi_device *device, qmi_view dst, qmi_view src,
    uint64_t n_bytes, qmi_error *err);
qmoe_status qmi_host_weights_plan(qmi_device *device, const qmi_weight *weights,
    size_t n, bool with_experts, qmi_error *err);
qmoe_status qmi_host_weight_bind(qmi_bound_weight *out, qmi_device *device,
    const qmi_weight *host, qmi_error *err);
void qmi_host_weight_unbind(qmi_device *device, qmi_bound_weight *weight);
qmoe_status qmi_host_sync(qmi_device *device, qmi_error *err);
/* Address of a view of host memory; NULL for an absent operand. */
void *qmi_host_pointer(qmi_view view);

#endif
