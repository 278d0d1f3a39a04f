/* SPDX-License-Identifier: Apache-2.0
 * In: tokens of a template.  Out: its statements.  What is known to jinja2 but
 * not to us is refused by its name. */
#include "jinja_tree.h"

static qmi_jnode *parse_body(qmi_jsource *s, const char *const *ends, bool *ok);

static qmi_jnode *make(qmi_jsource *s, qmi_jnode_kind kind)
{
    return qmi_jnew_node(s, kind, qmi_jpeek(s)->line);
}

static bool expect_end(qmi_jsource *s)
{
    if (qmi_jpeek(s)->kind != QMI_J_BLOCK_END)
        return qmi_junexpected(s);
    s->at++;
    return true;
}

/* "%}", a body and the tag that ends it, but for that tag's own "%}". */
static bool parse_until(
    qmi_jsource *s, const char *end, const char *other, qmi_jnode **body)
{
    const char *ends[] = {end, other, NULL};
    bool ok = expect_end(s);
    *body = ok ? parse_body(s, ends, &ok) : NULL;
    return ok;
}

/* The same with the end's name and "%}". */
static bool parse_block(qmi_jsource *s, const char *end, qmi_jnode **body)
{
    if (!parse_until(s, end, NULL, body))
        return false;
    s->at++;
    return expect_end(s);
}

/* ---- targets ---- */

static qmi_jnode *parse_one_target(qmi_jsource *s, bool attributes)
{
    if (qmi_jskip(s, '(')) {
        if (!qmi_jdeeper(s))
            return NULL;
        qmi_jnode *inside = qmi_jparse_target(s, false);
        s->depth--;
        return inside != NULL && qmi_jexpect(s, ')') ? inside : NULL;
    }
    qmi_jnode *node = make(s, QMI_JN_NAME);
    const qmi_jstring *name = qmi_jexpect_name(s);
    static const char *const reserved[] = {
        "true", "True", "false", "False", "none", "None", "loop"};
    for (size_t i = 0; name != NULL && i < sizeof reserved / sizeof reserved[0];
         i++)
        if (qmi_jname_is(name, reserved[i])) {
            qmi_jrefuse(s, QMOE_E_FORMAT, qmi_jpeek(s)->line,
                "'%s' cannot be assigned to", reserved[i]);
            return NULL;
        }
    if (node == NULL || name == NULL)
        return NULL;
    node->name = name;
    if (!attributes || !qmi_jskip(s, '.'))
        return node;
    qmi_jnode *attribute = make(s, QMI_JN_ATTRIBUTE);
    if (attribute == NULL || (name = qmi_jexpect_name(s)) == NULL)
        return NULL;
    attribute->name = name;
    attribute->kid[0] = node;
    return attribute;
}

qmi_jnode *qmi_jparse_target(qmi_jsource *s, bool attributes)
{
    qmi_jnode *first = parse_one_target(s, attributes);
    if (first == NULL || !qmi_jnext_is(s, ','))
        return first;
    qmi_jnode *tuple = make(s, QMI_JN_TUPLE);
    if (tuple == NULL)
        return NULL;
    tuple->kid[0] = first;
    for (qmi_jnode *last = first; qmi_jskip(s, ','); last = last->next) {
        if (qmi_jpeek(s)->kind != QMI_J_NAME && !qmi_jnext_is(s, '('))
            break;
        if (qmi_jnext_is_name(s, "in"))
            break;
        last->next = parse_one_target(s, attributes);
        if (last->next == NULL)
            return NULL;
    }
    return tuple;
}

/* ---- statements ---- */

static qmi_jnode *parse_if(qmi_jsource *s)
{
    qmi_jnode *node = make(s, QMI_JN_IF);
    qmi_jnode **last = node == NULL ? NULL : &node->kid[0];
    bool is_else = false;
    const char *ends[] = {"elif", "else", "endif", NULL};
    while (last != NULL) {
        qmi_jnode *branch = make(s, QMI_JN_BRANCH);
        bool ok = branch != NULL;
        if (ok && !is_else) {
            branch->kid[0] = qmi_jparse_tuple(s, false);
            ok = branch->kid[0] != NULL;
        }
        if (!ok || !expect_end(s))
            return NULL;
        branch->kid[1] = parse_body(s, is_else ? ends + 2 : ends, &ok);
        if (!ok)
            return NULL;
        *last = branch;
        last = &branch->next;
        if (qmi_jskip_name(s, "endif"))
            return expect_end(s) ? node : NULL;
        is_else = qmi_jskip_name(s, "else");
        s->at += !is_else; /* elif */
    }
    return NULL;
}

