/* SPDX-License-Identifier: Apache-2.0
 * In: the tree of an expression and the variables of a run.  Out: its value.
 * Every node visited is a step, and the depth of the visit is bounded. */
#include "jinja_eval.h"

#include "jinja_functions.h"

/* ---- variables ---- */

qmoe_status qmi_jpush_scope(qmi_jrun *run, qmi_jscope *outer)
{
    qmi_jscope *scope = NULL;
    QMI_TRY(qmi_jtake(run, &scope, 1, sizeof *scope));
    scope->outer = outer;
    run->scope = scope;
    return QMOE_OK;
}

/* In one scope; NULL: not there. */
static qmoe_status find_variable(qmi_jrun *run, const qmi_jscope *scope,
    const qmi_jstring *name, qmi_jvariable **out)
{
    size_t n_visited = 0;
    qmi_jvariable *variable = scope->variables;
    for (; variable != NULL; variable = variable->before, n_visited++)
        if (qmi_jname_same(variable->name, name))
            break;
    *out = variable;
    return qmi_jspend(run, n_visited / 8);
}

qmoe_status qmi_jset(qmi_jrun *run, const qmi_jstring *name, qmi_jvalue value)
{
    qmi_jvariable *variable = NULL;
    QMI_TRY(find_variable(run, run->scope, name, &variable));
    if (variable == NULL) {
        QMI_TRY(qmi_jtake(run, &variable, 1, sizeof *variable));
        variable->name = name;
        variable->before = run->scope->variables;
        run->scope->variables = variable;
    }
    variable->value = value;
    return QMOE_OK;
}

static qmoe_status eval_name(
    qmi_jrun *run, const qmi_jstring *name, qmi_jvalue *out)
{
    const qmi_jscope *scope = run->scope;
    qmi_jvariable *variable = NULL;
    for (; scope != NULL && variable == NULL; scope = scope->outer) {
        QMI_TRY(qmi_jspend(run, 1));
        QMI_TRY(find_variable(run, scope, name, &variable));
    }
    const qmi_jfunction *function =
        variable == NULL ? qmi_jfind_global(name) : NULL;
    *out = variable != NULL ? variable->value : qmi_jundefined(name);
    if (function != NULL)
        *out = (qmi_jvalue){QMI_J_FUNCTION, {.function = function}};
    return QMOE_OK;
}

static qmoe_status unpack(
    qmi_jrun *run, const qmi_jnode *targets, qmi_jvalue value)
{
    const qmi_jlist *list = NULL;
    size_t n = 0;
    if (value.kind == QMI_J_UNDEFINED || value.kind == QMI_J_NAMESPACE)
        return qmi_jfail(
            run, QMOE_E_FORMAT, "a %s cannot be unpacked", qmi_jtype(value));
    QMI_TRY(qmi_jiterate(run, value, &list));
    for (const qmi_jnode *kid = targets; kid != NULL; kid = kid->next)
        n++;
    if (n != list->n)
        return qmi_jfail(run, QMOE_E_FORMAT,
            "%zu values are unpacked into %zu variables", list->n, n);
    n = 0;
    for (; targets != NULL; targets = targets->next)
        QMI_TRY(qmi_jassign(run, targets, list->items[n++]));
    return QMOE_OK;
}

qmoe_status qmi_jassign(
    qmi_jrun *run, const qmi_jnode *target, qmi_jvalue value)
{
    qmi_jvalue object = {0};
    const qmi_jstring *key = target->name;
    if (target->kind == QMI_JN_TUPLE)
        return unpack(run, target->kid[0], value);
    if (target->kind == QMI_JN_NAME)
        return qmi_jset(run, target->name, value);
    QMI_TRY(qmi_jeval(run, target->kid[0], &object));
    if (object.kind != QMI_J_NAMESPACE)
        return qmi_jfail(run, QMOE_E_FORMAT, "attributes of a %s cannot be set",
            qmi_jtype(object));
    return qmi_jdict_set(run, object.as.dict, qmi_jof_string(key), value);
}

/* ---- literals ---- */

static size_t count(const qmi_jnode *first)
{
    size_t n = 0;
    for (; first != NULL; first = first->next)
        n++;
    return n;
}

