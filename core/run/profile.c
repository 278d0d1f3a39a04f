/* SPDX-License-Identifier: Apache-2.0
 * Comes in: operations to run, each with its part of the model.  Goes out: the
 * time of each part, while it is asked for. */
#include "profile.h"

#include <string.h>

#include "clock.h"

qmoe_part qmi_step_part(const qmi_step *step)
{
    switch (step->kind) {
    case QMI_OP_KV_STORE:
    case QMI_OP_ATTENTION:
        return QMOE_PART_ATTENTION;
    case QMI_OP_ROUTE:
        return QMOE_PART_ROUTER;
    case QMI_OP_EXPERT_FFN:
        return QMOE_PART_EXPERTS;
    case QMI_OP_LINEAR:
        break;
    default:
        return QMOE_PART_OTHER;
    }
    if (step->dst == QMI_SLOT_LOGITS)
        return QMOE_PART_HEAD;
    if (step->dst == QMI_SLOT_ROUTER_LOGITS)
        return QMOE_PART_ROUTER;
    if (step->dst == QMI_SLOT_HIDDEN || step->src == QMI_SLOT_HIDDEN)
        return QMOE_PART_DENSE_FFN;
    return QMOE_PART_ATTENTION;
}

/* Measuring waits for the device before and after. */
qmoe_status qmi_session_run_op(qmoe_session *session, const qmi_op *op,
    int stack, qmoe_part part, qmi_error *err)
{
    qmoe_session *s = session;
    if (!s->measures_parts)
        return qmi_run(s->backend, s->device, op, err);
    QMI_TRY(s->backend->sync(s->device, err));
    const double begin = qmi_seconds();
    QMI_TRY(qmi_run(s->backend, s->device, op, err));
    QMI_TRY(s->backend->sync(s->device, err));
    s->part_seconds[stack][part] += qmi_seconds() - begin;
    return QMOE_OK;
}

const char *qmoe_part_name(qmoe_part part)
{
    static const char *const names[] = {
#define X(name, text) text,
        QMOE_PART_MAP(X)
#undef X
    };
    return (unsigned)part < QMOE_PART_COUNT ? names[part] : "other";
}

void qmoe_session_measure_parts(qmoe_session *session, bool on)
{
    if (session == NULL)
        return;
    if (on)
        memset(session->part_seconds, 0, sizeof session->part_seconds);
    session->measures_parts = on;
}

void qmoe_session_part_times(const qmoe_session *session, qmoe_part_times *out)
{
    if (out == NULL)
        return;
    *out = (qmoe_part_times){0};
    if (session == NULL)
        return;
    memcpy(out->encode, session->part_seconds[QMI_ENCODER], sizeof out->encode);
    memcpy(out->decode, session->part_seconds[QMI_DECODER], sizeof out->decode);
}
