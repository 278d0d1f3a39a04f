/* SPDX-License-Identifier: Apache-2.0
 * Embedding, decoding, norm, rotary positions, gates, routing.  In: operands of
 * ops.h.  Out: one launch each, or one per chunk.  A work-item writes elements
 * of its own; routing gives ties to the lowest expert, as the reference
 * does. */
#include "formats.h"
#include "stream.h"

/* Rows of matrix `mat`: `n` from `row`, or those named by `ids`. */
typedef struct rows {
    qmi_device *device;
    qmi_view dst, ids;
    const qmi_bound_weight *bound;
    int64_t mat, row, n;
} rows;

static qmoe_status decode_chunk(const rows *r, const qocl_chunk *chunk,
    cl_event after, cl_event *finish, qmi_error *err)
{
    const qocl_weight *w = r->bound->device;
    const qmi_weight *host = r->bound->host;
    const int64_t x = qocl_decode_size(w->format, host->n_cols);
    qocl_call call = qocl_begin(
        r->device, qocl_format_program(w->format, false), QOCL_K_decode_rows);
    call.after = after;
    call.finish = finish;
    qocl_arg_view(&call, r->dst);
    qocl_arg_view(&call, r->ids);
    qocl_arg_int(&call, r->ids.buffer != NULL);
    qocl_arg_int(&call, r->mat);
    qocl_arg_int(&call, r->row);
    qocl_arg_int(&call, host->n_cols);
    qocl_arg_int(&call, host->n_rows);
    qocl_arg_chunk_place(&call, chunk);
    qocl_arg_chunk_parts(&call, w, chunk);
    /* A whole row per work-item needs no groups. */
    const int64_t local = x > 1 ? r->device->tuning.group : 1;
    return qocl_run(&call, local, x, r->n, 1, err);
}

static qmoe_status decode_use(void *user, const qocl_use *use,
    const qocl_chunk *chunk, cl_event after, cl_event *finish, qmi_error *err)
{
    (void)use;
    return decode_chunk(user, chunk, after, finish, err);
}

static qmoe_status decode(rows *r, qmi_error *err)
{
    qmi_device *device = r->device;
    const qocl_weight *w = r->bound->device;
    const qmi_weight *host = r->bound->host;
    /* A streamed matrix comes first; it has no chunks. */
    if (w->entries != NULL) {
        qocl_use use = {.weight = r->bound, .mat = r->mat};
        QMI_TRY(qocl_stream(device, &use, 1, decode_use, r, err));
    }
    /* Chunks hold different matrices or rows: each kernel writes those it
     * has. */
    for (size_t i = 0; i < w->n_chunks; i++)
        QMI_TRY(decode_chunk(r, &w->chunks[i], NULL, NULL, err));
    /* Rows are stored rotated; the model's own are wanted. */
    if (host->rotation == 0)
        return QMOE_OK;
    qocl_call call = qocl_begin(device, QOCL_BASE_PROGRAM, QOCL_K_unrotate);
    qocl_arg_view(&call, r->dst);
    qocl_arg_int(&call, host->n_cols);
    qocl_arg_int(&call, host->rotation);
    qocl_arg_uint(&call, host->rotation_seed);
    const int64_t x = (host->n_cols + host->rotation - 1) / host->rotation;
    return qocl_run(&call, 1, x, r->n, 1, err);
}

qmoe_status qocl_run_embed(qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_embed *o = &op->u.embed;
    rows r = {device, o->dst, o->ids, o->table, 0, 0, o->n_tokens};
    return decode(&r, err);
}

qmoe_status qocl_run_decode(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_decode *o = &op->u.decode;
    rows r = {
        device, o->dst, (qmi_view){0}, o->weight, o->mat, o->row, o->n_rows};
    return decode(&r, err);
}

qmoe_status qocl_run_rmsnorm(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_rmsnorm *o = &op->u.rmsnorm;
    const qocl_weight *w = o->weight->device;
    /* A group per token, whose lanes share the sum. */
    const int lanes = device->tuning.lanes;
    qocl_call call = qocl_begin(device, QOCL_BASE_PROGRAM, QOCL_K_rmsnorm);
    qocl_arg_view(&call, o->dst);
    qocl_arg_view(&call, o->src);
    qocl_arg_mem(&call, w->vector);
    qocl_arg_int(&call, o->weight->host->n_cols);
    qocl_arg_float(&call, o->epsilon);
    return qocl_run(&call, lanes, lanes * o->n_tokens, 1, 1, err);
}

