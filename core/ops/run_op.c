/* SPDX-License-Identifier: Apache-2.0
 * Chooses the variant that runs an operation.  In: an operation and a backend's
 * variants, best first.  Out: the first that supports it has run, or an error
 * that names what is missing.  A failure of a variant is final: another one is
 * not tried, so that no error is hidden. */
#include "backend.h"
#include "cancel.h"

/* The weight whose format decides, for error texts; NULL if none. */
static const qmi_bound_weight *weight_of(const qmi_op *op)
{
    switch (op->kind) {
    case QMI_OP_EMBED:
        return op->u.embed.table;
    case QMI_OP_RMSNORM:
        return op->u.rmsnorm.weight;
    case QMI_OP_LINEAR:
        return op->u.linear.weight;
    case QMI_OP_EXPERT_FFN:
        return op->u.expert_ffn.up;
    case QMI_OP_DECODE:
        return op->u.decode.weight;
    default:
        return NULL;
    }
}

qmoe_status qmi_run(const qmi_backend *backend, qmi_device *device,
    const qmi_op *op, qmi_error *err)
{
    /* Between operations a wish to stop is heard on every backend. */
    QMI_TRY(qmi_check_cancel(err));
    size_t n = 0;
    const qmi_variant *variants = backend->variants(device, op->kind, &n);
    for (size_t i = 0; i < n; i++)
        if (variants[i].supports(device, op))
            return variants[i].run(device, op, err);
    const qmi_bound_weight *w = weight_of(op);
    return qmi_fail(err, QMOE_E_UNSUPPORTED, "backend %s cannot run %s%s%s%s%s",
        backend->name, qmi_op_name(op->kind), w != NULL ? " on '" : "",
        w != NULL ? w->host->name : "", w != NULL ? "' in format " : "",
        w != NULL ? w->host->format->name : "");
}
