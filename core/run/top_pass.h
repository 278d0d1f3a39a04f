/* SPDX-License-Identifier: Apache-2.0
 * The likeliest tokens of a decoder pass. */
#ifndef QMI_TOP_PASS_H
#define QMI_TOP_PASS_H

#include "pass.h"

/* The k largest logits of each row of a pass with their ids, in the order
 * of operation top-logits.  The session's, valid until its next pass. */
typedef struct qmi_top {
    const float *logits; /* [n_rows, k] */
    const int32_t *ids;  /* [n_rows, k], in [0, vocab_size) */
} qmi_top;

/* qmi_session_decode_pass, of whose logits the device gives back the largest
 * ones only.
 * 1 <= k <= min(QMI_TOP_LOGITS_MAX, vocab_size). */
qmoe_status qmi_session_decode_top(qmoe_session *session, qmi_top *out,
    int64_t k, const qmi_batch *batch, qmi_error *err);

#endif
