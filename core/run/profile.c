/* SPDX-License-Identifier: Apache-2.0
 * Comes in: operations to run, each with its role.  Goes out: the
 * time of each role, while it is asked for. */
#include "profile.h"

#include <string.h>

#include "clock.h"

/* Measuring waits for the device before and after.  Every operation of a
 * session goes through here, so that no time is without a role. */
qmoe_status qmi_session_run_op(qmoe_session *session, const qmi_op *op,
    qmi_program program, qmoe_role role, qmi_error *err)
{
    qmoe_session *s = session;
    if (!s->measures_roles)
        return qmi_run(s->stage.backend, s->stage.device, op, err);
    QMI_TRY(s->stage.backend->sync(s->stage.device, err));
    const double begin = qmi_seconds();
    QMI_TRY(qmi_run(s->stage.backend, s->stage.device, op, err));
    QMI_TRY(s->stage.backend->sync(s->stage.device, err));
    s->role_seconds[program][role] += qmi_seconds() - begin;
    return QMOE_OK;
}

const char *qmoe_role_name(qmoe_role role)
{
    static const char *const names[] = {
#define X(name, text) text,
        QMOE_ROLE_MAP(X)
#undef X
    };
    return (unsigned)role < QMOE_ROLE_COUNT ? names[role] : NULL;
}

void qmoe_session_measure_roles(qmoe_session *session, bool on)
{
    if (session == NULL)
        return;
    /* Switched on means measured from now on. */
    if (on)
        memset(session->role_seconds, 0, sizeof session->role_seconds);
    session->measures_roles = on;
}

void qmoe_session_role_times(const qmoe_session *session, qmoe_role_times *out)
{
    if (out == NULL)
        return;
    *out = (qmoe_role_times){0};
    if (session == NULL)
        return;
    /* CROSS belongs to reading the prompt, whatever part of the model it is. */
    for (int i = 0; i < QMOE_ROLE_COUNT; i++) {
        out->encode[i] = session->role_seconds[QMI_ENCODE][i] +
                         session->role_seconds[QMI_CROSS][i];
        out->decode[i] = session->role_seconds[QMI_DECODE][i];
    }
}
