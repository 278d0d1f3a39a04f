/* SPDX-License-Identifier: Apache-2.0
 * Comes in: ids, one at a time.  Goes out: the text each adds, as the kind of
 * the tokenizer decodes it. */
#include "token_stream.h"

#include "alloc.h"
#include "tokenizer_type.h"

struct qmi_token_stream {
    const qmi_tokenizer *tokenizer;
    void *state;  /* of the tokenizer's type */
    qmi_text out; /* of one call */
};

qmoe_status qmi_token_stream_create(
    qmi_token_stream **out, const qmi_tokenizer *tokenizer, qmi_error *err)
{
    *out = NULL;
    qmi_token_stream *s = qmi_calloc(1, sizeof *s, "a token stream", err);
    if (s == NULL)
        return QMOE_E_NOMEM;
    s->tokenizer = tokenizer;
    qmoe_status status =
        tokenizer->type->stream_create(&s->state, tokenizer, err);
    if (status == QMOE_OK)
        *out = s;
    else
        qmi_free(s);
    return status;
}

void qmi_token_stream_destroy(qmi_token_stream *stream)
{
    if (stream == NULL)
        return;
    stream->tokenizer->type->stream_destroy(stream->state);
    qmi_free(stream->out.data);
    qmi_free(stream);
}

qmoe_status qmi_token_stream_add(qmi_token_stream *stream, const char **text,
    int32_t id, bool last, qmi_error *err)
{
    qmi_text *out = &stream->out;
    *text = "";
    if (id < 0)
        return qmi_fail(
            err, QMOE_E_INVALID, "token id %d is negative", (int)id);
    *out = (qmi_text){.data = out->data, .capacity = out->capacity, .err = err};
    QMI_TRY(
        stream->tokenizer->type->stream_add(stream->state, out, id, last, err));
    qmi_text_bytes(out, "", 1);
    if (out->failed)
        return QMOE_E_NOMEM;
    *text = out->data;
    return QMOE_OK;
}
