/* SPDX-License-Identifier: Apache-2.0
 * In: a string.  Out: its parts between separators, white space or line ends,
 * as Python's split, rsplit and splitlines make them. */
#include <string.h>

#include "jinja_string.h"

typedef struct parts {
    qmi_jlist *list;
    size_t capacity;
} parts;

static qmoe_status add(qmi_jrun *run, parts *to, const qmi_jstring *string,
    size_t from, size_t end)
{
    const qmi_jstring *part = NULL;
    QMI_TRY(qmi_jspend(run, 1));
    QMI_TRY(qmi_jsubstring(run, string, from, end, &part));
    return qmi_jlist_add(run, to->list, &to->capacity, qmi_jof_string(part));
}

static bool ends_line(uint32_t c)
{
    return (c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == 0x85 ||
           c == 0x2028 || c == 0x2029;
}

qmoe_status qmi_jsplit_lines(
    qmi_jrun *run, const qmi_jstring *string, bool keep, qmi_jlist **out)
{
    parts to = {0};
    size_t from = 0, n = 0;
    QMI_TRY(qmi_jnew_list(run, QMI_J_PLAIN, 0, &to.list));
    QMI_TRY(qmi_jspend(run, string->n_bytes / 16));
    for (size_t i = 0; i < string->n_bytes; i += n) {
        uint32_t c = qmi_jcode_point(string->bytes, i, &n);
        if (!ends_line(c))
            continue;
        if (c == '\r' && i + 1 < string->n_bytes &&
            string->bytes[i + 1] == '\n')
            n = 2;
        QMI_TRY(add(run, &to, string, from, keep ? i + n : i));
        from = i + n;
    }
    if (from < string->n_bytes)
        QMI_TRY(add(run, &to, string, from, string->n_bytes));
    *out = to.list;
    return QMOE_OK;
}

/* Past white space (or past all else), forward or backward from `at`. */
static size_t skip(
    const qmi_jstring *string, size_t at, bool spaces, bool backward)
{
    while (backward ? at > 0 : at < string->n_bytes) {
        size_t begin = at, n = 0;
        if (backward)
            do
                begin--;
            while ((string->bytes[begin] & 0xc0) == 0x80);
        if (qmi_jis_space(qmi_jcode_point(string->bytes, begin, &n)) != spaces)
            break;
        at = backward ? begin : at + n;
    }
    return at;
}

static qmoe_status split_words(
    qmi_jrun *run, parts *to, const qmi_jstring *string, int64_t max_count)
{
    size_t at = skip(string, 0, true, false);
    for (int64_t i = 0; at < string->n_bytes; i++) {
        size_t end =
            i == max_count ? string->n_bytes : skip(string, at, false, false);
        QMI_TRY(add(run, to, string, at, end));
        at = skip(string, end, true, false);
    }
    return QMOE_OK;
}

/* The parts come last first. */
static qmoe_status split_words_right(
    qmi_jrun *run, parts *to, const qmi_jstring *string, int64_t max_count)
{
    size_t end = skip(string, string->n_bytes, true, true);
    for (int64_t i = 0; end > 0; i++) {
        size_t at = i == max_count ? 0 : skip(string, end, false, true);
        QMI_TRY(add(run, to, string, at, end));
        end = skip(string, at, true, true);
    }
    return QMOE_OK;
}

static qmoe_status split_at(qmi_jrun *run, parts *to, const qmi_jstring *string,
    const qmi_jstring *separator, int64_t max_count)
{
    size_t from = 0;
    for (int64_t i = 0; i != max_count; i++) {
        bool found = false;
        size_t at = 0;
        QMI_TRY(qmi_jfind(run, string, separator, from, &found, &at));
        if (!found)
            break;
        QMI_TRY(add(run, to, string, from, at));
        from = at + separator->n_bytes;
    }
    return add(run, to, string, from, string->n_bytes);
}

/* The parts come last first. */
static qmoe_status split_at_right(qmi_jrun *run, parts *to,
    const qmi_jstring *string, const qmi_jstring *separator, int64_t max_count)
{
    size_t end = string->n_bytes, n = separator->n_bytes, at = end;
    for (int64_t i = 0; i != max_count; i++) {
        while (at >= n &&
               memcmp(string->bytes + at - n, separator->bytes, n) != 0) {
            QMI_TRY(qmi_jspend(run, n / 64 + 1));
            at--;
        }
        if (at < n)
            break;
        QMI_TRY(add(run, to, string, at, end));
        end = at -= n;
    }
    return add(run, to, string, 0, end);
}

qmoe_status qmi_jsplit(qmi_jrun *run, const qmi_jstring *string,
    const qmi_jstring *separator, int64_t max_count, bool from_right,
    qmi_jlist **out)
{
    parts to = {0};
    QMI_TRY(qmi_jnew_list(run, QMI_J_PLAIN, 0, &to.list));
    QMI_TRY(qmi_jspend(run, string->n_bytes / 16));
    if (max_count < 0)
        max_count = -1;
    if (separator == NULL)
        QMI_TRY(from_right ? split_words_right(run, &to, string, max_count)
                           : split_words(run, &to, string, max_count));
    else if (separator->n_bytes == 0)
        return qmi_jfail(run, QMOE_E_FORMAT, "split by an empty separator");
    else
        QMI_TRY(from_right
                    ? split_at_right(run, &to, string, separator, max_count)
                    : split_at(run, &to, string, separator, max_count));
    for (size_t i = 0; from_right && i < to.list->n / 2; i++) {
        qmi_jvalue other = to.list->items[i];
        to.list->items[i] = to.list->items[to.list->n - 1 - i];
        to.list->items[to.list->n - 1 - i] = other;
    }
    *out = to.list;
    return QMOE_OK;
}
