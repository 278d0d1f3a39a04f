/* SPDX-License-Identifier: Apache-2.0
 * In: statements and the variables of a run.  Out: text.  A loop's turn, a
 * macro and a captured block have scopes of their own; `if` has none. */
#include "jinja_eval.h"
#include "jinja_functions.h"

static const qmi_jstring loop_name = {"loop", NULL, 4, false};

/* In a scope of its own inside the current one. */
static qmoe_status execute_inside(qmi_jrun *run, const qmi_jnode *body)
{
    qmi_jscope *scope = run->scope;
    QMI_TRY(qmi_jpush_scope(run, scope));
    QMI_TRY(qmi_jexecute(run, body));
    run->scope = scope;
    return QMOE_OK;
}

/* The text of a body as a value. */
static qmoe_status capture(
    qmi_jrun *run, const qmi_jnode *body, qmi_jvalue *out)
{
    size_t start = run->n_bytes;
    const qmi_jstring *text = NULL;
    QMI_TRY(execute_inside(run, body));
    QMI_TRY(qmi_jtake_text(run, start, &text));
    *out = qmi_jof_string(text);
    return QMOE_OK;
}

/* The text of a body, through filters (NULL: none). */
static qmoe_status capture_filtered(qmi_jrun *run, const qmi_jnode *filters,
    const qmi_jnode *body, qmi_jvalue *out)
{
    QMI_TRY(capture(run, body, out));
    if (filters == NULL)
        return QMOE_OK;
    qmi_jvalue outer = run->captured;
    run->captured = *out;
    QMI_TRY(qmi_jeval(run, filters, out));
    run->captured = outer;
    return QMOE_OK;
}

/* ---- loops ---- */

/* The items for which the condition of the loop holds. */
static qmoe_status select_items(qmi_jrun *run, const qmi_jnode *target,
    const qmi_jnode *where, const qmi_jlist **out)
{
    qmi_jscope *scope = run->scope;
    qmi_jvalue value = {0}, holds = {0};
    const qmi_jlist *all = NULL;
    qmi_jlist *selected = NULL;
    size_t capacity = 0;
    QMI_TRY(qmi_jeval(run, where->kid[0], &value));
    QMI_TRY(qmi_jiterate(run, value, &all));
    QMI_TRY(qmi_jnew_list(run, QMI_J_PLAIN, 0, &selected));
    for (size_t i = 0; i < all->n; i++) {
        QMI_TRY(qmi_jpush_scope(run, scope));
        QMI_TRY(qmi_jassign(run, target, all->items[i]));
        QMI_TRY(qmi_jeval(run, where->kid[1], &holds));
        if (qmi_jtruth(holds))
            QMI_TRY(qmi_jlist_add(run, selected, &capacity, all->items[i]));
    }
    run->scope = scope;
    *out = selected;
    return QMOE_OK;
}

static qmoe_status loop_items(
    qmi_jrun *run, const qmi_jnode *node, const qmi_jlist **out)
{
    qmi_jvalue value = {0};
    if (node->kid[1]->kind == QMI_JN_WHERE)
        return select_items(run, node->kid[0], node->kid[1], out);
    QMI_TRY(qmi_jeval(run, node->kid[1], &value));
    return qmi_jiterate(run, value, out);
}

/* One turn of a loop.  *completed: it was not left by break or continue. */
static qmoe_status execute_turn(qmi_jrun *run, const qmi_jnode *node,
    qmi_jscope *outer, qmi_jloop *loop, bool *completed)
{
    QMI_TRY(qmi_jspend(run, 1));
    QMI_TRY(qmi_jpush_scope(run, outer));
    QMI_TRY(qmi_jassign(run, node->kid[0], loop->list->items[loop->index]));
    QMI_TRY(
        qmi_jset(run, &loop_name, (qmi_jvalue){QMI_J_LOOP, {.loop = loop}}));
    QMI_TRY(qmi_jexecute(run, node->kid[2]));
    *completed = run->flow == QMI_J_GO_ON;
    return QMOE_OK;
}

static qmoe_status execute_for(qmi_jrun *run, const qmi_jnode *node)
{
    qmi_jscope *scope = run->scope;
    qmi_jloop *loop = NULL;
    bool any_completed = false, ends = false;
    QMI_TRY(qmi_jtake(run, &loop, 1, sizeof *loop));
    QMI_TRY(loop_items(run, node, &loop->list));
    for (; loop->index < loop->list->n && !ends; loop->index += !ends) {
        bool completed = false;
        QMI_TRY(execute_turn(run, node, scope, loop, &completed));
        any_completed = any_completed || completed;
        ends = run->flow == QMI_J_BREAK;
        run->flow = QMI_J_GO_ON;
    }
    run->scope = scope;
    /* As jinja2 does it, not as Python: unless a turn came to its end. */
    return any_completed ? QMOE_OK : execute_inside(run, node->kid[3]);
}

/* ---- macros ---- */

static qmoe_status define_macro(qmi_jrun *run, const qmi_jnode *node)
{
    qmi_jmacro *macro = NULL;
    QMI_TRY(qmi_jtake(run, &macro, 1, sizeof *macro));
    *macro = (qmi_jmacro){node, run->scope};
    return qmi_jset(
        run, node->name, (qmi_jvalue){QMI_J_MACRO, {.macro = macro}});
}

