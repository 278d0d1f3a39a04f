/* SPDX-License-Identifier: Apache-2.0
 * A template as a tree, and how it is made: characters to tokens
 * (jinja_lexer.c), tokens to nodes (jinja_parse_expression.c, jinja_parse.c). */
#ifndef QMI_JINJA_TREE_H
#define QMI_JINJA_TREE_H

#include "jinja_arena.h"
#include "jinja_value.h"

/* Operators are their characters: '+', '*' | '*' << 8, ... */
#define QMI_J_TWO(a, b) ((uint16_t)((a) | (b) << 8))

typedef enum qmi_jtoken_kind {
    QMI_J_DATA, /* text between tags */
    QMI_J_BLOCK_BEGIN,
    QMI_J_BLOCK_END,
    QMI_J_PRINT_BEGIN,
    QMI_J_PRINT_END,
    QMI_J_NAME,
    QMI_J_CONSTANT, /* a number or a string */
    QMI_J_OPERATOR,
    QMI_J_END
} qmi_jtoken_kind;

typedef struct qmi_jtoken {
    uint8_t kind; /* qmi_jtoken_kind */
    uint16_t op;
    uint32_t line;
    qmi_jvalue value; /* a string for DATA and NAME */
} qmi_jtoken;

typedef struct qmi_jsource {
    const char *file;
    qmi_error *err;
    qmi_jarena *arena;
    const char *text; /* line ends are \n; without the last one */
    size_t n_bytes;
    qmi_jtoken *tokens; /* the last one is QMI_J_END */
    size_t n_tokens, capacity;
    size_t at;      /* the next token of the parser */
    size_t n_nodes; /* made so far */
    int depth;      /* of the parser */
    int n_loops;    /* around the statement: for break and continue */
    int n_macros;   /* likewise */
} qmi_jsource;

/* "file:line: ..."; false. */
bool qmi_jrefuse(qmi_jsource *source, qmoe_status status, uint32_t line,
    const char *format, ...) QMI_PRINTF(4, 5);
/* Fills `tokens`. */
bool qmi_jlex(qmi_jsource *source, const char *text, size_t n_bytes);

typedef enum qmi_jnode_kind {
    /* Expressions; `kid` in brackets. */
    QMI_JN_CONSTANT, /* value */
    QMI_JN_NAME,     /* name */
    QMI_JN_LIST,     /* [items] */
    QMI_JN_TUPLE,    /* [items] */
    QMI_JN_DICT,     /* [items], each PAIR [key, value] */
    QMI_JN_PAIR,
    QMI_JN_ATTRIBUTE, /* [object], name */
    QMI_JN_ITEM,      /* [object, key] */
    QMI_JN_SLICE,     /* [object, start, stop, step], NULL where absent */
    QMI_JN_CALL,      /* [callee, arguments] */
    QMI_JN_FILTER,    /* [value, arguments], name, function or NULL */
    QMI_JN_TEST,      /* [value, arguments], name, function or NULL */
    QMI_JN_KEYWORD,   /* an argument: [value], name */
    QMI_JN_NOT,
    QMI_JN_NEGATIVE,
    QMI_JN_POSITIVE,
    QMI_JN_BINARY,   /* [left, right], op */
    QMI_JN_CONCAT,   /* [items] */
    QMI_JN_COMPARE,  /* [first, rest], rest: OPERAND [value], op */
    QMI_JN_OPERAND,  /* op 'i': in, 'n': not in */
    QMI_JN_AND,      /* [left, right] */
    QMI_JN_OR,       /* [left, right] */
    QMI_JN_IF_ELSE,  /* [test, yes, no or NULL] */
    QMI_JN_CAPTURED, /* the text of the block being filtered */
    /* Statements; bodies are lists. */
    QMI_JN_TEXT,  /* value */
    QMI_JN_PRINT, /* [value] */
    QMI_JN_IF,    /* [branches], each BRANCH [test or NULL, body] */
    QMI_JN_BRANCH,
    QMI_JN_FOR,          /* [target, iterable, body, else] */
    QMI_JN_WHERE,        /* the iterable of a loop: [iterable, test] */
    QMI_JN_SET,          /* [target, value] */
    QMI_JN_SET_BLOCK,    /* [target, filters or NULL, body] */
    QMI_JN_FILTER_BLOCK, /* [filters, body] */
    QMI_JN_WITH,         /* [SETs, body] */
    QMI_JN_MACRO,        /* [parameters, body], name; KEYWORD [default] */
    QMI_JN_BREAK,
    QMI_JN_CONTINUE
} qmi_jnode_kind;

typedef struct qmi_jnode {
    uint8_t kind; /* qmi_jnode_kind */
    uint16_t op;
    uint32_t line;
    qmi_jvalue value;
    const qmi_jstring *name;
    const struct qmi_jfunction *function;
    struct qmi_jnode *kid[4];
    struct qmi_jnode *next; /* of the list that this one is in */
} qmi_jnode;

/* NULL: failed. */
qmi_jnode *qmi_jnew_node(
    qmi_jsource *source, qmi_jnode_kind kind, uint32_t line);
/* Around every recursion of the parser; false beyond the limit. */
bool qmi_jdeeper(qmi_jsource *source);

/* What the next token is, without and with stepping over it. */
const qmi_jtoken *qmi_jpeek(const qmi_jsource *source);
bool qmi_jnext_is(const qmi_jsource *source, uint16_t op);
bool qmi_jnext_is_name(const qmi_jsource *source, const char *name);
bool qmi_jskip(qmi_jsource *source, uint16_t op);
bool qmi_jskip_name(qmi_jsource *source, const char *name);
/* Refuses what is there. */
bool qmi_jexpect(qmi_jsource *source, uint16_t op);
const qmi_jstring *qmi_jexpect_name(qmi_jsource *source);
bool qmi_junexpected(qmi_jsource *source);

/* All NULL when refused.  with_if: `a if b else c` may come; a tuple needs no
 * brackets. */
qmi_jnode *qmi_jparse_expression(qmi_jsource *source, bool with_if);
qmi_jnode *qmi_jparse_tuple(qmi_jsource *source, bool with_if);
/* The filters "a | b(1)" that follow `value`; begun: the first without its
 * bar. */
qmi_jnode *qmi_jparse_filters(
    qmi_jsource *source, qmi_jnode *value, bool begun);
/* What may be assigned to; attributes: ns.name, too. */
qmi_jnode *qmi_jparse_target(qmi_jsource *source, bool attributes);

/* A whole template.  *out is the list of statements. */
bool qmi_jparse(qmi_jsource *source, qmi_jnode **out);

#endif
