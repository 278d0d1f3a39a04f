/* SPDX-License-Identifier: Apache-2.0
 * In: pieces of text, requests for values.  Out: one text that grows, with a
 * mask as long as it, and values in the arena.  Every byte written was counted
 * as work, so a run ends within a bounded time. */
#include "jinja_run.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "alloc.h"

enum {
    MAX_STEPS = 10 * 1000 * 1000,
    BYTES_PER_STEP = 64,
    MAX_DEPTH = 400,
    MAX_TEXT_BYTES = 64 * 1000 * 1000
};

qmoe_status qmi_jfail(
    qmi_jrun *run, qmoe_status status, const char *format, ...)
{
    char text[600];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return qmi_fail(
        run->err, status, "%s:%u: %s", run->file, (unsigned)run->line, text);
}

qmoe_status qmi_jspend(qmi_jrun *run, size_t n_steps)
{
    run->n_steps += n_steps;
    if (run->n_steps > MAX_STEPS)
        return qmi_jfail(run, QMOE_E_FORMAT,
            "the template takes more than %d steps", MAX_STEPS);
    return QMOE_OK;
}

qmoe_status qmi_jenter(qmi_jrun *run)
{
    if (run->depth >= MAX_DEPTH)
        return qmi_jfail(run, QMOE_E_FORMAT,
            "the template nests more than %d levels deep", MAX_DEPTH);
    run->depth++;
    return qmi_jspend(run, 1);
}

qmoe_status qmi_jtake(qmi_jrun *run, void *out, size_t count, size_t size)
{
    void *block =
        qmi_jarena_take(&run->arena, count, size, run->file, run->err);
    memcpy(out, &block, sizeof block);
    return block != NULL ? QMOE_OK : run->err->status;
}

/* ---- text ---- */

static qmoe_status make_room(qmi_jrun *run, size_t n_bytes)
{
    if (n_bytes > MAX_TEXT_BYTES - run->n_bytes)
        return qmi_jfail(run, QMOE_E_FORMAT,
            "the template writes more than %d bytes", MAX_TEXT_BYTES);
    size_t needed = run->n_bytes + n_bytes;
    if (needed <= run->capacity)
        return QMOE_OK;
    size_t capacity = 2 * run->capacity;
    if (capacity < needed)
        capacity = needed < 4096 ? 4096 : needed;
    char *text = qmi_regrow(
        run->text, run->n_bytes, capacity, 1, "a rendered text", run->err);
    if (text == NULL)
        return QMOE_E_NOMEM;
    run->text = text;
    uint8_t *mask = qmi_regrow(
        run->mask, run->n_bytes, capacity, 1, "a mask of text", run->err);
    if (mask == NULL)
        return QMOE_E_NOMEM;
    run->mask = mask;
    run->capacity = capacity;
    return QMOE_OK;
}

/* mask: NULL: all bytes are `is_data`. */
static qmoe_status write(qmi_jrun *run, const char *bytes, const uint8_t *mask,
    size_t n_bytes, bool is_data)
{
    QMI_TRY(qmi_jspend(run, n_bytes / BYTES_PER_STEP));
    QMI_TRY(make_room(run, n_bytes));
    if (n_bytes == 0)
        return QMOE_OK;
    memcpy(run->text + run->n_bytes, bytes, n_bytes);
    if (mask != NULL)
        memcpy(run->mask + run->n_bytes, mask, n_bytes);
    else
        memset(run->mask + run->n_bytes, is_data, n_bytes);
    run->n_bytes += n_bytes;
    return QMOE_OK;
}

qmoe_status qmi_jwrite(qmi_jrun *run, const qmi_jstring *string)
{
    return write(run, string->bytes, string->mask, string->n_bytes, false);
}

qmoe_status qmi_jwrite_part(
    qmi_jrun *run, const qmi_jstring *string, size_t from, size_t to)
{
    return write(run, string->bytes + from,
        string->mask == NULL ? NULL : string->mask + from, to - from, false);
}

qmoe_status qmi_jwrite_bytes(
    qmi_jrun *run, const char *bytes, size_t n_bytes, bool is_data)
{
    return write(run, bytes, NULL, n_bytes, is_data);
}

qmoe_status qmi_jwrite_text(qmi_jrun *run, const char *text)
{
    return write(run, text, NULL, strlen(text), false);
}

