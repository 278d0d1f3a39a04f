/* SPDX-License-Identifier: Apache-2.0
 * In: a tokenizer.json of Hugging Face's tokenizers.  Out: a byte-pair
 * tokenizer.  Only what is known is accepted: a step that we do not compute
 * would change ids silently, so it is refused by its name. */
#include "tokenizer_json.h"

#include <string.h>

#include "alloc.h"

enum { MAX_DEPTH = 3 };

const char *qmi_json_type(const cJSON *json)
{
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "type"));
}

qmoe_status qmi_json_refuse(
    const qmi_json_part *p, const char *what, const cJSON *json)
{
    const char *type = qmi_json_type(json);
    return qmi_fail(p->err, QMOE_E_UNSUPPORTED,
        "%s: %s of type '%.100s' is not supported", p->file, what,
        type != NULL ? type : "(none)");
}

static qmoe_status read_sequence(const qmi_json_part *p, const cJSON *json,
    const char *key, qmi_json_step *read, int depth)
{
    const char *type = qmi_json_type(json);
    if (type == NULL)
        return qmi_fail(p->err, QMOE_E_FORMAT,
            "%s: a member of '%s' has no type", p->file, key);
    if (strcmp(type, "Sequence") != 0)
        return read(p, json);
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(json, key);
    if (!cJSON_IsArray(list) || depth == MAX_DEPTH)
        return qmi_fail(p->err, QMOE_E_FORMAT,
            "%s: a Sequence has no list '%s', or is nested too deeply", p->file,
            key);
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, list)
        QMI_TRY(read_sequence(p, item, key, read, depth + 1));
    return QMOE_OK;
}

qmoe_status qmi_json_sequence(const qmi_json_part *p, const cJSON *json,
    const char *key, qmi_json_step *read)
{
    if (json == NULL || cJSON_IsNull(json))
        return QMOE_OK;
    return read_sequence(p, json, key, read, 0);
}

/* ---- added tokens ---- */

qmoe_status qmi_json_added_token(
    qmi_added_token *out, const qmi_json_part *p, const cJSON *json)
{
    const char *content = NULL;
    *out = (qmi_added_token){0};
    if (!cJSON_IsObject(json))
        return qmi_fail(
            p->err, QMOE_E_FORMAT, "%s: an added token is no object", p->file);
    QMI_TRY(qmi_json_string(&content, json, "content", "", p->file, p->err));
    out->content = (char *)content;
    out->n = strlen(content);
    QMI_TRY(qmi_json_bool(
        &out->single_word, json, "single_word", false, p->file, p->err));
    QMI_TRY(
        qmi_json_bool(&out->lstrip, json, "lstrip", false, p->file, p->err));
    QMI_TRY(
        qmi_json_bool(&out->rstrip, json, "rstrip", false, p->file, p->err));
    QMI_TRY(
        qmi_json_bool(&out->special, json, "special", false, p->file, p->err));
    return qmi_json_bool(
        &out->normalized, json, "normalized", !out->special, p->file, p->err);
}

static qmoe_status read_added(const qmi_json_part *p, const cJSON *list)
{
    const cJSON *item = NULL;
    if (list == NULL || cJSON_IsNull(list))
        return QMOE_OK;
    if (!cJSON_IsArray(list))
        return qmi_fail(
            p->err, QMOE_E_FORMAT, "%s: 'added_tokens' is no list", p->file);
    cJSON_ArrayForEach(item, list)
    {
        qmi_added_token token;
        int64_t id = 0;
        QMI_TRY(qmi_json_added_token(&token, p, item));
        QMI_TRY(qmi_json_int(
            &id, item, "id", true, 0, 0, QMI_MAX_TOKENS - 1, p->file, p->err));
        token.id = (int32_t)id;
        QMI_TRY(qmi_bpe_tokenizer_add(p->t, &token, p->file, p->err));
    }
    return QMOE_OK;
}

/* ---- the file ---- */

static qmoe_status read_all(const qmi_json_part *p, const cJSON *json)
{
    if (!cJSON_IsObject(json))
        return qmi_fail(
            p->err, QMOE_E_FORMAT, "%s: not a JSON object", p->file);
    const cJSON *model = cJSON_GetObjectItemCaseSensitive(json, "model");
    QMI_TRY(qmi_json_normalizer(
        p, cJSON_GetObjectItemCaseSensitive(json, "normalizer")));
    QMI_TRY(qmi_json_pre_tokenizer(
        p, cJSON_GetObjectItemCaseSensitive(json, "pre_tokenizer")));
    QMI_TRY(qmi_json_model(p, model));
    QMI_TRY(
        read_added(p, cJSON_GetObjectItemCaseSensitive(json, "added_tokens")));
    QMI_TRY(
        qmi_json_decoder(p, cJSON_GetObjectItemCaseSensitive(json, "decoder")));
    QMI_TRY(qmi_bpe_tokenizer_seal(p->t, p->file, p->err));
    return qmi_json_post_processor(
        p, cJSON_GetObjectItemCaseSensitive(json, "post_processor"));
}

qmoe_status qmi_tokenizer_open_json(
    qmi_tokenizer **out, const char *path, qmi_error *err)
{
    cJSON *json = NULL;
    qmi_bpe_tokenizer *t = NULL;
    *out = NULL;
    QMI_TRY(qmi_json_load(&json, path, err));
    qmoe_status status = qmi_bpe_tokenizer_create(&t, err);
    if (status == QMOE_OK)
        status = read_all(&(qmi_json_part){t, path, err}, json);
    cJSON_Delete(json);
    if (status == QMOE_OK)
        *out = &t->base;
    else if (t != NULL)
        qmi_tokenizer_close(&t->base);
    return status;
}
