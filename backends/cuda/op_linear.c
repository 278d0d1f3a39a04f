/* SPDX-License-Identifier: Apache-2.0
 * Operation linear. */
#include "product.h"

static bool supports(const qmi_device *device, const qmi_op *op)
{
    (void)device;
    return op->u.linear.n_tokens < INT32_MAX;
}

static qmoe_status run(qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_linear *o = &op->u.linear;
    const qcuda_stack *w = &qcuda_weight_of(o->weight)->stack;
    const int32_t items = qcuda_tile_items(w, o->n_tokens);
    const qcuda_product_args args = {
        .w = *w,
        .dst = qcuda_pointer(o->dst),
        .src = qcuda_pointer(o->src),
        .residual = qcuda_pointer(o->residual),
        .mat = o->mat,
        .n_items = (int32_t)o->n_tokens,
        .tile_items = items,
        .divisor = 1,
        .relu = o->relu,
        .alpha = o->alpha,
    };
    return qcuda_run_product(
        device, args, (o->n_tokens + items - 1) / items, err);
}

const qmi_variant *qcuda_variants_linear(size_t *n)
{
    static const qmi_variant variant = {"simt", supports, run};
    *n = 1;
    return &variant;
}
