/* SPDX-License-Identifier: Apache-2.0
 * Attention and the caches it reads.  In: operands of ops.h.  Out: one launch,
 * of attention a group of lanes per query and head.  The kernel goes once over
 * the keys with an online softmax; rows of dst are independent, so a cut along
 * the queries changes no bit. */
#include "qocl_device.h"

static int64_t row_words(qmi_kv_type type, int64_t n)
{
    return (int64_t)(qmi_kv_row_bytes(type, n) / 4);
}

qmoe_status qocl_run_kv_store(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_kv_store *o = &op->u.kv_store;
    const int64_t n_words = row_words(o->type, o->n_cols);
    qocl_call call = qocl_begin(device, QOCL_BASE_PROGRAM, QOCL_K_kv_store);
    qocl_arg_view(&call, o->cache);
    qocl_arg_view(&call, o->src);
    qocl_arg_view(&call, o->rows);
    qocl_arg_int(&call, o->n_cols);
    qocl_arg_int(&call, n_words);
    qocl_arg_int(&call, o->type);
    return qocl_run(&call, device->tuning.group, n_words, o->n_tokens, 1, err);
}

qmoe_status qocl_run_attention(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_attention *o = &op->u.attention;
    const int64_t lanes = device->tuning.attention_lanes;
    qocl_call call = qocl_begin(device, QOCL_BASE_PROGRAM, QOCL_K_attention);
    /* A query's time grows with its keys, which differ a lot between calls. */
    call.depth =
        o->window > 0 && o->window < o->max_keys ? o->window : o->max_keys;
    qocl_arg_view(&call, o->dst);
    qocl_arg_view(&call, o->q);
    qocl_arg_view(&call, o->k);
    qocl_arg_view(&call, o->v);
    qocl_arg_view(&call, o->spans);
    qocl_arg_view(&call, o->bias);
    qocl_arg_int(&call, o->bias.buffer != NULL);
    qocl_arg_vector(&call, o->sinks);
    qocl_arg_int(&call, o->n_spans);
    qocl_arg_int(&call, o->n_heads);
    qocl_arg_int(&call, o->n_kv_heads);
    qocl_arg_int(&call, o->d_key);
    qocl_arg_int(&call, o->d_value);
    qocl_arg_int(&call, row_words(o->kv_type, o->n_kv_heads * o->d_key));
    qocl_arg_int(&call, row_words(o->kv_type, o->n_kv_heads * o->d_value));
    qocl_arg_int(&call, o->kv_type);
    qocl_arg_int(&call, o->max_distance);
    qocl_arg_int(&call, o->window);
    qocl_arg_float(&call, o->scale);
    qocl_arg_int(&call, o->causal);
    return qocl_run(&call, lanes, o->n_heads * lanes, o->n_queries, 1, err);
}
