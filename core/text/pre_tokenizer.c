/* SPDX-License-Identifier: Apache-2.0
 * In: normalised text.  Out: the list of its pieces.  Invariant: before each
 * step the pieces, in order, are the text without what steps have removed; a
 * step that changes text writes a new one and cuts that. */
#include "pre_tokenizer.h"

#include <string.h>

#include "alloc.h"
#include "characters.h"

void qmi_pre_tokenizer_free(qmi_pre_tokenizer *pre_tokenizer)
{
    for (size_t i = 0; i < pre_tokenizer->n; i++) {
        qmi_pattern_free(pre_tokenizer->steps[i].pattern);
        qmi_free(pre_tokenizer->steps[i].replacement);
    }
    *pre_tokenizer = (qmi_pre_tokenizer){0};
}

void qmi_pieces_free(qmi_pieces *pieces)
{
    qmi_free(pieces->current.spans);
    qmi_free(pieces->other.spans);
    qmi_free(pieces->texts[0].data);
    qmi_free(pieces->texts[1].data);
}

/* Empty pieces are left out. */
static qmoe_status add(
    qmi_spans *list, size_t start, size_t end, qmi_error *err)
{
    if (start == end)
        return QMOE_OK;
    if (list->n == list->capacity) {
        const size_t capacity = 2 * list->capacity + 64;
        struct qmi_span *grown = qmi_regrow(list->spans, list->n, capacity,
            sizeof *grown, "pieces of a text", err);
        if (grown == NULL)
            return QMOE_E_NOMEM;
        list->spans = grown;
        list->capacity = capacity;
    }
    list->spans[list->n++] = (struct qmi_span){start, end - start};
    return QMOE_OK;
}

/* ---- matches ---- */

/* A piece is a sequence of parts, each a match or not.  `open` is the start of
 * the piece that is not yet added. */
typedef struct cutter {
    const qmi_split_step *step;
    qmi_spans *out;
    size_t open;
    bool after_match; /* what the last part was */
    qmi_error *err;
} cutter;

/* The next part, [start, end) in the text. */
static qmoe_status put_part(cutter *c, size_t start, size_t end, bool matches)
{
    if (start == end)
        return QMOE_OK;
    const bool match = matches != c->step->invert;
    bool cut_before = true, cut_after = false;
    switch (c->step->behavior) {
    case QMI_SPLIT_ISOLATED:
        break;
    case QMI_SPLIT_REMOVED:
        QMI_TRY(add(c->out, c->open, start, c->err));
        c->open = match ? end : start;
        return QMOE_OK;
    case QMI_SPLIT_WITH_PREVIOUS:
        cut_before = false;
        cut_after = match;
        break;
    case QMI_SPLIT_WITH_NEXT:
        cut_before = match;
        break;
    case QMI_SPLIT_CONTIGUOUS:
        cut_before = match != c->after_match;
        break;
    }
    c->after_match = match;
    if (cut_before) {
        QMI_TRY(add(c->out, c->open, start, c->err));
        c->open = start;
    }
    if (cut_after) {
        QMI_TRY(add(c->out, c->open, end, c->err));
        c->open = end;
    }
    return QMOE_OK;
}

static qmoe_status cut_at_matches(
    cutter *c, qmi_matcher *matcher, const char *text, size_t base, size_t n)
{
    size_t done = 0, start = 0, end = 0;
    while (done < n) {
        QMI_TRY(qmi_pattern_next(
            c->step->pattern, matcher, &start, &end, text, n, done, c->err));
        QMI_TRY(put_part(c, base + done, base + start, false));
        QMI_TRY(put_part(c, base + start, base + end, true));
        done = end;
    }
    return add(c->out, c->open, base + n, c->err);
}

static qmoe_status cut_digits(
    cutter *c, const char *text, size_t base, size_t n)
{
    size_t done = 0;
    for (size_t at = 0; at < n;) {
        int32_t point = 0;
        const size_t end = at + qmi_character(text + at, n - at, &point);
        if (qmi_is_numeric(point)) {
            QMI_TRY(put_part(c, base + done, base + at, false));
            QMI_TRY(put_part(c, base + at, base + end, true));
            done = end;
        }
        at = end;
    }
    QMI_TRY(put_part(c, base + done, base + n, false));
    return add(c->out, c->open, base + n, c->err);
}