qmoe_status qocl_run_rope(qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_rope *o = &op->u.rope;
    const int64_t n_pairs = o->d_rotary / 2;
    qocl_call call = qocl_begin(device, QOCL_BASE_PROGRAM, QOCL_K_rope);
    qocl_arg_view(&call, o->dst);
    qocl_arg_view(&call, o->src);
    qocl_arg_view(&call, o->turns);
    qocl_arg_int(&call, o->n_heads);
    qocl_arg_int(&call, o->d_head);
    qocl_arg_int(&call, n_pairs);
    qocl_arg_int(&call, o->interleaved);
    return qocl_run(&call, device->tuning.group, o->d_head - n_pairs,
        o->n_tokens, o->n_heads, err);
}

qmoe_status qocl_run_glu(qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_glu *o = &op->u.glu;
    qocl_call call = qocl_begin(device, QOCL_BASE_PROGRAM, QOCL_K_glu);
    qocl_arg_view(&call, o->dst);
    qocl_arg_view(&call, o->up);
    qocl_arg_view(&call, o->gate);
    qocl_arg_int(&call, o->n_cols);
    qocl_arg_int(&call, o->n_gate_cols == 1);
    qocl_arg_int(&call, o->act);
    return qocl_run(
        &call, device->tuning.group, o->n_cols, o->n_tokens, 1, err);
}

/* The kernel counts what came before in the sequence, so it reads a copy: other
 * work-items overwrite what they drop. */
static qmoe_status drop(
    qmi_device *device, const qmi_op_route *o, qmi_error *err)
{
    const uint64_t n_bytes = (uint64_t)(o->n_tokens * o->top_k) * 4;
    QMI_TRY(qocl_reserve(device, QOCL_CHOSEN, n_bytes, err));
    cl_mem chosen = device->scratch[QOCL_CHOSEN].mem;
    cl_int status =
        qmi_cl.EnqueueCopyBuffer(device->queue, o->expert.buffer->mem, chosen,
            o->expert.offset, 0, n_bytes, 0, NULL, NULL);
    if (status != CL_SUCCESS)
        return qocl_fail(device, "a copy", status, err);
    qocl_call call = qocl_begin(device, QOCL_BASE_PROGRAM, QOCL_K_route_drop);
    qocl_arg_view(&call, o->expert);
    qocl_arg_mem(&call, chosen);
    qocl_arg_view(&call, o->sequence);
    qocl_arg_int(&call, o->n_tokens);
    qocl_arg_int(&call, o->n_experts);
    qocl_arg_int(&call, o->top_k);
    /* More tokens than fit an int cannot be dropped. */
    qocl_arg_int(&call, o->capacity < INT32_MAX ? o->capacity : INT32_MAX);
    /* A work-item per expert goes through the tokens in order. */
    return qocl_run(&call, device->tuning.group, o->n_experts, 1, 1, err);
}

qmoe_status qocl_run_route(qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_route *o = &op->u.route;
    const qmi_router *r = &o->router;
    const int64_t lanes = device->tuning.lanes;
    /* Where the logits themselves do not decide: what does, and of groups. */
    if (o->bias != NULL || r->n_groups != 0)
        QMI_TRY(qocl_reserve(device, QOCL_SCORES,
            (uint64_t)(o->n_tokens * o->n_experts) * 8, err));
    qocl_call call = qocl_begin(device, QOCL_BASE_PROGRAM, QOCL_K_route);
    qocl_arg_view(&call, o->expert);
    qocl_arg_view(&call, o->weight);
    qocl_arg_view(&call, o->logits);
    qocl_arg_mem(&call, device->scratch[QOCL_SCORES].mem);
    qocl_arg_vector(&call, o->bias);
    qocl_arg_int(&call, o->n_experts);
    qocl_arg_int(&call, o->top_k);
    qocl_arg_int(&call, r->scoring);
    qocl_arg_int(&call, r->n_groups);
    qocl_arg_int(&call, r->top_groups);
    qocl_arg_int(&call, r->group_best);
    qocl_arg_int(&call, r->normalises);
    qocl_arg_float(&call, r->scale != 0 ? r->scale : 1);
    QMI_TRY(qocl_run(&call, lanes, lanes, o->n_tokens, 1, err));
    if (o->capacity <= 0 || o->n_tokens == 0)
        return QMOE_OK;
    return drop(device, o, err);
}
