/* SPDX-License-Identifier: Apache-2.0
 * A subset of Jinja, as transformers sets jinja2 up for chat templates
 * (trim_blocks, lstrip_blocks, loop controls, its sandbox, raise_exception,
 * strftime_now, tojson that keeps characters beyond ASCII).  What it renders it
 * renders to the same bytes; what it does not know it refuses by name: statements
 * when a template is opened, filters, tests and functions when one is reached.
 * Templates are untrusted: their size, nesting, work, memory and text are
 * bounded, and every error names file and line. */
#ifndef QMI_JINJA_H
#define QMI_JINJA_H

#include <stddef.h>

#include "error.h"

typedef struct qmi_jinja qmi_jinja;

/* Parses n_bytes of `text` (valid UTF-8; copied).  `file` names it in errors.
 * E_FORMAT: broken, or beyond a limit.  E_UNSUPPORTED: not in the subset. */
qmoe_status qmi_jinja_open(qmi_jinja **out, const char *text, size_t n_bytes,
    const char *file, qmi_error *err);
void qmi_jinja_close(qmi_jinja *jinja);

/* A variable of a rendering, or several. */
typedef struct qmi_jinja_variable {
    const char *name; /* NULL: the members of an object are the variables */
    const char *json; /* the value */
    /* Its strings are user data: their bytes are marked in the result wherever
     * the template puts them. */
    bool is_data;
} qmi_jinja_variable;

/* What was rendered.  Release with qmi_jinja_text_release. */
typedef struct qmi_jinja_text {
    char *text;       /* n_bytes of UTF-8 and a NUL after them */
    uint8_t *literal; /* [n_bytes]: 1: user data, 0: the template's own */
    size_t n_bytes;
} qmi_jinja_text;

void qmi_jinja_text_release(qmi_jinja_text *text);

/* now: seconds since 1970, for strftime_now (in the local time zone).  A
 * template may be rendered by several threads at a time.  Of variables with the
 * same name, the last counts.  E_INVALID: the template called raise_exception,
 * or a variable is no JSON; E_FORMAT: an error of the template; E_UNSUPPORTED:
 * not in the subset. */
qmoe_status qmi_jinja_render(const qmi_jinja *jinja, qmi_jinja_text *out,
    const qmi_jinja_variable *variables, size_t n_variables, int64_t now,
    qmi_error *err);

#endif
