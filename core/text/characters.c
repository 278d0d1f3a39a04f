/* SPDX-License-Identifier: Apache-2.0
 * In: characters.  Out: their kind, by utf8proc's categories. */
#include "characters.h"

#include <utf8proc.h>

size_t qmi_character(const char *text, size_t n, int32_t *point)
{
    const utf8proc_ssize_t n_bytes = utf8proc_iterate(
        (const utf8proc_uint8_t *)text, (utf8proc_ssize_t)n, point);
    return n_bytes > 0 ? (size_t)n_bytes : 1;
}

bool qmi_is_space(int32_t c)
{
    if (c < 0x1680)
        return (c >= 0x9 && c <= 0xd) || c == ' ' || c == 0x85 || c == 0xa0;
    return c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
           c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool qmi_is_numeric(int32_t point)
{
    const utf8proc_category_t category = utf8proc_category(point);
    return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

bool qmi_is_word(int32_t point)
{
    const utf8proc_category_t category = utf8proc_category(point);
    return (category >= UTF8PROC_CATEGORY_LU &&
               category <= UTF8PROC_CATEGORY_NL) ||
           category == UTF8PROC_CATEGORY_PC;
}

/* The start of the last character of text[0..n), n > 0. */
static size_t last_character(const char *text, size_t n)
{
    size_t at = n - 1;
    while (at > 0 && ((uint8_t)text[at] & 0xc0) == 0x80)
        at--;
    return at;
}

size_t qmi_leading_space(const char *text, size_t n)
{
    size_t at = 0;
    while (at < n) {
        int32_t point = 0;
        const size_t n_bytes = qmi_character(text + at, n - at, &point);
        if (!qmi_is_space(point))
            break;
        at += n_bytes;
    }
    return at;
}

size_t qmi_trailing_space(const char *text, size_t n)
{
    size_t end = n;
    while (end > 0) {
        int32_t point = 0;
        const size_t at = last_character(text, end);
        qmi_character(text + at, end - at, &point);
        if (!qmi_is_space(point))
            break;
        end = at;
    }
    return n - end;
}

bool qmi_starts_with_word(const char *text, size_t n)
{
    int32_t point = 0;
    if (n == 0)
        return false;
    qmi_character(text, n, &point);
    return qmi_is_word(point);
}

bool qmi_ends_with_word(const char *text, size_t n)
{
    if (n == 0)
        return false;
    const size_t at = last_character(text, n);
    return qmi_starts_with_word(text + at, n - at);
}