static qmoe_status eval_list(
    qmi_jrun *run, const qmi_jnode *node, qmi_jvalue *out)
{
    qmi_jlist *list = NULL;
    size_t i = 0;
    QMI_TRY(qmi_jnew_list(run,
        node->kind == QMI_JN_TUPLE ? QMI_J_TUPLE : QMI_J_PLAIN,
        count(node->kid[0]), &list));
    for (const qmi_jnode *kid = node->kid[0]; kid != NULL; kid = kid->next)
        QMI_TRY(qmi_jeval(run, kid, &list->items[i++]));
    *out = qmi_jof_list(list);
    return QMOE_OK;
}

static qmoe_status eval_dict(
    qmi_jrun *run, const qmi_jnode *node, qmi_jvalue *out)
{
    qmi_jdict *dict = NULL;
    QMI_TRY(qmi_jnew_dict(run, count(node->kid[0]), &dict));
    for (const qmi_jnode *kid = node->kid[0]; kid != NULL; kid = kid->next) {
        qmi_jvalue key = {0}, value = {0};
        QMI_TRY(qmi_jeval(run, kid->kid[0], &key));
        QMI_TRY(qmi_jeval(run, kid->kid[1], &value));
        QMI_TRY(qmi_jdict_set(run, dict, key, value));
    }
    *out = qmi_jof_dict(dict);
    return QMOE_OK;
}

/* ---- calls ---- */

static qmoe_status eval_arguments(
    qmi_jrun *run, const qmi_jnode *first, qmi_jcall *call)
{
    size_t n = count(first);
    QMI_TRY(qmi_jtake(run, &call->values, n, sizeof *call->values));
    QMI_TRY(qmi_jtake(run, &call->named, n, sizeof *call->named));
    QMI_TRY(qmi_jtake(run, &call->names, n, sizeof *call->names));
    for (; first != NULL; first = first->next) {
        if (first->kind != QMI_JN_KEYWORD) {
            QMI_TRY(qmi_jeval(run, first, &call->values[call->n++]));
            continue;
        }
        for (size_t i = 0; i < call->n_named; i++)
            if (qmi_jname_same(call->names[i], first->name))
                return qmi_jfail(run, QMOE_E_FORMAT,
                    "the argument '%.*s' is given twice",
                    QMI_J_SHOWN(first->name));
        QMI_TRY(qmi_jspend(run, call->n_named / 8));
        call->names[call->n_named] = first->name;
        QMI_TRY(qmi_jeval(run, first->kid[0], &call->named[call->n_named++]));
    }
    return QMOE_OK;
}

static qmoe_status eval_call(
    qmi_jrun *run, const qmi_jnode *node, qmi_jvalue *out)
{
    qmi_jvalue callee = {0};
    qmi_jcall call = {0};
    QMI_TRY(qmi_jeval(run, node->kid[0], &callee));
    QMI_TRY(eval_arguments(run, node->kid[1], &call));
    run->line = node->line;
    if (callee.kind == QMI_J_MACRO)
        return qmi_jcall_macro(run, callee.as.macro, &call, out);
    if (callee.kind == QMI_J_FUNCTION)
        return qmi_jcall_function(
            run, callee.as.function, qmi_jnone(), &call, out);
    if (callee.kind == QMI_J_METHOD)
        return qmi_jcall_function(run, callee.as.method->function,
            callee.as.method->self, &call, out);
    if (callee.kind == QMI_J_UNDEFINED && callee.as.name != NULL)
        return qmi_jfail(run, QMOE_E_FORMAT, "the function '%.*s' is not known",
            QMI_J_SHOWN(callee.as.name));
    return qmi_jfail(
        run, QMOE_E_FORMAT, "a %s cannot be called", qmi_jtype(callee));
}

static qmoe_status eval_applied(
    qmi_jrun *run, const qmi_jnode *node, qmi_jvalue *out)
{
    qmi_jvalue self = {0};
    qmi_jcall call = {0};
    if (node->function == NULL)
        return qmi_jfail(run, QMOE_E_UNSUPPORTED,
            "the %s '%.*s' is not supported",
            node->kind == QMI_JN_TEST ? "test" : "filter",
            QMI_J_SHOWN(node->name));
    QMI_TRY(qmi_jeval(run, node->kid[0], &self));
    QMI_TRY(eval_arguments(run, node->kid[1], &call));
    run->line = node->line;
    return qmi_jcall_function(run, node->function, self, &call, out);
}

/* ---- operators ---- */

