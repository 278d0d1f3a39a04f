/* SPDX-License-Identifier: Apache-2.0
 * In: a segment of text between added tokens.  Out: its normal form.  The
 * tables of Unicode are utf8proc's.  Invariant: each step reads one buffer and
 * writes the other, so what a step returns is valid UTF-8 and complete. */
#include "normalizer.h"

#include <string.h>
#include <utf8proc.h>

#include "alloc.h"
#include "characters.h"

void qmi_normalizer_free(qmi_normalizer *normalizer)
{
    for (size_t i = 0; i < normalizer->n; i++) {
        qmi_pattern_free(normalizer->steps[i].pattern);
        qmi_free(normalizer->steps[i].content);
    }
    *normalizer = (qmi_normalizer){0};
}

/* ---- Unicode normal forms ---- */

static utf8proc_option_t form_options(qmi_normal_kind kind)
{
    const bool composes = kind == QMI_NORMAL_NFC || kind == QMI_NORMAL_NFKC;
    const bool compat = kind == QMI_NORMAL_NFKC || kind == QMI_NORMAL_NFKD;
    return UTF8PROC_STABLE |
           (composes ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) |
           (compat ? UTF8PROC_COMPAT : 0);
}

/* Code points of the decomposed text, in the order of the text, in
 * points[0..capacity); returns how many there are. */
static size_t decompose(int32_t *points, size_t capacity, const char *text,
    size_t n, utf8proc_option_t options)
{
    size_t count = 0;
    int bound_class = 0;
    for (size_t at = 0; at < n;) {
        int32_t point = 0;
        at += qmi_character(text + at, n - at, &point);
        const size_t room = count < capacity ? capacity - count : 0;
        const utf8proc_ssize_t n_points =
            utf8proc_decompose_char(point, room != 0 ? points + count : NULL,
                (utf8proc_ssize_t)room, options, &bound_class);
        count += n_points > 0 ? (size_t)n_points : 0;
    }
    return count;
}

static size_t mark_class(int32_t point)
{
    return (size_t)utf8proc_get_property(point)->combining_class & 0xff;
}

/* Orders the marks of one character by their class; marks of one class keep
 * their order.  Counting, not utf8proc's exchanges: a text may have any number
 * of marks in a row. */
static void order_marks(int32_t *points, int32_t *work, size_t n)
{
    size_t starts[257] = {0};
    for (size_t i = 0; i < n; i++)
        starts[mark_class(points[i]) + 1]++;
    for (size_t c = 0; c < 256; c++)
        starts[c + 1] += starts[c];
    for (size_t i = 0; i < n; i++)
        work[starts[mark_class(points[i])]++] = points[i];
    memcpy(points, work, n * sizeof *points);
}

static void order_all(int32_t *points, int32_t *work, size_t n)
{
    for (size_t at = 0; at < n;) {
        size_t end = at;
        while (end < n && mark_class(points[end]) != 0)
            end++;
        if (end - at > 1)
            order_marks(points + at, work, end - at);
        at = end + 1;
    }
}

/* A stretch that no character outside of it can change. */
static qmoe_status put_form(qmi_text *out, const char *text, size_t n,
    utf8proc_option_t options, qmi_error *err)
{
    const size_t n_points = decompose(NULL, 0, text, n, options);
    /* Re-encoding writes a byte more than it has code points for. */
    int32_t *points =
        qmi_calloc(2 * n_points + 1, sizeof *points, "a normal form", err);
    if (points == NULL)
        return QMOE_E_NOMEM;
    decompose(points, n_points, text, n, options);
    order_all(points, points + n_points, n_points);
    const utf8proc_ssize_t n_bytes =
        utf8proc_reencode(points, (utf8proc_ssize_t)n_points, options);
    if (n_bytes > 0)
        qmi_text_bytes(out, (const char *)points, (size_t)n_bytes);
    qmi_free(points);
    return n_bytes >= 0
               ? QMOE_OK
               : qmi_fail(err, QMOE_E_INVALID, "a text has no normal form: %s",
                     utf8proc_errmsg(n_bytes));
}

/* The first byte of a character that the form may change. */
static size_t first_change(const char *text, size_t n, size_t at, uint8_t least)
{
    while (at < n && (uint8_t)text[at] < least)
        at++;
    return at;
}