/* Cuts one piece of p->text into p->other. */
static qmoe_status cut(const qmi_split_step *step, qmi_matcher *matcher,
    qmi_pieces *p, const struct qmi_span *piece, qmi_error *err)
{
    cutter c = {
        .step = step, .out = &p->other, .open = piece->start, .err = err};
    const char *text = p->text + piece->start;
    if (step->kind == QMI_SPLIT_DIGITS)
        return cut_digits(&c, text, piece->start, piece->n);
    return cut_at_matches(&c, matcher, text, piece->start, piece->n);
}

/* ---- changes of the text ---- */

static bool starts_with(const char *text, size_t n, const char *start)
{
    const size_t n_start = strlen(start);
    return n >= n_start && memcmp(text, start, n_start) == 0;
}

static void put_metaspace(qmi_text *out, const qmi_split_step *step,
    const char *text, size_t n, bool first)
{
    const bool may = step->scheme == QMI_PREPEND_ALWAYS ||
                     (step->scheme == QMI_PREPEND_FIRST && first);
    if (may && text[0] != ' ' && !starts_with(text, n, step->replacement))
        qmi_text_string(out, step->replacement);
    for (size_t at = 0; at < n;) {
        const char *space = memchr(text + at, ' ', n - at);
        const size_t end = space != NULL ? (size_t)(space - text) : n;
        qmi_text_bytes(out, text + at, end - at);
        if (space != NULL)
            qmi_text_string(out, step->replacement);
        at = end + 1;
    }
}

/* Writes all pieces, changed, to a new text. */
static qmoe_status change(
    const qmi_split_step *step, qmi_pieces *p, bool first, qmi_error *err)
{
    qmi_text *out = &p->texts[p->text == p->texts[0].data];
    out->n = 0;
    for (size_t i = 0; i < p->current.n; i++) {
        const struct qmi_span *piece = &p->current.spans[i];
        const char *text = p->text + piece->start;
        const size_t start = out->n;
        if (step->kind == QMI_SPLIT_METASPACE) {
            put_metaspace(
                out, step, text, piece->n, first && piece->start == 0);
        } else {
            qmi_text_string(out, text[0] == ' ' ? "" : " ");
            qmi_text_bytes(out, text, piece->n);
        }
        QMI_TRY(add(&p->other, start, out->n, err));
    }
    p->text = out->data;
    return out->failed ? QMOE_E_NOMEM : QMOE_OK;
}

/* ---- all steps ---- */

static void swap(qmi_pieces *p)
{
    const qmi_spans done = p->current;
    p->current = p->other;
    p->other = done;
    p->other.n = 0;
}

static bool changes_text(const qmi_split_step *step)
{
    return step->kind == QMI_SPLIT_PREFIX_SPACE ||
           step->kind == QMI_SPLIT_METASPACE;
}

static bool cuts(const qmi_split_step *step)
{
    return step->kind == QMI_SPLIT_PATTERN || step->kind == QMI_SPLIT_DIGITS ||
           (step->kind == QMI_SPLIT_METASPACE && step->splits);
}

qmoe_status qmi_pre_tokenize(const qmi_pre_tokenizer *pre_tokenizer,
    qmi_matcher *matcher, qmi_pieces *p, const char *text, size_t n, bool first,
    qmi_error *err)
{
    p->text = text;
    p->current.n = p->other.n = 0;
    QMI_TRY(add(&p->current, 0, n, err));
    for (size_t i = 0; i < pre_tokenizer->n; i++) {
        const qmi_split_step *step = &pre_tokenizer->steps[i];
        if (changes_text(step)) {
            QMI_TRY(change(step, p, first, err));
            swap(p);
        }
        for (size_t k = 0; cuts(step) && k < p->current.n; k++)
            QMI_TRY(cut(step, matcher, p, &p->current.spans[k], err));
        if (cuts(step))
            swap(p);
    }
    return QMOE_OK;
}
