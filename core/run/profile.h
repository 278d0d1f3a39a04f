/* SPDX-License-Identifier: Apache-2.0
 * Time by role. */
#ifndef QMI_PROFILE_H
#define QMI_PROFILE_H

#include "session.h"

/* Runs one operation, whose time counts as `role` in a program. */
qmoe_status qmi_session_run_op(qmoe_session *session, const qmi_op *op,
    qmi_program program, qmoe_role role, qmi_error *err);

#endif
