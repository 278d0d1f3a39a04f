/* SPDX-License-Identifier: Apache-2.0
 * A text that grows as it is written.  Writing never fails by itself: running
 * out of memory is remembered in `failed` (and written to `err`) until
 * somebody asks. */
#ifndef QMI_TEXT_H
#define QMI_TEXT_H

#include <stdint.h>

#include "error.h"

/* Begin with {.err = err}; release `data` with free.  Not NUL-terminated. */
typedef struct qmi_text {
    char *data;
    size_t n, capacity;
    bool failed;
    qmi_error *err;
} qmi_text;

void qmi_text_bytes(qmi_text *t, const char *bytes, size_t n);
void qmi_text_string(qmi_text *t, const char *string);
void qmi_text_number(qmi_text *t, uint64_t value);
/* The inside of a JSON string (without its quotes). */
void qmi_text_json(qmi_text *t, const char *string);

#endif