qmoe_status qmi_jtake_text(qmi_jrun *run, size_t start, const qmi_jstring **out)
{
    size_t n = run->n_bytes - start;
    qmi_jstring *string = NULL;
    char *bytes = NULL;
    QMI_TRY(qmi_jtake(run, &string, 1, sizeof *string));
    QMI_TRY(qmi_jtake(run, &bytes, n, 1));
    if (n > 0) {
        memcpy(bytes, run->text + start, n);
        if (memchr(run->mask + start, 1, n) != NULL) {
            uint8_t *mask = NULL;
            QMI_TRY(qmi_jtake(run, &mask, n, 1));
            memcpy(mask, run->mask + start, n);
            string->mask = mask;
        }
    }
    string->bytes = bytes;
    string->n_bytes = n;
    run->n_bytes = start;
    *out = string;
    return QMOE_OK;
}

qmoe_status qmi_jto_string(
    qmi_jrun *run, qmi_jvalue value, const qmi_jstring **out)
{
    if (value.kind == QMI_J_STRING) {
        *out = value.as.string;
        return QMOE_OK;
    }
    size_t start = run->n_bytes;
    QMI_TRY(qmi_jwrite_value(run, value));
    return qmi_jtake_text(run, start, out);
}

qmoe_status qmi_jmake_string(
    qmi_jrun *run, const char *text, const qmi_jstring **out)
{
    size_t start = run->n_bytes;
    QMI_TRY(qmi_jwrite_text(run, text));
    return qmi_jtake_text(run, start, out);
}

/* ---- lists and dicts ---- */

qmoe_status qmi_jnew_list(
    qmi_jrun *run, qmi_jflavor flavor, size_t n, qmi_jlist **out)
{
    qmi_jlist *list = NULL;
    QMI_TRY(qmi_jspend(run, n / 4));
    QMI_TRY(qmi_jtake(run, &list, 1, sizeof *list));
    QMI_TRY(qmi_jtake(run, &list->items, n, sizeof *list->items));
    list->flavor = flavor;
    list->n = n;
    *out = list;
    return QMOE_OK;
}

qmoe_status qmi_jlist_add(
    qmi_jrun *run, qmi_jlist *list, size_t *capacity, qmi_jvalue value)
{
    if (list->n == *capacity) {
        qmi_jvalue *items = NULL;
        size_t larger = 2 * *capacity + 4;
        QMI_TRY(qmi_jspend(run, list->n / 4));
        QMI_TRY(qmi_jtake(run, &items, larger, sizeof *items));
        if (list->n > 0)
            memcpy(items, list->items, list->n * sizeof *items);
        list->items = items;
        *capacity = larger;
    }
    list->items[list->n++] = value;
    return QMOE_OK;
}

qmoe_status qmi_jnew_dict(qmi_jrun *run, size_t capacity, qmi_jdict **out)
{
    qmi_jdict *dict = NULL;
    QMI_TRY(qmi_jtake(run, &dict, 1, sizeof *dict));
    QMI_TRY(qmi_jtake(run, &dict->entries, capacity, sizeof *dict->entries));
    dict->capacity = capacity;
    *out = dict;
    return QMOE_OK;
}

qmoe_status qmi_jdict_find(
    qmi_jrun *run, const qmi_jdict *dict, qmi_jvalue key, qmi_jvalue **out)
{
    *out = NULL;
    bool is_plain = qmi_jis_list(key, 1u << QMI_J_PLAIN);
    if (key.kind == QMI_J_DICT || is_plain)
        return qmi_jfail(run, QMOE_E_FORMAT, "a %s cannot be a key of a dict",
            qmi_jtype(key));
    if (key.kind == QMI_J_LIST)
        return qmi_jfail(run, QMOE_E_UNSUPPORTED,
            "a %s as a key of a dict is not supported", qmi_jtype(key));
    QMI_TRY(qmi_jspend(run, dict->n / 8));
    for (size_t i = 0; i < dict->n; i++) {
        bool same = false;
        QMI_TRY(qmi_jequal(run, dict->entries[i].key, key, &same));
        if (same) {
            *out = &dict->entries[i].value;
            return QMOE_OK;
        }
    }
    return QMOE_OK;
}

