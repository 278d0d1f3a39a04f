/* SPDX-License-Identifier: Apache-2.0
 * In: `normalizer` and `pre_tokenizer` of a tokenizer.json.  Out: lists of
 * steps. */
#include "tokenizer_json.h"

#include <string.h>

#include "alloc.h"
#include "characters.h"

/* The split of ByteLevel with use_regex. */
static const char GPT2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+|"
                           " ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* The index of `text` in `names`; n: it is not there. */
static size_t find_name(const char *const *names, size_t n, const char *text)
{
    size_t i = 0;
    while (i < n && strcmp(names[i], text) != 0)
        i++;
    return i;
}

static qmoe_status copy_string(
    const qmi_json_part *p, char **out, const cJSON *json, const char *key)
{
    const char *text = NULL;
    QMI_TRY(qmi_json_string(&text, json, key, NULL, p->file, p->err));
    if (text == NULL)
        return qmi_fail(
            p->err, QMOE_E_FORMAT, "%s: '%s' is missing", p->file, key);
    *out = qmi_strdup(text, p->err);
    return *out != NULL ? QMOE_OK : QMOE_E_NOMEM;
}

/* {"Regex": ...} or {"String": ...} */
static qmoe_status read_pattern(
    const qmi_json_part *p, qmi_pattern **out, const cJSON *json)
{
    const cJSON *pattern = cJSON_GetObjectItemCaseSensitive(json, "pattern");
    const char *regex = NULL, *text = NULL;
    QMI_TRY(qmi_json_string(&regex, pattern, "Regex", NULL, p->file, p->err));
    QMI_TRY(qmi_json_string(&text, pattern, "String", NULL, p->file, p->err));
    if ((regex == NULL) == (text == NULL))
        return qmi_fail(p->err, QMOE_E_FORMAT,
            "%s: a pattern is neither a Regex nor a String", p->file);
    return qmi_pattern_compile(
        out, regex != NULL ? regex : text, regex == NULL, p->file, p->err);
}

/* ---- normalizers ---- */

static qmoe_status read_normal_step(const qmi_json_part *p, const cJSON *json)
{
    static const char *const names[] = {[QMI_NORMAL_NFC] = "NFC",
        [QMI_NORMAL_NFD] = "NFD",
        [QMI_NORMAL_NFKC] = "NFKC",
        [QMI_NORMAL_NFKD] = "NFKD",
        [QMI_NORMAL_LOWERCASE] = "Lowercase",
        [QMI_NORMAL_REPLACE] = "Replace",
        [QMI_NORMAL_PREPEND] = "Prepend",
        [QMI_NORMAL_STRIP] = "Strip"};
    const size_t n_names = sizeof names / sizeof *names;
    qmi_normalizer *normalizer = &p->t->normalizer;
    const size_t kind = find_name(names, n_names, qmi_json_type(json));
    if (kind == n_names)
        return qmi_json_refuse(p, "a normalizer", json);
    if (normalizer->n == QMI_MAX_NORMAL_STEPS)
        return qmi_fail(p->err, QMOE_E_UNSUPPORTED,
            "%s: more than %d normalizers", p->file, QMI_MAX_NORMAL_STEPS);
    struct qmi_normal_step *step = &normalizer->steps[normalizer->n++];
    step->kind = (qmi_normal_kind)kind;
    if (kind == QMI_NORMAL_PREPEND)
        return copy_string(p, &step->content, json, "prepend");
    if (kind == QMI_NORMAL_STRIP) {
        QMI_TRY(qmi_json_bool(
            &step->left, json, "strip_left", true, p->file, p->err));
        return qmi_json_bool(
            &step->right, json, "strip_right", true, p->file, p->err);
    }
    if (kind != QMI_NORMAL_REPLACE)
        return QMOE_OK;
    QMI_TRY(copy_string(p, &step->content, json, "content"));
    return read_pattern(p, &step->pattern, json);
}

qmoe_status qmi_json_normalizer(const qmi_json_part *p, const cJSON *json)
{
    return qmi_json_sequence(p, json, "normalizers", read_normal_step);
}

/* ---- pre-tokenizers ---- */

static qmoe_status add_step(
    const qmi_json_part *p, qmi_split_step **out, qmi_split_kind kind)
{
    qmi_pre_tokenizer *pre = &p->t->pre_tokenizer;
    if (pre->n == QMI_MAX_SPLIT_STEPS)
        return qmi_fail(p->err, QMOE_E_UNSUPPORTED,
            "%s: more than %d pre-tokenizers", p->file, QMI_MAX_SPLIT_STEPS);
    *out = &pre->steps[pre->n++];
    (*out)->kind = kind;
    return QMOE_OK;
}

