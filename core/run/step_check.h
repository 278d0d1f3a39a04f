/* SPDX-License-Identifier: Apache-2.0
 * A look at what a step wrote. */
#ifndef QMI_STEP_CHECK_H
#define QMI_STEP_CHECK_H

#include "session.h"

/* E_FORMAT naming the step when its result is not finite. */
qmoe_status qmi_step_check(qmoe_session *session, const qmi_step *step,
    const qmi_pass *pass, qmi_error *err);

#endif
