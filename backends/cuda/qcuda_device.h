/* SPDX-License-Identifier: Apache-2.0
 * The CUDA backend inside: devices, memory, weights; launches are in
 * launches.h.
 * docs/kernels/cuda.md describes the design. */
#ifndef QCUDA_DEVICE_H
#define QCUDA_DEVICE_H

#include "args.h"
#include "backend.h"
#include "driver.h"
#include "geometry.h"

/* Work space that grows and stays. */
typedef enum qcuda_scratch {
    QCUDA_HIDDEN,  /* what goes into an expert's last product */
    QCUDA_RESULTS, /* and its results */
    QCUDA_COUNTS,
    QCUDA_ORDER,
    QCUDA_TILES,
    QCUDA_PARTIAL,
    QCUDA_ARRIVED, /* zero between launches */
    QCUDA_PACKED,
    QCUDA_CHOSEN,
    QCUDA_TOP,       /* keys between the steps of top_logits */
    QCUDA_SPLIT,     /* activations of dense products */
    QCUDA_SUMS,      /* and their results */
    QCUDA_WORKSPACE, /* the library's own */
    QCUDA_N_SCRATCH
} qcuda_scratch;

struct qmi_buffer {
    void *data;
    uint64_t n_bytes;
};

typedef struct qcuda_launches qcuda_launches; /* launches.h */

struct qmi_device {
    qdrv_device *driver;
    qcuda_launches *launches;
    qdrv_info info;
    uint64_t limit;     /* bytes this device may allocate in all */
    uint64_t allocated; /* of them */
    double given;       /* portions.h: since it was last waited for */
    qmi_buffer scratch[QCUDA_N_SCRATCH];
    qmi_buffer generic_dict;
    qmi_buffer paper_table; /* of the generic dictionary */
};

/* "CUDA device 'name': what: text" as E_DEVICE. */
qmoe_status qcuda_fail(const qmi_device *device, const char *what,
    const char *text, qmi_error *err);

/* ---- memory ---- */

/* Bytes that can still be allocated. */
qmoe_status qcuda_available(uint64_t *out, qmi_device *device, qmi_error *err);
/* E_NOMEM says needed and free bytes, and for what. */
qmoe_status qcuda_alloc(qmi_buffer *out, qmi_device *device, uint64_t n_bytes,
    const char *what, qmi_error *err);
/* What was launched before is done with the buffer when this returns; an error
 * of that is told by the next launch. */
void qcuda_release(qmi_device *device, qmi_buffer *buffer);
qmoe_status qcuda_upload(qmi_device *device, void *dst, const void *src,
    uint64_t n_bytes, qmi_error *err);
/* Makes scratch `which` hold n_bytes and returns it; what it held is lost when
 * it grows.  QCUDA_ARRIVED is zeroed then. */
qmoe_status qcuda_reserve(void **out, qmi_device *device, qcuda_scratch which,
    uint64_t n_bytes, qmi_error *err);

/* ---- weights ---- */

typedef struct qcuda_weight {
    qcuda_stack stack;
    float *vector; /* f32 values of a single row; else NULL */
    qmi_buffer parts[QMI_MAX_PARTS], vector_buffer, dict;
} qcuda_weight;

/* Of all a model's weights: do they fit? */
qmoe_status qcuda_weights_plan(qmi_device *device, const qmi_weight *weights,
    size_t n, bool with_experts, qmi_error *err);
qmoe_status qcuda_weight_bind(qmi_bound_weight *out, qmi_device *device,
    const qmi_weight *host, qmi_error *err);
void qcuda_weight_unbind(qmi_device *device, qmi_bound_weight *weight);
static inline const qcuda_weight *qcuda_weight_of(const qmi_bound_weight *w)
{
    return w->device;
}

/* ---- operations ---- */

/* Address of a view; NULL for an absent operand. */
void *qcuda_pointer(qmi_view view);

/* Operations launch by qcuda_launch, qcuda_copy and qcuda_zero alone.  One that
 * gives the driver work past them (a library's call) begins with qcuda_flush. */

#define X(name, member, text)                                                  \
    const qmi_variant *qcuda_variants_##member(size_t *n);
QMI_OP_MAP(X)
#undef X

#endif
