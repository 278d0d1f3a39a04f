/* SPDX-License-Identifier: Apache-2.0
 * In: a list of tokens, and a text.  Out: where they stand in it, from left to
 * right.  The list is sorted, so that the tokens with a common start are a
 * range of it: a search narrows the range byte by byte. */
#include "added_tokens.h"

#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "characters.h"

qmoe_status qmi_added_tokens_add(
    qmi_added_tokens *list, const qmi_added_token *token, qmi_error *err)
{
    if (token->n == 0 || token->n > QMI_MAX_ADDED_BYTES)
        return qmi_fail(err, QMOE_E_FORMAT,
            "added token %d has %zu bytes, not 1 to %d", (int)token->id,
            token->n, (int)QMI_MAX_ADDED_BYTES);
    if (list->n == list->capacity) {
        const size_t capacity = 2 * list->capacity + 16;
        qmi_added_token *grown = qmi_regrow(list->tokens, list->n, capacity,
            sizeof *grown, "added tokens", err);
        if (grown == NULL)
            return QMOE_E_NOMEM;
        list->tokens = grown;
        list->capacity = capacity;
    }
    char *content = qmi_calloc(token->n + 1, 1, "an added token", err);
    if (content == NULL)
        return QMOE_E_NOMEM;
    memcpy(content, token->content, token->n);
    list->tokens[list->n] = *token;
    list->tokens[list->n++].content = content;
    list->begins[(uint8_t)content[0]] = true;
    return QMOE_OK;
}

static int compare(const char *a, size_t n_a, const char *b, size_t n_b)
{
    const int order = memcmp(a, b, n_a < n_b ? n_a : n_b);
    if (order != 0)
        return order;
    return (n_a > n_b) - (n_a < n_b);
}

static int compare_tokens(const void *a, const void *b)
{
    const qmi_added_token *x = a, *y = b;
    const int order = compare(x->content, x->n, y->content, y->n);
    return order != 0 ? order : (x->id > y->id) - (x->id < y->id);
}

void qmi_added_tokens_sort(qmi_added_tokens *list)
{
    if (list->n != 0)
        qsort(list->tokens, list->n, sizeof *list->tokens, compare_tokens);
}

void qmi_added_tokens_free(qmi_added_tokens *list)
{
    for (size_t i = 0; i < list->n; i++)
        qmi_free(list->tokens[i].content);
    qmi_free(list->tokens);
    *list = (qmi_added_tokens){0};
}

/* The first token of [low, high) whose byte number `depth` is at least `byte`.
 * They are equal before it; one that ends there comes first. */
static size_t first_from(const qmi_added_tokens *list, size_t low, size_t high,
    size_t depth, int byte)
{
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const qmi_added_token *t = &list->tokens[middle];
        const int there = t->n == depth ? -1 : (uint8_t)t->content[depth];
        if (there < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

const qmi_added_token *qmi_added_tokens_find(
    const qmi_added_tokens *list, const char *content, size_t n)
{
    size_t low = 0, high = list->n;
    for (size_t depth = 0; depth < n && low < high; depth++) {
        const int byte = (uint8_t)content[depth];
        low = first_from(list, low, high, depth, byte);
        high = first_from(list, low, high, depth, byte + 1);
    }
    return low < high && list->tokens[low].n == n ? &list->tokens[low] : NULL;
}

static bool may_match(const qmi_added_token *t, const char *text, size_t n,
    const uint8_t *literal, size_t at)
{
    if (t->single_word &&
        (qmi_ends_with_word(text, at) ||
            qmi_starts_with_word(text + at + t->n, n - at - t->n)))
        return false;
    if (literal == NULL || memchr(literal + at, 1, t->n) == NULL)
        return true;
    return !t->special && qmi_leading_space(t->content, t->n) == t->n;
}

/* The longest token at `at`; NULL: none. */
static const qmi_added_token *longest(const qmi_added_tokens *list,
    const char *text, size_t n, const uint8_t *literal, size_t at)
{
    const qmi_added_token *best = NULL;
    size_t low = 0, high = list->n;
    for (size_t depth = 0; at + depth < n && low < high; depth++) {
        const int byte = (uint8_t)text[at + depth];
        low = first_from(list, low, high, depth, byte);
        high = first_from(list, low, high, depth, byte + 1);
        if (low < high && list->tokens[low].n == depth + 1 &&
            may_match(&list->tokens[low], text, n, literal, at))
            best = &list->tokens[low];
    }
    return best;
}

void qmi_added_tokens_next(qmi_added_match *out, const qmi_added_tokens *list,
    const char *text, size_t n, const uint8_t *literal, size_t from)
{
    *out = (qmi_added_match){.start = n, .end = n, .next = n};
    for (size_t at = list->n != 0 ? from : n; at < n; at++) {
        if (!list->begins[(uint8_t)text[at]])
            continue;
        const qmi_added_token *t = longest(list, text, n, literal, at);
        if (t == NULL)
            continue;
        const size_t end = at + t->n;
        *out = (qmi_added_match){t, at, end, end};
        if (t->lstrip)
            out->start -= qmi_trailing_space(text, at);
        if (t->rstrip)
            out->end += qmi_leading_space(text + end, n - end);
        return;
    }
}
