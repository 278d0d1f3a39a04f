/* SPDX-License-Identifier: Apache-2.0
 * Batches of sequences, and the passes that take them through the model. */
#ifndef QMI_PASS_H
#define QMI_PASS_H

#include "session.h"

/* Starts a batch: sequence s has lengths[s] >= 1 encoder tokens.  Of a model
 * without an encoder `lengths` is NULL, else E_INVALID. */
qmoe_status qmi_session_start(qmoe_session *session, const int32_t *lengths,
    size_t n_sequences, qmi_error *err);
/* Uploads the lists of a pass over the encoder tokens of the batch.  `ids` may
 * be NULL when no step embeds. */
qmoe_status qmi_session_prepare_encoder(
    qmoe_session *session, qmi_pass *pass, const int32_t *ids, qmi_error *err);
/* The same for lengths[i] >= 1 more decoder tokens of each of the n_active
 * sequences active[i] (ascending). */
qmoe_status qmi_session_prepare_decoder(qmoe_session *session, qmi_pass *pass,
    const int32_t *ids, const int32_t *active, const int32_t *lengths,
    size_t n_active, qmi_error *err);

/* Encodes a batch: sequence s has lengths[s] >= 1 ids, packed in `ids`.  Of a
 * model without an encoder both are NULL, and the batch is started alone. */
qmoe_status qmi_session_encode(qmoe_session *session, const int32_t *ids,
    const int32_t *lengths, size_t n_sequences, qmi_error *err);

/* Its passes alone, over the ids of the batch. */
qmoe_status qmi_session_encode_pass(qmoe_session *session, qmi_error *err);

/* Feeds lengths[i] >= 1 more decoder ids to each of the n_active sequences
 * active[i] (ascending), packed in `ids`.  Their logits are then in their slot,
 * *n_tokens rows. */
qmoe_status qmi_session_decode_pass(qmoe_session *session, int64_t *n_tokens,
    const int32_t *ids, const int32_t *active, const int32_t *lengths,
    size_t n_active, qmi_error *err);
/* The same without logits: the pass ends before the head. */
qmoe_status qmi_session_prefill(qmoe_session *session, const int32_t *ids,
    const int32_t *active, const int32_t *lengths, size_t n_active,
    qmi_error *err);

#endif
