/* SPDX-License-Identifier: Apache-2.0
 * In: the arrays tokenizer.ggml.* of a GGUF file.  Out: tokens by id and by
 * text, merges by rank.  The arrays are as long as each other, texts are UTF-8
 * and unique, and merges join tokens to tokens: a tokenizer that is written
 * from them can be loaded. */
#include "gguf_vocabulary.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"

/* The longest token; bounds the work on splits. */
enum { MAX_TOKEN = 1024, MAX_TOKENS = 1 << 24 };

static qmoe_status fail(
    const qmi_gguf_source *s, const char *key, const char *rule)
{
    return qmi_fail(s->err, QMOE_E_FORMAT, "%s: key '%s' %s",
        qmi_gguf_source_path(s), key, rule);
}

/* ---- tokens ---- */

static qmoe_status read_types(qmi_gguf_vocabulary *v, const qmi_gguf_source *s)
{
    static const char key[] = "tokenizer.ggml.token_type";
    const qmi_gguf_value *types = NULL;
    QMI_TRY(qmi_gguf_source_array(s, key, &types));
    if (types == NULL || types->n != (uint64_t)v->n)
        return fail(s, key, "has no number for each token");
    for (int32_t i = 0; i < v->n; i++) {
        int64_t type = 0;
        char padding[32];
        qmi_gguf_token *t = &v->tokens[i];
        if (!qmi_gguf_int(types, (uint64_t)i, &type) ||
            type < QMI_GGUF_NORMAL || type > QMI_GGUF_BYTE)
            return fail(s, key, "holds something that is no type of tokens");
        t->type = (qmi_gguf_token_type)type;
        /* The name that converters give such rows. */
        snprintf(padding, sizeof padding, "[PAD%d]", (int)i);
        t->is_padding =
            type == QMI_GGUF_UNUSED && strcmp(t->text, padding) == 0;
    }
    return QMOE_OK;
}

static qmoe_status read_tokens(qmi_gguf_vocabulary *v, const qmi_gguf_source *s)
{
    static const char key[] = "tokenizer.ggml.tokens";
    const qmi_gguf_value *texts = NULL;
    QMI_TRY(qmi_gguf_source_array(s, key, &texts));
    if (texts == NULL || texts->kind != QMI_GGUF_STRING || texts->n == 0 ||
        texts->n > MAX_TOKENS)
        return fail(s, key, "is no list of tokens");
    v->tokens =
        qmi_calloc((size_t)texts->n, sizeof *v->tokens, "the tokens", s->err);
    if (v->tokens == NULL)
        return QMOE_E_NOMEM;
    const uint8_t *at = texts->data;
    for (; v->n < (int32_t)texts->n; v->n++) {
        char what[32];
        const qmi_gguf_text text = qmi_gguf_next_text(&at);
        snprintf(what, sizeof what, "token %d", (int)v->n);
        if (text.n > MAX_TOKEN)
            return fail(s, key, "holds a token of more than 1024 bytes");
        QMI_TRY(qmi_gguf_source_copy(s, what, text, &v->tokens[v->n].text));
        v->tokens[v->n].n_bytes = (size_t)text.n;
    }
    return read_types(v, s);
}

/* ---- by text ---- */

typedef struct named {
    const char *text;
    int32_t id;
} named;

static int compare_named(const void *a, const void *b)
{
    return strcmp(((const named *)a)->text, ((const named *)b)->text);
}

static qmoe_status index_tokens(
    qmi_gguf_vocabulary *v, const qmi_gguf_source *s)
{
    qmoe_status status = QMOE_OK;
    size_t n = (size_t)v->n;
    named *all = qmi_calloc(n, sizeof *all, "the tokens", s->err);
    v->by_text = qmi_calloc(n, sizeof *v->by_text, "the tokens", s->err);
    if (all == NULL || v->by_text == NULL) {
        qmi_free(all);
        return QMOE_E_NOMEM;
    }
    for (size_t i = 0; i < n; i++)
        all[i] = (named){v->tokens[i].text, (int32_t)i};
    qsort(all, n, sizeof *all, compare_named);
    for (size_t i = 0; status == QMOE_OK && i < n; i++) {
        v->by_text[i] = all[i].id;
        if (i != 0 && compare_named(&all[i - 1], &all[i]) == 0)
            status = qmi_fail(s->err, QMOE_E_FORMAT,
                "%s: tokens %d and %d have the same text",
                qmi_gguf_source_path(s), (int)all[i - 1].id, (int)all[i].id);
    }
    qmi_free(all);
    return status;
}

