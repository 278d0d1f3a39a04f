/* SPDX-License-Identifier: Apache-2.0
 * Text of a sequence that grows by one id at a time.  What the stream has given
 * out is, after the last id, what qmi_tokenizer_decode gives for all of them,
 * without special tokens; the work of an id does not grow with their number.
 * (A spiece.model with a denormalizer of its own, which T5 has not, sees one id
 * at a time.) */
#ifndef QMI_TOKEN_STREAM_H
#define QMI_TOKEN_STREAM_H

#include "tokenizer.h"

typedef struct qmi_token_stream qmi_token_stream;

/* `tokenizer` must outlive the stream. */
qmoe_status qmi_token_stream_create(
    qmi_token_stream **out, const qmi_tokenizer *tokenizer, qmi_error *err);
void qmi_token_stream_destroy(qmi_token_stream *stream);

/* The text that one more id adds, often "": bytes of a character are held back
 * until it is complete, or the id is the last one.  The stream's, valid until
 * its next call.  E_INVALID: a negative id. */
qmoe_status qmi_token_stream_add(qmi_token_stream *stream, const char **text,
    int32_t id, bool last, qmi_error *err);

#endif
