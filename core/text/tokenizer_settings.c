/* SPDX-License-Identifier: Apache-2.0
 * In: tokenizer_config.json beside a tokenizer.  Out: the tokenizer with the
 * ids of its special tokens, the added tokens that only this file has, and the
 * frame that it asks for: where add_bos_token or add_eos_token is given,
 * Hugging Face's library puts BOS and EOS around a text in place of what the
 * post-processor would. */
#include "tokenizer_settings.h"

#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "tokenizer_json.h"

/* The id of a token given as "text" or {"content": "text"}, -1 if it is null or
 * unknown; unchanged if it is not given. */
static void read_id(
    int32_t *id, const qmi_bpe_tokenizer *t, const cJSON *json, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
    if (item == NULL)
        return;
    if (cJSON_IsObject(item))
        item = cJSON_GetObjectItemCaseSensitive(item, "content");
    const char *text = cJSON_GetStringValue(item);
    *id = text != NULL ? qmi_tokenizer_id(&t->base, text) : -1;
}

/* {"151643": {"content": "<|endoftext|>", ...}, ...} */
static qmoe_status add_tokens(const qmi_json_part *p, const cJSON *list)
{
    const cJSON *item = NULL;
    size_t n_added = 0;
    cJSON_ArrayForEach(item, list)
    {
        qmi_added_token token;
        char *end = NULL;
        const long id =
            item->string != NULL ? strtol(item->string, &end, 10) : -1;
        if (id < 0 || id >= QMI_MAX_TOKENS || end == item->string ||
            *end != '\0')
            return qmi_fail(p->err, QMOE_E_FORMAT,
                "%s: added_tokens_decoder: '%.100s' is no token id", p->file,
                item->string != NULL ? item->string : "");
        QMI_TRY(qmi_json_added_token(&token, p, item));
        token.id = (int32_t)id;
        uint8_t byte = 0;
        const qmi_token_kind kind =
            qmi_tokenizer_kind(&p->t->base, token.id, &byte);
        /* tokenizer.json has said it. */
        if (kind == QMI_TOKEN_CONTROL || kind == QMI_TOKEN_ADDED)
            continue;
        QMI_TRY(qmi_bpe_tokenizer_add(p->t, &token, p->file, p->err));
        n_added++;
    }
    return n_added != 0 ? qmi_bpe_tokenizer_seal(p->t, p->file, p->err)
                        : QMOE_OK;
}

/* True in *out when it is given and true, and that it is given in *given. */
static qmoe_status read_switch(const qmi_json_part *p, bool *out, bool *given,
    const cJSON *json, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
    *given = *given || cJSON_IsBool(item);
    return qmi_json_bool(out, json, key, false, p->file, p->err);
}

static qmoe_status read_frame(const qmi_json_part *p, const cJSON *json)
{
    qmi_bpe_tokenizer *t = p->t;
    bool given = false, bos = false, eos = false;
    QMI_TRY(read_switch(p, &bos, &given, json, "add_bos_token"));
    QMI_TRY(read_switch(p, &eos, &given, json, "add_eos_token"));
    if (!given)
        return QMOE_OK;
    t->before.n = t->after.n = 0;
    if (bos && t->base.bos >= 0)
        QMI_TRY(qmi_id_list_add(&t->before, &t->base.bos, 1, p->err));
    if (eos && t->base.eos >= 0)
        QMI_TRY(qmi_id_list_add(&t->after, &t->base.eos, 1, p->err));
    return QMOE_OK;
}

static qmoe_status read_all(const qmi_json_part *p, const cJSON *json)
{
    qmi_tokenizer *base = &p->t->base;
    if (!cJSON_IsObject(json))
        return qmi_fail(
            p->err, QMOE_E_FORMAT, "%s: not a JSON object", p->file);
    QMI_TRY(add_tokens(
        p, cJSON_GetObjectItemCaseSensitive(json, "added_tokens_decoder")));
    read_id(&base->bos, p->t, json, "bos_token");
    read_id(&base->eos, p->t, json, "eos_token");
    read_id(&base->pad, p->t, json, "pad_token");
    return read_frame(p, json);
}

qmoe_status qmi_tokenizer_read_settings(
    qmi_bpe_tokenizer *tokenizer, const char *path, qmi_error *err)
{
    cJSON *json = NULL;
    QMI_TRY(qmi_json_load(&json, path, err));
    const qmoe_status status =
        read_all(&(qmi_json_part){tokenizer, path, err}, json);
    cJSON_Delete(json);
    return status;
}
