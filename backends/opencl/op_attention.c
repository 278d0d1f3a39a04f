/* SPDX-License-Identifier: Apache-2.0
 * Attention, in blocks of queries whose scores fit a bounded work space. */
#include "opencl.h"

enum { MAX_SCORE_BYTES = 32 << 20 };

static qmoe_status find_spans(
    qmi_device *device, const qmi_op_attention *o, qmi_error *err)
{
    QMI_TRY(ocl_reserve(device, OCL_SPAN_OF, (uint64_t)o->n_queries * 4, err));
    ocl_call call = ocl_begin(device, OCL_BASE_PROGRAM, OCL_K_attention_spans);
    ocl_arg_mem(&call, device->scratch[OCL_SPAN_OF].mem);
    ocl_arg_view(&call, o->spans);
    ocl_arg_int(&call, o->n_spans);
    return ocl_run(&call, device->tuning.group, o->n_spans, 1, 1, err);
}

static qmoe_status scores(qmi_device *device, const qmi_op_attention *o,
    int64_t first, int64_t n, qmi_error *err)
{
    ocl_call call = ocl_begin(device, OCL_BASE_PROGRAM, OCL_K_attention_scores);
    ocl_arg_mem(&call, device->scratch[OCL_SCORES].mem);
    ocl_arg_view(&call, o->q);
    ocl_arg_view(&call, o->k);
    ocl_arg_view(&call, o->spans);
    ocl_arg_mem(&call, device->scratch[OCL_SPAN_OF].mem);
    ocl_arg_view(&call, o->bias);
    ocl_arg_int(&call, first);
    ocl_arg_int(&call, o->n_heads);
    ocl_arg_int(&call, o->d_head);
    ocl_arg_int(&call, o->max_distance);
    ocl_arg_int(&call, o->max_keys);
    ocl_arg_float(&call, o->scale);
    ocl_arg_int(&call, o->causal);
    ocl_arg_int(&call, o->bias.buffer != NULL);
    return ocl_run(
        &call, device->tuning.group, o->max_keys, o->n_heads, n, err);
}

static qmoe_status softmax(qmi_device *device, const qmi_op_attention *o,
    int64_t first, int64_t n, qmi_error *err)
{
    ocl_call call =
        ocl_begin(device, OCL_BASE_PROGRAM, OCL_K_attention_softmax);
    ocl_arg_mem(&call, device->scratch[OCL_SCORES].mem);
    ocl_arg_mem(&call, device->scratch[OCL_SUMS].mem);
    ocl_arg_view(&call, o->spans);
    ocl_arg_mem(&call, device->scratch[OCL_SPAN_OF].mem);
    ocl_arg_int(&call, first);
    ocl_arg_int(&call, n);
    ocl_arg_int(&call, o->n_heads);
    ocl_arg_int(&call, o->max_keys);
    ocl_arg_int(&call, o->causal);
    return ocl_run(
        &call, device->tuning.is_cpu ? 1 : 16, o->n_heads, n, 1, err);
}

static qmoe_status values(qmi_device *device, const qmi_op_attention *o,
    int64_t first, int64_t n, qmi_error *err)
{
    ocl_call call = ocl_begin(device, OCL_BASE_PROGRAM, OCL_K_attention_values);
    ocl_arg_view(&call, o->dst);
    ocl_arg_mem(&call, device->scratch[OCL_SCORES].mem);
    ocl_arg_mem(&call, device->scratch[OCL_SUMS].mem);
    ocl_arg_view(&call, o->v);
    ocl_arg_view(&call, o->spans);
    ocl_arg_mem(&call, device->scratch[OCL_SPAN_OF].mem);
    ocl_arg_int(&call, first);
    ocl_arg_int(&call, o->n_heads);
    ocl_arg_int(&call, o->d_head);
    ocl_arg_int(&call, o->max_keys);
    ocl_arg_int(&call, o->causal);
    return ocl_run(
        &call, device->tuning.group, o->n_heads * o->d_head, n, 1, err);
}

qmoe_status ocl_run_attention(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_attention *o = &op->u.attention;
    if (o->n_queries == 0)
        return QMOE_OK;
    const uint64_t row_bytes = (uint64_t)o->n_heads * (uint64_t)o->max_keys * 4;
    int64_t block = (int64_t)(MAX_SCORE_BYTES / row_bytes);
    block = block < 1 ? 1 : block > o->n_queries ? o->n_queries : block;
    QMI_TRY(find_spans(device, o, err));
    QMI_TRY(ocl_reserve(device, OCL_SCORES, (uint64_t)block * row_bytes, err));
    QMI_TRY(
        ocl_reserve(device, OCL_SUMS, (uint64_t)(block * o->n_heads) * 4, err));
    for (int64_t q = 0; q < o->n_queries; q += block) {
        const int64_t n = o->n_queries - q < block ? o->n_queries - q : block;
        QMI_TRY(scores(device, o, q, n, err));
        QMI_TRY(softmax(device, o, q, n, err));
        QMI_TRY(values(device, o, q, n, err));
    }
    return QMOE_OK;
}
