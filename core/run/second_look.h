/* SPDX-License-Identifier: Apache-2.0
 * Where values stop being finite. */
#ifndef QMI_SECOND_LOOK_H
#define QMI_SECOND_LOOK_H

#include "session.h"

/* After a decoder pass whose logits are not finite: runs the batch's encoder
 * and that pass again, looking at each step.  Never QMOE_OK. */
qmoe_status qmi_session_find_fault(qmoe_session *session, const int32_t *ids,
    const int32_t *active, const int32_t *lengths, size_t n_active,
    qmi_error *err);

#endif
