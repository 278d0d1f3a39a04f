/* SPDX-License-Identifier: Apache-2.0
 * Comes in: the operation of a step.  Goes out: the operation run, and calls of
 * those who wanted to know.  Every operation of a session goes through here, so
 * that none is without its probes. */
#include "probe.h"

#include <assert.h>

void qmi_probe_attach(qmoe_session *session, qmi_probe *probe)
{
    probe->next = session->probes;
    session->probes = probe;
}

/* Probes are detached in the reverse order, since each lives on a stack. */
void qmi_probe_detach(qmoe_session *session, qmi_probe *probe)
{
    assert(session->probes == probe);
    session->probes = probe->next;
}

/* Behind the others, which so can still be detached in their order. */
void qmi_probe_attach_for_life(qmoe_session *session, qmi_probe *probe)
{
    qmi_probe **end = &session->probes;
    while (*end != NULL)
        end = &(*end)->next;
    *end = probe;
}

qmoe_status qmi_probe_run(qmoe_session *session, const qmi_op *op,
    const qmi_step *step, const qmi_pass *pass, qmi_error *err)
{
    for (qmi_probe *p = session->probes; p != NULL; p = p->next)
        if (p->before != NULL)
            QMI_TRY(p->before(p->user, session, err));
    QMI_TRY(qmi_run(session->stage.backend, session->stage.device, op, err));
    for (qmi_probe *p = session->probes; p != NULL; p = p->next) {
        QMI_TRY(p->after(p->user, session, step, pass, err));
        /* A probe may call a hook, and that may close the session. */
        QMI_TRY(qmi_session_check(session, err));
    }
    return QMOE_OK;
}
