/* SPDX-License-Identifier: Apache-2.0
 * In: tokens.  Out: the trees of expressions, with jinja2's precedences.  The
 * parser descends as deep as brackets nest, which is bounded; chains of
 * operators are loops. */
#include <string.h>

#include "jinja_functions.h"
#include "jinja_tree.h"

/* A node of the line of the next token, with up to two children. */
static qmi_jnode *make(
    qmi_jsource *s, qmi_jnode_kind kind, qmi_jnode *a, qmi_jnode *b)
{
    qmi_jnode *node = qmi_jnew_node(s, kind, qmi_jpeek(s)->line);
    if (node != NULL) {
        node->kid[0] = a;
        node->kid[1] = b;
    }
    return node;
}

/* ---- primary expressions ---- */

static qmi_jnode *constant(qmi_jsource *s, qmi_jvalue value)
{
    qmi_jnode *node = make(s, QMI_JN_CONSTANT, NULL, NULL);
    if (node != NULL)
        node->value = value;
    return node;
}

/* Strings side by side are one. */
static qmi_jnode *parse_constant(qmi_jsource *s)
{
    qmi_jvalue value = s->tokens[s->at++].value;
    if (value.kind != QMI_J_STRING)
        return constant(s, value);
    size_t begin = s->at - 1, n = value.as.string->n_bytes;
    for (; qmi_jpeek(s)->kind == QMI_J_CONSTANT &&
           qmi_jpeek(s)->value.kind == QMI_J_STRING;
         s->at++)
        n += qmi_jpeek(s)->value.as.string->n_bytes;
    if (s->at == begin + 1)
        return constant(s, value);
    qmi_jstring *whole =
        qmi_jarena_take(s->arena, 1, sizeof *whole, s->file, s->err);
    char *bytes = qmi_jarena_take(s->arena, n, 1, s->file, s->err);
    if (whole == NULL || bytes == NULL)
        return NULL;
    n = 0;
    for (size_t i = begin; i < s->at; i++) {
        const qmi_jstring *part = s->tokens[i].value.as.string;
        if (part->n_bytes > 0)
            memcpy(bytes + n, part->bytes, part->n_bytes);
        n += part->n_bytes;
    }
    *whole = (qmi_jstring){.bytes = bytes, .n_bytes = n};
    return constant(s, qmi_jof_string(whole));
}

static qmi_jnode *parse_name(qmi_jsource *s)
{
    const qmi_jstring *name = qmi_jpeek(s)->value.as.string;
    qmi_jnode *node = NULL;
    bool yes = qmi_jname_is(name, "true") || qmi_jname_is(name, "True");
    bool no = qmi_jname_is(name, "false") || qmi_jname_is(name, "False");
    if (yes || no)
        node = constant(s, qmi_jbool(yes));
    else if (qmi_jname_is(name, "none") || qmi_jname_is(name, "None"))
        node = constant(s, qmi_jnone());
    else if (s->n_macros > 0 &&
             (qmi_jname_is(name, "varargs") || qmi_jname_is(name, "kwargs") ||
                 qmi_jname_is(name, "caller")))
        qmi_jrefuse(s, QMOE_E_UNSUPPORTED, qmi_jpeek(s)->line,
            "'%.*s' in a macro is not supported", QMI_J_SHOWN(name));
    else
        node = make(s, QMI_JN_NAME, NULL, NULL);
    if (node != NULL)
        node->name = name;
    s->at++;
    return node;
}

static qmi_jnode *parse_list(qmi_jsource *s)
{
    qmi_jnode *list = make(s, QMI_JN_LIST, NULL, NULL);
    qmi_jnode **last = list == NULL ? NULL : &list->kid[0];
    s->at++;
    while (list != NULL && !qmi_jskip(s, ']')) {
        if (list->kid[0] != NULL && !qmi_jexpect(s, ','))
            return NULL;
        if (qmi_jskip(s, ']'))
            break;
        *last = qmi_jparse_expression(s, true);
        if (*last == NULL)
            return NULL;
        last = &(*last)->next;
    }
    return list;
}

