/* SPDX-License-Identifier: Apache-2.0
 * Operation linear.  In: tokens and one matrix of a stack.  Out: dst by the
 * first variant that takes it: a library's dense product, our kernels, or the
 * paper's design, which is there to be compared with. */
#include "op_gemm.h"
#include "launches.h"
#include "product.h"
#include "ternary_dict.h"

static bool supports(const qmi_device *device, const qmi_op *op)
{
    (void)device;
    return op->u.linear.n_tokens < INT32_MAX;
}

/* A product whose items are the tokens: no list, no experts. */
static qcuda_product_args product_of(const qmi_op_linear *o, int32_t tile_items)
{
    return (qcuda_product_args){
        .w = qcuda_weight_of(o->weight)->stack,
        .dst = qcuda_pointer(o->dst),
        .src = qcuda_pointer(o->src),
        .residual = qcuda_pointer(o->residual),
        .bias = o->bias != NULL ? qcuda_weight_of(o->bias)->vector : NULL,
        .mat = o->mat,
        .n_items = (int32_t)o->n_tokens,
        .tile_items = tile_items,
        .divisor = 1,
        .act = o->act,
        .alpha = o->alpha,
    };
}

static qmoe_status run(qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_linear *o = &op->u.linear;
    const int32_t items =
        qcuda_tile_items(&qcuda_weight_of(o->weight)->stack, o->n_tokens);
    return qcuda_run_product(
        device, product_of(o, items), (o->n_tokens + items - 1) / items, err);
}

/* ---- the paper's design, to compare with ---- */

/* It has the generic dictionary in its table, one block for a tile, and inputs
 * in shared memory: what does not fit is not for it. */
static bool supports_paper(const qmi_device *device, const qmi_op *op)
{
    const qmi_op_linear *o = &op->u.linear;
    const qcuda_stack *w = &qcuda_weight_of(o->weight)->stack;
    qcuda_product_args args = {.w = *w};
    return w->format == QMI_FORMAT_TERNARY_DICT &&
           o->weight->host->codebook == NULL && w->n_cols < 1 << 20 &&
           o->n_tokens <= QCUDA_MAX_GRID_Y &&
           qcuda_paper_grid(&args, 1, &device->info).shared_bytes <=
               device->info.max_shared_bytes;
}

/* Uploaded by the first run: only a benchmark needs it. */
static qmoe_status reserve_paper_table(qmi_device *device, qmi_error *err)
{
    const qmi_dict *dict = qmi_dict_generic();
    if (device->paper_table.data != NULL)
        return QMOE_OK;
    if (dict == NULL)
        return qmi_fail(err, QMOE_E_NOMEM, "out of memory: the dictionary");
    QMI_TRY(qcuda_alloc(&device->paper_table, device, sizeof dict->table,
        "the dictionary", err));
    return qcuda_upload(
        device, device->paper_table.data, dict->table, sizeof dict->table, err);
}

static qmoe_status run_paper(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_linear *o = &op->u.linear;
    QMI_TRY(reserve_paper_table(device, err));
    qcuda_paper_args args = {
        .p = product_of(o, 1),
        .table = device->paper_table.data,
    };
    /* Every tile has one item. */
    args.p.least = args.p.most = 1;
    const qcuda_grid grid =
        qcuda_paper_grid(&args.p, o->n_tokens, &device->info);
    return qcuda_launch(device, &qcuda_kernel_paper_matvec, grid, &args, err);
}

const qmi_variant *qcuda_variants_linear(size_t *n)
{
    static const qmi_variant variants[] = {
        {"cublas", qcuda_gemm_supports, qcuda_gemm_linear},
        {"cuda", supports, run},
        {"paper-design", supports_paper, run_paper},
    };
    /* The first needs a library that may not be there. */
    const size_t skipped = qdrv_gemm_name() != NULL ? 0 : 1;
    *n = sizeof variants / sizeof *variants - skipped;
    return variants + skipped;
}