/* What a loop walks, with its condition. */
static qmi_jnode *parse_iterable(qmi_jsource *s)
{
    qmi_jnode *iterable = qmi_jparse_tuple(s, false);
    if (iterable != NULL && qmi_jskip_name(s, "if")) {
        qmi_jnode *where = make(s, QMI_JN_WHERE);
        if (where == NULL)
            return NULL;
        where->kid[0] = iterable;
        where->kid[1] = qmi_jparse_expression(s, true);
        iterable = where->kid[1] == NULL ? NULL : where;
    }
    if (iterable != NULL && qmi_jnext_is_name(s, "recursive")) {
        qmi_jrefuse(s, QMOE_E_UNSUPPORTED, qmi_jpeek(s)->line,
            "recursive loops are not supported");
        return NULL;
    }
    return iterable;
}

static qmi_jnode *parse_for(qmi_jsource *s)
{
    qmi_jnode *node = make(s, QMI_JN_FOR);
    if (node == NULL || (node->kid[0] = qmi_jparse_target(s, false)) == NULL)
        return NULL;
    if (!qmi_jskip_name(s, "in")) {
        qmi_junexpected(s);
        return NULL;
    }
    node->kid[1] = parse_iterable(s);
    if (node->kid[1] == NULL)
        return NULL;
    s->n_loops++;
    bool ok = parse_until(s, "endfor", "else", &node->kid[2]);
    s->n_loops--;
    if (ok && qmi_jskip_name(s, "else"))
        ok = parse_until(s, "endfor", NULL, &node->kid[3]);
    s->at += ok; /* endfor */
    return ok && expect_end(s) ? node : NULL;
}

/* Bodies of macros and captured blocks stand outside of the loop around
 * them. */
static bool parse_apart(qmi_jsource *s, const char *end, qmi_jnode **body)
{
    int n_loops = s->n_loops;
    s->n_loops = 0;
    bool ok = parse_block(s, end, body);
    s->n_loops = n_loops;
    return ok;
}

static qmi_jnode *parse_set(qmi_jsource *s)
{
    qmi_jnode *node = make(s, QMI_JN_SET);
    if (node == NULL || (node->kid[0] = qmi_jparse_target(s, true)) == NULL)
        return NULL;
    if (qmi_jskip(s, '=')) {
        node->kid[1] = qmi_jparse_tuple(s, true);
        return node->kid[1] != NULL && expect_end(s) ? node : NULL;
    }
    node->kind = QMI_JN_SET_BLOCK;
    if (qmi_jnext_is(s, '|')) {
        qmi_jnode *captured = make(s, QMI_JN_CAPTURED);
        if (captured == NULL)
            return NULL;
        node->kid[1] = qmi_jparse_filters(s, captured, false);
        if (node->kid[1] == NULL)
            return NULL;
    }
    return parse_apart(s, "endset", &node->kid[2]) ? node : NULL;
}

static qmi_jnode *parse_filter_block(qmi_jsource *s)
{
    qmi_jnode *node = make(s, QMI_JN_FILTER_BLOCK);
    qmi_jnode *captured = make(s, QMI_JN_CAPTURED);
    if (node == NULL || captured == NULL)
        return NULL;
    node->kid[0] = qmi_jparse_filters(s, captured, true);
    if (node->kid[0] == NULL)
        return NULL;
    return parse_apart(s, "endfilter", &node->kid[1]) ? node : NULL;
}

static qmi_jnode *parse_with(qmi_jsource *s)
{
    qmi_jnode *node = make(s, QMI_JN_WITH);
    qmi_jnode **last = node == NULL ? NULL : &node->kid[0];
    while (last != NULL && qmi_jpeek(s)->kind != QMI_J_BLOCK_END) {
        if (node->kid[0] != NULL && !qmi_jexpect(s, ','))
            return NULL;
        qmi_jnode *set = make(s, QMI_JN_SET);
        if (set == NULL || (set->kid[0] = parse_one_target(s, false)) == NULL ||
            !qmi_jexpect(s, '=') ||
            (set->kid[1] = qmi_jparse_expression(s, true)) == NULL)
            return NULL;
        *last = set;
        last = &set->next;
    }
    return last != NULL && parse_block(s, "endwith", &node->kid[1]) ? node
                                                                    : NULL;
}

/* The text of the answers, for training: rendered like any other. */
static qmi_jnode *parse_generation(qmi_jsource *s)
{
    qmi_jnode *node = make(s, QMI_JN_WITH);
    return node != NULL && parse_apart(s, "endgeneration", &node->kid[1])
               ? node
               : NULL;
}