static qmi_jnode *parse_dict(qmi_jsource *s)
{
    qmi_jnode *dict = make(s, QMI_JN_DICT, NULL, NULL);
    qmi_jnode **last = dict == NULL ? NULL : &dict->kid[0];
    s->at++;
    while (dict != NULL && !qmi_jskip(s, '}')) {
        if (dict->kid[0] != NULL && !qmi_jexpect(s, ','))
            return NULL;
        if (qmi_jskip(s, '}'))
            break;
        qmi_jnode *key = qmi_jparse_expression(s, true);
        if (key == NULL || !qmi_jexpect(s, ':'))
            return NULL;
        qmi_jnode *value = qmi_jparse_expression(s, true);
        if (value == NULL)
            return NULL;
        *last = make(s, QMI_JN_PAIR, key, value);
        if (*last == NULL)
            return NULL;
        last = &(*last)->next;
    }
    return dict;
}

static qmi_jnode *parse_primary(qmi_jsource *s)
{
    const qmi_jtoken *token = qmi_jpeek(s);
    if (token->kind == QMI_J_NAME)
        return parse_name(s);
    if (token->kind == QMI_J_CONSTANT)
        return parse_constant(s);
    if (qmi_jnext_is(s, '['))
        return parse_list(s);
    if (qmi_jnext_is(s, '{'))
        return parse_dict(s);
    if (!qmi_jskip(s, '(')) {
        qmi_junexpected(s);
        return NULL;
    }
    if (qmi_jskip(s, ')'))
        return make(s, QMI_JN_TUPLE, NULL, NULL);
    qmi_jnode *inside = qmi_jparse_tuple(s, true);
    return inside != NULL && qmi_jexpect(s, ')') ? inside : NULL;
}

/* ---- calls, attributes, items ---- */

/* After "(", up to ")".  *ok: whether it worked; no arguments are NULL. */
static qmi_jnode *parse_arguments(qmi_jsource *s, bool *ok)
{
    qmi_jnode *first = NULL, **last = &first;
    bool named = false;
    *ok = false;
    while (!qmi_jskip(s, ')')) {
        if (first != NULL && !qmi_jexpect(s, ','))
            return NULL;
        if (first != NULL && qmi_jskip(s, ')'))
            break;
        if (qmi_jnext_is(s, '*') || qmi_jnext_is(s, QMI_J_TWO('*', '*'))) {
            qmi_jrefuse(s, QMOE_E_UNSUPPORTED, qmi_jpeek(s)->line,
                "calls with * or ** are not supported");
            return NULL;
        }
        const qmi_jtoken *token = qmi_jpeek(s);
        bool keyword = token->kind == QMI_J_NAME &&
                       token[1].kind == QMI_J_OPERATOR && token[1].op == '=';
        s->at += keyword ? 2 : 0;
        if (named && !keyword) {
            qmi_junexpected(s);
            return NULL;
        }
        named = keyword;
        qmi_jnode *value = qmi_jparse_expression(s, true);
        *last = value;
        if (value != NULL && keyword) {
            *last = make(s, QMI_JN_KEYWORD, value, NULL);
            if (*last != NULL)
                (*last)->name = token->value.as.string;
        }
        if (*last == NULL)
            return NULL;
        last = &(*last)->next;
    }
    *ok = true;
    return first;
}

static qmi_jnode *parse_call(qmi_jsource *s, qmi_jnode *callee)
{
    bool ok = false;
    s->at++;
    qmi_jnode *arguments = parse_arguments(s, &ok);
    return ok ? make(s, QMI_JN_CALL, callee, arguments) : NULL;
}

