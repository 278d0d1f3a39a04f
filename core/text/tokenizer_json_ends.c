/* SPDX-License-Identifier: Apache-2.0
 * In: `decoder` and `post_processor` of a tokenizer.json.  Out: how tokens
 * become text, and what stands before and behind the ids of a text. */
#include "tokenizer_json.h"

#include <string.h>

#include "alloc.h"

/* ---- decoder ---- */

/* The order in which the members of a decoder may come; each at most once. */
typedef enum order { START, REPLACE, BYTE_FALLBACK, FUSE, STRIP, WHOLE } order;

typedef struct decoder_reader {
    qmi_json_part part; /* first: steps are called with it */
    order last;
} decoder_reader;

/* "Replace" of a plain text by a space. */
static qmoe_status read_replace(const qmi_json_part *p, const cJSON *json)
{
    const cJSON *pattern = cJSON_GetObjectItemCaseSensitive(json, "pattern");
    const char *text = NULL, *content = NULL;
    QMI_TRY(qmi_json_string(&text, pattern, "String", "", p->file, p->err));
    QMI_TRY(qmi_json_string(&content, json, "content", "", p->file, p->err));
    if (text[0] == '\0' || strcmp(content, " ") != 0)
        return qmi_fail(p->err, QMOE_E_UNSUPPORTED,
            "%s: a decoder that replaces anything but a text by a space is not "
            "supported",
            p->file);
    p->t->decoder.space = qmi_strdup(text, p->err);
    return p->t->decoder.space != NULL ? QMOE_OK : QMOE_E_NOMEM;
}

static qmoe_status read_strip(const qmi_json_part *p, const cJSON *json)
{
    const char *content = NULL;
    int64_t start = 0, stop = 0;
    QMI_TRY(qmi_json_string(&content, json, "content", "", p->file, p->err));
    QMI_TRY(qmi_json_int(
        &start, json, "start", false, 0, 0, 1000, p->file, p->err));
    QMI_TRY(
        qmi_json_int(&stop, json, "stop", false, 0, 0, 1000, p->file, p->err));
    if (strcmp(content, " ") != 0 || stop != 0)
        return qmi_fail(p->err, QMOE_E_UNSUPPORTED,
            "%s: a decoder that strips anything but leading spaces is not "
            "supported",
            p->file);
    p->t->decoder.n_strip = (int)start;
    return QMOE_OK;
}

static qmoe_status read_metaspace(const qmi_json_part *p, const cJSON *json)
{
    const char *replacement = NULL, *scheme = NULL;
    bool prefix = true;
    QMI_TRY(qmi_json_string(
        &replacement, json, "replacement", "", p->file, p->err));
    QMI_TRY(qmi_json_bool(
        &prefix, json, "add_prefix_space", true, p->file, p->err));
    QMI_TRY(qmi_json_string(&scheme, json, "prepend_scheme",
        prefix ? "always" : "never", p->file, p->err));
    p->t->decoder.drop_first = strcmp(scheme, "never") != 0;
    p->t->decoder.space = qmi_strdup(replacement, p->err);
    return p->t->decoder.space != NULL ? QMOE_OK : QMOE_E_NOMEM;
}

static qmoe_status read_nothing(const qmi_json_part *p, const cJSON *json)
{
    (void)p;
    (void)json;
    return QMOE_OK;
}

static qmoe_status read_decoder_step(const qmi_json_part *p, const cJSON *json)
{
    static const struct {
        const char *type;
        order order;
        qmi_json_step *read;
    } types[] = {{"ByteLevel", WHOLE, read_nothing},
        {"Metaspace", WHOLE, read_metaspace},
        {"Replace", REPLACE, read_replace},
        {"ByteFallback", BYTE_FALLBACK, read_nothing},
        {"Fuse", FUSE, read_nothing}, {"Strip", STRIP, read_strip}};
    decoder_reader *r = (decoder_reader *)p;
    const char *type = qmi_json_type(json);
    size_t i = 0;
    while (i < sizeof types / sizeof *types && strcmp(type, types[i].type) != 0)
        i++;
    if (i == sizeof types / sizeof *types)
        return qmi_json_refuse(p, "a decoder", json);
    const bool is_byte_level = i == 0;
    if (is_byte_level != p->t->bpe.by_bytes)
        return qmi_fail(p->err, QMOE_E_UNSUPPORTED,
            "%s: a decoder of type '%s' does not fit the pre-tokenizer",
            p->file, type);
    /* Strip takes from the whole text only behind Fuse. */
    if (types[i].order <= r->last ||
        (types[i].order == STRIP && r->last != FUSE) ||
        (types[i].order == WHOLE && r->last != START))
        return qmi_fail(p->err, QMOE_E_UNSUPPORTED,
            "%s: a decoder has '%s' at a place that is not supported", p->file,
            type);
    r->last = types[i].order;
    return types[i].read(p, json);
}