static qmoe_status read_split(const qmi_json_part *p, const cJSON *json)
{
    static const char *const names[] = {[QMI_SPLIT_ISOLATED] = "Isolated",
        [QMI_SPLIT_REMOVED] = "Removed",
        [QMI_SPLIT_WITH_PREVIOUS] = "MergedWithPrevious",
        [QMI_SPLIT_WITH_NEXT] = "MergedWithNext",
        [QMI_SPLIT_CONTIGUOUS] = "Contiguous"};
    const size_t n_names = sizeof names / sizeof *names;
    qmi_split_step *step = NULL;
    const char *behavior = NULL;
    QMI_TRY(qmi_json_string(
        &behavior, json, "behavior", "(none)", p->file, p->err));
    const size_t number = find_name(names, n_names, behavior);
    if (number == n_names)
        return qmi_fail(p->err, QMOE_E_UNSUPPORTED,
            "%s: a Split with behavior '%.100s' is not supported", p->file,
            behavior);
    QMI_TRY(add_step(p, &step, QMI_SPLIT_PATTERN));
    step->behavior = (qmi_split_behavior)number;
    QMI_TRY(
        qmi_json_bool(&step->invert, json, "invert", false, p->file, p->err));
    return read_pattern(p, &step->pattern, json);
}

static qmoe_status read_digits(const qmi_json_part *p, const cJSON *json)
{
    qmi_split_step *step = NULL;
    QMI_TRY(add_step(p, &step, QMI_SPLIT_DIGITS));
    bool individual = false;
    QMI_TRY(qmi_json_bool(
        &individual, json, "individual_digits", false, p->file, p->err));
    step->behavior = individual ? QMI_SPLIT_ISOLATED : QMI_SPLIT_CONTIGUOUS;
    return QMOE_OK;
}

static qmoe_status read_byte_level(const qmi_json_part *p, const cJSON *json)
{
    bool prefix = false, splits = false;
    qmi_split_step *step = NULL;
    QMI_TRY(qmi_json_bool(
        &prefix, json, "add_prefix_space", true, p->file, p->err));
    QMI_TRY(qmi_json_bool(&splits, json, "use_regex", true, p->file, p->err));
    p->t->bpe.by_bytes = p->t->byte_level = true;
    if (prefix)
        QMI_TRY(add_step(p, &step, QMI_SPLIT_PREFIX_SPACE));
    if (!splits)
        return QMOE_OK;
    QMI_TRY(add_step(p, &step, QMI_SPLIT_PATTERN));
    return qmi_pattern_compile(&step->pattern, GPT2, false, p->file, p->err);
}

/* Files of before there was a scheme have add_prefix_space instead. */
static qmoe_status read_scheme(
    const qmi_json_part *p, qmi_prepend_scheme *out, const cJSON *json)
{
    static const char *const names[] = {[QMI_PREPEND_NEVER] = "never",
        [QMI_PREPEND_FIRST] = "first",
        [QMI_PREPEND_ALWAYS] = "always"};
    const size_t n_names = sizeof names / sizeof *names;
    const char *scheme = NULL;
    bool prefix = true;
    QMI_TRY(qmi_json_bool(
        &prefix, json, "add_prefix_space", true, p->file, p->err));
    QMI_TRY(qmi_json_string(&scheme, json, "prepend_scheme",
        prefix ? "always" : "never", p->file, p->err));
    const size_t number = find_name(names, n_names, scheme);
    if (number == n_names)
        return qmi_fail(p->err, QMOE_E_UNSUPPORTED,
            "%s: prepend_scheme '%.100s' is not supported", p->file, scheme);
    *out = (qmi_prepend_scheme)number;
    return QMOE_OK;
}

static qmoe_status read_metaspace(const qmi_json_part *p, const cJSON *json)
{
    qmi_split_step *step = NULL;
    int32_t point = 0;
    QMI_TRY(add_step(p, &step, QMI_SPLIT_METASPACE));
    step->behavior = QMI_SPLIT_WITH_NEXT;
    QMI_TRY(copy_string(p, &step->replacement, json, "replacement"));
    const size_t n = strlen(step->replacement);
    if (n == 0 || qmi_character(step->replacement, n, &point) != n)
        return qmi_fail(p->err, QMOE_E_FORMAT,
            "%s: the replacement of Metaspace is not one character", p->file);
    QMI_TRY(read_scheme(p, &step->scheme, json));
    QMI_TRY(qmi_json_bool(&step->splits, json, "split", true, p->file, p->err));
    return qmi_pattern_compile(
        &step->pattern, step->replacement, true, p->file, p->err);
}

static qmoe_status read_split_step(const qmi_json_part *p, const cJSON *json)
{
    static const struct {
        const char *type;
        qmi_json_step *read;
    } types[] = {{"Split", read_split}, {"Digits", read_digits},
        {"ByteLevel", read_byte_level}, {"Metaspace", read_metaspace}};
    const char *type = qmi_json_type(json);
    /* It would see characters that stand for bytes. */
    if (p->t->bpe.by_bytes)
        return qmi_fail(p->err, QMOE_E_UNSUPPORTED,
            "%s: a pre-tokenizer behind ByteLevel is not supported", p->file);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(type, types[i].type) == 0)
            return types[i].read(p, json);
    return qmi_json_refuse(p, "a pre-tokenizer", json);
}

qmoe_status qmi_json_pre_tokenizer(const qmi_json_part *p, const cJSON *json)
{
    return qmi_json_sequence(p, json, "pretokenizers", read_split_step);
}
