/* SPDX-License-Identifier: Apache-2.0
 * Attention. */
#include "qocl_device.h"

qmoe_status ocl_run_attention(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_attention *o = &op->u.attention;
    const int64_t lanes = device->tuning.attention_lanes;
    ocl_call call = ocl_begin(device, OCL_BASE_PROGRAM, OCL_K_attention);
    call.depth = o->max_keys;
    ocl_arg_view(&call, o->dst);
    ocl_arg_view(&call, o->q);
    ocl_arg_view(&call, o->k);
    ocl_arg_view(&call, o->v);
    ocl_arg_view(&call, o->spans);
    ocl_arg_view(&call, o->bias);
    ocl_arg_int(&call, o->n_spans);
    ocl_arg_int(&call, o->n_heads);
    ocl_arg_int(&call, o->d_head);
    ocl_arg_int(&call, o->max_distance);
    ocl_arg_float(&call, o->scale);
    ocl_arg_int(&call, o->causal);
    ocl_arg_int(&call, o->bias.buffer != NULL);
    return ocl_run(&call, lanes, o->n_heads * lanes, o->n_queries, 1, err);
}
