/* SPDX-License-Identifier: Apache-2.0
 * All logits of a decoder pass. */
#ifndef QMI_LOGITS_H
#define QMI_LOGITS_H

#include "pass.h"

/* qmi_session_decode_pass, with its logits: host f32
 * [sum of lengths, vocab_size], finite. */
qmoe_status qmi_session_decode(qmoe_session *session, float *logits,
    const int32_t *ids, const int32_t *active, const int32_t *lengths,
    size_t n_active, qmi_error *err);

#endif