static qmi_jnode *parse_attribute(qmi_jsource *s, qmi_jnode *object)
{
    s->at++;
    const qmi_jtoken *token = qmi_jpeek(s);
    if (token->kind == QMI_J_CONSTANT && token->value.kind == QMI_J_INT) {
        qmi_jnode *key = parse_constant(s);
        return key == NULL ? NULL : make(s, QMI_JN_ITEM, object, key);
    }
    const qmi_jstring *name = qmi_jexpect_name(s);
    qmi_jnode *node =
        name == NULL ? NULL : make(s, QMI_JN_ATTRIBUTE, object, NULL);
    if (node != NULL)
        node->name = name;
    return node;
}

/* After "[": up to three bounds between colons; a single one is a key. */
static qmi_jnode *parse_item(qmi_jsource *s, qmi_jnode *object)
{
    qmi_jnode *bounds[3] = {NULL, NULL, NULL};
    int n = 0;
    s->at++;
    for (;; n++) {
        bool nothing = qmi_jnext_is(s, ':') || (n > 0 && qmi_jnext_is(s, ']'));
        if (!nothing && (bounds[n] = qmi_jparse_expression(s, true)) == NULL)
            return NULL;
        if (n == 2 || !qmi_jskip(s, ':'))
            break;
    }
    if (qmi_jnext_is(s, ',')) {
        qmi_jrefuse(s, QMOE_E_UNSUPPORTED, qmi_jpeek(s)->line,
            "tuples as keys are not supported");
        return NULL;
    }
    if (!qmi_jexpect(s, ']'))
        return NULL;
    if (n == 0)
        return make(s, QMI_JN_ITEM, object, bounds[0]);
    qmi_jnode *slice = make(s, QMI_JN_SLICE, object, bounds[0]);
    if (slice != NULL) {
        slice->kid[2] = bounds[1];
        slice->kid[3] = bounds[2];
    }
    return slice;
}

static qmi_jnode *parse_postfix(qmi_jsource *s, qmi_jnode *node)
{
    while (node != NULL) {
        if (qmi_jnext_is(s, '.'))
            node = parse_attribute(s, node);
        else if (qmi_jnext_is(s, '['))
            node = parse_item(s, node);
        else if (qmi_jnext_is(s, '('))
            node = parse_call(s, node);
        else
            break;
    }
    return node;
}

/* ---- filters and tests ---- */

/* One that is not known is refused when a rendering comes to it: templates
 * have branches that most conversations do not take. */
static qmi_jnode *applied(qmi_jsource *s, qmi_jnode_kind kind, qmi_jnode *value,
    const qmi_jstring *name)
{
    qmi_jnode *node = make(s, kind, value, NULL);
    if (node == NULL)
        return NULL;
    node->name = name;
    node->function =
        kind == QMI_JN_TEST ? qmi_jfind_test(name) : qmi_jfind_filter(name);
    while (qmi_jskip(s, '.')) {
        node->function = NULL;
        if (qmi_jexpect_name(s) == NULL)
            return NULL;
    }
    return node;
}

static qmi_jnode *parse_filter(qmi_jsource *s, qmi_jnode *value)
{
    bool ok = true;
    const qmi_jstring *name = qmi_jexpect_name(s);
    qmi_jnode *node =
        name == NULL ? NULL : applied(s, QMI_JN_FILTER, value, name);
    if (node != NULL && qmi_jskip(s, '('))
        node->kid[1] = parse_arguments(s, &ok);
    return ok ? node : NULL;
}

/* After "is". */
static qmi_jnode *parse_test(qmi_jsource *s, qmi_jnode *value)
{
    bool negated = qmi_jskip_name(s, "not"), ok = true;
    const qmi_jstring *name = qmi_jexpect_name(s);
    qmi_jnode *node =
        name == NULL ? NULL : applied(s, QMI_JN_TEST, value, name);
    if (node == NULL)
        return NULL;
    const qmi_jtoken *token = qmi_jpeek(s);
    bool argument =
        token->kind == QMI_J_CONSTANT || qmi_jnext_is(s, '[') ||
        qmi_jnext_is(s, '{') ||
        (token->kind == QMI_J_NAME && !qmi_jnext_is_name(s, "else") &&
            !qmi_jnext_is_name(s, "or") && !qmi_jnext_is_name(s, "and"));
    if (qmi_jskip(s, '('))
        node->kid[1] = parse_arguments(s, &ok);
    else if (qmi_jnext_is_name(s, "is"))
        ok = qmi_junexpected(s);
    else if (argument) {
        node->kid[1] = parse_postfix(s, parse_primary(s));
        ok = node->kid[1] != NULL;
    }
    if (!ok)
        return NULL;
    return negated ? make(s, QMI_JN_NOT, node, NULL) : node;
}

