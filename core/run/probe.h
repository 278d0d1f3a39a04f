/* SPDX-License-Identifier: Apache-2.0
 * Probes: hooks at a step (session.h), for all who look at a pass from outside,
 * or change it on the way: progress, times by role, a look for values that are
 * not finite, imposed routing. */
#ifndef QMI_PROBE_H
#define QMI_PROBE_H

#include "session.h"

/* The one attached last is called first, and detached first. */
void qmi_probe_attach(qmoe_session *session, qmi_probe *probe);
void qmi_probe_detach(qmoe_session *session, qmi_probe *probe);
/* For the life of the session, at any time, even in a hook: it is called after
 * all others. */
void qmi_probe_attach_for_life(qmoe_session *session, qmi_probe *probe);

/* Runs the operation of a step, and all probes with it.  E_INVALID when one
 * destroyed the session. */
qmoe_status qmi_probe_run(qmoe_session *session, const qmi_op *op,
    const qmi_step *step, const qmi_pass *pass, qmi_error *err);

#endif
