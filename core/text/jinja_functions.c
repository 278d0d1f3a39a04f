/* SPDX-License-Identifier: Apache-2.0
 * In: a function of a table and the arguments of a call.  Out: its value.
 * Bodies see their arguments in the order of the parameters, as many as the
 * table says. */
#include "jinja_functions.h"

#include "jinja_string.h"

const qmi_jfunction *qmi_jfind_function(
    const qmi_jfunction *table, size_t n, const qmi_jstring *name)
{
    for (size_t i = 0; i < n; i++)
        if (qmi_jname_is(name, table[i].name))
            return &table[i];
    return NULL;
}

static qmoe_status bind_named(qmi_jrun *run, const qmi_jfunction *function,
    const qmi_jcall *call, qmi_jvalue *arguments)
{
    for (size_t k = 0; k < call->n_named; k++) {
        int i = 0;
        while (i < function->n_parameters &&
               (function->parameters[i] == NULL ||
                   !qmi_jname_is(call->names[k], function->parameters[i])))
            i++;
        if (i == function->n_parameters || arguments[i].kind != QMI_J_ABSENT)
            return qmi_jfail(run, QMOE_E_FORMAT,
                "'%s' does not take the argument '%.*s'", function->name,
                QMI_J_SHOWN(call->names[k]));
        arguments[i] = call->named[k];
    }
    return QMOE_OK;
}

qmoe_status qmi_jcall_function(qmi_jrun *run, const qmi_jfunction *function,
    qmi_jvalue self, const qmi_jcall *call, qmi_jvalue *out)
{
    qmi_jvalue arguments[QMI_J_MAX_PARAMETERS];
    if (function->why != NULL)
        return qmi_jfail(run, QMOE_E_FORMAT, "%s", function->why);
    if (function->open_body != NULL)
        return function->open_body(run, self, call, out);
    if (function->body == NULL)
        return qmi_jfail(
            run, QMOE_E_UNSUPPORTED, "'%s' is not supported", function->name);
    if (call->n > (size_t)function->n_parameters)
        return qmi_jfail(run, QMOE_E_FORMAT, "'%s' does not take %zu arguments",
            function->name, call->n);
    for (size_t i = 0; i < QMI_J_MAX_PARAMETERS; i++)
        arguments[i] =
            i < call->n ? call->values[i] : (qmi_jvalue){QMI_J_ABSENT, {0}};
    QMI_TRY(bind_named(run, function, call, arguments));
    for (int i = 0; i < function->n_required; i++)
        if (arguments[i].kind == QMI_J_ABSENT)
            return qmi_jfail(run, QMOE_E_FORMAT, "'%s' needs more arguments",
                function->name);
    return function->body(run, self, arguments, out);
}

qmoe_status qmi_jneed_string(
    qmi_jrun *run, qmi_jvalue value, const char *what, const qmi_jstring **out)
{
    if (value.kind != QMI_J_STRING)
        return qmi_jfail(run, QMOE_E_FORMAT, "%s is a %s, not a string", what,
            qmi_jtype(value));
    *out = value.as.string;
    return QMOE_OK;
}

qmoe_status qmi_jneed_int(
    qmi_jrun *run, qmi_jvalue value, const char *what, int64_t *out)
{
    if (!qmi_jis_integer(value))
        return qmi_jfail(run, QMOE_E_FORMAT, "%s is a %s, not an int", what,
            qmi_jtype(value));
    *out = qmi_jinteger(value);
    return QMOE_OK;
}
