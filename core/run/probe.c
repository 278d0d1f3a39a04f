/* SPDX-License-Identifier: Apache-2.0
 * Comes in: a step that has run.  Goes out: calls of those who wanted to know.
 * A session without probes pays one comparison a step. */
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

qmoe_status qmi_probe_all(qmoe_session *session, const qmi_step *step,
    const qmi_pass *pass, qmi_error *err)
{
    for (qmi_probe *p = session->probes; p != NULL; p = p->next) {
        QMI_TRY(p->after(p->user, session, step, pass, err));
        /* A probe may call a hook, and that may close the session. */
        QMI_TRY(qmi_session_check(session, err));
    }
    return QMOE_OK;
}
