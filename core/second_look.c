/* SPDX-License-Identifier: Apache-2.0
 * Where values stop being finite.  Passes check their results only; when one
 * of those is an infinity or not a number, the pass is run again, with a look
 * at what every step writes. */
#include "session.h"

#include <stdio.h>

#include "alloc.h"

/* Floats read back at a time. */
enum { PIECE = 1 << 16 };

qmoe_status qmi_buffer_non_finite(qmoe_session *session, int64_t *at,
    const qmi_growing *g, int64_t n, qmi_error *err)
{
    float *piece = qmi_calloc(PIECE, sizeof *piece, "a second look", err);
    if (piece == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status = QMOE_OK;
    *at = n;
    for (int64_t i = 0; *at == n && i < n; i += PIECE) {
        const size_t m = (size_t)(n - i < PIECE ? n - i : PIECE);
        const qmi_view view = {
            .buffer = g->buffer, .offset = (uint64_t)i * sizeof *piece};
        status = session->backend->buffer_read(
            session->device, piece, view, m * sizeof *piece, err);
        if (status != QMOE_OK)
            break;
        const size_t bad = qmi_first_non_finite(piece, QMI_F32, m);
        if (bad != m)
            *at = i + (int64_t)bad;
    }
    qmi_free(piece);
    return status;
}

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

qmoe_status qmi_step_check(qmoe_session *session, const qmi_step *step,
    const qmi_pass *pass, qmi_error *err)
{
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
    QMI_TRY(qmi_buffer_non_finite(session, &at, g, n, err));
    if (at == n)
        return QMOE_OK;
    char text[512];
    describe(text, sizeof text, model, step, pass->stack);
    return qmi_fail(err, QMOE_E_FORMAT,
        "%s: %s: its result is not finite (token %lld of the pass)",
        qmi_checkpoint_directory(model->checkpoint), text,
        (long long)(at / width));
}

static qmoe_status look(qmoe_session *s, const int32_t *ids,
    const int32_t *active, const int32_t *lengths, size_t n_active,
    qmi_error *err)
{
    const qmi_steps *steps = &s->model->decoder;
    qmi_pass pass;
    QMI_TRY(qmi_session_encode_pass(s, err));
    QMI_TRY(qmi_session_prepare_decoder(
        s, &pass, ids, active, lengths, n_active, err));
    return qmi_session_run(s, steps, 0, steps->n, &pass, err);
}

qmoe_status qmi_session_find_fault(qmoe_session *session, const int32_t *ids,
    const int32_t *active, const int32_t *lengths, size_t n_active,
    qmi_error *err)
{
    for (size_t i = 0; i < n_active; i++)
        session->position[active[i]] -= lengths[i];
    session->looks = true;
    qmoe_status status = look(session, ids, active, lengths, n_active, err);
    session->looks = false;
    if (status != QMOE_OK)
        return status;
    return qmi_fail(err, QMOE_E_DEVICE,
        "%s: logits are not finite, but are when computed again: device '%s' "
        "is at fault",
        qmi_checkpoint_directory(session->model->checkpoint),
        session->info.name);
}
