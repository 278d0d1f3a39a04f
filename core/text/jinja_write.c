/* SPDX-License-Identifier: Apache-2.0
 * In: values.  Out: their text as Python's str() and json.dumps() write it,
 * with the marks of the strings inside. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jinja_json.h"
#include "jinja_string.h"

/* ---- numbers ---- */

/* The shortest digits that read back as the same number, in Python's layout. */
static void format_float(char text[40], double value)
{
    char digits[40], mantissa[40];
    int precision = 0;
    do
        snprintf(digits, sizeof digits, "%.*e", precision, value);
    while (strtod(digits, NULL) != value && ++precision < 17);
    char *e = strchr(digits, 'e');
    int exponent = atoi(e + 1);
    if (exponent >= -4 && exponent < 16) {
        int places = precision - exponent;
        snprintf(text, 40, "%.*f", places > 1 ? places : 1, value);
        return;
    }
    *e = '\0';
    snprintf(mantissa, sizeof mantissa, "%s", digits);
    snprintf(text, 40, "%.25se%c%02d", mantissa, exponent < 0 ? '-' : '+',
        abs(exponent));
}

static qmoe_status write_float(
    qmi_jrun *run, double value, const char *nan, const char *infinity)
{
    char text[40];
    if (isfinite(value)) {
        format_float(text, value);
        return qmi_jwrite_text(run, text);
    }
    if (value < 0)
        QMI_TRY(qmi_jwrite_text(run, "-"));
    return qmi_jwrite_text(run, isnan(value) ? nan : infinity);
}

static qmoe_status write_int(qmi_jrun *run, int64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)value);
    return qmi_jwrite_text(run, text);
}

/* ---- repr() of strings ---- */

/* Characters that Python's repr() escapes: no letters, marks, numbers,
 * punctuation or symbols.  Code points that Unicode has not assigned are left
 * as they are. */
static bool is_printable(uint32_t c)
{
    static const uint32_t ranges[][2] = {{0, 0x1f}, {0x7f, 0xa0}, {0xad, 0xad},
        {0x600, 0x605}, {0x61c, 0x61c}, {0x6dd, 0x6dd}, {0x70f, 0x70f},
        {0x890, 0x891}, {0x8e2, 0x8e2}, {0x1680, 0x1680}, {0x180e, 0x180e},
        {0x2000, 0x200f}, {0x2028, 0x202f}, {0x205f, 0x206f}, {0x3000, 0x3000},
        {0xd800, 0xf8ff}, {0xfeff, 0xfeff}, {0xfff0, 0xfffb}, {0xfffe, 0xffff},
        {0x110bd, 0x110bd}, {0x110cd, 0x110cd}, {0x13430, 0x1343f},
        {0x1bca0, 0x1bca3}, {0x1d173, 0x1d17a}, {0xe0000, 0xe00ff},
        {0xe01f0, 0x10ffff}};
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
        if (c >= ranges[i][0] && c <= ranges[i][1])
            return false;
    return true;
}

static qmoe_status write_repr_character(
    qmi_jrun *run, const qmi_jstring *s, size_t at, char quote)
{
    size_t n = 0;
    static const char codes[] = "\n\r\t\\", letters[] = "nrt\\";
    uint32_t c = qmi_jcode_point(s->bytes, at, &n);
    const char *place = c == 0 || c > 0x7f ? NULL : strchr(codes, (int)c);
    char text[16];
    if (place != NULL)
        snprintf(text, sizeof text, "\\%c", letters[place - codes]);
    else if (c == (uint32_t)quote)
        snprintf(text, sizeof text, "\\%c", quote);
    else if (is_printable(c))
        return qmi_jwrite_part(run, s, at, at + n);
    else
        snprintf(text, sizeof text,
            c <= 0xff     ? "\\x%02x"
            : c <= 0xffff ? "\\u%04x"
                          : "\\U%08x",
            (unsigned)c);
    return qmi_jwrite_bytes(
        run, text, strlen(text), s->mask != NULL && s->mask[at] != 0);
}

