/* SPDX-License-Identifier: Apache-2.0
 * In: a source with its tokens.  Out: the next token, new nodes of the tree.
 * The number of nodes and the depth of the parser are bounded. */
#include "jinja_tree.h"

enum { MAX_NODES = 100 * 1000, MAX_NESTING = 100 };

qmi_jnode *qmi_jnew_node(
    qmi_jsource *source, qmi_jnode_kind kind, uint32_t line)
{
    if (source->n_nodes == MAX_NODES) {
        qmi_jrefuse(source, QMOE_E_FORMAT, line,
            "the template has more than %d nodes", MAX_NODES);
        return NULL;
    }
    qmi_jnode *node = qmi_jarena_take(
        source->arena, 1, sizeof *node, source->file, source->err);
    if (node == NULL)
        return NULL;
    source->n_nodes++;
    node->kind = (uint8_t)kind;
    node->line = line;
    return node;
}

bool qmi_jdeeper(qmi_jsource *source)
{
    if (source->depth == MAX_NESTING)
        return qmi_jrefuse(source, QMOE_E_FORMAT, qmi_jpeek(source)->line,
            "the template nests more than %d levels deep", MAX_NESTING);
    source->depth++;
    return true;
}

const qmi_jtoken *qmi_jpeek(const qmi_jsource *source)
{
    return &source->tokens[source->at];
}

bool qmi_jnext_is(const qmi_jsource *source, uint16_t op)
{
    const qmi_jtoken *token = qmi_jpeek(source);
    return token->kind == QMI_J_OPERATOR && token->op == op;
}

bool qmi_jnext_is_name(const qmi_jsource *source, const char *name)
{
    const qmi_jtoken *token = qmi_jpeek(source);
    return token->kind == QMI_J_NAME &&
           qmi_jname_is(token->value.as.string, name);
}

bool qmi_jskip(qmi_jsource *source, uint16_t op)
{
    bool is = qmi_jnext_is(source, op);
    source->at += is;
    return is;
}

bool qmi_jskip_name(qmi_jsource *source, const char *name)
{
    bool is = qmi_jnext_is_name(source, name);
    source->at += is;
    return is;
}

bool qmi_junexpected(qmi_jsource *source)
{
    static const char *const names[] = {[QMI_J_DATA] = "text",
        [QMI_J_BLOCK_BEGIN] = "'{%'",
        [QMI_J_BLOCK_END] = "'%}'",
        [QMI_J_PRINT_BEGIN] = "'{{'",
        [QMI_J_PRINT_END] = "'}}'",
        [QMI_J_CONSTANT] = "a constant",
        [QMI_J_END] = "the end of the template"};
    const qmi_jtoken *token = qmi_jpeek(source);
    if (token->kind == QMI_J_NAME)
        return qmi_jrefuse(source, QMOE_E_FORMAT, token->line,
            "unexpected '%.*s'", QMI_J_SHOWN(token->value.as.string));
    if (token->kind == QMI_J_OPERATOR)
        return qmi_jrefuse(source, QMOE_E_FORMAT, token->line,
            "unexpected '%c%.1s'", (char)(token->op & 0xff),
            (const char[]){(char)(token->op >> 8), '\0'});
    return qmi_jrefuse(source, QMOE_E_FORMAT, token->line, "unexpected %s",
        names[token->kind]);
}

bool qmi_jexpect(qmi_jsource *source, uint16_t op)
{
    return qmi_jskip(source, op) || qmi_junexpected(source);
}

const qmi_jstring *qmi_jexpect_name(qmi_jsource *source)
{
    const qmi_jtoken *token = qmi_jpeek(source);
    if (token->kind != QMI_J_NAME) {
        qmi_junexpected(source);
        return NULL;
    }
    source->at++;
    return token->value.as.string;
}
