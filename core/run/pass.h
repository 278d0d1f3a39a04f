/* SPDX-License-Identifier: Apache-2.0
 * Batches of sequences, and the passes that take them through the model. */
#ifndef QMI_PASS_H
#define QMI_PASS_H

#include "session.h"

/* Of which tokens of a batch logits are wanted. */
typedef enum qmi_rows {
    QMI_ALL_ROWS,
    QMI_LAST_ROWS, /* of each sequence's last token */
    QMI_NO_ROWS    /* only their keys and values are kept */
} qmi_rows;

/* Tokens that go through DECODE together. */
typedef struct qmi_batch {
    const int32_t *ids;       /* packed; NULL: no step embeds */
    const int32_t *sequences; /* [n] of those started, ascending */
    const int32_t *lengths;   /* [n], tokens of each, >= 1 */
    size_t n;
    qmi_rows rows;
} qmi_batch;

/* Starts sequences: number s has lengths[s] >= 1 encoder tokens.  Of a model
 * without an encoder `lengths` is NULL, else E_INVALID. */
qmoe_status qmi_session_start(qmoe_session *session, const int32_t *lengths,
    size_t n_sequences, qmi_error *err);
/* The only sequence goes on behind its first n_tokens, of those decoded. */
qmoe_status qmi_session_rewind(
    qmoe_session *session, size_t n_tokens, qmi_error *err);
/* Uploads the lists of a pass over the encoder tokens of all sequences.  `ids` may
 * be NULL when no step embeds. */
qmoe_status qmi_session_prepare_encoder(
    qmoe_session *session, qmi_pass *pass, const int32_t *ids, qmi_error *err);
/* The same for a pass over a batch. */
qmoe_status qmi_session_prepare_decoder(qmoe_session *session, qmi_pass *pass,
    const qmi_batch *batch, qmi_error *err);

/* Starts sequences and encodes them: number s has lengths[s] >= 1 ids, packed
 * in `ids`.  Of a model without an encoder both are NULL, and nothing more is
 * done. */
qmoe_status qmi_session_encode(qmoe_session *session, const int32_t *ids,
    const int32_t *lengths, size_t n_sequences, qmi_error *err);

/* Its passes alone, over the same ids. */
qmoe_status qmi_session_encode_pass(qmoe_session *session, qmi_error *err);

/* Takes a batch through DECODE.  The logits are then in their slot, *n_rows of
 * them, as the batch wants them. */
qmoe_status qmi_session_decode_pass(qmoe_session *session, int64_t *n_rows,
    const qmi_batch *batch, qmi_error *err);

#endif