static qmoe_status eval_compare(
    qmi_jrun *run, const qmi_jnode *node, qmi_jvalue *out)
{
    qmi_jvalue left = {0};
    QMI_TRY(qmi_jeval(run, node->kid[0], &left));
    for (const qmi_jnode *kid = node->kid[1]; kid != NULL; kid = kid->next) {
        qmi_jvalue right = {0};
        bool holds = false;
        QMI_TRY(qmi_jeval(run, kid->kid[0], &right));
        QMI_TRY(qmi_jcompare(run, kid->op, left, right, &holds));
        *out = qmi_jbool(holds);
        if (!holds)
            return QMOE_OK;
        left = right;
    }
    return QMOE_OK;
}

static qmoe_status eval_slice(
    qmi_jrun *run, const qmi_jnode *node, qmi_jvalue *out)
{
    qmi_jvalue object = {0}, bounds[3];
    QMI_TRY(qmi_jeval(run, node->kid[0], &object));
    for (int i = 0; i < 3; i++) {
        bounds[i] = (qmi_jvalue){QMI_J_ABSENT, {0}};
        if (node->kid[i + 1] != NULL)
            QMI_TRY(qmi_jeval(run, node->kid[i + 1], &bounds[i]));
    }
    return qmi_jslice(run, object, bounds, out);
}

/* Nodes whose children are not all evaluated. */
static qmoe_status eval_choice(
    qmi_jrun *run, const qmi_jnode *node, qmi_jvalue *out)
{
    QMI_TRY(qmi_jeval(run, node->kid[0], out));
    bool truth = qmi_jtruth(*out);
    if (node->kind == QMI_JN_IF_ELSE) {
        const qmi_jnode *chosen = node->kid[truth ? 1 : 2];
        *out = qmi_jundefined(NULL);
        return chosen == NULL ? QMOE_OK : qmi_jeval(run, chosen, out);
    }
    if (truth == (node->kind == QMI_JN_AND))
        return qmi_jeval(run, node->kid[1], out);
    return QMOE_OK;
}

/* Nodes of one or two operands. */
static qmoe_status eval_operator(
    qmi_jrun *run, const qmi_jnode *node, qmi_jvalue *out)
{
    qmi_jvalue a = {0}, b = {0};
    QMI_TRY(qmi_jeval(run, node->kid[0], &a));
    if (node->kid[1] != NULL)
        QMI_TRY(qmi_jeval(run, node->kid[1], &b));
    run->line = node->line;
    switch (node->kind) {
    case QMI_JN_NOT:
        *out = qmi_jbool(!qmi_jtruth(a));
        return QMOE_OK;
    case QMI_JN_NEGATIVE:
        return qmi_jnegative(run, a, out);
    case QMI_JN_POSITIVE:
        QMI_TRY(qmi_jnegative(run, a, out));
        return qmi_jnegative(run, *out, out);
    case QMI_JN_ATTRIBUTE:
        return qmi_jattribute(run, a, node->name, out);
    case QMI_JN_ITEM:
        return qmi_jitem(run, a, b, out);
    default:
        return qmi_jbinary(run, node->op, a, b, out);
    }
}

static qmoe_status eval(qmi_jrun *run, const qmi_jnode *node, qmi_jvalue *out)
{
    switch (node->kind) {
    case QMI_JN_CONSTANT:
        *out = node->value;
        return QMOE_OK;
    case QMI_JN_CAPTURED:
        *out = run->captured;
        return QMOE_OK;
    case QMI_JN_NAME:
        return eval_name(run, node->name, out);
    case QMI_JN_LIST:
    case QMI_JN_TUPLE:
        return eval_list(run, node, out);
    case QMI_JN_CONCAT:
        QMI_TRY(eval_list(run, node, out));
        return qmi_jconcat(run, out->as.list, out);
    case QMI_JN_DICT:
        return eval_dict(run, node, out);
    case QMI_JN_SLICE:
        return eval_slice(run, node, out);
    case QMI_JN_CALL:
        return eval_call(run, node, out);
    case QMI_JN_FILTER:
    case QMI_JN_TEST:
        return eval_applied(run, node, out);
    case QMI_JN_COMPARE:
        return eval_compare(run, node, out);
    case QMI_JN_AND:
    case QMI_JN_OR:
    case QMI_JN_IF_ELSE:
        return eval_choice(run, node, out);
    default:
        return eval_operator(run, node, out);
    }
}

qmoe_status qmi_jeval(qmi_jrun *run, const qmi_jnode *node, qmi_jvalue *out)
{
    run->line = node->line;
    QMI_TRY(qmi_jenter(run));
    qmoe_status status = eval(run, node, out);
    qmi_jleave(run);
    return status;
}
