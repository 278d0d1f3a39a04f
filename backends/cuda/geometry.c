/* SPDX-License-Identifier: Apache-2.0
 * Sizes of launches (geometry.h).  In: arguments of a kernel, a count of tiles,
 * the number of multiprocessors.  Out: the grid, and the fields of the
 * arguments that must agree with it.  Pure functions of shape and device, so
 * that equal calls give equal bits.  Numbers without a source are estimates
 * (docs/kernels/cuda.md). */
#include "geometry.h"

enum {
    N_WARPS = QCUDA_PRODUCT_THREADS / 32,
    MAX_ROW_TILES = 4,
    MAX_SPLIT_COLS = 2048, /* 32 KiB of inputs for four items */
    STATIC_SHARED = 48 << 10
};

static int64_t ceil_div(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit;
}

/* As the kernel lays it out. */
static uint64_t attention_shared_bytes(
    const qcuda_attention_args *args, int64_t heads)
{
    /* Weights of a run of keys, for as many heads as the code is made for; then
     * queries, sums and a value per warp of each head; then the span. */
    const int64_t of_key = heads == 1 ? 1 : QCUDA_ATTENTION_HEADS;
    const int64_t of_head =
        (int64_t)args->d_key + args->d_value + QCUDA_ATTENTION_THREADS / 32;
    return (uint64_t)(of_key * QCUDA_ATTENTION_THREADS + heads * of_head + 5) *
           4;
}

/* Heads that share keys share a block, which reads them once, unless that
 * leaves multiprocessors without one. */
qcuda_grid qcuda_attention_grid(
    qcuda_attention_args *args, int64_t n_queries, const qdrv_info *device)
{
    const int64_t most = QCUDA_ATTENTION_HEADS;
    int64_t heads = args->group < most ? args->group : most;
    while (heads > 1 &&
           (attention_shared_bytes(args, heads) > device->max_shared_bytes ||
               n_queries * args->n_kv_heads * ceil_div(args->group, heads) <
                   device->n_multiprocessors))
        heads = ceil_div(heads, 2);
    args->block_heads = (int32_t)heads;
    return (qcuda_grid){
        .x = (uint32_t)(n_queries * args->n_kv_heads *
                        ceil_div(args->group, heads)),
        .y = 1,
        .z = 1,
        .threads = QCUDA_ATTENTION_THREADS,
        .shared_bytes = (uint32_t)attention_shared_bytes(args, heads),
    };
}

/* Cuts the columns into splits of whole units, of which `n_blocks` blocks each
 * take one, so that there are `wanted` of them where that is possible and the
 * inputs fit.  Returns the number of splits. */
static int64_t split_staged(
    qcuda_product_args *args, int64_t unit, int64_t n_blocks, int64_t wanted)
{
    const int64_t n_units = ceil_div(args->w.n_cols, unit);
    const int64_t most_units =
        MAX_SPLIT_COLS > unit ? MAX_SPLIT_COLS / unit : 1;
    /* Inputs of a split must fit the shared memory of a block. */
    int64_t splits = ceil_div(n_units, most_units);
    if (n_blocks * splits < wanted)
        splits = ceil_div(wanted, n_blocks);
    if (splits > n_units)
        splits = n_units;
    /* Equal splits, so that none ends late; the last may be shorter. */
    const int64_t units = ceil_div(n_units, splits);
    args->split_cols = (int32_t)(units * unit);
    return ceil_div(n_units, units);
}

/* Work for every multiprocessor comes first from rows, then from splitting the
 * columns; when rows alone are plenty, blocks take more of them, since each
 * block rotates its inputs anew. */
static qcuda_grid pvq_grid(
    qcuda_product_args *args, int64_t n_tiles, const qdrv_info *device)
{
    const int64_t width = args->w.format == QMI_FORMAT_PVQ ? 16 : 8;
    const int64_t chunk = 32 * width;
    /* A split must not cut a rotation's block nor a chunk of codes. */
    const int64_t unit = args->w.rotation > chunk ? args->w.rotation : chunk;
    const int64_t row_tiles = ceil_div(args->w.n_rows, 32);
    const int64_t wanted = 2 * device->n_multiprocessors;
    /* Two blocks per multiprocessor are wanted; twice of that is plenty. */
    int64_t per_block = 1;
    while (per_block < MAX_ROW_TILES &&
           ceil_div(row_tiles, 2 * per_block) * n_tiles >= 2 * wanted)
        per_block *= 2;
    const int64_t blocks = ceil_div(row_tiles, per_block);
    const int64_t splits = split_staged(args, unit, blocks * n_tiles, wanted);
    args->row_tiles = (int32_t)per_block;
    /* Inputs of the split, later the sums of the warps and a flag. */
    const int64_t items = args->tile_items > 1 ? QCUDA_FEW_ITEMS : 1;
    int64_t inputs = args->split_cols * items;
    const int64_t sums = (N_WARPS * 32) * items + 1;
    if (inputs < sums)
        inputs = sums;
    return (qcuda_grid){
        .x = (uint32_t)blocks,
        .y = (uint32_t)n_tiles,
        .z = (uint32_t)splits,
        .threads = QCUDA_PRODUCT_THREADS,
        .shared_bytes = (uint32_t)inputs * 4,
    };
}

