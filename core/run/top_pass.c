/* SPDX-License-Identifier: Apache-2.0
 * Comes in: decoder ids.  Goes out: the likeliest next tokens of each position
 * with their logits, finite; the other logits stay on the device. */
#include "top_pass.h"

#include <float.h>
#include <math.h>

#include "alloc.h"
#include "probe.h"
#include "second_look.h"

/* Room for values and ids of n logits, on both sides. */
static qmoe_status reserve(qmoe_session *s, size_t n, qmi_error *err)
{
    QMI_TRY(qmi_grow(s->stage.backend, s->stage.device, &s->top,
        2 * sizeof(uint32_t) * (uint64_t)n, err));
    if (n <= s->n_top_host)
        return QMOE_OK;
    /* The old results are of the pass before. */
    qmi_free(s->top_host);
    s->n_top_host = 0;
    s->top_host = qmi_calloc(2 * n, sizeof(uint32_t), "top logits", err);
    if (s->top_host == NULL)
        return QMOE_E_NOMEM;
    s->n_top_host = n;
    return QMOE_OK;
}

/* A device at fault must not make the host write elsewhere: ids become indices
 * of the sampler. */
static qmoe_status check_ids(
    const qmoe_session *s, const int32_t *ids, size_t n, qmi_error *err)
{
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= s->model->shape.vocab_size)
            return qmi_fail(err, QMOE_E_DEVICE,
                "device '%s' gives token id %d, outside the vocabulary",
                s->stage.info.name, (int)ids[i]);
    return QMOE_OK;
}

/* What is no number counts as the least (top_logits.h). */
static bool all_finite(const float *logits, size_t n)
{
    for (size_t i = 0; i < n; i++)
        /* FLT_MAX stands for +infinity there, so it is none of the finite ones
         * here. */
        if (!(fabsf(logits[i]) < FLT_MAX))
            return false;
    return true;
}

qmoe_status qmi_session_decode_top(qmoe_session *session, qmi_top *out,
    int64_t k, const qmi_batch *batch, qmi_error *err)
{
    qmoe_session *s = session;
    int64_t n_rows;
    *out = (qmi_top){0};
    QMI_TRY(qmi_session_decode_pass(s, &n_rows, batch, err));
    const size_t n = (size_t)(n_rows * k);
    QMI_TRY(reserve(s, n, err));
    const qmi_view top = {.buffer = s->top.buffer};
    /* Values first, ids behind them: one read for both. */
    const qmi_op op = {.kind = QMI_OP_TOP_LOGITS,
        .u.top_logits = {.value = top,
            .id = {.buffer = s->top.buffer, .offset = 4 * (uint64_t)n},
            .logits = qmi_session_output(s, QMI_DECODE),
            .n_tokens = n_rows,
            .n_cols = s->model->shape.vocab_size,
            .top_k = k}};
    static const qmi_step choice = {.kind = QMI_OP_TOP_LOGITS,
        .role = QMOE_ROLE_HEAD,
        .block = QMI_AFTER_BLOCKS};
    const qmi_pass pass = {.program = QMI_DECODE, .n_tokens = n_rows};
    QMI_TRY(qmi_probe_run(s, &op, &choice, &pass, err));
    QMI_TRY(s->stage.backend->buffer_read(
        s->stage.device, s->top_host, top, 8 * (uint64_t)n, err));
    out->logits = s->top_host;
    out->ids = (const int32_t *)s->top_host + n;
    QMI_TRY(check_ids(s, out->ids, n, err));
    if (all_finite(out->logits, n))
        return QMOE_OK;
    /* What is not finite is not handed out. */
    *out = (qmi_top){0};
    return qmi_session_find_fault(s, batch, err);
}