qmoe_status qmi_json_decoder(const qmi_json_part *p, const cJSON *json)
{
    decoder_reader r = {*p, START};
    if (json == NULL || cJSON_IsNull(json))
        return qmi_fail(p->err, QMOE_E_UNSUPPORTED,
            "%s: a tokenizer without a decoder is not supported", p->file);
    p->t->decoder.by_characters = !p->t->bpe.by_bytes;
    return qmi_json_sequence(&r.part, json, "decoders", read_decoder_step);
}

/* ---- post-processor ---- */

/* The ids of a special token of a template. */
static qmoe_status add_special(const qmi_json_part *p, qmi_id_list *list,
    const cJSON *tokens, const char *name)
{
    const cJSON *token = cJSON_GetObjectItemCaseSensitive(tokens, name);
    const cJSON *ids = cJSON_GetObjectItemCaseSensitive(token, "ids");
    const cJSON *item = NULL;
    if (!cJSON_IsArray(ids))
        return qmi_fail(p->err, QMOE_E_FORMAT,
            "%s: the post-processor has no ids of '%.100s'", p->file, name);
    cJSON_ArrayForEach(item, ids)
    {
        uint64_t id = 0;
        if (!qmi_json_to_u64(&id, item) || id >= (uint64_t)p->t->base.size)
            return qmi_fail(p->err, QMOE_E_FORMAT,
                "%s: the post-processor's '%.100s' is no token", p->file, name);
        const int32_t narrow = (int32_t)id;
        QMI_TRY(qmi_id_list_add(list, &narrow, 1, p->err));
    }
    return QMOE_OK;
}

/* A list of {"SpecialToken": {"id": name}} around one {"Sequence": ...}. */
static qmoe_status read_template(const qmi_json_part *p, const cJSON *json)
{
    const cJSON *parts = cJSON_GetObjectItemCaseSensitive(json, "single");
    const cJSON *tokens =
        cJSON_GetObjectItemCaseSensitive(json, "special_tokens");
    const cJSON *part = NULL;
    int n_sequences = 0;
    if (p->t->before.n != 0 || p->t->after.n != 0)
        return qmi_fail(p->err, QMOE_E_UNSUPPORTED,
            "%s: more than one template in the post-processor is not supported",
            p->file);
    cJSON_ArrayForEach(part, parts)
    {
        const cJSON *special =
            cJSON_GetObjectItemCaseSensitive(part, "SpecialToken");
        const char *name = cJSON_GetStringValue(
            cJSON_GetObjectItemCaseSensitive(special, "id"));
        if (name != NULL)
            QMI_TRY(add_special(p,
                n_sequences == 0 ? &p->t->before : &p->t->after, tokens, name));
        else if (cJSON_GetObjectItemCaseSensitive(part, "Sequence") != NULL)
            n_sequences++;
        else
            n_sequences = 2;
    }
    if (n_sequences != 1)
        return qmi_fail(p->err, QMOE_E_FORMAT,
            "%s: the template of the post-processor does not have the text "
            "once, among special tokens",
            p->file);
    return QMOE_OK;
}

static qmoe_status read_post_step(const qmi_json_part *p, const cJSON *json)
{
    const char *type = qmi_json_type(json);
    if (strcmp(type, "TemplateProcessing") == 0)
        return read_template(p, json);
    /* It changes offsets only. */
    if (strcmp(type, "ByteLevel") == 0)
        return QMOE_OK;
    return qmi_json_refuse(p, "a post-processor", json);
}

qmoe_status qmi_json_post_processor(const qmi_json_part *p, const cJSON *json)
{
    return qmi_json_sequence(p, json, "processors", read_post_step);
}
