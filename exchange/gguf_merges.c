/* SPDX-License-Identifier: Apache-2.0
 * In: tokens with scores, the higher of which is merged first.  Out: a list of
 * merges in that order.  Each token is cut in two at every character; where
 * both pieces are tokens, they merge to it.  Equal ranks are ordered as
 * transformers does (generate_merges): longer left pieces first, then longer
 * right ones, then lower ids. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "gguf_vocabulary.h"

typedef struct ranked {
    qmi_gguf_merge merge;
    int32_t id; /* of the result */
    double score;
    int32_t n_left, n_right; /* characters */
} ranked;

typedef struct ranker {
    const qmi_gguf_vocabulary *vocabulary;
    ranked *list;
    size_t n, capacity;
    qmi_error *err;
} ranker;

static int compare_ranked(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    if (x->n_left != y->n_left)
        return x->n_left > y->n_left ? -1 : 1;
    if (x->n_right != y->n_right)
        return x->n_right > y->n_right ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static bool begins_character(char c)
{
    return ((unsigned char)c & 0xc0u) != 0x80u;
}

static int32_t count_characters(const char *text, size_t n)
{
    int32_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += begins_character(text[i]);
    return count;
}

/* The token of n bytes, if it is one that text is made of. */
static int32_t find_normal(
    const qmi_gguf_vocabulary *v, const char *text, size_t n)
{
    const int32_t id = qmi_gguf_vocabulary_find(v, text, n);
    return id >= 0 && v->tokens[id].type == QMI_GGUF_NORMAL ? id : -1;
}

static qmoe_status add(ranker *r, ranked item)
{
    if (r->n == r->capacity) {
        const size_t capacity = 2 * r->capacity + 1024;
        void *grown = qmi_regrow(
            r->list, r->n, capacity, sizeof *r->list, "the merges", r->err);
        if (grown == NULL)
            return QMOE_E_NOMEM;
        r->list = grown;
        r->capacity = capacity;
    }
    r->list[r->n++] = item;
    return QMOE_OK;
}

static qmoe_status split_token(ranker *r, int32_t id, double score)
{
    const qmi_gguf_token *t = &r->vocabulary->tokens[id];
    for (size_t i = 1; i < t->n_bytes; i++) {
        if (!begins_character(t->text[i]))
            continue;
        const qmi_gguf_merge merge = {find_normal(r->vocabulary, t->text, i),
            find_normal(r->vocabulary, t->text + i, t->n_bytes - i)};
        if (merge.left < 0 || merge.right < 0)
            continue;
        QMI_TRY(add(
            r, (ranked){.merge = merge,
                   .id = id,
                   .score = score,
                   .n_left = count_characters(t->text, i),
                   .n_right = count_characters(t->text + i, t->n_bytes - i)}));
    }
    return QMOE_OK;
}

/* A token with a space cannot come about: spaces are replaced before tokens
 * are merged. */
static qmoe_status split_tokens(
    ranker *r, const qmi_gguf_source *s, const qmi_gguf_value *scores)
{
    const qmi_gguf_vocabulary *v = r->vocabulary;
    for (int32_t id = 0; id < v->n; id++) {
        double score = 0;
        const qmi_gguf_token *t = &v->tokens[id];
        if (!qmi_gguf_real(scores, (uint64_t)id, &score) || isnan(score))
            return qmi_fail(s->err, QMOE_E_FORMAT,
                "%s: key 'tokenizer.ggml.scores' holds something that is no "
                "number",
                qmi_gguf_source_path(s));
        if (t->type == QMI_GGUF_NORMAL && strchr(t->text, ' ') == NULL)
            QMI_TRY(split_token(r, id, score));
    }
    return QMOE_OK;
}

static qmoe_status keep(
    qmi_gguf_vocabulary *out, ranker *r, const qmi_gguf_source *s)
{
    if (r->n > 1)
        qsort(r->list, r->n, sizeof *r->list, compare_ranked);
    /* Files whose converter knew no scores have the same one everywhere. */
    if (r->n > 1 && r->list[0].score == r->list[r->n - 1].score)
        return qmi_fail(s->err, QMOE_E_UNSUPPORTED,
            "%s: key 'tokenizer.ggml.scores': all scores are equal, so no "
            "order of merges follows from them",
            qmi_gguf_source_path(s));
    out->merges = qmi_calloc(r->n, sizeof *out->merges, "the merges", s->err);
    if (out->merges == NULL)
        return QMOE_E_NOMEM;
    out->n_merges = r->n;
    for (size_t i = 0; i < r->n; i++)
        out->merges[i] = r->list[i].merge;
    return QMOE_OK;
}

qmoe_status qmi_gguf_rank_merges(
    qmi_gguf_vocabulary *out, const qmi_gguf_source *source)
{
    const qmi_gguf_value *scores = NULL;
    ranker r = {.vocabulary = out, .err = source->err};
    QMI_TRY(qmi_gguf_source_array(source, "tokenizer.ggml.scores", &scores));
    if (scores == NULL || scores->n != (uint64_t)out->n)
        return qmi_fail(source->err, QMOE_E_FORMAT,
            "%s: there are neither keys 'tokenizer.ggml.merges' nor "
            "'tokenizer.ggml.scores' for all tokens",
            qmi_gguf_source_path(source));
    qmoe_status status = split_tokens(&r, source, scores);
    if (status == QMOE_OK)
        status = keep(out, &r, source);
    qmi_free(r.list);
    return status;
}
