/* SPDX-License-Identifier: Apache-2.0
 * In: an open tokenizer and text or ids.  Out: what its kind makes of them. */
#include "tokenizer_type.h"

#include <string.h>

#include "alloc.h"

void qmi_tokenizer_close(qmi_tokenizer *tokenizer)
{
    if (tokenizer != NULL)
        tokenizer->type->close(tokenizer);
}

/* ---- ids ---- */

int32_t qmi_tokenizer_size(const qmi_tokenizer *tokenizer)
{
    return tokenizer->size;
}

int32_t qmi_tokenizer_id(const qmi_tokenizer *tokenizer, const char *text)
{
    return tokenizer->type->id(tokenizer, text, strlen(text));
}

int32_t qmi_tokenizer_bos(const qmi_tokenizer *tokenizer)
{
    return tokenizer->bos;
}

int32_t qmi_tokenizer_eos(const qmi_tokenizer *tokenizer)
{
    return tokenizer->eos;
}

int32_t qmi_tokenizer_pad(const qmi_tokenizer *tokenizer)
{
    return tokenizer->pad;
}

qmi_token_kind qmi_tokenizer_kind(
    const qmi_tokenizer *tokenizer, int32_t id, uint8_t *byte)
{
    *byte = 0;
    if (id >= tokenizer->size)
        return QMI_TOKEN_NOTHING;
    return tokenizer->type->kind(tokenizer, id, byte);
}

/* ---- text ---- */

qmoe_status qmi_tokenizer_encode(const qmi_tokenizer *tokenizer, int32_t **ids,
    size_t *n, const char *text, size_t n_bytes,
    const qmi_encode_options *options, qmi_error *err)
{
    const qmi_encode_options plain = {0};
    qmi_id_list list = {0};
    *ids = NULL;
    *n = 0;
    qmoe_status status = tokenizer->type->encode(tokenizer, &list, text,
        n_bytes, options != NULL ? options : &plain, err);
    if (status == QMOE_OK && list.ids == NULL) {
        /* No ids are an array, too. */
        list.ids = qmi_calloc(1, sizeof *list.ids, "token ids", err);
        status = list.ids != NULL ? QMOE_OK : QMOE_E_NOMEM;
    }
    if (status != QMOE_OK) {
        qmi_free(list.ids);
        return status;
    }
    *ids = list.ids;
    *n = list.n;
    return QMOE_OK;
}

qmoe_status qmi_tokenizer_decode(const qmi_tokenizer *tokenizer, char **text,
    const int32_t *ids, size_t n, bool specials, qmi_error *err)
{
    qmi_text joined = {.err = err};
    *text = NULL;
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0)
            return qmi_fail(
                err, QMOE_E_INVALID, "token id %d is negative", (int)ids[i]);
    qmoe_status status =
        tokenizer->type->decode(tokenizer, &joined, ids, n, specials, err);
    qmi_text_bytes(&joined, "", 1);
    if (status == QMOE_OK && joined.failed)
        status = QMOE_E_NOMEM;
    if (status == QMOE_OK)
        *text = joined.data;
    else
        qmi_free(joined.data);
    return status;
}