static qmoe_status write_repr_string(qmi_jrun *run, const qmi_jstring *s)
{
    const void *single = s->n_bytes ? memchr(s->bytes, '\'', s->n_bytes) : NULL;
    const void *twice = s->n_bytes ? memchr(s->bytes, '"', s->n_bytes) : NULL;
    char quote = single != NULL && twice == NULL ? '"' : '\'';
    size_t n = 0;
    if (s->is_markup)
        return qmi_jfail(run, QMOE_E_UNSUPPORTED,
            "the text of a list with a string from 'safe' is not supported");
    QMI_TRY(qmi_jspend(run, s->n_bytes / 8));
    QMI_TRY(qmi_jwrite_bytes(run, &quote, 1, false));
    for (size_t i = 0; i < s->n_bytes; i += n) {
        qmi_jcode_point(s->bytes, i, &n);
        QMI_TRY(write_repr_character(run, s, i, quote));
    }
    return qmi_jwrite_bytes(run, &quote, 1, false);
}

/* ---- str() ---- */

static qmoe_status write_repr(qmi_jrun *run, qmi_jvalue value)
{
    if (value.kind == QMI_J_STRING)
        return write_repr_string(run, value.as.string);
    if (value.kind == QMI_J_UNDEFINED)
        return qmi_jwrite_text(run, "Undefined");
    return qmi_jwrite_value(run, value);
}

static qmoe_status write_list(qmi_jrun *run, const qmi_jlist *list)
{
    bool tuple = list->flavor == QMI_J_TUPLE;
    if (list->flavor != QMI_J_PLAIN && !tuple)
        return qmi_jfail(run, QMOE_E_UNSUPPORTED,
            "the text of a %s is not supported",
            qmi_jtype((qmi_jvalue){
                QMI_J_LIST, {.list = (qmi_jlist *)(uintptr_t)list}}));
    QMI_TRY(qmi_jwrite_text(run, tuple ? "(" : "["));
    for (size_t i = 0; i < list->n; i++) {
        if (i > 0)
            QMI_TRY(qmi_jwrite_text(run, ", "));
        QMI_TRY(write_repr(run, list->items[i]));
    }
    return qmi_jwrite_text(run, !tuple ? "]" : list->n == 1 ? ",)" : ")");
}

static qmoe_status write_dict(qmi_jrun *run, const qmi_jdict *dict)
{
    QMI_TRY(qmi_jwrite_text(run, "{"));
    for (size_t i = 0; i < dict->n; i++) {
        if (i > 0)
            QMI_TRY(qmi_jwrite_text(run, ", "));
        QMI_TRY(write_repr(run, dict->entries[i].key));
        QMI_TRY(qmi_jwrite_text(run, ": "));
        QMI_TRY(write_repr(run, dict->entries[i].value));
    }
    return qmi_jwrite_text(run, "}");
}

qmoe_status qmi_jwrite_value(qmi_jrun *run, qmi_jvalue value)
{
    qmoe_status status = QMOE_OK;
    switch (value.kind) {
    case QMI_J_UNDEFINED:
        return QMOE_OK;
    case QMI_J_NONE:
        return qmi_jwrite_text(run, "None");
    case QMI_J_BOOL:
        return qmi_jwrite_text(run, value.as.boolean ? "True" : "False");
    case QMI_J_INT:
        return write_int(run, value.as.integer);
    case QMI_J_FLOAT:
        return write_float(run, value.as.real, "nan", "inf");
    case QMI_J_STRING:
        return qmi_jwrite(run, value.as.string);
    case QMI_J_LIST:
    case QMI_J_DICT:
        QMI_TRY(qmi_jenter(run));
        status = value.kind == QMI_J_LIST ? write_list(run, value.as.list)
                                          : write_dict(run, value.as.dict);
        qmi_jleave(run);
        return status;
    default:
        return qmi_jfail(run, QMOE_E_UNSUPPORTED,
            "the text of a %s is not supported", qmi_jtype(value));
    }
}

/* ---- JSON ---- */

typedef struct json_writer {
    qmi_jrun *run;
    const qmi_jjson_style *style;
    int level;
} json_writer;

