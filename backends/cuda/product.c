/* SPDX-License-Identifier: Apache-2.0
 * Launching of products.  In: a stack, inputs, tiles.  Out: launches of the
 * kernel for few items, for many, or both, over the same tiles: each kernel
 * takes the tiles whose size is its own (least..most), so between them every
 * item is computed once. */
#include "product.h"

#include "formats.h"
#include "launch_list.h"
#include "launches.h"
#include "portions.h"

_Static_assert(sizeof(qcuda_product_args) <= QCUDA_RECORDED_ARGS,
    "products are recorded, or no step would become a graph");

/* Split columns: each split writes its sums apart, and the last to arrive adds
 * them in the order of splits, so that bits do not depend on which was last. */
static qmoe_status reserve_splits(qmi_device *device, qcuda_product_args *args,
    qcuda_grid grid, qmi_error *err)
{
    void *partial, *arrived;
    if (grid.z == 1)
        return QMOE_OK;
    QMI_TRY(qcuda_reserve(
        &partial, device, QCUDA_PARTIAL, qcuda_partial_bytes(args, grid), err));
    QMI_TRY(qcuda_reserve(
        &arrived, device, QCUDA_ARRIVED, (uint64_t)grid.x * grid.y * 4, err));
    args->partial = partial;
    args->arrived = arrived;
    return QMOE_OK;
}

int32_t qcuda_tile_items(const qcuda_stack *w, int64_t n_items)
{
    /* Of more items, a format with tensor-core kernels takes 32 at a time. */
    if (n_items > QCUDA_FEW_ITEMS && qcuda_format_of(w->format)->many != NULL)
        return QCUDA_MANY_ITEMS;
    return n_items > 1 ? QCUDA_FEW_ITEMS : 1;
}

/* A portion of a product: `n` of its tiles.  The cut into blocks is that of
 * all n_tiles, so that a portion changes no bit of a result. */
typedef struct portion {
    int64_t n_tiles, n;
} portion;

/* Tiles of few items and what was dropped. */
static qmoe_status run_few(
    qmi_device *device, qcuda_product_args args, portion part, qmi_error *err)
{
    args.least = 1;
    args.most = QCUDA_FEW_ITEMS;
    qcuda_grid grid = qcuda_product_grid(&args, part.n_tiles, &device->info);
    /* The cut was made for all tiles; only so many are launched now. */
    grid.y = (uint32_t)part.n;
    QMI_TRY(reserve_splits(device, &args, grid, err));
    return qcuda_launch(
        device, qcuda_format_of(args.w.format)->few, grid, &args, err);
}

/* Activations are packed first, for all row blocks to read. */
static qmoe_status run_many(
    qmi_device *device, qcuda_product_args args, portion part, qmi_error *err)
{
    /* A list may leave slots half used; one run of items does not. */
    const int64_t n_slots = args.tiles != NULL ? qcuda_list_slots(args.n_items)
                                               : qcuda_run_slots(args.n_items);
    void *packed;
    args.least = QCUDA_FEW_ITEMS + 1;
    args.most = args.tile_items;
    const qcuda_grid pack = qcuda_pack_grid(&args, part.n);
    QMI_TRY(qcuda_reserve(&packed, device, QCUDA_PACKED,
        qcuda_packed_bytes(&args, n_slots), err));
    args.packed = packed;
    QMI_TRY(qcuda_launch(device, &qcuda_kernel_pack, pack, &args, err));
    /* The launch has copied `args`; this sets split_cols anew. */
    qcuda_grid grid = qcuda_many_grid(&args, part.n_tiles, &device->info);
    grid.y = (uint32_t)part.n;
    QMI_TRY(reserve_splits(device, &args, grid, err));
    return qcuda_launch(
        device, qcuda_format_of(args.w.format)->many, grid, &args, err);
}

qmoe_status qcuda_run_product(qmi_device *device, qcuda_product_args args,
    int64_t n_tiles, qmi_error *err)
{
    const bool is_list = args.tiles != NULL;
    /* Without a list only the last tile may have few items. */
    const int64_t rest = args.n_items % args.tile_items;
    const bool few = args.tile_items <= QCUDA_FEW_ITEMS || is_list ||
                     (rest != 0 && rest <= QCUDA_FEW_ITEMS);
    const bool many = args.tile_items > QCUDA_FEW_ITEMS;
    /* Tiles of a list hold what they hold: the device knows, this is the
     * average. */
    const qcuda_work work = {
        .n_items = args.n_items,
        .n_units = n_tiles,
        .cost = (double)args.n_items * (double)args.w.n_rows * args.w.n_cols,
    };
    portion part = {.n_tiles = n_tiles};
    for (int64_t first = 0; first < n_tiles; first += part.n) {
        QMI_TRY(qcuda_begin_portion(&part.n, device, &work, first, err));
        /* A limit of CUDA's second grid dimension. */
        if (part.n > QCUDA_MAX_GRID_Y)
            part.n = QCUDA_MAX_GRID_Y;
        args.first_tile = (int32_t)first;
        /* Both kernels: which tiles have few items only the device knows. */
        if (many)
            QMI_TRY(run_many(device, args, part, err));
        if (few)
            QMI_TRY(run_few(device, args, part, err));
    }
    return QMOE_OK;
}
