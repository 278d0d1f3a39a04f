/* SPDX-License-Identifier: Apache-2.0
 * Time by part of the model. */
#ifndef QMI_PROFILE_H
#define QMI_PROFILE_H

#include "session.h"

/* The part of the model a step belongs to, by what it writes and reads. */
qmoe_part qmi_step_part(const qmi_step *step);

/* Runs one operation, whose time counts as `part` of `stack`. */
qmoe_status qmi_session_run_op(qmoe_session *session, const qmi_op *op,
    int stack, qmoe_part part, qmi_error *err);

#endif