/* ASCII characters are the same in all forms, and none of them joins what
 * stands before it: a text may be cut there. */
static qmoe_status put_normal(qmi_text *out, const char *text, size_t n,
    qmi_normal_kind kind, qmi_error *err)
{
    /* Below U+0300 (cc 80) all characters are their own NFC. */
    const uint8_t least = kind == QMI_NORMAL_NFC ? 0xcc : 0x80;
    size_t done = 0;
    while (done < n) {
        size_t start = first_change(text, n, done, least);
        if (start == n)
            break;
        while (start > done && (uint8_t)text[start] >= 0x80)
            start--;
        size_t end = start + 1;
        while (end < n && (uint8_t)text[end] >= 0x80)
            end++;
        qmi_text_bytes(out, text + done, start - done);
        QMI_TRY(
            put_form(out, text + start, end - start, form_options(kind), err));
        done = end;
    }
    qmi_text_bytes(out, text + done, n - done);
    return QMOE_OK;
}

/* ---- other steps ---- */

static void put_lowercase(qmi_text *out, const char *text, size_t n)
{
    for (size_t at = 0; at < n;) {
        utf8proc_uint8_t bytes[4];
        int32_t point = 0;
        at += qmi_character(text + at, n - at, &point);
        utf8proc_ssize_t n_bytes =
            utf8proc_encode_char(utf8proc_tolower(point), bytes);
        /* The one character whose lower case is two. */
        if (point == 0x130)
            qmi_text_string(out, "i\xcc\x87");
        else
            qmi_text_bytes(out, (const char *)bytes, (size_t)n_bytes);
    }
}

static qmoe_status put_replaced(qmi_text *out,
    const struct qmi_normal_step *step, qmi_matcher *matcher, const char *text,
    size_t n, qmi_error *err)
{
    size_t done = 0, start = 0, end = 0;
    while (done < n) {
        QMI_TRY(qmi_pattern_next(
            step->pattern, matcher, &start, &end, text, n, done, err));
        qmi_text_bytes(out, text + done, start - done);
        if (start == n)
            return QMOE_OK;
        qmi_text_string(out, step->content);
        done = end;
    }
    return QMOE_OK;
}

static void put_stripped(qmi_text *out, const struct qmi_normal_step *step,
    const char *text, size_t n)
{
    size_t start = step->left ? qmi_leading_space(text, n) : 0;
    size_t end =
        n - (step->right ? qmi_trailing_space(text + start, n - start) : 0);
    qmi_text_bytes(out, text + start, end - start);
}

static qmoe_status put_step(qmi_text *out, const struct qmi_normal_step *step,
    qmi_matcher *matcher, const char *text, size_t n, qmi_error *err)
{
    switch (step->kind) {
    case QMI_NORMAL_LOWERCASE:
        put_lowercase(out, text, n);
        return QMOE_OK;
    case QMI_NORMAL_REPLACE:
        return put_replaced(out, step, matcher, text, n, err);
    case QMI_NORMAL_PREPEND:
        if (n != 0)
            qmi_text_string(out, step->content);
        qmi_text_bytes(out, text, n);
        return QMOE_OK;
    case QMI_NORMAL_STRIP:
        put_stripped(out, step, text, n);
        return QMOE_OK;
    default:
        return put_normal(out, text, n, step->kind, err);
    }
}

/* Text that NFC leaves as it is, the usual case, is not copied. */
static bool is_nfc(
    const struct qmi_normal_step *step, const char *text, size_t n)
{
    return step->kind == QMI_NORMAL_NFC && first_change(text, n, 0, 0xcc) == n;
}

qmoe_status qmi_normalize(const qmi_normalizer *normalizer,
    qmi_matcher *matcher, qmi_text work[2], const char **out, size_t *n_out,
    const char *text, size_t n, qmi_error *err)
{
    int to = 0;
    for (size_t i = 0; i < normalizer->n; i++) {
        const struct qmi_normal_step *step = &normalizer->steps[i];
        if (is_nfc(step, text, n))
            continue;
        work[to].n = 0;
        QMI_TRY(put_step(&work[to], step, matcher, text, n, err));
        if (work[to].failed)
            return QMOE_E_NOMEM;
        text = work[to].data;
        n = work[to].n;
        to = 1 - to;
    }
    *out = text;
    *n_out = n;
    return QMOE_OK;
}
