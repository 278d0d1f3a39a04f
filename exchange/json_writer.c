/* SPDX-License-Identifier: Apache-2.0
 * In: keys and values in order.  Out: JSON with a line for each, indented by
 * depth, or with all of them on one line. */
#include "json_writer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* The comma, the line and the key before a value. */
static void begin_item(qmi_json_writer *w, const char *key)
{
    if (w->has_item)
        qmi_text_string(&w->text, w->is_flat ? ", " : ",");
    w->has_item = true;
    if (!w->is_flat && w->depth != 0) {
        qmi_text_string(&w->text, "\n");
        for (int i = 0; i < w->depth; i++)
            qmi_text_string(&w->text, "  ");
    }
    if (key == NULL)
        return;
    qmi_text_string(&w->text, "\"");
    qmi_text_json(&w->text, key);
    qmi_text_string(&w->text, "\": ");
}

static void open_as(
    qmi_json_writer *w, const char *key, char bracket, bool is_flat)
{
    begin_item(w, key);
    qmi_text_bytes(&w->text, &bracket, 1);
    w->depth++;
    w->has_item = false;
    w->is_flat = is_flat;
}

void qmi_json_open(qmi_json_writer *w, const char *key, char bracket)
{
    open_as(w, key, bracket, false);
}

void qmi_json_open_flat(qmi_json_writer *w, const char *key, char bracket)
{
    open_as(w, key, bracket, true);
}

/* What holds a flat one is none itself. */
void qmi_json_close(qmi_json_writer *w, char bracket)
{
    w->depth--;
    if (!w->is_flat && w->has_item) {
        qmi_text_string(&w->text, "\n");
        for (int i = 0; i < w->depth; i++)
            qmi_text_string(&w->text, "  ");
    }
    qmi_text_bytes(&w->text, &bracket, 1);
    w->has_item = true;
    w->is_flat = false;
    if (w->depth == 0)
        qmi_text_string(&w->text, "\n");
}

void qmi_json_put_raw(qmi_json_writer *w, const char *key, const char *json)
{
    begin_item(w, key);
    qmi_text_string(&w->text, json);
}

void qmi_json_put_string(qmi_json_writer *w, const char *key, const char *value)
{
    if (value == NULL) {
        qmi_json_put_raw(w, key, "null");
        return;
    }
    begin_item(w, key);
    qmi_text_string(&w->text, "\"");
    qmi_text_json(&w->text, value);
    qmi_text_string(&w->text, "\"");
}

void qmi_json_put_count(qmi_json_writer *w, const char *key, int64_t value)
{
    char digits[32];
    snprintf(digits, sizeof digits, "%" PRId64, value);
    qmi_json_put_raw(w, key, digits);
}

/* With as few digits as give the same number back. */
void qmi_json_put_real(qmi_json_writer *w, const char *key, double value)
{
    char digits[40];
    for (int n = 6; n <= 17; n++) {
        snprintf(digits, sizeof digits, "%.*g", n, value);
        if (strtod(digits, NULL) == value)
            break;
    }
    qmi_json_put_raw(w, key, digits);
}

void qmi_json_put_bool(qmi_json_writer *w, const char *key, bool value)
{
    qmi_json_put_raw(w, key, value ? "true" : "false");
}
