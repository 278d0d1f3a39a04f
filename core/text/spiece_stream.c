/* SPDX-License-Identifier: Apache-2.0
 * Comes in: ids of T5, one at a time.  Goes out: the text each adds.
 *
 * A piece is not decoded by itself: the first of a run drops its space, and
 * bytes join to characters.  So a window of ids is decoded, of which a base was
 * given out before: its text is left out.  Invariant: whatever ids follow, the
 * window with them gives the text of the base and then what all ids so far have
 * still to give.  The base is the ids since the last sentinel until one of them
 * has text, then that one for good: from there on all spaces are kept, and only
 * the bytes of a character depend on each other.  A last byte of a character,
 * or one that belongs to none, can join no later byte. */
#include "tokenizer_type.h"

#include <string.h>

#include "alloc.h"

typedef struct spiece_stream {
    const qmi_tokenizer *tokenizer;
    int32_t *ids; /* the window: base, then bytes of a character */
    size_t n, capacity;
    size_t n_base, base_bytes; /* ids of the base, and bytes of their text */
    bool anchored;             /* the base stays */
    size_t n_held, n_missing;  /* bytes of the last character, if incomplete */
    bool has_text, ends_in_space; /* what was given out */
    qmi_text read;                /* the text of some ids */
    qmi_text *out;                /* of one call */
} spiece_stream;

qmoe_status qmi_spiece_stream_create(
    void **state, const qmi_tokenizer *tokenizer, qmi_error *err)
{
    spiece_stream *s = qmi_calloc(1, sizeof *s, "a token stream", err);
    *state = s;
    if (s == NULL)
        return QMOE_E_NOMEM;
    s->tokenizer = tokenizer;
    return QMOE_OK;
}

void qmi_spiece_stream_destroy(void *state)
{
    spiece_stream *s = state;
    qmi_free(s->ids);
    qmi_free(s->read.data);
    qmi_free(s);
}

/* ---- text ---- */

static qmoe_status read_ids(
    spiece_stream *s, const int32_t *ids, size_t n, qmi_error *err)
{
    s->read = (qmi_text){
        .data = s->read.data, .capacity = s->read.capacity, .err = err};
    return s->tokenizer->type->decode(
        s->tokenizer, &s->read, ids, n, false, err);
}

/* Gives out what was read, without its first n_bytes. */
static void give(spiece_stream *s, size_t n_bytes)
{
    if (s->read.n <= n_bytes)
        return;
    qmi_text_bytes(s->out, s->read.data + n_bytes, s->read.n - n_bytes);
    s->has_text = true;
    s->ends_in_space = s->read.data[s->read.n - 1] == ' ';
}

/* ---- the window ---- */

static qmoe_status push(spiece_stream *s, int32_t id, qmi_error *err)
{
    if (s->n == s->capacity) {
        const size_t capacity = 2 * s->capacity + 8;
        int32_t *grown = qmi_regrow(
            s->ids, s->n, capacity, sizeof *grown, "a token stream", err);
        if (grown == NULL)
            return QMOE_E_NOMEM;
        s->ids = grown;
        s->capacity = capacity;
    }
    s->ids[s->n++] = id;
    return QMOE_OK;
}

/* Makes the first n_base ids the base and drops those up to number m. */
static void set_base(spiece_stream *s, size_t n_base, size_t n_bytes, size_t m)
{
    memmove(s->ids + n_base, s->ids + m, (s->n - m) * sizeof *s->ids);
    s->n = n_base + s->n - m;
    s->n_base = n_base;
    s->base_bytes = n_bytes;
}

/* Follows the bytes of a character (UTF-8). */
static void follow(spiece_stream *s, qmi_token_kind kind, uint8_t byte)
{
    const bool joins = kind == QMI_TOKEN_BYTE && (byte & 0xc0) == 0x80;
    if (joins && s->n_missing != 0) {
        s->n_held++;
        s->n_missing--;
    } else {
        s->n_missing = 0;
        if (kind == QMI_TOKEN_BYTE && byte >= 0xc0 && byte < 0xf8)
            s->n_missing = 1 + (byte >= 0xe0) + (byte >= 0xf0);
        s->n_held = 1;
    }
    if (s->n_missing == 0)
        s->n_held = 0;
}

/* Gives out all ids of the window that are not held back.  The last of it is of
 * `kind`; so is the last given out, since bytes alone are held back. */
static qmoe_status give_window(
    spiece_stream *s, qmi_token_kind kind, qmi_error *err)
{
    const size_t m = s->n - s->n_held;
    if (m == s->n_base)
        return QMOE_OK;
    QMI_TRY(read_ids(s, s->ids, m, err));
    give(s, s->base_bytes);
    const size_t n_bytes = s->read.n;
    if (s->anchored) {
        set_base(s, s->n_base, s->base_bytes, m);
        return QMOE_OK;
    }
    const int32_t last = s->ids[m - 1];
    QMI_TRY(read_ids(s, &last, 1, err));
    if (s->read.n != 0 || kind == QMI_TOKEN_BYTE) {
        /* Before a byte that is held back stands one that may join others: it
         * is a base until that is settled. */
        s->anchored = s->n_held == 0;
        s->ids[0] = last;
        set_base(s, 1, s->read.n, m);
    } else if (s->n_base != 0 && s->ids[s->n_base - 1] == last) {
        /* A second space changes nothing for what follows. */
        set_base(s, s->n_base, s->base_bytes, m);
    } else {
        set_base(s, m, n_bytes, m);
    }
    return QMOE_OK;
}

/* What is held back is no character. */
static qmoe_status give_held(spiece_stream *s, qmi_error *err)
{
    if (s->n_held == 0)
        return QMOE_OK;
    QMI_TRY(read_ids(s, s->ids, s->n, err));
    give(s, s->base_bytes);
    return QMOE_OK;
}

static qmoe_status add_sentinel(spiece_stream *s, int32_t id, qmi_error *err)
{
    QMI_TRY(give_held(s, err));
    if (s->has_text && !s->ends_in_space)
        qmi_text_bytes(s->out, " ", 1);
    QMI_TRY(read_ids(s, &id, 1, err));
    give(s, 0);
    s->n = 0;
    s->n_held = s->n_missing = 0;
    s->anchored = false;
    QMI_TRY(push(s, id, err));
    set_base(s, 1, s->read.n, 1);
    return QMOE_OK;
}

qmoe_status qmi_spiece_stream_add(
    void *state, qmi_text *text, int32_t id, bool last, qmi_error *err)
{
    spiece_stream *s = state;
    uint8_t byte;
    s->out = text;
    const qmi_token_kind kind = qmi_tokenizer_kind(s->tokenizer, id, &byte);
    if (kind == QMI_TOKEN_ADDED) {
        QMI_TRY(add_sentinel(s, id, err));
    } else if (kind == QMI_TOKEN_PIECE || kind == QMI_TOKEN_BYTE) {
        follow(s, kind, byte);
        QMI_TRY(push(s, id, err));
        QMI_TRY(give_window(s, kind, err));
    }
    return last ? give_held(s, err) : QMOE_OK;
}
