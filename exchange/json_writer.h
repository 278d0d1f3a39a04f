/* SPDX-License-Identifier: Apache-2.0
 * JSON text from front to back, for files too large or too many to be built as
 * trees.  Writing does not fail: `text.failed` remembers a lack of memory. */
#ifndef QMI_JSON_WRITER_H
#define QMI_JSON_WRITER_H

#include "text.h"

/* Begin with {.text = {.err = err}}; release text.data with qmi_free. */
typedef struct qmi_json_writer {
    qmi_text text;
    int depth;
    bool has_item; /* the object or list at hand has one */
    bool is_flat;  /* items of the object or list at hand share a line */
} qmi_json_writer;

/* `key` is NULL for an item of a list and for the outermost value.  `bracket`
 * is '{' or '['; close takes its counterpart.  Nothing but flat values in a
 * flat one. */
void qmi_json_open(qmi_json_writer *w, const char *key, char bracket);
void qmi_json_open_flat(qmi_json_writer *w, const char *key, char bracket);
void qmi_json_close(qmi_json_writer *w, char bracket);
/* NULL: null. */
void qmi_json_put_string(
    qmi_json_writer *w, const char *key, const char *value);
void qmi_json_put_count(qmi_json_writer *w, const char *key, int64_t value);
/* Finite. */
void qmi_json_put_real(qmi_json_writer *w, const char *key, double value);
void qmi_json_put_bool(qmi_json_writer *w, const char *key, bool value);
/* JSON text as it is. */
void qmi_json_put_raw(qmi_json_writer *w, const char *key, const char *json);

#endif