qmoe_status qmi_jdict_set(
    qmi_jrun *run, qmi_jdict *dict, qmi_jvalue key, qmi_jvalue value)
{
    qmi_jvalue *place = NULL;
    QMI_TRY(qmi_jdict_find(run, dict, key, &place));
    if (place != NULL) {
        *place = value;
        return QMOE_OK;
    }
    if (dict->n == dict->capacity) {
        qmi_jentry *entries = NULL;
        size_t capacity = 2 * dict->capacity + 4;
        QMI_TRY(qmi_jtake(run, &entries, capacity, sizeof *entries));
        if (dict->n > 0)
            memcpy(entries, dict->entries, dict->n * sizeof *entries);
        dict->entries = entries;
        dict->capacity = capacity;
    }
    dict->entries[dict->n++] = (qmi_jentry){key, value};
    return QMOE_OK;
}

/* ---- iteration ---- */

static qmoe_status characters(
    qmi_jrun *run, const qmi_jstring *string, const qmi_jlist **out)
{
    size_t n = 0;
    for (size_t i = 0; i < string->n_bytes; i++)
        n += (string->bytes[i] & 0xc0) != 0x80;
    qmi_jlist *list = NULL;
    qmi_jstring *parts = NULL;
    QMI_TRY(qmi_jnew_list(run, QMI_J_PLAIN, n, &list));
    QMI_TRY(qmi_jtake(run, &parts, n, sizeof *parts));
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        size_t end = at + 1;
        while (end < string->n_bytes && (string->bytes[end] & 0xc0) == 0x80)
            end++;
        parts[i] = (qmi_jstring){string->bytes + at,
            string->mask == NULL ? NULL : string->mask + at, end - at, false};
        list->items[i] = qmi_jof_string(&parts[i]);
        at = end;
    }
    *out = list;
    return QMOE_OK;
}

qmoe_status qmi_jiterate(qmi_jrun *run, qmi_jvalue value, const qmi_jlist **out)
{
    qmi_jlist *list = NULL;
    switch (value.kind) {
    case QMI_J_LIST:
        if (value.as.list->is_broken)
            return qmi_jfail(
                run, QMOE_E_FORMAT, "a filter's input cannot be walked");
        if (!value.as.list->is_spent) {
            value.as.list->is_spent = value.as.list->flavor == QMI_J_ITERATOR;
            *out = value.as.list;
            return QMOE_OK;
        }
        break;
    case QMI_J_STRING:
        return characters(run, value.as.string, out);
    case QMI_J_DICT:
        QMI_TRY(qmi_jnew_list(run, QMI_J_PLAIN, value.as.dict->n, &list));
        for (size_t i = 0; i < list->n; i++)
            list->items[i] = value.as.dict->entries[i].key;
        *out = list;
        return QMOE_OK;
    case QMI_J_UNDEFINED:
        break;
    case QMI_J_LOOP:
        return qmi_jfail(run, QMOE_E_UNSUPPORTED,
            "walking the variable 'loop' is not supported");
    default:
        return qmi_jfail(
            run, QMOE_E_FORMAT, "a %s cannot be walked", qmi_jtype(value));
    }
    QMI_TRY(qmi_jnew_list(run, QMI_J_PLAIN, 0, &list));
    *out = list;
    return QMOE_OK;
}

qmoe_status qmi_jlength(qmi_jrun *run, qmi_jvalue value, size_t *out)
{
    *out = 0;
    if (value.kind == QMI_J_UNDEFINED)
        return QMOE_OK;
    if (value.kind == QMI_J_DICT) {
        *out = value.as.dict->n;
        return QMOE_OK;
    }
    if (value.kind == QMI_J_STRING) {
        const qmi_jstring *string = value.as.string;
        QMI_TRY(qmi_jspend(run, string->n_bytes / BYTES_PER_STEP));
        for (size_t i = 0; i < string->n_bytes; i++)
            *out += (string->bytes[i] & 0xc0) != 0x80;
        return QMOE_OK;
    }
    if (value.kind == QMI_J_LOOP) {
        *out = value.as.loop->list->n;
        return QMOE_OK;
    }
    if (value.kind != QMI_J_LIST || value.as.list->flavor == QMI_J_ITERATOR)
        return qmi_jfail(
            run, QMOE_E_FORMAT, "a %s has no length", qmi_jtype(value));
    *out = value.as.list->n;
    return QMOE_OK;
}