qmi_jnode *qmi_jparse_filters(qmi_jsource *s, qmi_jnode *value, bool begun)
{
    qmi_jnode *node = begun ? parse_filter(s, value) : value;
    while (node != NULL && qmi_jskip(s, '|'))
        node = parse_filter(s, node);
    return node;
}

/* Filters, tests and calls in any order. */
static qmi_jnode *parse_applied(qmi_jsource *s, qmi_jnode *node)
{
    while (node != NULL) {
        if (qmi_jnext_is(s, '|'))
            node = qmi_jparse_filters(s, node, false);
        else if (qmi_jskip_name(s, "is"))
            node = parse_test(s, node);
        else if (qmi_jnext_is(s, '('))
            node = parse_call(s, node);
        else
            break;
    }
    return node;
}

/* ---- operators ---- */

static qmi_jnode *parse_unary(qmi_jsource *s, bool with_filters)
{
    qmi_jnode *node = NULL;
    if (!qmi_jdeeper(s))
        return NULL;
    bool minus = qmi_jskip(s, '-');
    if (minus || qmi_jskip(s, '+')) {
        node = parse_unary(s, false);
        if (node != NULL)
            node =
                make(s, minus ? QMI_JN_NEGATIVE : QMI_JN_POSITIVE, node, NULL);
    } else
        node = parse_primary(s);
    node = parse_postfix(s, node);
    if (with_filters)
        node = parse_applied(s, node);
    s->depth--;
    return node;
}

/* The levels of binary operators, from those that bind tightest. */
static const uint16_t levels[][5] = {{QMI_J_TWO('*', '*')},
    {'*', '/', QMI_J_TWO('/', '/'), '%'}, {'~'}, {'+', '-'}};
enum { LEVEL_CONCAT = 2, LEVEL_SUM = 3 };

static uint16_t take_operator(qmi_jsource *s, int level)
{
    for (int i = 0; level >= 0 && levels[level][i] != 0; i++)
        if (qmi_jskip(s, levels[level][i]))
            return levels[level][i];
    return 0;
}

static qmi_jnode *parse_binary(qmi_jsource *s, int level);

/* a ~ b ~ c is one node. */
static qmi_jnode *parse_concat(qmi_jsource *s)
{
    qmi_jnode *first = parse_binary(s, LEVEL_CONCAT - 1);
    if (first == NULL || !qmi_jnext_is(s, '~'))
        return first;
    qmi_jnode *node = make(s, QMI_JN_CONCAT, first, NULL);
    for (qmi_jnode *last = first; node != NULL && qmi_jskip(s, '~');
         last = last->next) {
        last->next = parse_binary(s, LEVEL_CONCAT - 1);
        if (last->next == NULL)
            return NULL;
    }
    return node;
}

static qmi_jnode *parse_binary(qmi_jsource *s, int level)
{
    if (level < 0)
        return parse_unary(s, true);
    if (level == LEVEL_CONCAT)
        return parse_concat(s);
    uint16_t op = 0;
    qmi_jnode *node = parse_binary(s, level - 1);
    while (node != NULL && (op = take_operator(s, level)) != 0) {
        qmi_jnode *right = parse_binary(s, level - 1);
        if (right == NULL)
            return NULL;
        node = make(s, QMI_JN_BINARY, node, right);
        if (node != NULL)
            node->op = op;
    }
    return node;
}

