/* SPDX-License-Identifier: Apache-2.0
 * In: strings of valid UTF-8 with masks.  Out: new ones, in which every byte
 * keeps the mark it had; nothing here cuts a character. */
#include "jinja_string.h"

#include <string.h>

uint32_t qmi_jcode_point(const char *bytes, size_t at, size_t *n_bytes)
{
    const uint8_t *p = (const uint8_t *)bytes + at;
    if (p[0] < 0x80) {
        *n_bytes = 1;
        return p[0];
    }
    size_t n = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    uint32_t code_point = p[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++)
        code_point = code_point << 6 | (p[i] & 0x3fu);
    *n_bytes = n;
    return code_point;
}

bool qmi_jis_space(uint32_t c)
{
    return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 ||
           c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
           c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
           c == 0x3000;
}

qmoe_status qmi_jsubstring(qmi_jrun *run, const qmi_jstring *string,
    size_t from, size_t to, const qmi_jstring **out)
{
    qmi_jstring *part = NULL;
    QMI_TRY(qmi_jtake(run, &part, 1, sizeof *part));
    *part = (qmi_jstring){string->bytes + from,
        string->mask == NULL ? NULL : string->mask + from, to - from,
        string->is_markup};
    *out = part;
    return QMOE_OK;
}

qmoe_status qmi_jfind(qmi_jrun *run, const qmi_jstring *string,
    const qmi_jstring *part, size_t from, bool *found, size_t *at)
{
    QMI_TRY(qmi_jspend(run, 1));
    *found = part->n_bytes == 0;
    *at = from;
    if (*found || part->n_bytes > string->n_bytes - from)
        return QMOE_OK;
    const char *place = memmem(string->bytes + from, string->n_bytes - from,
        part->bytes, part->n_bytes);
    *found = place != NULL;
    *at = place == NULL ? string->n_bytes : (size_t)(place - string->bytes);
    return qmi_jspend(run, (*at - from) / 64);
}

/* ---- strip ---- */

static bool is_in(uint32_t c, const qmi_jstring *set)
{
    if (set == NULL)
        return qmi_jis_space(c);
    for (size_t i = 0, n = 0; i < set->n_bytes; i += n)
        if (qmi_jcode_point(set->bytes, i, &n) == c)
            return true;
    return false;
}

qmoe_status qmi_jstrip(qmi_jrun *run, const qmi_jstring *string,
    const qmi_jstring *set, unsigned sides, const qmi_jstring **out)
{
    size_t from = 0, to = string->n_bytes, n = 0;
    size_t cost = set == NULL ? 1 : set->n_bytes / 8 + 1;
    while ((sides & QMI_J_LEFT) != 0 && from < to &&
           is_in(qmi_jcode_point(string->bytes, from, &n), set)) {
        from += n;
        QMI_TRY(qmi_jspend(run, cost));
    }
    while ((sides & QMI_J_RIGHT) != 0 && from < to) {
        size_t last = to - 1;
        while ((string->bytes[last] & 0xc0) == 0x80)
            last--;
        if (!is_in(qmi_jcode_point(string->bytes, last, &n), set))
            break;
        to = last;
        QMI_TRY(qmi_jspend(run, cost));
    }
    return qmi_jsubstring(run, string, from, to, out);
}

/* ---- replace ---- */

/* Python finds the empty string before every character and at the end. */
static qmoe_status put_between(qmi_jrun *run, const qmi_jstring *string,
    const qmi_jstring *with, int64_t max_count)
{
    size_t at = 0;
    for (int64_t i = 0; max_count < 0 || i < max_count; i++) {
        size_t n = 0;
        QMI_TRY(qmi_jspend(run, 1));
        QMI_TRY(qmi_jwrite(run, with));
        if (at == string->n_bytes)
            return QMOE_OK;
        qmi_jcode_point(string->bytes, at, &n);
        QMI_TRY(qmi_jwrite_part(run, string, at, at + n));
        at += n;
    }
    return qmi_jwrite_part(run, string, at, string->n_bytes);
}

