/* SPDX-License-Identifier: Apache-2.0
 * Where values stop being finite. */
#ifndef QMI_SECOND_LOOK_H
#define QMI_SECOND_LOOK_H

#include "pass.h"

/* After a decoder pass whose logits are not finite: runs the batch's encoder
 * and that pass again, looking at each step.  Never QMOE_OK. */
qmoe_status qmi_session_find_fault(
    qmoe_session *session, const qmi_batch *batch, qmi_error *err);

#endif
