/* SPDX-License-Identifier: Apache-2.0
 * Operations that are one kernel: embed, decode, rmsnorm, rope, glu, kv_store.
 * In: operands of ops.h.  Out: one launch.  Blocks write elements of their own,
 * so results depend on no order between them. */
#include "qcuda_device.h"
#include "launches.h"

/* Shapes that the kernels cannot take were refused when the weight was
 * bound. */
static bool always(const qmi_device *device, const qmi_op *op)
{
    (void)device;
    (void)op;
    return true;
}

/* ---- embed, decode ---- */

static const qcuda_grid row_blocks = {
    .y = 1, .z = 1, .threads = QCUDA_ROW_THREADS};

static qmoe_status run_embed(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_embed *o = &op->u.embed;
    const qcuda_decode_args args = {
        .w = qcuda_weight_of(o->table)->stack,
        .dst = qcuda_pointer(o->dst),
        .ids = qcuda_pointer(o->ids),
    };
    qcuda_grid grid = row_blocks;
    grid.x = (uint32_t)o->n_tokens;
    return qcuda_launch(device, &qcuda_kernel_decode_rows, grid, &args, err);
}

static qmoe_status run_decode(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_decode *o = &op->u.decode;
    const qcuda_decode_args args = {
        .w = qcuda_weight_of(o->weight)->stack,
        .dst = qcuda_pointer(o->dst),
        .mat = o->mat,
        .first_row = o->row,
    };
    qcuda_grid grid = row_blocks;
    grid.x = (uint32_t)o->n_rows;
    return qcuda_launch(device, &qcuda_kernel_decode_rows, grid, &args, err);
}

/* ---- rmsnorm ---- */

/* Decoded when it was bound (weights.c): norms are a single row. */
static bool supports_rmsnorm(const qmi_device *device, const qmi_op *op)
{
    (void)device;
    return qcuda_weight_of(op->u.rmsnorm.weight)->vector != NULL;
}

static qmoe_status run_rmsnorm(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_rmsnorm *o = &op->u.rmsnorm;
    const qcuda_weight *w = qcuda_weight_of(o->weight);
    const qcuda_rmsnorm_args args = {
        .dst = qcuda_pointer(o->dst),
        .src = qcuda_pointer(o->src),
        .weight = w->vector,
        .n_cols = w->stack.n_cols,
        .epsilon = o->epsilon,
    };
    qcuda_grid grid = row_blocks;
    grid.x = (uint32_t)o->n_tokens;
    grid.shared_bytes = QCUDA_ROW_THREADS / 32 * 4;
    return qcuda_launch(device, &qcuda_kernel_rmsnorm, grid, &args, err);
}

/* ---- rope, glu ---- */

/* A thread per element; blocks that each belong to one token. */
static int64_t token_blocks(int64_t n)
{
    return (n + QCUDA_ROW_THREADS - 1) / QCUDA_ROW_THREADS;
}

static bool fits_grid(int64_t n_tokens, int64_t n)
{
    return n <= INT32_MAX && n_tokens <= INT32_MAX / token_blocks(n);
}

/* Pairs, and the values that are copied. */
static int64_t rope_elements(const qmi_op_rope *o)
{
    return o->n_heads * (o->d_head - o->d_rotary / 2);
}

static bool supports_rope(const qmi_device *device, const qmi_op *op)
{
    const qmi_op_rope *o = &op->u.rope;
    (void)device;
    return fits_grid(o->n_tokens, rope_elements(o));
}

static qmoe_status run_rope(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_rope *o = &op->u.rope;
    const qcuda_rope_args args = {
        .dst = qcuda_pointer(o->dst),
        .src = qcuda_pointer(o->src),
        .turns = qcuda_pointer(o->turns),
        .n_heads = (int32_t)o->n_heads,
        .d_head = (int32_t)o->d_head,
        .d_rotary = (int32_t)o->d_rotary,
        .interleaved = o->interleaved,
        .token_blocks = (int32_t)token_blocks(rope_elements(o)),
    };
    qcuda_grid grid = row_blocks;
    grid.x = (uint32_t)(o->n_tokens * args.token_blocks);
    return qcuda_launch(device, &qcuda_kernel_rope, grid, &args, err);
}

static bool supports_glu(const qmi_device *device, const qmi_op *op)
{
    (void)device;
    return fits_grid(op->u.glu.n_tokens, op->u.glu.n_cols);
}

static qmoe_status run_glu(qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_glu *o = &op->u.glu;
    const qcuda_glu_args args = {
        .dst = qcuda_pointer(o->dst),
        .up = qcuda_pointer(o->up),
        .gate = qcuda_pointer(o->gate),
        .n_cols = (int32_t)o->n_cols,
        .n_gate_cols = (int32_t)o->n_gate_cols,
        .act = o->act,
        .token_blocks = (int32_t)token_blocks(o->n_cols),
    };
    qcuda_grid grid = row_blocks;
    grid.x = (uint32_t)(o->n_tokens * args.token_blocks);
    return qcuda_launch(device, &qcuda_kernel_glu, grid, &args, err);
}

/* ---- kv_store ---- */

static bool supports_kv_store(const qmi_device *device, const qmi_op *op)
{
    (void)device;
    return op->u.kv_store.n_cols <= INT32_MAX - QMI_KV_BLOCK;
}

static qmoe_status run_kv_store(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_kv_store *o = &op->u.kv_store;
    const qcuda_kv_store_args args = {
        .cache = qcuda_pointer(o->cache),
        .src = qcuda_pointer(o->src),
        .rows = qcuda_pointer(o->rows),
        .row_bytes = (int64_t)qmi_kv_row_bytes(o->type, o->n_cols),
        .n_cols = (int32_t)o->n_cols,
        .type = o->type,
    };
    qcuda_grid grid = row_blocks;
    grid.x = (uint32_t)o->n_tokens;
    return qcuda_launch(device, &qcuda_kernel_kv_store, grid, &args, err);
}

/* ---- tables ---- */

#define ONE_VARIANT(member, text, is_supported)                                \
    const qmi_variant *qcuda_variants_##member(size_t *n)                      \
    {                                                                          \
        static const qmi_variant variant = {text, is_supported, run_##member}; \
        *n = 1;                                                                \
        return &variant;                                                       \
    }

ONE_VARIANT(embed, "rows", always)
ONE_VARIANT(decode, "rows", always)
ONE_VARIANT(rmsnorm, "block", supports_rmsnorm)
ONE_VARIANT(rope, "elements", supports_rope)
ONE_VARIANT(glu, "elements", supports_glu)
ONE_VARIANT(kv_store, "rows", supports_kv_store)
