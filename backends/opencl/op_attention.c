/* SPDX-License-Identifier: Apache-2.0
 * Attention.  In: operands of ops.h.  Out: one launch, a group of lanes per
 * query and head.  The kernel goes once over the keys with an online softmax;
 * rows of dst are independent, so a cut along the queries changes no bit. */
#include "qocl_device.h"

qmoe_status qocl_run_attention(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_attention *o = &op->u.attention;
    const int64_t lanes = device->tuning.attention_lanes;
    qocl_call call = qocl_begin(device, QOCL_BASE_PROGRAM, QOCL_K_attention);
    /* A query's time grows with its keys, which differ a lot between calls. */
    call.depth = o->max_keys;
    qocl_arg_view(&call, o->dst);
    qocl_arg_view(&call, o->q);
    qocl_arg_view(&call, o->k);
    qocl_arg_view(&call, o->v);
    qocl_arg_view(&call, o->spans);
    qocl_arg_view(&call, o->bias);
    qocl_arg_int(&call, o->n_spans);
    qocl_arg_int(&call, o->n_heads);
    qocl_arg_int(&call, o->d_key);
    qocl_arg_int(&call, o->max_distance);
    qocl_arg_float(&call, o->scale);
    qocl_arg_int(&call, o->causal);
    qocl_arg_int(&call, o->bias.buffer != NULL);
    return qocl_run(&call, lanes, o->n_heads * lanes, o->n_queries, 1, err);
}
