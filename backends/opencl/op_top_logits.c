/* SPDX-License-Identifier: Apache-2.0
 * Operation top-logits.  In: logits.  Out: the best top_k of each token, by a
 * scan of a work-item or by segments in steps: the best of each segment, then
 * of the segments' best.  The order of two keys is total (logit, then id), so
 * the cut does not show in the result. */
#include "qocl_device.h"
#include "top_logits.h"

/* Columns, or keys of the step before, that a work-group takes. */
enum { SEGMENT = 2048 };

static bool supports(const qmi_device *device, const qmi_op *op)
{
    const qmi_op_top_logits *o = &op->u.top_logits;
    (void)device;
    return qmi_top_logits_fit(o) && o->n_cols <= INT32_MAX - SEGMENT &&
           o->n_tokens <= INT32_MAX - 1024;
}

static qmoe_status run_scan(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_top_logits *o = &op->u.top_logits;
    qocl_call call = qocl_begin(device, QOCL_BASE_PROGRAM, QOCL_K_top_scan);
    qocl_arg_view(&call, o->value);
    qocl_arg_view(&call, o->id);
    qocl_arg_view(&call, o->logits);
    qocl_arg_int(&call, o->n_tokens);
    qocl_arg_int(&call, o->n_cols);
    qocl_arg_int(&call, o->top_k);
    return qocl_run(&call, 1, o->n_tokens, 1, 1, err);
}

static int64_t segments(int64_t n)
{
    return (n + SEGMENT - 1) / SEGMENT;
}

/* Over n keys per row from scratch `from`, or over the logits.  A single group
 * writes the result, several write keys. */
static qmoe_status run_step(qmi_device *device, const qmi_op_top_logits *o,
    int64_t n, bool has_keys, qocl_scratch from, qocl_scratch to,
    qmi_error *err)
{
    const int64_t lanes = device->tuning.lanes, groups = segments(n);
    if (groups > 1)
        QMI_TRY(qocl_reserve(device, to,
            (uint64_t)(o->n_tokens * groups * o->top_k) * sizeof(cl_ulong),
            err));
    qocl_call call = qocl_begin(device, QOCL_BASE_PROGRAM, QOCL_K_top_segments);
    qocl_arg_mem(&call, groups > 1 ? device->scratch[to].mem : NULL);
    qocl_arg_mem(&call, has_keys ? device->scratch[from].mem : NULL);
    qocl_arg_int(&call, has_keys);
    qocl_arg_int(&call, groups == 1);
    qocl_arg_view(&call, o->value);
    qocl_arg_view(&call, o->id);
    qocl_arg_view(&call, o->logits);
    qocl_arg_int(&call, o->n_cols);
    qocl_arg_int(&call, n);
    qocl_arg_int(&call, SEGMENT);
    qocl_arg_int(&call, o->top_k);
    return qocl_run(&call, lanes, lanes * groups, o->n_tokens, 1, err);
}

static qmoe_status run_segments(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_top_logits *o = &op->u.top_logits;
    qocl_scratch from = QOCL_TOP, to = QOCL_TOP2;
    int64_t n = o->n_cols;
    /* Ends: top_k is far less than a segment. */
    for (bool has_keys = false;; has_keys = true) {
        QMI_TRY(run_step(device, o, n, has_keys, from, to, err));
        if (segments(n) == 1)
            return QMOE_OK;
        n = segments(n) * o->top_k;
        /* The two areas change places: no step overwrites what it reads. */
        const qocl_scratch written = to;
        to = from;
        from = written;
    }
}

static const qmi_variant all[] = {
    {"scan", supports, run_scan},
    {"segments", supports, run_segments},
};

const qmi_variant *qocl_variants_top_logits(const qmi_device *device, size_t *n)
{
    /* A scan compares floats, which only processors do with subnormal ones. */
    const size_t first = device->tuning.lanes == 1 ? 0 : 1;
    *n = 2 - first;
    return all + first;
}

qmoe_status qocl_run_top_logits(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    size_t n;
    return qocl_variants_top_logits(device, &n)->run(device, op, err);
}
