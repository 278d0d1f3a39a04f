/* SPDX-License-Identifier: Apache-2.0
 * Products with a weight: linear layers and experts.  In: tokens, a stack, the
 * experts of each token.  Out: dst.  A product packs its activations into tiles
 * of tokens that share a matrix, then runs the format's kernel once per chunk
 * of the weight.  Tiles are made on the device, so that the host need not wait
 * for the router, but for streamed experts. */
#include "product.h"

#include "formats.h"

static int64_t round_up(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* Kernels read whole blocks of 16 columns. */
static int64_t padded_columns(const qmi_weight *w)
{
    return round_up(w->n_cols, 16);
}

/* Once per product, for all chunks.  Rotated weights meet rotated
 * activations. */
static qmoe_status pack(
    qmi_device *device, const qocl_product *p, int program, qmi_error *err)
{
    const qmi_weight *w = p->weight->host;
    const bool many = p->n_items > 1;
    const qocl_weight *bound = p->weight->device;
    const int64_t tokens = many ? qocl_many(device, bound->format) : 1;
    const int64_t n_padded = padded_columns(w);
    cl_mem packed;
    QMI_TRY(qocl_reserve(device, QOCL_PACKED,
        (uint64_t)(p->n_tiles * n_padded * tokens) * 4, err));
    packed = device->scratch[QOCL_PACKED].mem;
    const bool rotated = w->rotation != 0;
    qocl_call call = qocl_begin(
        device, program, rotated ? QOCL_K_pack_rotated : QOCL_K_pack);
    qocl_arg_mem(&call, packed);
    qocl_arg_view(&call, p->src);
    qocl_arg_mem(&call, device->scratch[QOCL_TILES].mem);
    qocl_arg_mem(&call, device->scratch[QOCL_ORDER].mem);
    qocl_arg_int(&call, p->grouping);
    qocl_arg_int(&call, p->n_items);
    qocl_arg_int(&call, w->n_cols);
    qocl_arg_int(&call, n_padded);
    qocl_arg_int(&call, p->divisor);
    if (!rotated)
        return qocl_run(
            &call, device->tuning.group, n_padded, p->n_tiles, 1, err);
    const int64_t lanes = device->tuning.pack_lanes;
    qocl_arg_int(&call, w->rotation);
    qocl_arg_uint(&call, w->rotation_seed);
    /* A group of lanes per block of the rotation, token by token. */
    return qocl_run(&call, lanes,
        (w->n_cols + w->rotation - 1) / w->rotation * lanes,
        p->n_tiles * tokens, 1, err);
}

/* What the result does with the residual, as in pack.cl. */
static int join_of(const qocl_product *p)
{
    enum { JOIN_NONE, JOIN_ADD, JOIN_MULTIPLY };
    if (p->residual.buffer == NULL)
        return JOIN_NONE;
    return p->multiplies ? JOIN_MULTIPLY : JOIN_ADD;
}

/* The kernel looks for the tiles whose matrix is in this chunk; the others are
 * another launch's. */
qmoe_status qocl_run_chunk(qmi_device *device, const qocl_product *p,
    const qocl_chunk *chunk, qmi_view packed, int program, qmi_error *err)
{
    const qmi_weight *w = p->weight->host;
    const qocl_weight *bound = p->weight->device;
    qocl_call call = qocl_begin(device, program, QOCL_K_product);
    /* A work-item's time grows with the columns. */
    call.depth = w->n_cols;
    call.first_y = p->first_tile;
    call.after = p->after;
    call.finish = p->finish;
    qocl_arg_view(&call, packed);
    qocl_arg_view(&call, p->dst);
    qocl_arg_view(&call, p->residual);
    qocl_arg_mem(&call, device->scratch[QOCL_TILES].mem);
    qocl_arg_mem(&call, device->scratch[QOCL_ORDER].mem);
    qocl_arg_view(&call, p->expert);
    qocl_arg_int(&call, p->grouping);
    qocl_arg_int(&call, p->mat);
    qocl_arg_int(&call, p->n_items);
    qocl_arg_int(&call, w->n_cols);
    qocl_arg_int(&call, padded_columns(w));
    qocl_arg_int(&call, w->n_rows);
    qocl_arg_float(&call, p->alpha);
    qocl_arg_vector(&call, p->bias);
    qocl_arg_int(&call, p->act);
    qocl_arg_int(&call, join_of(p));
    qocl_arg_chunk_place(&call, chunk);
    qocl_arg_chunk_parts(&call, bound, chunk);
    int64_t x, local;
    qocl_product_size(
        &x, &local, &device->tuning, bound->format, chunk->n_rows);
    return qocl_run(&call, local, x, p->n_tiles, 1, err);
}

qmoe_status qocl_prepare_product(qmi_view *packed, int *program,
    qmi_device *device, const qocl_product *p, qmi_error *err)
{
    const qmi_weight *w = p->weight->host;
    const qocl_weight *bound = p->weight->device;
    *program = qocl_format_program(bound->format, p->n_items > 1);
    /* A single row of whole blocks is its own packing. */
    *packed = p->src;
    if (p->n_items <= 1 && w->rotation == 0 && w->n_cols % 16 == 0)
        return QMOE_OK;
    QMI_TRY(pack(device, p, *program, err));
    *packed = qocl_scratch_view(device, QOCL_PACKED);
    return QMOE_OK;
}

static qmoe_status run_product(
    qmi_device *device, const qocl_product *p, qmi_error *err)
{
    const qocl_weight *bound = p->weight->device;
    /* Its matrices are not there: they come one by one. */
    if (bound->entries != NULL)
        return qocl_stream_product(device, p, err);
    int program;
    qmi_view packed;
    QMI_TRY(qocl_prepare_product(&packed, &program, device, p, err));
    for (size_t i = 0; i < bound->n_chunks; i++) {
        const qocl_chunk *chunk = &bound->chunks[i];
        /* Known here: chunks without the matrix are not launched. */
        if (p->grouping == FIXED_MATRIX &&
            (p->mat < chunk->first_mat ||
                p->mat >= chunk->first_mat + chunk->n_mats))
            continue;
        QMI_TRY(qocl_run_chunk(device, p, chunk, packed, program, err));
    }
    return QMOE_OK;
}

/* One token has a program of its own, without padding. */
static int64_t tile_items(
    const qmi_device *device, const qmi_bound_weight *weight, int64_t n_items)
{
    const qocl_weight *bound = weight->device;
    return n_items > 1 ? qocl_many(device, bound->format) : 1;
}

static int64_t tiles_of(
    const qmi_device *device, const qmi_bound_weight *weight, int64_t n_items)
{
    const int64_t many = tile_items(device, weight, n_items);
    return (n_items + many - 1) / many;
}

qmoe_status qocl_run_linear(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_linear *o = &op->u.linear;
    const qocl_product p = {
        .weight = o->weight,
        .dst = o->dst,
        .src = o->src,
        .residual = o->residual,
        .grouping = FIXED_MATRIX,
        .mat = o->mat,
        .n_items = o->n_tokens,
        .n_tiles = tiles_of(device, o->weight, o->n_tokens),
        .tile_items = tile_items(device, o->weight, o->n_tokens),
        .divisor = 1,
        .alpha = o->alpha,
        .bias = o->bias,
        .act = o->act,
    };
    return run_product(device, &p, err);
}

/* ---- experts ---- */

/* Sorts the pairs by expert on the device, at most `many` in a tile; *n_tiles
 * bounds their tiles. */
static qmoe_status group(qmi_device *device, const qmi_op_expert_ffn *o,
    int64_t n_pairs, int64_t many, int64_t *n_tiles, qmi_error *err)
{
    const int64_t n_experts = o->up->host->n_mats;
    /* Full tiles, and at most one that is not full per expert: the host's
     * bound; unused tiles are marked and do nothing. */
    const int64_t partial = n_experts < n_pairs ? n_experts : n_pairs;
    *n_tiles = n_pairs / many + partial;
    if (*n_tiles > n_pairs)
        *n_tiles = n_pairs;
    QMI_TRY(qocl_reserve(device, QOCL_COUNTS, (uint64_t)n_experts * 4, err));
    QMI_TRY(qocl_reserve(device, QOCL_ORDER, (uint64_t)n_pairs * 4, err));
    QMI_TRY(qocl_reserve(device, QOCL_TILES, (uint64_t)*n_tiles * 16, err));
    qocl_call call = qocl_begin(device, QOCL_BASE_PROGRAM, QOCL_K_group_count);
    qocl_arg_mem(&call, device->scratch[QOCL_COUNTS].mem);
    qocl_arg_view(&call, o->expert);
    qocl_arg_int(&call, n_pairs);
    qocl_arg_int(&call, n_experts);
    QMI_TRY(qocl_run(&call, device->tuning.group, n_experts, 1, 1, err));
    call = qocl_begin(device, QOCL_BASE_PROGRAM, QOCL_K_group_fill);
    qocl_arg_mem(&call, device->scratch[QOCL_ORDER].mem);
    qocl_arg_mem(&call, device->scratch[QOCL_TILES].mem);
    qocl_arg_mem(&call, device->scratch[QOCL_COUNTS].mem);
    qocl_arg_view(&call, o->expert);
    qocl_arg_int(&call, n_pairs);
    qocl_arg_int(&call, n_experts);
    qocl_arg_int(&call, many);
    qocl_arg_int(&call, *n_tiles);
    /* One more than the experts: it marks the tiles that are not used. */
    return qocl_run(&call, device->tuning.group, n_experts + 1, 1, 1, err);
}

/* Results of a token's choices are added in the order of choice, so that the
 * sum has the same bits on every run. */
static qmoe_status combine(
    qmi_device *device, const qmi_op_expert_ffn *o, qmi_error *err)
{
    const int64_t d_model = o->down->host->n_rows;
    qocl_call call = qocl_begin(device, QOCL_BASE_PROGRAM, QOCL_K_combine);
    qocl_arg_view(&call, o->dst);
    qocl_arg_view(&call, o->residual);
    qocl_arg_view(&call, o->src);
    qocl_arg_mem(&call, device->scratch[QOCL_RESULTS].mem);
    qocl_arg_view(&call, o->expert);
    qocl_arg_view(&call, o->weight);
    qocl_arg_int(&call, d_model);
    qocl_arg_int(&call, o->top_k);
    qocl_arg_int(&call, o->residual.buffer != NULL);
    return qocl_run(&call, device->tuning.group, d_model, o->n_tokens, 1, err);
}

/* Both products of a pair go by one list of tiles, so the smallest of their
 * tiles is taken. */
static int64_t expert_tile_items(
    const qmi_device *device, const qmi_op_expert_ffn *o, int64_t n_pairs)
{
    const qmi_bound_weight *const stacks[] = {o->down, o->gate};
    int64_t least = tile_items(device, o->up, n_pairs);
    for (int i = 0; i < 2; i++) {
        if (stacks[i] == NULL)
            continue;
        const int64_t n = tile_items(device, stacks[i], n_pairs);
        least = n < least ? n : least;
    }
    return least;
}

/* The products of an expert in their order; `p` is what they share.  A gate
 * leaves its result where the product with `up` goes, which is multiplied by
 * it. */
static int list_products(qocl_product products[QOCL_MAX_PHASES],
    qmi_device *device, const qmi_op_expert_ffn *o, qocl_product p)
{
    int n = 0;
    p.dst = qocl_scratch_view(device, QOCL_HIDDEN);
    p.src = o->src;
    p.divisor = o->top_k;
    p.act = o->act;
    if (o->gate != NULL) {
        p.weight = o->gate;
        products[n++] = p;
        p.act = QMI_ACT_NONE;
        p.residual = p.dst;
        p.multiplies = true;
    }
    p.weight = o->up;
    products[n++] = p;
    p.weight = o->down;
    p.src = p.dst;
    p.dst = qocl_scratch_view(device, QOCL_RESULTS);
    p.residual = (qmi_view){0};
    p.divisor = 1;
    p.act = QMI_ACT_NONE;
    products[n++] = p;
    return n;
}

static qmoe_status run_products(
    qmi_device *device, const qocl_product *products, int n, qmi_error *err)
{
    bool all_streamed = true;
    for (int i = 0; i < n; i++)
        all_streamed = all_streamed && qocl_is_streamed(products[i].weight);
    /* In turn, so that the next matrix comes while the one before works. */
    if (all_streamed)
        return qocl_stream_experts(device, products, n, err);
    for (int i = 0; i < n; i++)
        QMI_TRY(run_product(device, &products[i], err));
    return QMOE_OK;
}

qmoe_status qocl_run_expert_ffn(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_expert_ffn *o = &op->u.expert_ffn;
    const int64_t n_pairs = o->n_tokens * o->top_k;
    const uint64_t d_ff = (uint64_t)o->up->host->n_rows;
    const uint64_t d_model = (uint64_t)o->down->host->n_rows;
    qocl_product products[QOCL_MAX_PHASES];
    /* A single pair is its own tile: its expert is read by the kernel. */
    qocl_product p = {
        .expert = o->expert,
        .grouping = ONLY_EXPERT,
        .n_items = n_pairs,
        .n_tiles = n_pairs,
        .tile_items = 1,
        .alpha = 1.0f,
    };
    if (n_pairs == 0)
        return QMOE_OK;
    QMI_TRY(
        qocl_reserve(device, QOCL_HIDDEN, (uint64_t)n_pairs * d_ff * 4, err));
    QMI_TRY(qocl_reserve(
        device, QOCL_RESULTS, (uint64_t)n_pairs * d_model * 4, err));
    if (n_pairs > 1) {
        p.grouping = BY_TILES;
        p.tile_items = expert_tile_items(device, o, n_pairs);
        QMI_TRY(group(device, o, n_pairs, p.tile_items, &p.n_tiles, err));
    }
    const int n = list_products(products, device, o, p);
    QMI_TRY(run_products(device, products, n, err));
    return combine(device, o, err);
}
