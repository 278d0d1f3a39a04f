/* SPDX-License-Identifier: Apache-2.0
 * Steps of a graph, run for a pass. */
#ifndef QMI_STEPS_H
#define QMI_STEPS_H

#include "session.h"

/* Runs in order those of steps [first, last) that the stage has.  Inputs are
 * uploaded. */
qmoe_status qmi_session_run(qmoe_session *session, const qmi_steps *steps,
    size_t first, size_t last, const qmi_pass *pass, qmi_error *err);
/* All steps of the pass's program. */
qmoe_status qmi_session_run_program(
    qmoe_session *session, const qmi_pass *pass, qmi_error *err);

#endif
