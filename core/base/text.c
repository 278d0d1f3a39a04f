/* SPDX-License-Identifier: Apache-2.0
 * In: pieces of text.  Out: one growing buffer.  A failure is remembered, so
 * that callers look once, at the end. */
#include "text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "alloc.h"

void qmi_text_bytes(qmi_text *t, const char *bytes, size_t n)
{
    if (t->failed || n == 0) /* of nothing, `data` may be NULL */
        return;
    if (n > t->capacity - t->n) {
        /* Doubling, with room for small pieces. */
        size_t capacity = 2 * t->capacity + n + 1024;
        char *grown = qmi_regrow(t->data, t->n, capacity, 1, "a text", t->err);
        if (grown == NULL) {
            t->failed = true;
            return;
        }
        t->data = grown;
        t->capacity = capacity;
    }
    memcpy(t->data + t->n, bytes, n);
    t->n += n;
}

void qmi_text_string(qmi_text *t, const char *bytes)
{
    qmi_text_bytes(t, bytes, strlen(bytes));
}

void qmi_text_number(qmi_text *t, uint64_t value)
{
    char digits[24];
    snprintf(digits, sizeof digits, "%" PRIu64, value);
    qmi_text_string(t, digits);
}

/* Only what JSON demands is escaped; UTF-8 stays as it is. */
void qmi_text_json(qmi_text *t, const char *bytes)
{
    const char *plain = bytes; /* not yet put */
    const char *p = bytes;
    for (; *p != '\0'; p++) {
        char escape[16];
        if (*p != '"' && *p != '\\' && (unsigned char)*p >= 0x20)
            continue;
        snprintf(escape, sizeof escape, "\\u%04x", (unsigned)*p);
        qmi_text_bytes(t, plain, (size_t)(p - plain));
        qmi_text_string(t, escape);
        plain = p + 1;
    }
    qmi_text_bytes(t, plain, (size_t)(p - plain));
}
