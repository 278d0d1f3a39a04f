/* SPDX-License-Identifier: Apache-2.0
 * Embedding, decoding, norm, cache rows, routing. */
#include "formats.h"
#include "stream.h"

/* Rows of matrix `mat`: `n` from `row`, or those named by `ids`. */
typedef struct rows {
    qmi_device *device;
    qmi_view dst, ids;
    const qmi_bound_weight *bound;
    int64_t mat, row, n;
} rows;

static qmoe_status decode_chunk(const rows *r, const ocl_chunk *chunk,
    cl_event after, cl_event *finish, qmi_error *err)
{
    const ocl_weight *w = r->bound->device;
    const qmi_weight *host = r->bound->host;
    const int64_t x = ocl_decode_size(w->format, host->n_cols);
    ocl_call call = ocl_begin(
        r->device, ocl_format_program(w->format, false), OCL_K_decode_rows);
    call.after = after;
    call.finish = finish;
    ocl_arg_view(&call, r->dst);
    ocl_arg_view(&call, r->ids);
    ocl_arg_int(&call, r->ids.buffer != NULL);
    ocl_arg_int(&call, r->mat);
    ocl_arg_int(&call, r->row);
    ocl_arg_int(&call, host->n_cols);
    ocl_arg_int(&call, host->n_rows);
    ocl_arg_chunk_place(&call, chunk);
    ocl_arg_chunk_parts(&call, w, chunk);
    const int64_t local = x > 1 ? r->device->tuning.group : 1;
    return ocl_run(&call, local, x, r->n, 1, err);
}

static qmoe_status decode_use(void *user, const ocl_use *use,
    const ocl_chunk *chunk, cl_event after, cl_event *finish, qmi_error *err)
{
    (void)use;
    return decode_chunk(user, chunk, after, finish, err);
}

static qmoe_status decode(rows *r, qmi_error *err)
{
    qmi_device *device = r->device;
    const ocl_weight *w = r->bound->device;
    const qmi_weight *host = r->bound->host;
    if (w->entries != NULL) {
        ocl_use use = {.weight = r->bound, .mat = r->mat};
        QMI_TRY(ocl_stream(device, &use, 1, decode_use, r, err));
    }
    for (size_t i = 0; i < w->n_chunks; i++)
        QMI_TRY(decode_chunk(r, &w->chunks[i], NULL, NULL, err));
    if (host->rotation == 0)
        return QMOE_OK;
    ocl_call call = ocl_begin(device, OCL_BASE_PROGRAM, OCL_K_unrotate);
    ocl_arg_view(&call, r->dst);
    ocl_arg_int(&call, host->n_cols);
    ocl_arg_int(&call, host->rotation);
    ocl_arg_uint(&call, host->rotation_seed);
    const int64_t x = (host->n_cols + host->rotation - 1) / host->rotation;
    return ocl_run(&call, 1, x, r->n, 1, err);
}

qmoe_status ocl_run_embed(qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_embed *o = &op->u.embed;
    rows r = {device, o->dst, o->ids, o->table, 0, 0, o->n_tokens};
    return decode(&r, err);
}

qmoe_status ocl_run_decode(qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_decode *o = &op->u.decode;
    rows r = {
        device, o->dst, (qmi_view){0}, o->weight, o->mat, o->row, o->n_rows};
    return decode(&r, err);
}

qmoe_status ocl_run_rmsnorm(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_rmsnorm *o = &op->u.rmsnorm;
    const ocl_weight *w = o->weight->device;
    const int lanes = device->tuning.lanes;
    ocl_call call = ocl_begin(device, OCL_BASE_PROGRAM, OCL_K_rmsnorm);
    ocl_arg_view(&call, o->dst);
    ocl_arg_view(&call, o->src);
    ocl_arg_mem(&call, w->vector);
    ocl_arg_int(&call, o->weight->host->n_cols);
    ocl_arg_float(&call, o->epsilon);
    return ocl_run(&call, lanes, lanes * o->n_tokens, 1, 1, err);
}

qmoe_status ocl_run_kv_store(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_kv_store *o = &op->u.kv_store;
    ocl_call call = ocl_begin(device, OCL_BASE_PROGRAM, OCL_K_kv_store);
    ocl_arg_view(&call, o->cache);
    ocl_arg_view(&call, o->src);
    ocl_arg_view(&call, o->rows);
    ocl_arg_int(&call, o->n_cols);
    return ocl_run(&call, device->tuning.group, o->n_cols, o->n_tokens, 1, err);
}

static qmoe_status drop(
    qmi_device *device, const qmi_op_route *o, qmi_error *err)
{
    const uint64_t n_bytes = (uint64_t)(o->n_tokens * o->top_k) * 4;
    QMI_TRY(ocl_reserve(device, OCL_CHOSEN, n_bytes, err));
    cl_mem chosen = device->scratch[OCL_CHOSEN].mem;
    cl_int status =
        qmi_cl.EnqueueCopyBuffer(device->queue, o->expert.buffer->mem, chosen,
            o->expert.offset, 0, n_bytes, 0, NULL, NULL);
    if (status != CL_SUCCESS)
        return ocl_fail(device, "a copy", status, err);
    ocl_call call = ocl_begin(device, OCL_BASE_PROGRAM, OCL_K_route_drop);
    ocl_arg_view(&call, o->expert);
    ocl_arg_mem(&call, chosen);
    ocl_arg_view(&call, o->sequence);
    ocl_arg_int(&call, o->n_tokens);
    ocl_arg_int(&call, o->n_experts);
    ocl_arg_int(&call, o->top_k);
    /* More tokens than fit an int cannot be dropped. */
    ocl_arg_int(&call, o->capacity < INT32_MAX ? o->capacity : INT32_MAX);
    return ocl_run(&call, device->tuning.group, o->n_experts, 1, 1, err);
}

qmoe_status ocl_run_route(qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_route *o = &op->u.route;
    ocl_call call = ocl_begin(device, OCL_BASE_PROGRAM, OCL_K_route);
    ocl_arg_view(&call, o->expert);
    ocl_arg_view(&call, o->weight);
    ocl_arg_view(&call, o->logits);
    ocl_arg_int(&call, o->n_tokens);
    ocl_arg_int(&call, o->n_experts);
    ocl_arg_int(&call, o->top_k);
    QMI_TRY(ocl_run(&call, device->tuning.group, o->n_tokens, 1, 1, err));
    if (o->capacity <= 0 || o->n_tokens == 0)
        return QMOE_OK;
    return drop(device, o, err);
}