/* A block has one tile of rows, so that splits alone give more blocks. */
static qcuda_grid tlut_grid(
    qcuda_product_args *args, int64_t n_tiles, const qdrv_info *device)
{
    enum { TILE = 64, UNIT = 64, TABLE = 64 * 32 };
    const int64_t unit = args->w.rotation > UNIT ? args->w.rotation : UNIT;
    const int64_t blocks = ceil_div(args->w.n_rows, TILE);
    const int64_t wanted = 2 * device->n_multiprocessors;
    const int64_t splits = split_staged(args, unit, blocks * n_tiles, wanted);
    args->row_tiles = TILE / 32;
    /* The table; inputs of the split, later sums of the warps and a flag. */
    const int64_t items = args->tile_items > 1 ? QCUDA_FEW_ITEMS : 1;
    int64_t inputs = args->split_cols * items;
    const int64_t sums = N_WARPS * TILE * items + 1;
    if (inputs < sums)
        inputs = sums;
    return (qcuda_grid){
        .x = (uint32_t)blocks,
        .y = (uint32_t)n_tiles,
        .z = (uint32_t)splits,
        .threads = QCUDA_PRODUCT_THREADS,
        .shared_bytes = (uint32_t)(TABLE + inputs) * 4,
    };
}

static qcuda_grid row_grid(
    qcuda_product_args *args, int64_t n_tiles, const qdrv_info *device)
{
    const bool is_dict = args->w.format == QMI_FORMAT_TERNARY_DICT;
    /* Rows all warps of a block take at once. */
    const int64_t unit = is_dict ? N_WARPS : 2 * N_WARPS;
    const int64_t n_units = ceil_div(args->w.n_rows, unit);
    int64_t units = 1;
    qcuda_grid grid = {
        .y = (uint32_t)n_tiles, .z = 1, .threads = QCUDA_PRODUCT_THREADS};
    if (is_dict) {
        /* A block stages its inputs once for all of its rows. */
        const int64_t items = args->tile_items > 1 ? QCUDA_FEW_ITEMS : 1;
        /* Where a row does not fit, warps read the inputs from memory. */
        const int64_t n_bytes = args->w.n_cols * items * 4;
        /* Blocks get more rows only when that leaves three per multiprocessor,
         * and at most 8 times as many. */
        units = ceil_div(n_units * n_tiles, 3 * device->n_multiprocessors);
        units = units > 8 ? 8 : units;
        args->staged = n_bytes <= STATIC_SHARED;
        grid.shared_bytes = args->staged ? (uint32_t)n_bytes : 0;
    }
    args->block_rows = (int32_t)(units * unit);
    grid.x = (uint32_t)ceil_div(n_units, units);
    return grid;
}

qcuda_grid qcuda_product_grid(
    qcuda_product_args *args, int64_t n_tiles, const qdrv_info *device)
{
    if (args->w.format == QMI_FORMAT_PVQ || args->w.format == QMI_FORMAT_PVQ8)
        return pvq_grid(args, n_tiles, device);
    if (args->w.k != 0)
        return tlut_grid(args, n_tiles, device);
    return row_grid(args, n_tiles, device);
}

/* As in kernels/pack.cu and kernels/product_many.cu. */
enum {
    MANY_COLS = 64,
    MANY_STEP = 16,
    PACK_COLS = 256,
    MANY_SPLITS = 8,
    MANY_PITCH = 36
};

