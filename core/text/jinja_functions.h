/* SPDX-License-Identifier: Apache-2.0
 * What templates can call by name: filters, tests, methods and global
 * functions.  Each is one line of a table. */
#ifndef QMI_JINJA_FUNCTIONS_H
#define QMI_JINJA_FUNCTIONS_H

#include "jinja_run.h"

enum { QMI_J_MAX_PARAMETERS = 4 };

/* The arguments of a call as they were written. */
typedef struct qmi_jcall {
    size_t n, n_named;
    qmi_jvalue *values;        /* [n], by place */
    const qmi_jstring **names; /* [n_named] */
    qmi_jvalue *named;         /* [n_named] */
} qmi_jcall;

/* self: what a filter, test or method is applied to.  arguments: one for each
 * parameter, QMI_J_ABSENT where none was given. */
typedef qmoe_status (*qmi_jbody)(qmi_jrun *run, qmi_jvalue self,
    const qmi_jvalue *arguments, qmi_jvalue *out);
typedef qmoe_status (*qmi_jopen_body)(
    qmi_jrun *run, qmi_jvalue self, const qmi_jcall *call, qmi_jvalue *out);

typedef struct qmi_jfunction {
    const char *name;
    int n_required, n_parameters;
    qmi_jbody body;           /* NULL: known, but not supported */
    qmi_jopen_body open_body; /* takes any arguments; instead of `body` */
    const char *parameters[QMI_J_MAX_PARAMETERS]; /* NULL: by place only */
    const char *why; /* refused by the renderer, with these words */
} qmi_jfunction;

/* Calls with checked arguments. */
qmoe_status qmi_jcall_function(qmi_jrun *run, const qmi_jfunction *function,
    qmi_jvalue self, const qmi_jcall *call, qmi_jvalue *out);

/* NULL: no such name. */
const qmi_jfunction *qmi_jfind_function(
    const qmi_jfunction *table, size_t n, const qmi_jstring *name);
const qmi_jfunction *qmi_jfind_filter(const qmi_jstring *name);
const qmi_jfunction *qmi_jfind_test(const qmi_jstring *name);
const qmi_jfunction *qmi_jfind_global(const qmi_jstring *name);
const qmi_jfunction *qmi_jfind_method(qmi_jvalue self, const qmi_jstring *name);

/* Of filters that take a test or a filter by name. */
extern const qmi_jfunction qmi_jlist_filters[];
extern const size_t qmi_jn_list_filters;

/* object.name and object[key], undefined where there is none. */
qmoe_status qmi_jattribute(
    qmi_jrun *run, qmi_jvalue object, const qmi_jstring *name, qmi_jvalue *out);
qmoe_status qmi_jitem(
    qmi_jrun *run, qmi_jvalue object, qmi_jvalue key, qmi_jvalue *out);
/* object[start:stop:step], each QMI_J_ABSENT or a value. */
qmoe_status qmi_jslice(qmi_jrun *run, qmi_jvalue object,
    const qmi_jvalue bounds[3], qmi_jvalue *out);

/* Operators. */
qmoe_status qmi_jbinary(
    qmi_jrun *run, uint16_t op, qmi_jvalue a, qmi_jvalue b, qmi_jvalue *out);
qmoe_status qmi_jnegative(qmi_jrun *run, qmi_jvalue a, qmi_jvalue *out);
/* The operator ~ over all items. */
qmoe_status qmi_jconcat(qmi_jrun *run, const qmi_jlist *items, qmi_jvalue *out);
/* op: of QMI_JN_OPERAND, or a comparison. */
qmoe_status qmi_jcompare(
    qmi_jrun *run, uint16_t op, qmi_jvalue a, qmi_jvalue b, bool *out);

/* Arguments: a string, an integer, a truth; else E_FORMAT that names `what`. */
qmoe_status qmi_jneed_string(
    qmi_jrun *run, qmi_jvalue value, const char *what, const qmi_jstring **out);
qmoe_status qmi_jneed_int(
    qmi_jrun *run, qmi_jvalue value, const char *what, int64_t *out);

#endif
