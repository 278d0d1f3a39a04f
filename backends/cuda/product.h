/* SPDX-License-Identifier: Apache-2.0
 * Products with a weight, the part linear layers and experts share. */
#ifndef QCUDA_PRODUCT_H
#define QCUDA_PRODUCT_H

#include "qcuda_device.h"

/* Items of a tile for a product of n_items. */
int32_t qcuda_tile_items(const qcuda_stack *w, int64_t n_items);
/* Runs a product over `n_tiles` tiles.  The caller sets what says which items,
 * weights and results are meant; the cut into blocks is found here. */
qmoe_status qcuda_run_product(qmi_device *device, qcuda_product_args args,
    int64_t n_tiles, qmi_error *err);

#endif