static uint16_t take_comparison(qmi_jsource *s)
{
    static const uint16_t all[] = {QMI_J_TWO('=', '='), QMI_J_TWO('!', '='),
        QMI_J_TWO('<', '='), QMI_J_TWO('>', '='), '<', '>'};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (qmi_jskip(s, all[i]))
            return all[i];
    if (qmi_jskip_name(s, "in"))
        return 'i';
    const qmi_jtoken *token = qmi_jpeek(s);
    if (qmi_jnext_is_name(s, "not") && token[1].kind == QMI_J_NAME &&
        qmi_jname_is(token[1].value.as.string, "in")) {
        s->at += 2;
        return 'n';
    }
    return 0;
}

static qmi_jnode *parse_compare(qmi_jsource *s)
{
    uint16_t op = 0;
    qmi_jnode *first = parse_binary(s, LEVEL_SUM), *rest = NULL, **last = &rest;
    while (first != NULL && (op = take_comparison(s)) != 0) {
        qmi_jnode *value = parse_binary(s, LEVEL_SUM);
        *last = value == NULL ? NULL : make(s, QMI_JN_OPERAND, value, NULL);
        if (*last == NULL)
            return NULL;
        (*last)->op = op;
        last = &(*last)->next;
    }
    return first == NULL || rest == NULL ? first
                                         : make(s, QMI_JN_COMPARE, first, rest);
}

static qmi_jnode *parse_not(qmi_jsource *s)
{
    bool odd = false, any = false;
    for (; qmi_jskip_name(s, "not"); any = true)
        odd = !odd;
    qmi_jnode *node = parse_compare(s);
    /* Two give the truth of the value. */
    if (node != NULL && any)
        node = make(s, QMI_JN_NOT, node, NULL);
    if (node != NULL && any && !odd)
        node = make(s, QMI_JN_NOT, node, NULL);
    return node;
}

static qmi_jnode *parse_and(qmi_jsource *s)
{
    qmi_jnode *node = parse_not(s);
    while (node != NULL && qmi_jskip_name(s, "and")) {
        qmi_jnode *right = parse_not(s);
        node = right == NULL ? NULL : make(s, QMI_JN_AND, node, right);
    }
    return node;
}

static qmi_jnode *parse_or(qmi_jsource *s)
{
    qmi_jnode *node = parse_and(s);
    while (node != NULL && qmi_jskip_name(s, "or")) {
        qmi_jnode *right = parse_and(s);
        node = right == NULL ? NULL : make(s, QMI_JN_OR, node, right);
    }
    return node;
}

qmi_jnode *qmi_jparse_expression(qmi_jsource *s, bool with_if)
{
    if (!qmi_jdeeper(s))
        return NULL;
    qmi_jnode *node = parse_or(s);
    while (node != NULL && with_if && qmi_jskip_name(s, "if")) {
        qmi_jnode *test = parse_or(s), *no = NULL;
        if (test == NULL)
            return NULL;
        if (qmi_jskip_name(s, "else") &&
            (no = qmi_jparse_expression(s, true)) == NULL)
            return NULL;
        node = make(s, QMI_JN_IF_ELSE, test, node);
        if (node != NULL)
            node->kid[2] = no;
    }
    s->depth--;
    return node;
}

qmi_jnode *qmi_jparse_tuple(qmi_jsource *s, bool with_if)
{
    qmi_jnode *first = qmi_jparse_expression(s, with_if);
    if (first == NULL || !qmi_jnext_is(s, ','))
        return first;
    qmi_jnode *tuple = make(s, QMI_JN_TUPLE, first, NULL);
    for (qmi_jnode *last = first; tuple != NULL && qmi_jskip(s, ',');
         last = last->next) {
        const qmi_jtoken *token = qmi_jpeek(s);
        /* A comma may be the last. */
        if (token->kind == QMI_J_PRINT_END || token->kind == QMI_J_BLOCK_END ||
            qmi_jnext_is(s, ')'))
            break;
        last->next = qmi_jparse_expression(s, with_if);
        if (last->next == NULL)
            return NULL;
    }
    return tuple;
}
