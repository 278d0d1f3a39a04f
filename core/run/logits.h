/* SPDX-License-Identifier: Apache-2.0
 * All logits of a decoder pass. */
#ifndef QMI_LOGITS_H
#define QMI_LOGITS_H

#include "pass.h"

/* qmi_session_decode_pass, with its logits: host f32 [n_rows, vocab_size],
 * finite. */
qmoe_status qmi_session_decode(qmoe_session *session, float *logits,
    const qmi_batch *batch, qmi_error *err);

#endif
