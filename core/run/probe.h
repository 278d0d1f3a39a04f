/* SPDX-License-Identifier: Apache-2.0
 * One hook for all who look at a pass from outside, or change it on the way:
 * progress, a look for values that are not finite, imposed routing. */
#ifndef QMI_PROBE_H
#define QMI_PROBE_H

#include "session.h"

/* The owner's, from attaching to detaching. */
typedef struct qmi_probe {
    /* After each step of each pass; what it wrote is on the device, perhaps not
     * finished.  What is not QMOE_OK ends the pass.  It may let a hook of the
     * caller destroy the session, which goes when the call ends. */
    qmoe_status (*after)(void *user, qmoe_session *session,
        const qmi_step *step, const qmi_pass *pass, qmi_error *err);
    void *user;
    struct qmi_probe *next; /* attached before */
} qmi_probe;

/* The one attached last is called first, and detached first. */
void qmi_probe_attach(qmoe_session *session, qmi_probe *probe);
void qmi_probe_detach(qmoe_session *session, qmi_probe *probe);

/* Calls all probes after a step; E_INVALID when one destroyed the session. */
qmoe_status qmi_probe_all(qmoe_session *session, const qmi_step *step,
    const qmi_pass *pass, qmi_error *err);

#endif
