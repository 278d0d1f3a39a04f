/* SPDX-License-Identifier: Apache-2.0
 * Operation top-logits.  In: logits of each token.  Out: the best top_k, in
 * steps: the best of each segment, then of the segments' best, until one
 * segment is left.  The order of two keys is total (logit, then id), so the cut
 * into segments does not show in the result. */
#include "qcuda_device.h"
#include "launches.h"
#include "top_logits.h"

_Static_assert((int)QCUDA_TOP_MAX == (int)QMI_TOP_LOGITS_MAX, "one limit");

static int64_t segments(int64_t n)
{
    return (n + QCUDA_TOP_SEGMENT - 1) / QCUDA_TOP_SEGMENT;
}

static bool supports(const qmi_device *device, const qmi_op *op)
{
    const qmi_op_top_logits *o = &op->u.top_logits;
    /* Segments of all tokens are blocks of one grid dimension. */
    (void)device;
    return qmi_top_logits_fit(o) &&
           o->n_tokens <= INT32_MAX / segments(o->n_cols);
}

/* Keys between steps: two areas, written in turn, so that no step overwrites
 * what it reads.  Later steps have fewer keys than the second. */
static qmoe_status reserve(uint64_t *areas[2], qmi_device *device,
    const qmi_op_top_logits *o, qmi_error *err)
{
    const int64_t first = segments(o->n_cols) * o->top_k;
    const int64_t second = segments(first) * o->top_k;
    void *keys = NULL;
    areas[0] = areas[1] = NULL;
    /* One segment: the first step is the last. */
    if (first == o->top_k)
        return QMOE_OK;
    QMI_TRY(qcuda_reserve(&keys, device, QCUDA_TOP,
        (uint64_t)(o->n_tokens * (first + second)) * sizeof(uint64_t), err));
    areas[0] = keys;
    areas[1] = areas[0] + o->n_tokens * first;
    return QMOE_OK;
}

static qmoe_status run(qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_top_logits *o = &op->u.top_logits;
    uint64_t *areas[2];
    qcuda_top_args args = {
        .logits = qcuda_pointer(o->logits),
        .value = qcuda_pointer(o->value),
        .id = qcuda_pointer(o->id),
        .n_cols = o->n_cols,
        .n = o->n_cols,
        .top_k = (int32_t)o->top_k,
    };
    QMI_TRY(reserve(areas, device, o, err));
    /* Ends: top_k is less than a segment, so there are fewer keys each time. */
    for (int step = 0;; step++) {
        const qcuda_grid grid = qcuda_top_grid(&args, o->n_tokens);
        const bool is_last = args.n_segments == 1;
        args.best = is_last ? NULL : areas[step % 2];
        QMI_TRY(
            qcuda_launch(device, &qcuda_kernel_top_logits, grid, &args, err));
        if (is_last)
            return QMOE_OK;
        args.keys = args.best;
        args.n = (int64_t)args.n_segments * args.top_k;
    }
}

const qmi_variant *qcuda_variants_top_logits(size_t *n)
{
    static const qmi_variant variant = {"segments", supports, run};
    *n = 1;
    return &variant;
}
