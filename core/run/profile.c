/* SPDX-License-Identifier: Apache-2.0
 * Comes in: steps as they run, each with its role.  Goes out: the time of each
 * role, while it is asked for.  Measuring waits for the device before and after
 * an operation. */
#include <string.h>

#include "clock.h"
#include "probe.h"

static qmoe_status before_step(
    void *user, qmoe_session *session, qmi_error *err)
{
    qmi_profile *profile = user;
    profile->begin = 0;
    if (!profile->is_on)
        return QMOE_OK;
    QMI_TRY(session->stage.backend->sync(session->stage.device, err));
    profile->begin = qmi_seconds();
    return QMOE_OK;
}

static qmoe_status after_step(void *user, qmoe_session *session,
    const qmi_step *step, const qmi_pass *pass, qmi_error *err)
{
    qmi_profile *profile = user;
    /* Of an operation that began before the switch, no begin is known. */
    if (!profile->is_on || profile->begin == 0)
        return QMOE_OK;
    QMI_TRY(session->stage.backend->sync(session->stage.device, err));
    const qmi_program part = pass->reads_prompt ? QMI_ENCODE : pass->program;
    profile->seconds[part][step->role] += qmi_seconds() - profile->begin;
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
    qmi_profile *profile = &session->profile;
    /* Switched on means measured from now on. */
    if (on)
        memset(profile->seconds, 0, sizeof profile->seconds);
    profile->is_on = on;
    if (!on || profile->probe.after != NULL)
        return;
    profile->probe = (qmi_probe){
        .before = before_step, .after = after_step, .user = profile};
    qmi_probe_attach_for_life(session, &profile->probe);
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
        out->encode[i] = session->profile.seconds[QMI_ENCODE][i] +
                         session->profile.seconds[QMI_CROSS][i];
        out->decode[i] = session->profile.seconds[QMI_DECODE][i];
    }
}
