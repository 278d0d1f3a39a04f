/* SPDX-License-Identifier: Apache-2.0
 * Operation route.  In: router logits.  Out: experts and weights of each token,
 * chosen on the device, so that the host need not wait.  Ties take the lowest
 * expert, as the reference does. */
#include "qcuda_device.h"

#include "launches.h"

/* What decides of each expert, and the groups' scores. */
static uint64_t shared_bytes(const qmi_op_route *o)
{
    return (uint64_t)(o->n_experts + o->router.n_groups) * sizeof(float);
}

static bool supports(const qmi_device *device, const qmi_op *op)
{
    const qmi_op_route *o = &op->u.route;
    return shared_bytes(o) <= device->info.max_shared_bytes &&
           o->n_tokens * o->top_k < INT32_MAX;
}

/* Counts what came before in the sequence, so it reads a copy: other threads
 * overwrite what they drop. */
static qmoe_status drop(
    qmi_device *device, const qmi_op_route *o, qmi_error *err)
{
    const int64_t n_pairs = o->n_tokens * o->top_k;
    const uint64_t n_bytes = (uint64_t)n_pairs * 4;
    void *chosen;
    QMI_TRY(qcuda_reserve(&chosen, device, QCUDA_CHOSEN, n_bytes, err));
    QMI_TRY(qcuda_copy(device, chosen, qcuda_pointer(o->expert), n_bytes, err));
    const qcuda_drop_args args = {
        .expert = qcuda_pointer(o->expert),
        .chosen = chosen,
        .sequence = qcuda_pointer(o->sequence),
        .n_pairs = n_pairs,
        .capacity = o->capacity,
        .top_k = (int32_t)o->top_k,
    };
    const qcuda_grid grid = {
        .x = (uint32_t)((n_pairs + QCUDA_ROW_THREADS - 1) / QCUDA_ROW_THREADS),
        .y = 1,
        .z = 1,
        .threads = QCUDA_ROW_THREADS,
    };
    return qcuda_launch(device, &qcuda_kernel_drop, grid, &args, err);
}

static qmoe_status run(qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_route *o = &op->u.route;
    const qmi_router *router = &o->router;
    const qcuda_route_args args = {
        .expert = qcuda_pointer(o->expert),
        .weight = qcuda_pointer(o->weight),
        .logits = qcuda_pointer(o->logits),
        .bias = o->bias != NULL ? qcuda_weight_of(o->bias)->vector : NULL,
        .n_experts = (int32_t)o->n_experts,
        .top_k = (int32_t)o->top_k,
        .scoring = router->scoring,
        .n_groups = (int32_t)router->n_groups,
        .top_groups = (int32_t)router->top_groups,
        .group_best = router->group_best,
        .normalises = router->normalises,
        .scale = router->scale != 0 ? router->scale : 1.0f,
    };
    /* A warp per token. */
    const qcuda_grid grid = {
        .x = (uint32_t)o->n_tokens,
        .y = 1,
        .z = 1,
        .threads = 32,
        .shared_bytes = (uint32_t)shared_bytes(o),
    };
    QMI_TRY(qcuda_launch(device, &qcuda_kernel_route, grid, &args, err));
    if (o->capacity <= 0 || o->n_tokens == 0)
        return QMOE_OK;
    return drop(device, o, err);
}

const qmi_variant *qcuda_variants_route(size_t *n)
{
    static const qmi_variant variant = {"warp", supports, run};
    *n = 1;
    return &variant;
}
