/* SPDX-License-Identifier: Apache-2.0
 * In: names and shapes of a checkpoint's tensors.  Out: the two that hold all
 * experts of a block, and the order of their matrices.  The order follows from
 * both shapes together: that of gate_up_proj is the same in both orders only if
 * 2 d_ff is d_model, that of down_proj only if d_ff is, so never both are. */
#include "fused_experts.h"

#include <stdio.h>

#include "weight.h"

static const qmi_tensor *find(
    const qmi_checkpoint *checkpoint, const char *prefix, const char *name)
{
    char full[512];
    snprintf(full, sizeof full, "%s.%s", prefix, name);
    return qmi_checkpoint_find(checkpoint, full);
}

static qmoe_status refuse(const qmi_checkpoint *checkpoint, const qmi_tensor *t,
    const char *what, qmi_error *err)
{
    char where[512];
    qmi_tensor_where(checkpoint, t, where, sizeof where);
    return qmi_fail(
        err, QMOE_E_UNSUPPORTED, "%s: %s are not supported", where, what);
}

/* In gpt-oss rows of gate and up alternate.  Nothing else of a tensor tells so
 * but these neighbours. */
static qmoe_status refuse_interleaved(
    const qmi_checkpoint *checkpoint, const char *prefix, qmi_error *err)
{
    static const char *const names[] = {
        "gate_up_proj_blocks", "gate_up_proj_bias"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const qmi_tensor *t = find(checkpoint, prefix, names[i]);
        if (t != NULL)
            return refuse(checkpoint, t,
                "experts with interleaved gate and up, as in gpt-oss,", err);
    }
    return QMOE_OK;
}

/* A tensor, and its shape unless the last two dimensions are swapped. */
typedef struct expected {
    const qmi_tensor *tensor;
    int64_t n, rows, cols;
} expected;

static bool fits(const expected *e, bool is_transposed)
{
    const int64_t *shape = e->tensor->shape;
    return e->tensor->rank == 3 && shape[0] == e->n &&
           shape[1] == (is_transposed ? e->cols : e->rows) &&
           shape[2] == (is_transposed ? e->rows : e->cols);
}

static qmoe_status check(
    const qmi_checkpoint *checkpoint, const expected *e, qmi_error *err)
{
    char text[160];
    const bool is_float = qmi_format_dense(e->tensor->dtype) != NULL;
    if (is_float && e->tensor->is_view)
        return refuse(
            checkpoint, e->tensor, "strided tensors of all experts", err);
    if (is_float && (fits(e, false) || fits(e, true)))
        return QMOE_OK;
    snprintf(text, sizeof text,
        "a float tensor [%lld, %lld, %lld] or [%lld, %lld, %lld]",
        (long long)e->n, (long long)e->rows, (long long)e->cols,
        (long long)e->n, (long long)e->cols, (long long)e->rows);
    return qmi_tensor_wrong(checkpoint, e->tensor, text, err);
}

/* Both were checked, so each fits at least one order. */
static qmoe_status find_order(bool *is_transposed,
    const qmi_checkpoint *checkpoint, const expected *gate_up,
    const expected *down, qmi_error *err)
{
    for (int i = 0; i < 2; i++)
        if (fits(gate_up, i != 0) && fits(down, i != 0)) {
            *is_transposed = i != 0;
            return QMOE_OK;
        }
    return qmi_tensor_wrong(checkpoint, down->tensor,
        "the order of gate_up_proj: one of them is transposed, one is not",
        err);
}

qmoe_status qmi_fused_find(qmi_fused_experts *out,
    const qmi_checkpoint *checkpoint, const char *prefix, int64_t n_experts,
    int64_t d_ff, int64_t d_model, qmi_error *err)
{
    char full[512];
    const bool any = find(checkpoint, prefix, "gate_up_proj") != NULL ||
                     find(checkpoint, prefix, "down_proj") != NULL;
    *out = (qmi_fused_experts){0};
    QMI_TRY(refuse_interleaved(checkpoint, prefix, err));
    if (!any)
        return QMOE_OK;
    snprintf(full, sizeof full, "%s.gate_up_proj", prefix);
    QMI_TRY(qmi_checkpoint_require(checkpoint, &out->gate_up, full, err));
    snprintf(full, sizeof full, "%s.down_proj", prefix);
    QMI_TRY(qmi_checkpoint_require(checkpoint, &out->down, full, err));
    const expected gate_up = {out->gate_up, n_experts, 2 * d_ff, d_model};
    const expected down = {out->down, n_experts, d_model, d_ff};
    QMI_TRY(check(checkpoint, &gate_up, err));
    QMI_TRY(check(checkpoint, &down, err));
    return find_order(&out->is_transposed, checkpoint, &gate_up, &down, err);
}
