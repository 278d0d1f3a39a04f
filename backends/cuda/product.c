/* SPDX-License-Identifier: Apache-2.0
 * Launching of products. */
#include "product.h"

static const qcuda_entry *const few_kernels[QCUDA_N_FORMATS] = {
    [QCUDA_BF16] = &qcuda_kernel_product_bf16,
    [QCUDA_F16] = &qcuda_kernel_product_f16,
    [QCUDA_F32] = &qcuda_kernel_product_f32,
    [QCUDA_TERNARY_DICT] = &qcuda_kernel_product_ternary_dict,
    [QCUDA_Q2] = &qcuda_kernel_product_q2,
    [QCUDA_PVQ] = &qcuda_kernel_product_pvq,
    [QCUDA_PVQ8] = &qcuda_kernel_product_pvq8,
};

static qmoe_status reserve_splits(qmi_device *device, qcuda_product_args *args,
    qcuda_grid grid, qmi_error *err)
{
    void *partial, *arrived;
    if (grid.z == 1)
        return QMOE_OK;
    QMI_TRY(qcuda_reserve(&partial, device, QCUDA_PARTIAL,
        qcuda_partial_bytes(args, grid), err));
    QMI_TRY(qcuda_reserve(&arrived, device, QCUDA_ARRIVED,
        (uint64_t)grid.x * grid.y * 4, err));
    args->partial = partial;
    args->arrived = arrived;
    return QMOE_OK;
}

qmoe_status qcuda_run_product(qmi_device *device, qcuda_product_args args,
    int64_t n_tiles, qmi_error *err)
{
    args.least = 1;
    args.most = args.tile_items;
    for (int64_t first = 0; first < n_tiles; first += QCUDA_MAX_GRID_Y) {
        const int64_t left = n_tiles - first;
        const int64_t n = left < QCUDA_MAX_GRID_Y ? left : QCUDA_MAX_GRID_Y;
        args.first_tile = (int32_t)first;
        const qcuda_grid grid = qcuda_product_grid(&args, n, &device->info);
        QMI_TRY(reserve_splits(device, &args, grid, err));
        QMI_TRY(qcuda_launch(
            device, few_kernels[args.w.format], grid, &args, err));
    }
    return QMOE_OK;
}
