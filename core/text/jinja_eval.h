/* SPDX-License-Identifier: Apache-2.0
 * Trees of templates to values and text. */
#ifndef QMI_JINJA_EVAL_H
#define QMI_JINJA_EVAL_H

#include "jinja_run.h"
#include "jinja_tree.h"

/* The value of an expression. */
qmoe_status qmi_jeval(qmi_jrun *run, const qmi_jnode *node, qmi_jvalue *out);
/* Runs a list of statements; their text goes to the end of the run's. */
qmoe_status qmi_jexecute(qmi_jrun *run, const qmi_jnode *first);

/* A new scope inside `outer`, which becomes the current one. */
qmoe_status qmi_jpush_scope(qmi_jrun *run, qmi_jscope *outer);
/* Sets a variable of the current scope. */
qmoe_status qmi_jset(qmi_jrun *run, const qmi_jstring *name, qmi_jvalue value);
/* Assigns to what qmi_jparse_target gave. */
qmoe_status qmi_jassign(
    qmi_jrun *run, const qmi_jnode *target, qmi_jvalue value);
struct qmi_jcall;
qmoe_status qmi_jcall_macro(qmi_jrun *run, const qmi_jmacro *macro,
    const struct qmi_jcall *call, qmi_jvalue *out);

#endif