static qmoe_status write_json_escape(qmi_jrun *run, uint32_t c, bool is_data)
{
    static const char codes[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    const char *place = c == 0 || c > 0x7f ? NULL : strchr(codes, (int)c);
    char text[16];
    if (place != NULL)
        snprintf(text, sizeof text, "\\%c", letters[place - codes]);
    else if (c > 0xffff)
        snprintf(text, sizeof text, "\\u%04x\\u%04x",
            (unsigned)(0xd800 + ((c - 0x10000) >> 10)),
            (unsigned)(0xdc00 + ((c - 0x10000) & 0x3ff)));
    else
        snprintf(text, sizeof text, "\\u%04x", (unsigned)c);
    return qmi_jwrite_bytes(run, text, strlen(text), is_data);
}

static qmoe_status write_json_string(const json_writer *w, const qmi_jstring *s)
{
    size_t n = 0, from = 0;
    QMI_TRY(qmi_jspend(w->run, s->n_bytes / 16));
    QMI_TRY(qmi_jwrite_text(w->run, "\""));
    for (size_t i = 0; i < s->n_bytes; i += n) {
        uint32_t c = qmi_jcode_point(s->bytes, i, &n);
        bool plain = c >= 0x20 && c != '"' && c != '\\' &&
                     (c < 0x7f || !w->style->only_ascii);
        if (plain)
            continue;
        QMI_TRY(qmi_jwrite_part(w->run, s, from, i));
        QMI_TRY(
            write_json_escape(w->run, c, s->mask != NULL && s->mask[i] != 0));
        from = i + n;
    }
    QMI_TRY(qmi_jwrite_part(w->run, s, from, s->n_bytes));
    return qmi_jwrite_text(w->run, "\"");
}

static qmoe_status write_indent(const json_writer *w)
{
    if (w->style->indent == NULL)
        return QMOE_OK;
    QMI_TRY(qmi_jwrite_text(w->run, "\n"));
    for (int i = 0; i < w->level; i++)
        QMI_TRY(qmi_jwrite(w->run, w->style->indent));
    return QMOE_OK;
}

static qmoe_status write_json(json_writer *w, qmi_jvalue value);

static qmoe_status write_json_list(json_writer *w, const qmi_jlist *list)
{
    w->level++;
    QMI_TRY(qmi_jwrite_text(w->run, "["));
    for (size_t i = 0; i < list->n; i++) {
        if (i > 0)
            QMI_TRY(qmi_jwrite(w->run, w->style->between));
        QMI_TRY(write_indent(w));
        QMI_TRY(write_json(w, list->items[i]));
    }
    w->level--;
    if (list->n > 0)
        QMI_TRY(write_indent(w));
    return qmi_jwrite_text(w->run, "]");
}

static qmoe_status write_json_key(json_writer *w, qmi_jvalue key)
{
    if (key.kind == QMI_J_STRING)
        return write_json_string(w, key.as.string);
    if (key.kind == QMI_J_UNDEFINED)
        return write_json(w, key);
    QMI_TRY(qmi_jwrite_text(w->run, "\""));
    QMI_TRY(write_json(w, key));
    return qmi_jwrite_text(w->run, "\"");
}

static qmoe_status write_json_dict(json_writer *w, const qmi_jdict *dict)
{
    w->level++;
    QMI_TRY(qmi_jwrite_text(w->run, "{"));
    for (size_t i = 0; i < dict->n; i++) {
        if (i > 0)
            QMI_TRY(qmi_jwrite(w->run, w->style->between));
        QMI_TRY(write_indent(w));
        QMI_TRY(write_json_key(w, dict->entries[i].key));
        QMI_TRY(qmi_jwrite(w->run, w->style->after_key));
        QMI_TRY(write_json(w, dict->entries[i].value));
    }
    w->level--;
    if (dict->n > 0)
        QMI_TRY(write_indent(w));
    return qmi_jwrite_text(w->run, "}");
}

static qmoe_status write_json(json_writer *w, qmi_jvalue value)
{
    qmi_jrun *run = w->run;
    qmoe_status status = QMOE_OK;
    switch (value.kind) {
    case QMI_J_NONE:
        return qmi_jwrite_text(run, "null");
    case QMI_J_BOOL:
        return qmi_jwrite_text(run, value.as.boolean ? "true" : "false");
    case QMI_J_INT:
        return write_int(run, value.as.integer);
    case QMI_J_FLOAT:
        return write_float(run, value.as.real, "NaN", "Infinity");
    case QMI_J_STRING:
        return write_json_string(w, value.as.string);
    case QMI_J_LIST:
    case QMI_J_DICT:
        if (value.kind == QMI_J_LIST && value.as.list->flavor > QMI_J_TUPLE)
            break;
        QMI_TRY(qmi_jenter(run));
        status = value.kind == QMI_J_LIST ? write_json_list(w, value.as.list)
                                          : write_json_dict(w, value.as.dict);
        qmi_jleave(run);
        return status;
    default:
        break;
    }
    return qmi_jfail(
        run, QMOE_E_FORMAT, "tojson: a %s cannot be JSON", qmi_jtype(value));
}

qmoe_status qmi_jwrite_json(
    qmi_jrun *run, qmi_jvalue value, const qmi_jjson_style *style)
{
    json_writer writer = {run, style, 0};
    return write_json(&writer, value);
}
