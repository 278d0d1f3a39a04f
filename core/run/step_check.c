/* SPDX-License-Identifier: Apache-2.0
 * Comes in: a step that has run.  Goes out: its name, when what it wrote is not
 * finite.  Waits for the device. */
#include "step_check.h"

#include <stdio.h>

/* "linear 'encoder.block.3.[...].wi.weight'" or "encoder block 3, attention" */
static void describe(char *text, size_t capacity, const qmoe_model *model,
    const qmi_step *step, int stack)
{
    const char *op = qmi_op_name(step->kind);
    if (step->kind == QMI_OP_EMBED || step->kind == QMI_OP_RMSNORM ||
        step->kind == QMI_OP_LINEAR || step->kind == QMI_OP_EXPERT_FFN)
        snprintf(
            text, capacity, "%s '%s'", op, model->weights[step->weight].name);
    else
        snprintf(text, capacity, "%s block %d, %s",
            stack == QMI_ENCODER ? "encoder" : "decoder", (int)step->block, op);
}

static qmoe_status check(void *user, qmoe_session *session,
    const qmi_step *step, const qmi_pass *pass, qmi_error *err)
{
    (void)user;
    const qmoe_model *model = session->model;
    const qmi_growing *g = &session->slots[step->dst];
    int64_t width = qmi_slot_width(&model->config, step->dst);
    if (step->kind == QMI_OP_ROUTE) {
        g = &session->route_weight;
        width = model->config.top_k;
    } else if (step->dst == QMI_SLOT_NONE) {
        return QMOE_OK;
    }
    const int64_t n = pass->n_tokens * width;
    int64_t at = n;
    QMI_TRY(qmi_buffer_non_finite(
        session->backend, session->device, &at, g, n, err));
    if (at == n)
        return QMOE_OK;
    char text[512];
    describe(text, sizeof text, model, step, pass->stack);
    return qmi_fail(err, QMOE_E_FORMAT,
        "%s: %s: its result is not finite (token %lld of the pass)",
        qmi_checkpoint_directory(model->checkpoint), text,
        (long long)(at / width));
}

qmi_probe qmi_step_check(void)
{
    return (qmi_probe){.after = check};
}