/* <0, 0, >0 as strcmp of `text` [n] and the token. */
static int compare_text(const char *text, size_t n, const qmi_gguf_token *t)
{
    const size_t shorter = n < t->n_bytes ? n : t->n_bytes;
    const int order = memcmp(text, t->text, shorter);
    return order != 0 ? order : (n > t->n_bytes) - (n < t->n_bytes);
}

int32_t qmi_gguf_vocabulary_find(
    const qmi_gguf_vocabulary *vocabulary, const char *text, size_t n)
{
    int32_t low = 0, high = vocabulary->n;
    while (low < high) {
        const int32_t middle = low + (high - low) / 2;
        const int32_t id = vocabulary->by_text[middle];
        const int order = compare_text(text, n, &vocabulary->tokens[id]);
        if (order == 0)
            return id;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return -1;
}

/* ---- merges of the file ---- */

/* "left right": byte-level tokens have no space, nor have those of scores. */
static qmoe_status read_merge(const qmi_gguf_vocabulary *v,
    const qmi_gguf_source *s, uint64_t i, qmi_gguf_text text,
    qmi_gguf_merge *out)
{
    char joined[2 * MAX_TOKEN];
    const char *space = memchr(text.bytes, ' ', (size_t)text.n);
    *out = (qmi_gguf_merge){-1, -1};
    if (space != NULL && text.n < sizeof joined) {
        const size_t n_left = (size_t)(space - text.bytes);
        const size_t n_right = (size_t)text.n - n_left - 1;
        memcpy(joined, text.bytes, n_left);
        memcpy(joined + n_left, space + 1, n_right);
        out->left = qmi_gguf_vocabulary_find(v, text.bytes, n_left);
        out->right = qmi_gguf_vocabulary_find(v, space + 1, n_right);
        if (n_left == 0 || n_right == 0 ||
            qmi_gguf_vocabulary_find(v, joined, n_left + n_right) < 0)
            out->left = -1;
    }
    if (out->left < 0 || out->right < 0)
        return qmi_fail(s->err, QMOE_E_FORMAT,
            "%s: key 'tokenizer.ggml.merges': number %llu does not join two "
            "tokens to one",
            qmi_gguf_source_path(s), (unsigned long long)i);
    return QMOE_OK;
}

static qmoe_status read_merges(qmi_gguf_vocabulary *v, const qmi_gguf_source *s,
    const qmi_gguf_value *merges)
{
    if (merges->kind != QMI_GGUF_STRING)
        return fail(s, merges->key, "is no list of texts");
    v->merges =
        qmi_calloc((size_t)merges->n, sizeof *v->merges, "the merges", s->err);
    if (v->merges == NULL)
        return QMOE_E_NOMEM;
    const uint8_t *at = merges->data;
    for (; v->n_merges < merges->n; v->n_merges++)
        QMI_TRY(read_merge(v, s, v->n_merges, qmi_gguf_next_text(&at),
            &v->merges[v->n_merges]));
    return QMOE_OK;
}

qmoe_status qmi_gguf_vocabulary_read(
    qmi_gguf_vocabulary *out, const qmi_gguf_source *source)
{
    const qmi_gguf_value *merges = NULL;
    *out = (qmi_gguf_vocabulary){0};
    QMI_TRY(read_tokens(out, source));
    QMI_TRY(index_tokens(out, source));
    QMI_TRY(qmi_gguf_source_array(source, "tokenizer.ggml.merges", &merges));
    return merges != NULL ? read_merges(out, source, merges)
                          : qmi_gguf_rank_merges(out, source);
}

void qmi_gguf_vocabulary_destroy(qmi_gguf_vocabulary *vocabulary)
{
    /* One more than n may be there when reading stopped in the middle. */
    for (int32_t i = 0; i < vocabulary->n; i++)
        qmi_free(vocabulary->tokens[i].text);
    qmi_free(vocabulary->tokens);
    qmi_free(vocabulary->by_text);
    qmi_free(vocabulary->merges);
    *vocabulary = (qmi_gguf_vocabulary){0};
}
