/* SPDX-License-Identifier: Apache-2.0
 * Operation attention.  In: queries, and keys and values in a cache's type.
 * Out: one launch of the type's kernel, or as many as portions.h wants.  The
 * heads of a block follow from shape and device, never from how many keys there
 * are, so that decode steps repeat their launches. */
#include "qcuda_device.h"
#include "launches.h"
#include "portions.h"

/* Products of one key and query cost so many of a matrix product's: a thread
 * goes along a key of its own, whose reads share no line.  An estimate, not
 * measured. */
enum { ATTENTION_COST = 16 };

static const qcuda_entry *const kernels[QMI_KV_COUNT] = {
    [QMI_KV_F32] = &qcuda_kernel_attention_f32,
    [QMI_KV_F16] = &qcuda_kernel_attention_f16,
    [QMI_KV_Q8] = &qcuda_kernel_attention_q8,
};

static qcuda_attention_args args_of(const qmi_op_attention *o)
{
    return (qcuda_attention_args){
        .dst = qcuda_pointer(o->dst),
        .q = qcuda_pointer(o->q),
        .k = qcuda_pointer(o->k),
        .v = qcuda_pointer(o->v),
        .k_row_bytes =
            (int64_t)qmi_kv_row_bytes(o->kv_type, o->n_kv_heads * o->d_key),
        .v_row_bytes =
            (int64_t)qmi_kv_row_bytes(o->kv_type, o->n_kv_heads * o->d_value),
        .spans = qcuda_pointer(o->spans),
        .bias = qcuda_pointer(o->bias),
        .sinks = o->sinks != NULL ? qcuda_weight_of(o->sinks)->vector : NULL,
        .max_distance = o->max_distance,
        .n_spans = (int32_t)o->n_spans,
        .n_kv_heads = (int32_t)o->n_kv_heads,
        .d_key = (int32_t)o->d_key,
        .d_value = (int32_t)o->d_value,
        .group = (int32_t)(o->n_heads / o->n_kv_heads),
        .causal = o->causal,
        /* Positions are counted in 32 bits. */
        .window = o->window < INT32_MAX ? (int32_t)o->window : INT32_MAX,
        .scale = o->scale,
    };
}

static bool supports(const qmi_device *device, const qmi_op *op)
{
    const qmi_op_attention *o = &op->u.attention;
    const int64_t wider = o->d_key > o->d_value ? o->d_key : o->d_value;
    /* A head must fit in any case; so nothing below is too large to count. */
    if (wider > device->info.max_shared_bytes ||
        o->n_heads * wider > INT32_MAX || o->n_queries > INT32_MAX / o->n_heads)
        return false;
    qcuda_attention_args args = args_of(o);
    return qcuda_attention_grid(&args, o->n_queries, &device->info)
               .shared_bytes <= device->info.max_shared_bytes;
}

static qmoe_status run(qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_attention *o = &op->u.attention;
    if (o->n_queries == 0)
        return QMOE_OK;
    const bool windowed = o->window > 0 && o->window < o->max_keys;
    const int64_t n_keys = windowed ? o->window : o->max_keys;
    const qcuda_work work = {
        .n_items = o->n_queries,
        .n_units = o->n_queries,
        .cost = (double)ATTENTION_COST * (double)o->n_queries * (double)n_keys *
                (double)(o->n_heads * (o->d_key + o->d_value)),
    };
    qcuda_attention_args args = args_of(o);
    qcuda_grid grid = qcuda_attention_grid(&args, o->n_queries, &device->info);
    const uint32_t query_blocks = grid.x / (uint32_t)o->n_queries;
    /* The cost grows with the square of the length.  Queries are the units, so
     * a cut changes no bit. */
    for (int64_t first = 0, n; first < o->n_queries; first += n) {
        QMI_TRY(qcuda_begin_portion(&n, device, &work, first, err));
        args.first = (int32_t)first;
        grid.x = (uint32_t)n * query_blocks;
        QMI_TRY(qcuda_launch(device, kernels[o->kv_type], grid, &args, err));
    }
    return QMOE_OK;
}

const qmi_variant *qcuda_variants_attention(size_t *n)
{
    static const qmi_variant variant = {"online", supports, run};
    *n = 1;
    return &variant;
}
