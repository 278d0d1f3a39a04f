/* SPDX-License-Identifier: Apache-2.0
 * Sizes of launches, from shapes and what a device has.  Pure functions, so
 * that tests see what a device of any size would be given. */
#ifndef QCUDA_GEOMETRY_H
#define QCUDA_GEOMETRY_H

#include "args.h"
#include "driver.h"

enum {
    QCUDA_MAX_GRID_Y = 65535,
    QCUDA_ROW_THREADS = 128, /* decode_rows, rmsnorm */
    QCUDA_ATTENTION_THREADS = 128,
    QCUDA_PRODUCT_THREADS = 256
};

/* Attention of all queries; sets block_heads.  shared_bytes may exceed what the
 * device has. */
qcuda_grid qcuda_attention_grid(
    qcuda_attention_args *args, int64_t n_queries, const qdrv_info *device);
/* A product of at most `n_tiles` tiles; sets the fields of `args` that depend
 * on the cut: split_cols, row_tiles, block_rows, staged. */
qcuda_grid qcuda_product_grid(
    qcuda_product_args *args, int64_t n_tiles, const qdrv_info *device);
/* The same for the kernels of product_many. */
qcuda_grid qcuda_many_grid(
    qcuda_product_args *args, int64_t n_tiles, const qdrv_info *device);
/* Packing for them; sets n_steps and split_cols. */
qcuda_grid qcuda_pack_grid(qcuda_product_args *args, int64_t n_tiles);
/* Most slots of eight packed items that a list of tiles takes, however n_items
 * are routed.  group_fill (kernels/route.cu) hands them out; tiles of up to
 * QCUDA_FEW_ITEMS take none.  Tiles of 9 items, with two slots each, take most
 * per item. */
int64_t qcuda_list_slots(int64_t n_items);
/* The same for items [0, n_items) in one run. */
int64_t qcuda_run_slots(int64_t n_items);
/* Bytes of the packed activations of a row of n_slots * 8 items. */
uint64_t qcuda_packed_bytes(const qcuda_product_args *args, int64_t n_slots);
/* About one block per multiprocessor, as the paper has it; sets block_rows.
 * shared_bytes may exceed what the device has. */
qcuda_grid qcuda_paper_grid(
    qcuda_product_args *args, int64_t n_tiles, const qdrv_info *device);
/* A step of top_logits over rows of args->n keys; sets n_segments. */
qcuda_grid qcuda_top_grid(qcuda_top_args *args, int64_t n_rows);
/* Device memory a block of n_bytes takes: small ones share pages of 2 MiB, each
 * rounded up to 512 bytes, large ones have pages of their own. */
uint64_t qcuda_block_bytes(uint64_t n_bytes);
/* Bytes of the split sums the grid needs; 0 when it does not split. */
uint64_t qcuda_partial_bytes(const qcuda_product_args *args, qcuda_grid grid);

#endif