qcuda_grid qcuda_many_grid(
    qcuda_product_args *args, int64_t n_tiles, const qdrv_info *device)
{
    const int64_t n_units = ceil_div(args->w.n_cols, MANY_COLS);
    const int64_t row_tiles = ceil_div(args->w.n_rows, 32);
    const int64_t wanted = 2 * device->n_multiprocessors;
    const int64_t per_block = row_tiles > 1 ? 2 : 1;
    const int64_t blocks = ceil_div(row_tiles, per_block);
    /* Most tiles of a list are unused: there are no more than this. */
    const int64_t busy = ceil_div(args->n_items, args->tile_items);
    const int64_t tiles = busy < n_tiles ? busy : n_tiles;
    /* Few blocks of rows and tiles: columns are split, up to 8 times, since
     * every split writes sums that are read again. */
    int64_t splits = ceil_div(wanted, blocks * tiles);
    const int64_t most = n_units < MANY_SPLITS ? n_units : MANY_SPLITS;
    splits = splits < most ? splits : most;
    const int64_t units = ceil_div(n_units, splits);
    args->split_cols = (int32_t)(units * MANY_COLS);
    args->row_tiles = (int32_t)per_block;
    /* The shared memory holds the sums of all warps, a flag, and a table. */
    const int64_t table = args->w.k != 0 ? 64 * 32 : 0;
    return (qcuda_grid){
        .x = (uint32_t)blocks,
        .y = (uint32_t)n_tiles,
        .z = (uint32_t)ceil_div(n_units, units),
        .threads = QCUDA_PRODUCT_THREADS,
        .shared_bytes = (uint32_t)(N_WARPS * 32 * MANY_PITCH + 1 + table) * 4,
    };
}

/* A block of threads packs whole blocks of the rotation, so that each input is
 * rotated once. */
qcuda_grid qcuda_pack_grid(qcuda_product_args *args, int64_t n_tiles)
{
    const int32_t unit =
        args->w.rotation > PACK_COLS ? args->w.rotation : PACK_COLS;
    args->n_steps = (int32_t)ceil_div(args->w.n_cols, MANY_STEP);
    args->split_cols = unit;
    return (qcuda_grid){
        .x = (uint32_t)ceil_div(args->w.n_cols, unit),
        .y = (uint32_t)n_tiles,
        .z = QCUDA_MANY_ITEMS / 8,
        .threads = QCUDA_PRODUCT_THREADS,
        .shared_bytes = (uint32_t)unit * 8 * 4,
    };
}

int64_t qcuda_list_slots(int64_t n_items)
{
    /* A tile of 9 items takes 2 slots of 8: the most per item (geometry.h). */
    _Static_assert(QCUDA_FEW_ITEMS >= 4, "a slot of 4 items would be more");
    return n_items * 2 / 9;
}

int64_t qcuda_run_slots(int64_t n_items)
{
    return ceil_div(n_items, 8);
}

uint64_t qcuda_packed_bytes(const qcuda_product_args *args, int64_t n_slots)
{
    /* Three parts of a lane's four columns of a step, 8 bytes each. */
    return (uint64_t)n_slots * (uint64_t)args->n_steps * 3 * 32 * 8;
}

qcuda_grid qcuda_paper_grid(
    qcuda_product_args *args, int64_t n_tiles, const qdrv_info *device)
{
    /* One block of rows per multiprocessor, a warp per row up to 32. */
    const int64_t rows = ceil_div(args->w.n_rows, device->n_multiprocessors);
    const int64_t warps = rows < 32 ? rows : 32;
    args->block_rows = (int32_t)rows;
    return (qcuda_grid){
        .x = (uint32_t)ceil_div(args->w.n_rows, rows),
        .y = (uint32_t)n_tiles,
        .z = 1,
        .threads = (uint32_t)warps * 32,
        /* Inputs and 28 zeros, three levels per lane of each warp. */
        .shared_bytes =
            ((uint32_t)args->w.n_cols + 28 + (uint32_t)warps * 3 * 32) * 4,
    };
}

uint64_t qcuda_partial_bytes(const qcuda_product_args *args, qcuda_grid grid)
{
    /* Without a split, sums go to dst directly. */
    if (grid.z == 1)
        return 0;
    return (uint64_t)grid.z * (uint64_t)args->n_items *
           (uint64_t)args->w.n_rows * 4;
}

qcuda_grid qcuda_top_grid(qcuda_top_args *args, int64_t n_rows)
{
    /* A block of threads finds the best of a segment; the segments' best are
     * the next step's keys. */
    const int64_t segments = ceil_div(args->n, QCUDA_TOP_SEGMENT);
    args->n_segments = (int32_t)segments;
    return (qcuda_grid){
        .x = (uint32_t)(n_rows * segments),
        .y = 1,
        .z = 1,
        .threads = QCUDA_TOP_THREADS,
        /* The chosen keys; counts of the warps, twice. */
        .shared_bytes = QCUDA_TOP_MAX * 8 + 2 * QCUDA_TOP_THREADS / 32 * 4,
    };
}

/* An estimate of what the driver takes, so that the plan does not promise
 * memory that rounding takes. */
uint64_t qcuda_block_bytes(uint64_t n_bytes)
{
    const uint64_t large = 1 << 20;
    const uint64_t unit = n_bytes < large ? 512 : 2 * large;
    return n_bytes > UINT64_MAX - unit ? UINT64_MAX
                                       : (n_bytes + unit - 1) / unit * unit;
}