/* Sets the parameters in the current scope.  Defaults see the parameters before
 * them. */
static qmoe_status bind_parameters(
    qmi_jrun *run, const qmi_jnode *macro, const qmi_jcall *call)
{
    size_t i = 0, n_used = 0;
    const qmi_jnode *parameter = macro->kid[0];
    for (; parameter != NULL; parameter = parameter->next, i++) {
        qmi_jvalue value = {QMI_J_ABSENT, {0}};
        if (i < call->n)
            value = call->values[i];
        for (size_t k = 0; k < call->n_named; k++)
            if (qmi_jname_same(call->names[k], parameter->name)) {
                if (i < call->n)
                    return qmi_jfail(run, QMOE_E_FORMAT,
                        "the argument '%.*s' is given twice",
                        QMI_J_SHOWN(parameter->name));
                value = call->named[k];
                n_used++;
            }
        QMI_TRY(qmi_jspend(run, call->n_named / 8 + 1));
        if (value.kind == QMI_J_ABSENT && parameter->kid[0] != NULL)
            QMI_TRY(qmi_jeval(run, parameter->kid[0], &value));
        else if (value.kind == QMI_J_ABSENT)
            value = qmi_jundefined(parameter->name);
        QMI_TRY(qmi_jset(run, parameter->name, value));
    }
    if (call->n > i || call->n_named > n_used)
        return qmi_jfail(run, QMOE_E_FORMAT,
            "the macro '%.*s' does not take these arguments",
            QMI_J_SHOWN(macro->name));
    return QMOE_OK;
}

qmoe_status qmi_jcall_macro(qmi_jrun *run, const qmi_jmacro *macro,
    const qmi_jcall *call, qmi_jvalue *out)
{
    qmi_jscope *scope = run->scope;
    size_t start = run->n_bytes;
    const qmi_jstring *text = NULL;
    QMI_TRY(qmi_jpush_scope(run, macro->scope));
    QMI_TRY(bind_parameters(run, macro->node, call));
    QMI_TRY(qmi_jexecute(run, macro->node->kid[1]));
    run->scope = scope;
    QMI_TRY(qmi_jtake_text(run, start, &text));
    *out = qmi_jof_string(text);
    return QMOE_OK;
}

/* ---- the rest ---- */

static qmoe_status execute_if(qmi_jrun *run, const qmi_jnode *node)
{
    const qmi_jnode *branch = node->kid[0];
    for (; branch != NULL; branch = branch->next) {
        qmi_jvalue test = qmi_jbool(true);
        if (branch->kid[0] != NULL)
            QMI_TRY(qmi_jeval(run, branch->kid[0], &test));
        if (qmi_jtruth(test))
            return qmi_jexecute(run, branch->kid[1]);
    }
    return QMOE_OK;
}

/* The values are those outside. */
static qmoe_status execute_with(qmi_jrun *run, const qmi_jnode *node)
{
    qmi_jscope *outer = run->scope, *inner = NULL;
    QMI_TRY(qmi_jpush_scope(run, outer));
    inner = run->scope;
    for (const qmi_jnode *set = node->kid[0]; set != NULL; set = set->next) {
        qmi_jvalue value = {0};
        run->scope = outer;
        QMI_TRY(qmi_jeval(run, set->kid[1], &value));
        run->scope = inner;
        QMI_TRY(qmi_jassign(run, set->kid[0], value));
    }
    QMI_TRY(qmi_jexecute(run, node->kid[1]));
    run->scope = outer;
    return QMOE_OK;
}

static qmoe_status execute_one(qmi_jrun *run, const qmi_jnode *node)
{
    qmi_jvalue value = {0};
    switch (node->kind) {
    case QMI_JN_TEXT:
        return qmi_jwrite(run, node->value.as.string);
    case QMI_JN_PRINT:
        QMI_TRY(qmi_jeval(run, node->kid[0], &value));
        return qmi_jwrite_value(run, value);
    case QMI_JN_IF:
        return execute_if(run, node);
    case QMI_JN_FOR:
        return execute_for(run, node);
    case QMI_JN_SET:
        QMI_TRY(qmi_jeval(run, node->kid[1], &value));
        return qmi_jassign(run, node->kid[0], value);
    case QMI_JN_SET_BLOCK:
        QMI_TRY(capture_filtered(run, node->kid[1], node->kid[2], &value));
        return qmi_jassign(run, node->kid[0], value);
    case QMI_JN_FILTER_BLOCK:
        QMI_TRY(capture_filtered(run, node->kid[0], node->kid[1], &value));
        return qmi_jwrite_value(run, value);
    case QMI_JN_WITH:
        return execute_with(run, node);
    case QMI_JN_MACRO:
        return define_macro(run, node);
    default:
        run->flow = node->kind == QMI_JN_BREAK ? QMI_J_BREAK : QMI_J_CONTINUE;
        return QMOE_OK;
    }
}

qmoe_status qmi_jexecute(qmi_jrun *run, const qmi_jnode *first)
{
    QMI_TRY(qmi_jenter(run));
    for (; first != NULL && run->flow == QMI_J_GO_ON; first = first->next) {
        run->line = first->line;
        QMI_TRY(qmi_jspend(run, 1));
        QMI_TRY(execute_one(run, first));
    }
    qmi_jleave(run);
    return QMOE_OK;
}