static bool parse_parameters(qmi_jsource *s, qmi_jnode *macro)
{
    qmi_jnode **last = &macro->kid[0];
    bool defaults = false;
    if (!qmi_jexpect(s, '('))
        return false;
    while (!qmi_jskip(s, ')')) {
        if (macro->kid[0] != NULL && !qmi_jexpect(s, ','))
            return false;
        qmi_jnode *parameter = make(s, QMI_JN_KEYWORD);
        const qmi_jstring *name = qmi_jexpect_name(s);
        if (parameter == NULL || name == NULL)
            return false;
        parameter->name = name;
        if (qmi_jskip(s, '=')) {
            defaults = true;
            parameter->kid[0] = qmi_jparse_expression(s, true);
            if (parameter->kid[0] == NULL)
                return false;
        } else if (defaults)
            return qmi_jrefuse(s, QMOE_E_FORMAT, qmi_jpeek(s)->line,
                "a parameter without a default follows one with it");
        *last = parameter;
        last = &parameter->next;
    }
    return true;
}

static qmi_jnode *parse_macro(qmi_jsource *s)
{
    qmi_jnode *node = make(s, QMI_JN_MACRO);
    const qmi_jstring *name = qmi_jexpect_name(s);
    if (node == NULL || name == NULL)
        return NULL;
    node->name = name;
    s->n_macros++;
    bool ok =
        parse_parameters(s, node) && parse_apart(s, "endmacro", &node->kid[1]);
    s->n_macros--;
    return ok ? node : NULL;
}

static qmi_jnode *parse_jump(qmi_jsource *s, qmi_jnode_kind kind)
{
    if (s->n_loops == 0) {
        qmi_jrefuse(s, QMOE_E_FORMAT, qmi_jpeek(s)->line,
            "a break or continue stands outside of a loop");
        return NULL;
    }
    qmi_jnode *node = make(s, kind);
    return node != NULL && expect_end(s) ? node : NULL;
}

/* After "{%". */
static qmi_jnode *parse_statement(qmi_jsource *s)
{
    uint32_t line = qmi_jpeek(s)->line;
    if (qmi_jskip_name(s, "if"))
        return parse_if(s);
    if (qmi_jskip_name(s, "for"))
        return parse_for(s);
    if (qmi_jskip_name(s, "set"))
        return parse_set(s);
    if (qmi_jskip_name(s, "macro"))
        return parse_macro(s);
    if (qmi_jskip_name(s, "with"))
        return parse_with(s);
    if (qmi_jskip_name(s, "filter"))
        return parse_filter_block(s);
    if (qmi_jskip_name(s, "generation"))
        return parse_generation(s);
    if (qmi_jskip_name(s, "break"))
        return parse_jump(s, QMI_JN_BREAK);
    if (qmi_jskip_name(s, "continue"))
        return parse_jump(s, QMI_JN_CONTINUE);
    const qmi_jstring *name = qmi_jexpect_name(s);
    if (name != NULL)
        qmi_jrefuse(s, QMOE_E_UNSUPPORTED, line,
            "the statement '%.*s' is not supported here", QMI_J_SHOWN(name));
    return NULL;
}

static qmi_jnode *parse_print(qmi_jsource *s)
{
    qmi_jnode *node = make(s, QMI_JN_PRINT);
    if (node == NULL || (node->kid[0] = qmi_jparse_tuple(s, true)) == NULL)
        return NULL;
    if (qmi_jpeek(s)->kind != QMI_J_PRINT_END) {
        qmi_junexpected(s);
        return NULL;
    }
    s->at++;
    return node;
}

static bool at_one_of(const qmi_jsource *s, const char *const *names)
{
    for (; names != NULL && *names != NULL; names++)
        if (qmi_jnext_is_name(s, *names))
            return true;
    return false;
}

/* Statements up to a tag with one of the names (NULL: up to the end of the
 * template), whose "{%" is stepped over. */
static qmi_jnode *parse_body(qmi_jsource *s, const char *const *ends, bool *ok)
{
    qmi_jnode *first = NULL, **last = &first;
    *ok = qmi_jdeeper(s);
    while (*ok) {
        const qmi_jtoken *token = qmi_jpeek(s);
        if (token->kind == QMI_J_END) {
            if (ends != NULL)
                *ok = qmi_jrefuse(
                    s, QMOE_E_FORMAT, token->line, "'%s' is missing", ends[0]);
            break;
        }
        s->at++;
        if (token->kind == QMI_J_BLOCK_BEGIN && at_one_of(s, ends))
            break;
        if (token->kind == QMI_J_DATA) {
            *last = make(s, QMI_JN_TEXT);
            if (*last != NULL)
                (*last)->value = token->value;
        } else
            *last = token->kind == QMI_J_PRINT_BEGIN ? parse_print(s)
                                                     : parse_statement(s);
        *ok = *last != NULL;
        if (*ok)
            last = &(*last)->next;
    }
    s->depth--;
    return first;
}

bool qmi_jparse(qmi_jsource *source, qmi_jnode **out)
{
    bool ok = false;
    *out = parse_body(source, NULL, &ok);
    return ok;
}
