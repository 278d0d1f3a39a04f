/* SPDX-License-Identifier: Apache-2.0
 * Operations that are one kernel: embed, decode, rmsnorm, kv_store, attention.
 * In: operands of ops.h.  Out: one launch, or as many as portions.h wants.
 * Blocks write rows of their own, so results depend on no order between
 * them. */
#include "qcuda_device.h"
#include "launches.h"
#include "plain_op.h"
#include "portions.h"

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

/* ---- kv_store ---- */

static bool supports_kv_store(const qmi_device *device, const qmi_op *op)
{
    (void)device;
    return op->u.kv_store.type == QMI_KV_F32;
}

static qmoe_status run_kv_store(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_kv_store *o = &op->u.kv_store;
    const qcuda_kv_store_args args = {
        .cache = qcuda_pointer(o->cache),
        .src = qcuda_pointer(o->src),
        .rows = qcuda_pointer(o->rows),
        .n_cols = o->n_cols,
    };
    qcuda_grid grid = row_blocks;
    grid.x = (uint32_t)o->n_tokens;
    return qcuda_launch(device, &qcuda_kernel_kv_store, grid, &args, err);
}

/* ---- attention ---- */

/* Products of one key and query cost so many of a matrix product's: a thread
 * goes along a key of its own, whose reads share no line.  An estimate, not
 * measured. */
enum { ATTENTION_COST = 16 };

/* As the kernel lays it out. */
static uint64_t attention_shared_bytes(const qmi_op_attention *o)
{
    /* Query, sums, weights; the span and a value per warp. */
    return (2 * (uint64_t)o->d_key + QCUDA_ATTENTION_THREADS) * 4 + 5 * 4 +
           8 * 4;
}

static bool supports_attention(const qmi_device *device, const qmi_op *op)
{
    const qmi_op_attention *o = &op->u.attention;
    return qmi_is_plain_attention(o) &&
           attention_shared_bytes(o) <= device->info.max_shared_bytes &&
           o->n_queries * o->n_heads <= INT32_MAX;
}

static qmoe_status run_attention(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_attention *o = &op->u.attention;
    qcuda_attention_args args = {
        .dst = qcuda_pointer(o->dst),
        .q = qcuda_pointer(o->q),
        .k = qcuda_pointer(o->k),
        .v = qcuda_pointer(o->v),
        .spans = qcuda_pointer(o->spans),
        .bias = qcuda_pointer(o->bias),
        .n_spans = (int32_t)o->n_spans,
        .n_heads = (int32_t)o->n_heads,
        .d_head = (int32_t)o->d_key,
        .causal = o->causal,
        .max_distance = o->max_distance,
        .scale = o->scale,
    };
    qcuda_grid grid = {
        .y = 1,
        .z = 1,
        .threads = QCUDA_ATTENTION_THREADS,
        .shared_bytes = (uint32_t)attention_shared_bytes(o),
    };
    const qcuda_work work = {
        .n_items = o->n_queries,
        .n_units = o->n_queries,
        .cost = 2.0 * ATTENTION_COST * (double)o->n_queries *
                (double)o->max_keys * (double)(o->n_heads * o->d_key),
    };
    /* The only operation here that can take long: its cost grows with the
     * square of the length.  Queries are the units, so a cut changes no bit. */
    for (int64_t first = 0, n; first < o->n_queries; first += n) {
        QMI_TRY(qcuda_begin_portion(&n, device, &work, first, err));
        args.first = (int32_t)first;
        grid.x = (uint32_t)(n * o->n_heads);
        QMI_TRY(
            qcuda_launch(device, &qcuda_kernel_attention, grid, &args, err));
    }
    return QMOE_OK;
}

/* ---- tables ---- */

/* Not there yet: a model that needs them is refused. */
const qmi_variant *qcuda_variants_rope(size_t *n)
{
    *n = 0;
    return NULL;
}

const qmi_variant *qcuda_variants_glu(size_t *n)
{
    *n = 0;
    return NULL;
}

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
ONE_VARIANT(kv_store, "rows", supports_kv_store)
ONE_VARIANT(attention, "online", supports_attention)
