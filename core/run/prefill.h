/* SPDX-License-Identifier: Apache-2.0
 * Long prompts of decoder-only models, in portions: what a pass needs of memory
 * grows with its tokens, and what a prompt says must not. */
#ifndef QMI_PREFILL_H
#define QMI_PREFILL_H

#include "pass.h"

/* Passes that prompts of these lengths take, with the one that gives logits. */
int64_t qmi_prefill_passes(const int32_t *lengths, size_t n);
/* Takes all but the last portion of each sequence, 0 to n - 1, through DECODE.
 * `ids` packed and `lengths`, each >= 1, become those of what is left, at least
 * a token of each. */
qmoe_status qmi_session_prefill(qmoe_session *session, int32_t *ids,
    int32_t *lengths, size_t n, qmi_error *err);

#endif
