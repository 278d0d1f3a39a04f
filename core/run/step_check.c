/* SPDX-License-Identifier: Apache-2.0
 * Comes in: a step that has run.  Goes out: its name, when what it wrote is not
 * finite.  Waits for the device. */
#include "step_check.h"

#include <stdio.h>

/* "linear 'encoder.block.3.[...].wi.weight'" or "encoder block 3, attention" */
static void describe(
    char *text, size_t capacity, const qmoe_model *model, const qmi_step *step)
{
    const char *op = qmi_op_name(step->kind);
    if (step->n_weights != 0) {
        snprintf(text, capacity, "%s '%s'", op,
            model->weights[step->weights[0]].name);
        return;
    }
    const qmi_block *block = &model->blocks[step->block];
    snprintf(text, capacity, "%s block %d, %s",
        qmi_program_name(block->program), (int)block->number, op);
}

static qmoe_status check(void *user, qmoe_session *session,
    const qmi_step *step, const qmi_pass *pass, qmi_error *err)
{
    (void)user;
    const qmoe_model *model = session->model;
    const qmi_growing *g = &session->stage.slots[step->dst];
    const int64_t width = model->graph.slots[step->dst].width;
    /* A step that writes a cache alone: its source was looked at. */
    if (step->dst == QMI_NONE)
        return QMOE_OK;
    const int64_t n = pass->n_tokens * width;
    int64_t at = n;
    QMI_TRY(qmi_buffer_non_finite(
        session->stage.backend, session->stage.device, &at, g, n, err));
    /* Where it stops being finite says which token. */
    if (at == n)
        return QMOE_OK;
    char text[512];
    describe(text, sizeof text, model, step);
    return qmi_fail(err, QMOE_E_FORMAT,
        "%s: %s: its result is not finite (token %lld of the pass)",
        qmi_checkpoint_directory(model->checkpoint), text,
        (long long)(at / width));
}

qmi_probe qmi_step_check(void)
{
    return (qmi_probe){.after = check};
}
