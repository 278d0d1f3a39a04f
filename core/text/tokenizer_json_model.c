/* SPDX-License-Identifier: Apache-2.0
 * In: `model` of a tokenizer.json.  Out: vocabulary and merges.  Lists have
 * some 10^5 members: each is visited once, in order. */
#include "tokenizer_json.h"

#include <string.h>

#include "alloc.h"
#include "byte_level.h"

typedef struct reader {
    const qmi_json_part *p;
    qmi_bpe *bpe;
    char *bytes; /* [capacity] of one token */
    size_t capacity;
} reader;

/* The bytes of a token as the vocabulary has them; *findable false: it is
 * spelled so that no text can become it. */
static qmoe_status read_token(reader *r, const char **bytes, size_t *n,
    bool *findable, const char *token, size_t n_token)
{
    *bytes = token;
    *n = n_token;
    *findable = true;
    if (!r->bpe->by_bytes)
        return QMOE_OK;
    if (n_token > r->capacity) {
        const size_t capacity = 2 * n_token + 256;
        char *grown = qmi_regrow(
            r->bytes, r->capacity, capacity, 1, "a token", r->p->err);
        if (grown == NULL)
            return QMOE_E_NOMEM;
        r->bytes = grown;
        r->capacity = capacity;
    }
    *findable = qmi_bytes_of_token(r->bytes, n, token, n_token);
    if (*findable)
        *bytes = r->bytes;
    else
        *n = n_token;
    return QMOE_OK;
}

static qmoe_status read_vocabulary(reader *r, const cJSON *vocabulary)
{
    const qmi_json_part *p = r->p;
    const cJSON *item = NULL;
    if (!cJSON_IsObject(vocabulary))
        return qmi_fail(
            p->err, QMOE_E_FORMAT, "%s: 'model.vocab' is no object", p->file);
    cJSON_ArrayForEach(item, vocabulary)
    {
        const char *bytes = NULL;
        size_t n = 0;
        bool findable = false;
        uint64_t id = 0;
        if (!qmi_json_to_u64(&id, item) || id >= QMI_MAX_TOKENS)
            return qmi_fail(p->err, QMOE_E_FORMAT,
                "%s: the id of token '%.100s' is not an integer below %d",
                p->file, item->string, QMI_MAX_TOKENS);
        QMI_TRY(read_token(
            r, &bytes, &n, &findable, item->string, strlen(item->string)));
        const qmoe_status status = qmi_vocabulary_put(
            &r->bpe->vocabulary, (int64_t)id, bytes, n, findable, p->err);
        if (status != QMOE_OK)
            return qmi_error_prefix(p->err, status, "%s", p->file);
    }
    return QMOE_OK;
}

/* ---- merges ---- */

/* The two parts of a merge: "a b", or [a, b].  False: it is neither. */
static bool split_merge(const cJSON *merge, const char *parts[2], size_t n[2])
{
    const char *text = cJSON_GetStringValue(merge);
    if (text != NULL) {
        const char *space = strchr(text, ' ');
        if (space == NULL || strchr(space + 1, ' ') != NULL)
            return false;
        parts[0] = text;
        n[0] = (size_t)(space - text);
        parts[1] = space + 1;
        n[1] = strlen(parts[1]);
        return true;
    }
    const cJSON *first = cJSON_IsArray(merge) ? merge->child : NULL;
    const cJSON *second = first != NULL ? first->next : NULL;
    if (second == NULL || second->next != NULL)
        return false;
    parts[0] = cJSON_GetStringValue(first);
    parts[1] = cJSON_GetStringValue(second);
    if (parts[0] == NULL || parts[1] == NULL)
        return false;
    n[0] = strlen(parts[0]);
    n[1] = strlen(parts[1]);
    return true;
}

/* The ids of both parts and of what they become.  `joined` has room. */
static qmoe_status find_merge(reader *r, int32_t ids[3], qmi_text *joined,
    const char *const parts[2], const size_t n[2])
{
    const qmi_vocabulary *v = &r->bpe->vocabulary;
    joined->n = 0;
    for (int i = 0; i < 2; i++) {
        const char *bytes = NULL;
        size_t n_bytes = 0;
        bool findable = false;
        QMI_TRY(read_token(r, &bytes, &n_bytes, &findable, parts[i], n[i]));
        ids[i] = findable ? qmi_vocabulary_find(v, bytes, n_bytes) : -1;
        qmi_text_bytes(joined, bytes, n_bytes);
    }
    if (joined->failed)
        return QMOE_E_NOMEM;
    ids[2] =
        joined->n != 0 ? qmi_vocabulary_find(v, joined->data, joined->n) : -1;
    return QMOE_OK;
}

