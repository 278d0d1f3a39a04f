/* SPDX-License-Identifier: Apache-2.0
 * Operation expert_ffn.  What runs where is decided on the device: the pairs
 * of token and choice are sorted by expert and cut into tiles there, and
 * kernels find their work in that list, so that the host never waits for the
 * router. */
#include "product.h"

#include "launches.h"

static bool supports(const qmi_device *device, const qmi_op *op)
{
    const qmi_op_expert_ffn *o = &op->u.expert_ffn;
    (void)device;
    return o->n_tokens * o->top_k < INT32_MAX;
}

/* All products go by one list, so the smallest of their tiles is taken.  A
 * token's choices differ: no expert gets more pairs than there are tokens. */
static int32_t tile_items(const qmi_op_expert_ffn *o)
{
    const qmi_bound_weight *const stacks[] = {o->up, o->down, o->gate};
    int32_t least = QCUDA_MANY_ITEMS;
    for (int i = 0; i < (o->gate != NULL ? 3 : 2); i++) {
        const int32_t n =
            qcuda_tile_items(&qcuda_weight_of(stacks[i])->stack, o->n_tokens);
        least = n < least ? n : least;
    }
    return least;
}

/* The list of tiles; *n_tiles bounds their number, whatever was chosen. */
static qmoe_status group(qmi_device *device, const qmi_op_expert_ffn *o,
    qcuda_product_args *args, int64_t *n_tiles, qmi_error *err)
{
    const int64_t n_pairs = args->n_items;
    const int64_t n_experts = o->up->host->n_mats;
    /* The dropped pairs count as one more expert. */
    const int64_t partial = n_experts + 1 < n_pairs ? n_experts + 1 : n_pairs;
    /* Full tiles, and at most one that is not full per expert: the host's
     * bound; unused tiles are marked by the kernel and do nothing. */
    *n_tiles = n_pairs / args->tile_items + partial;
    /* A tile holds a pair at least. */
    if (*n_tiles > n_pairs)
        *n_tiles = n_pairs;
    void *counts, *order, *tiles;
    QMI_TRY(qcuda_reserve(
        &counts, device, QCUDA_COUNTS, (uint64_t)(n_experts + 1) * 4, err));
    QMI_TRY(
        qcuda_reserve(&order, device, QCUDA_ORDER, (uint64_t)n_pairs * 4, err));
    QMI_TRY(qcuda_reserve(&tiles, device, QCUDA_TILES,
        (uint64_t)*n_tiles * sizeof(qcuda_tile), err));
    const qcuda_group_args list = {
        .expert = qcuda_pointer(o->expert),
        .counts = counts,
        .order = order,
        .tiles = tiles,
        .n_pairs = (int32_t)n_pairs,
        .n_experts = (int32_t)n_experts,
        .n_tiles = (int32_t)*n_tiles,
        .tile_items = args->tile_items,
        .few = QCUDA_FEW_ITEMS,
    };
    /* A warp counts and lists one expert's pairs, in the order of pairs, so
     * that results do not depend on which block is first. */
    const int64_t per_block = QCUDA_ROW_THREADS / 32;
    const qcuda_grid grid = {
        .x = (uint32_t)(n_experts / per_block + 1),
        .y = 1,
        .z = 1,
        .threads = QCUDA_ROW_THREADS,
    };
    args->order = order;
    args->tiles = tiles;
    QMI_TRY(qcuda_launch(device, &qcuda_kernel_group_count, grid, &list, err));
    return qcuda_launch(device, &qcuda_kernel_group_fill, grid, &list, err);
}

/* Results of a token's choices are added in the order of choice, so that the
 * sum has the same bits on every run. */
static qmoe_status combine(qmi_device *device, const qmi_op_expert_ffn *o,
    const float *result, qmi_error *err)
{
    const qcuda_combine_args args = {
        .dst = qcuda_pointer(o->dst),
        .residual = qcuda_pointer(o->residual),
        .src = qcuda_pointer(o->src),
        .result = result,
        .expert = qcuda_pointer(o->expert),
        .weight = qcuda_pointer(o->weight),
        .d_model = (int32_t)o->down->host->n_rows,
        .top_k = (int32_t)o->top_k,
    };
    const qcuda_grid grid = {
        .x = (uint32_t)o->n_tokens,
        .y = 1,
        .z = 1,
        .threads = QCUDA_ROW_THREADS,
    };
    return qcuda_launch(device, &qcuda_kernel_combine, grid, &args, err);
}

/* The hidden vectors of all pairs: a product with a gate leaves act(gate x),
 * which the next one multiplies its own by. */
static qmoe_status run_hidden(qmi_device *device, const qmi_op_expert_ffn *o,
    qcuda_product_args args, int64_t n_tiles, qmi_error *err)
{
    args.act = o->act;
    if (o->gate != NULL) {
        args.w = qcuda_weight_of(o->gate)->stack;
        QMI_TRY(qcuda_run_product(device, args, n_tiles, err));
        args.act = QMI_ACT_NONE;
        args.factor = args.dst;
    }
    args.w = qcuda_weight_of(o->up)->stack;
    return qcuda_run_product(device, args, n_tiles, err);
}

static qmoe_status run(qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_expert_ffn *o = &op->u.expert_ffn;
    const int64_t n_pairs = o->n_tokens * o->top_k;
    const uint64_t d_ff = (uint64_t)o->up->host->n_rows;
    const uint64_t d_model = (uint64_t)o->down->host->n_rows;
    void *hidden, *results = NULL;
    /* No pair, no work: grids must not be empty. */
    if (n_pairs == 0)
        return QMOE_OK;
    QMI_TRY(qcuda_reserve(
        &hidden, device, QCUDA_HIDDEN, (uint64_t)n_pairs * d_ff * 4, err));
    qcuda_product_args args = {
        .dst = hidden,
        .src = qcuda_pointer(o->src),
        .expert = qcuda_pointer(o->expert),
        .n_items = (int32_t)n_pairs,
        .tile_items = tile_items(o),
        .divisor = (int32_t)o->top_k,
        .alpha = 1.0f,
    };
    int64_t n_tiles = n_pairs;
    /* One token needs no list: each of its pairs is a tile. */
    if (o->n_tokens > 1)
        QMI_TRY(group(device, o, &args, &n_tiles, err));
    QMI_TRY(run_hidden(device, o, args, n_tiles, err));
    args.w = qcuda_weight_of(o->down)->stack;
    args.src = hidden;
    args.divisor = 1;
    /* One choice: the last product scales, adds the residual and passes a
     * dropped token itself, which saves a kernel and the results' way through
     * memory. */
    if (o->top_k == 1) {
        args.dst = qcuda_pointer(o->dst);
        args.residual = qcuda_pointer(o->residual);
        args.item_factor = qcuda_pointer(o->weight);
        args.skip = qcuda_pointer(o->src);
        return qcuda_run_product(device, args, n_tiles, err);
    }
    QMI_TRY(qcuda_reserve(
        &results, device, QCUDA_RESULTS, (uint64_t)n_pairs * d_model * 4, err));
    args.dst = results;
    QMI_TRY(qcuda_run_product(device, args, n_tiles, err));
    return combine(device, o, results, err);
}

const qmi_variant *qcuda_variants_expert_ffn(size_t *n)
{
    static const qmi_variant variant = {"cuda", supports, run};
    *n = 1;
    return &variant;
}