qmoe_status qmi_jreplace(qmi_jrun *run, const qmi_jstring *string,
    const qmi_jstring *old, const qmi_jstring *with, int64_t max_count,
    const qmi_jstring **out)
{
    size_t start = run->n_bytes, at = 0;
    if (old->n_bytes == 0) {
        QMI_TRY(put_between(run, string, with, max_count));
        return qmi_jtake_text(run, start, out);
    }
    for (int64_t i = 0; max_count < 0 || i < max_count; i++) {
        bool found = false;
        size_t place = 0;
        QMI_TRY(qmi_jfind(run, string, old, at, &found, &place));
        if (!found)
            break;
        QMI_TRY(qmi_jwrite_part(run, string, at, place));
        QMI_TRY(qmi_jwrite(run, with));
        at = place + old->n_bytes;
    }
    QMI_TRY(qmi_jwrite_part(run, string, at, string->n_bytes));
    return qmi_jtake_text(run, start, out);
}

/* ---- case ---- */

static bool is_lower(char c)
{
    return c >= 'a' && c <= 'z';
}

static bool is_upper(char c)
{
    return c >= 'A' && c <= 'Z';
}

/* Does a word begin at byte i? */
static bool begins_word(const char *bytes, size_t i, qmi_jcase change)
{
    if (i == 0)
        return true;
    if (change == QMI_J_CAPITALIZE)
        return false;
    char before = bytes[i - 1];
    if (change == QMI_J_TITLE)
        return !is_lower(before) && !is_upper(before);
    return qmi_jis_space((uint8_t)before) ||
           (before != '\0' && strchr("-({[<", before) != NULL);
}

qmoe_status qmi_jchange_case(
    qmi_jrun *run, const qmi_jstring *string, qmi_jcase change, qmi_jvalue *out)
{
    const qmi_jstring *changed = NULL;
    size_t start = run->n_bytes, n = 0;
    QMI_TRY(qmi_jspend(run, string->n_bytes / 16));
    QMI_TRY(qmi_jno_markup(run, string));
    for (size_t i = 0; i < string->n_bytes; i++)
        if ((uint8_t)string->bytes[i] >= 0x80)
            return qmi_jfail(run, QMOE_E_UNSUPPORTED,
                "changing the case of characters beyond ASCII (U+%04X) is not "
                "supported",
                (unsigned)qmi_jcode_point(string->bytes, i, &n));
    QMI_TRY(qmi_jwrite(run, string));
    char *text = run->text + start;
    for (size_t i = 0; i < string->n_bytes; i++) {
        bool up =
            change == QMI_J_UPPER ||
            (change != QMI_J_LOWER && begins_word(string->bytes, i, change));
        if (up ? is_lower(text[i]) : is_upper(text[i]))
            text[i] ^= 0x20;
    }
    QMI_TRY(qmi_jtake_text(run, start, &changed));
    *out = qmi_jof_string(changed);
    return QMOE_OK;
}

/* ---- markup ---- */

qmoe_status qmi_jno_markup(qmi_jrun *run, const qmi_jstring *string)
{
    if (!string->is_markup)
        return QMOE_OK;
    return qmi_jfail(run, QMOE_E_UNSUPPORTED,
        "this operation on a string from 'safe' is not supported");
}

qmoe_status qmi_jmark_safe(
    qmi_jrun *run, const qmi_jstring *string, const qmi_jstring **out)
{
    qmi_jstring *markup = NULL;
    QMI_TRY(qmi_jtake(run, &markup, 1, sizeof *markup));
    *markup = *string;
    markup->is_markup = true;
    *out = markup;
    return QMOE_OK;
}

qmoe_status qmi_jescape(
    qmi_jrun *run, const qmi_jstring *string, const qmi_jstring **out)
{
    static const char special[] = "&<>'\"";
    static const char *const names[] = {
        "&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    *out = string;
    if (string->is_markup)
        return QMOE_OK;
    size_t start = run->n_bytes, from = 0;
    for (size_t i = 0; i < string->n_bytes; i++) {
        const char *place =
            string->bytes[i] == '\0' ? NULL : strchr(special, string->bytes[i]);
        if (place == NULL)
            continue;
        const char *name = names[place - special];
        QMI_TRY(qmi_jwrite_part(run, string, from, i));
        QMI_TRY(qmi_jwrite_bytes(run, name, strlen(name),
            string->mask != NULL && string->mask[i] != 0));
        from = i + 1;
    }
    QMI_TRY(qmi_jwrite_part(run, string, from, string->n_bytes));
    QMI_TRY(qmi_jtake_text(run, start, &string));
    return qmi_jmark_safe(run, string, out);
}
