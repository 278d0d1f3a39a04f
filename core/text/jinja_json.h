/* SPDX-License-Identifier: Apache-2.0
 * JSON to values of templates and back. */
#ifndef QMI_JINJA_JSON_H
#define QMI_JINJA_JSON_H

#include "jinja_run.h"

/* JSON text as a value whose strings are user data (or not).  1 is an int and
 * 1.0 a float.  `what` names the text in errors. */
qmoe_status qmi_jfrom_json(qmi_jrun *run, qmi_jvalue *out, const char *json,
    bool is_data, const char *what);

/* How json.dumps lays its text out. */
typedef struct qmi_jjson_style {
    const qmi_jstring *indent; /* NULL: all in one line */
    const qmi_jstring *between, *after_key;
    bool only_ascii;
} qmi_jjson_style;

/* json.dumps(value), to the end of the text. */
qmoe_status qmi_jwrite_json(
    qmi_jrun *run, qmi_jvalue value, const qmi_jjson_style *style);

#endif