static qmoe_status read_merge(
    reader *r, qmi_text *joined, const cJSON *merge, size_t number)
{
    const qmi_json_part *p = r->p;
    const char *parts[2];
    size_t n[2];
    int32_t ids[3];
    const char *text = cJSON_GetStringValue(merge);
    if (number == 0 && text != NULL && strncmp(text, "#version", 8) == 0)
        return QMOE_OK;
    if (!split_merge(merge, parts, n))
        return qmi_fail(p->err, QMOE_E_FORMAT,
            "%s: merge %zu is not two tokens", p->file, number);
    QMI_TRY(find_merge(r, ids, joined, parts, n));
    if (ids[0] < 0 || ids[1] < 0 || ids[2] < 0)
        return qmi_fail(p->err, QMOE_E_FORMAT,
            "%s: merge %zu, '%.*s' and '%.100s', is of or to a token that the "
            "vocabulary has not",
            p->file, number, n[0] < 100 ? (int)n[0] : 100, parts[0], parts[1]);
    const qmoe_status status =
        qmi_bpe_add_merge(r->bpe, ids[0], ids[1], ids[2], p->err);
    return status == QMOE_OK ? status
                             : qmi_error_prefix(p->err, status, "%s", p->file);
}

static qmoe_status read_merges(reader *r, const cJSON *merges)
{
    qmi_text joined = {.err = r->p->err};
    const cJSON *item = NULL;
    size_t number = 0;
    if (!cJSON_IsArray(merges))
        return qmi_fail(r->p->err, QMOE_E_FORMAT,
            "%s: 'model.merges' is no list", r->p->file);
    qmoe_status status = qmi_bpe_reserve_merges(
        r->bpe, (size_t)cJSON_GetArraySize(merges), r->p->err);
    cJSON_ArrayForEach(item, merges)
    {
        if (status != QMOE_OK)
            break;
        status = read_merge(r, &joined, item, number++);
    }
    qmi_free(joined.data);
    return status;
}

/* ---- the rest ---- */

/* A member that must be absent, null, empty, zero or false. */
static qmoe_status refuse_unless_unset(
    const qmi_json_part *p, const cJSON *model, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(model, key);
    const char *text = cJSON_GetStringValue(item);
    if (item == NULL || cJSON_IsNull(item) || cJSON_IsFalse(item) ||
        (text != NULL && text[0] == '\0') ||
        (cJSON_IsNumber(item) && item->valuedouble == 0))
        return QMOE_OK;
    return qmi_fail(p->err, QMOE_E_UNSUPPORTED,
        "%s: 'model.%s' is set, which is not supported", p->file, key);
}

static qmoe_status read_flags(const qmi_json_part *p, const cJSON *model)
{
    qmi_bpe *bpe = &p->t->bpe;
    QMI_TRY(refuse_unless_unset(p, model, "dropout"));
    QMI_TRY(refuse_unless_unset(p, model, "continuing_subword_prefix"));
    QMI_TRY(refuse_unless_unset(p, model, "end_of_word_suffix"));
    QMI_TRY(qmi_json_bool(
        &bpe->fuse_unk, model, "fuse_unk", false, p->file, p->err));
    QMI_TRY(qmi_json_bool(
        &bpe->byte_fallback, model, "byte_fallback", false, p->file, p->err));
    return qmi_json_bool(
        &bpe->ignore_merges, model, "ignore_merges", false, p->file, p->err);
}

static qmoe_status read_unk(reader *r, const cJSON *model)
{
    const qmi_json_part *p = r->p;
    const char *token = NULL, *bytes = NULL;
    size_t n = 0;
    bool findable = false;
    QMI_TRY(qmi_json_string(&token, model, "unk_token", NULL, p->file, p->err));
    if (token == NULL)
        return QMOE_OK;
    QMI_TRY(read_token(r, &bytes, &n, &findable, token, strlen(token)));
    r->bpe->unk = qmi_vocabulary_find(&r->bpe->vocabulary, bytes, n);
    if (r->bpe->unk < 0)
        return qmi_fail(p->err, QMOE_E_FORMAT,
            "%s: 'model.unk_token' '%.100s' is not in the vocabulary", p->file,
            token);
    return QMOE_OK;
}

qmoe_status qmi_json_model(const qmi_json_part *p, const cJSON *json)
{
    reader r = {.p = p, .bpe = &p->t->bpe};
    const char *type = qmi_json_type(json);
    const cJSON *merges = cJSON_GetObjectItemCaseSensitive(json, "merges");
    /* Old files have no type; only byte-pair models have merges. */
    if (type != NULL ? strcmp(type, "BPE") != 0 : merges == NULL)
        return qmi_json_refuse(p, "a model", json);
    QMI_TRY(read_flags(p, json));
    qmoe_status status =
        read_vocabulary(&r, cJSON_GetObjectItemCaseSensitive(json, "vocab"));
    if (status == QMOE_OK)
        status = read_merges(&r, merges);
    if (status == QMOE_OK)
        status = read_unk(&r, json);
    qmi_free(r.bytes);
    return status;
}
