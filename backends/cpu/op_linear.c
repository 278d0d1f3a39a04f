/* SPDX-License-Identifier: Apache-2.0
 * The operation `linear`: one product, a variant per kernel.  In: tokens and
 * one matrix.  Out: dst.  The matrix is checked before a kernel reads it. */
#include <pthread.h>

#include "cancel.h"
#include "product.h"

static qmoe_status linear(qmi_device *device, const qmi_op_linear *o,
    const qcpu_matmul *kernel, qmi_error *err)
{
    const qmi_weight *w = o->weight->host;
    QMI_TRY(qmi_weight_check(w, o->mat, err));
    QMI_TRY(qcpu_product_begin(kernel, device->n_threads, err));
    /* One block: the input for all threads, a space for each, the bias. */
    size_t input = qcpu_product_input_bytes(kernel, w, o->n_tokens);
    size_t stride = qcpu_product_thread_bytes(kernel, w, o->n_tokens);
    const size_t threads = stride * (size_t)device->n_threads;
    uint8_t *scratch = qcpu_scratch(
        device, input + threads + (size_t)w->n_rows * sizeof(float), err);
    if (scratch == NULL)
        return QMOE_E_NOMEM;
    float *bias = NULL;
    if (o->bias != NULL) {
        bias = (float *)(void *)(scratch + input + threads);
        QMI_TRY(qmi_weight_check(o->bias->host, 0, err));
        qmi_weight_decode(o->bias->host, 0, 0, 1, bias);
    }
    const qcpu_product p = {
        .kernel = kernel,
        .w = w,
        .mat = o->mat,
        .x = qmi_host_pointer(o->src),
        .n_tokens = o->n_tokens,
        .dst = qmi_host_pointer(o->dst),
        .residual = qmi_host_pointer(o->residual),
        .alpha = o->alpha,
        .bias = bias,
        .act = o->act,
    };
    qcpu_product_run(&p, device->team, scratch, scratch + input, stride, err);
    return qmi_check_cancel(err);
}

/* Past max_tokens a later variant in the list is faster. */
static bool takes(const qmi_op_linear *o, const qcpu_matmul *kernel)
{
    return o->n_tokens <= kernel->max_tokens && kernel->takes(o->weight->host);
}

/* A variant's functions know their kernel by name only. */
#define FUNCTIONS(symbol, text)                                                \
    static bool takes_##symbol(const qmi_device *device, const qmi_op *op)     \
    {                                                                          \
        return qcpu_product_allowed(device, &qcpu_matmul_##symbol) &&          \
               takes(&op->u.linear, &qcpu_matmul_##symbol);                    \
    }                                                                          \
    static qmoe_status run_##symbol(                                           \
        qmi_device *device, const qmi_op *op, qmi_error *err)                  \
    {                                                                          \
        return linear(device, &op->u.linear, &qcpu_matmul_##symbol, err);      \
    }

QCPU_KERNELS(FUNCTIONS)

static const qcpu_kernel_variant variants[] = {
#define VARIANT(symbol, text)                                                  \
    {&qcpu_matmul_##symbol, {text, takes_##symbol, run_##symbol}},
    QCPU_KERNELS(VARIANT)
#undef VARIANT
};

enum { N_VARIANTS = sizeof variants / sizeof *variants };

static qmi_variant usable[N_VARIANTS];
static size_t n_usable;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* The order of the list is the order of preference. */
static void select_usable(void)
{
    n_usable = qcpu_usable_variants(usable, variants, N_VARIANTS);
}

const qmi_variant *qcpu_linear(size_t *n)
{
    pthread_once(&once, select_usable);
    *n = n_usable;
    return usable;
}
