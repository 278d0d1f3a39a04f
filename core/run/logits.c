/* SPDX-License-Identifier: Apache-2.0
 * Comes in: decoder ids.  Goes out: their logits, finite, on the host.  A logit
 * that is not finite is never handed out: the pass is run again to find the
 * step at fault, and that is the error. */
#include "logits.h"

#include "second_look.h"

qmoe_status qmi_session_decode(qmoe_session *session, float *logits,
    const qmi_batch *batch, qmi_error *err)
{
    int64_t n_rows;
    QMI_TRY(qmi_session_decode_pass(session, &n_rows, batch, err));
    const size_t n = (size_t)n_rows * (size_t)session->model->shape.vocab_size;
    QMI_TRY(session->stage.backend->buffer_read(session->stage.device, logits,
        qmi_session_output(session, QMI_DECODE), n * sizeof *logits, err));
    if (qmi_first_non_finite(logits, QMI_F32, n) == n)
        return QMOE_OK;
    return qmi_session_find_fault(session, batch, err);
}

static qmoe_status compute_logits(qmoe_session *session, float *logits,
    const int32_t *encoder_ids, size_t n_encoder, const int32_t *decoder_ids,
    size_t n_decoder)
{
    qmi_error *err = &session->model->hooks->error;
    const bool encodes = qmi_graph_encodes(&session->model->graph);
    /* Lengths are 32 bits in batches. */
    if ((encodes && n_encoder == 0) || n_decoder == 0 ||
        n_encoder > INT32_MAX || n_decoder > INT32_MAX)
        return qmi_fail(err, QMOE_E_INVALID, "empty or too long sequence");
    const int32_t encoder_length = (int32_t)n_encoder;
    const int32_t decoder_length = (int32_t)n_decoder;
    const int32_t first = 0;
    const qmi_batch batch = {.ids = decoder_ids,
        .sequences = &first,
        .lengths = &decoder_length,
        .n = 1};
    /* Encoder ids that a model has no use for are refused there. */
    QMI_TRY(qmi_session_encode(
        session, encoder_ids, n_encoder != 0 ? &encoder_length : NULL, 1, err));
    return qmi_session_decode(session, logits, &batch, err);
}

qmoe_status qmoe_session_logits(qmoe_session *session, float *logits,
    const int32_t *encoder_ids, size_t n_encoder, const int32_t *decoder_ids,
    size_t n_decoder)
{
    QMI_TRY(qmi_session_call_begin(session, __func__,
        logits == NULL || decoder_ids == NULL ||
            (encoder_ids == NULL && n_encoder != 0)));
    return qmi_session_call_end(
        session, compute_logits(session, logits, encoder_ids, n_encoder,
                     decoder_ids, n_decoder));
}
