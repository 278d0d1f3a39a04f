/* SPDX-License-Identifier: Apache-2.0
 * Values of templates, after Python's.  Strings, lists and dicts never change
 * once made (transformers' renderer forbids templates to change them, too);
 * namespaces do.  All live in the arena of a run or of a template. */
#ifndef QMI_JINJA_VALUE_H
#define QMI_JINJA_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum qmi_jkind {
    QMI_J_UNDEFINED,
    QMI_J_ABSENT, /* an argument that was not given; no value */
    QMI_J_NONE,
    QMI_J_BOOL,
    QMI_J_INT,
    QMI_J_FLOAT,
    QMI_J_STRING,
    QMI_J_LIST,
    QMI_J_DICT,
    QMI_J_NAMESPACE,
    QMI_J_LOOP,
    QMI_J_MACRO,
    QMI_J_FUNCTION,
    QMI_J_METHOD
} qmi_jkind;

/* For "%.*s" of names, which may be as long as a template. */
#define QMI_J_SHOWN(s) (s)->n_bytes > 60 ? 60 : (int)(s)->n_bytes, (s)->bytes

/* UTF-8.  mask: one byte for each of `bytes`, 1 where it is user data; NULL:
 * none is.  is_markup: made by the filter `safe`; added to other strings, it has
 * those escaped. */
typedef struct qmi_jstring {
    const char *bytes;
    const uint8_t *mask;
    size_t n_bytes;
    bool is_markup;
} qmi_jstring;

typedef struct qmi_jvalue {
    qmi_jkind kind;
    union {
        const qmi_jstring *name; /* of an undefined value; may be NULL */
        bool boolean;
        int64_t integer;
        double real;
        const qmi_jstring *string;
        struct qmi_jlist *list;
        struct qmi_jdict *dict; /* of a namespace, too */
        struct qmi_jloop *loop;
        const struct qmi_jmacro *macro;
        const struct qmi_jfunction *function;
        const struct qmi_jmethod *method;
    } as;
} qmi_jvalue;

/* What Python has several types for. */
typedef enum qmi_jflavor {
    QMI_J_PLAIN,
    QMI_J_TUPLE,
    QMI_J_RANGE,
    QMI_J_VIEW,    /* dict.keys() and the like: not indexed */
    QMI_J_ITERATOR /* what filters make: can be walked once */
} qmi_jflavor;

typedef struct qmi_jlist {
    qmi_jflavor flavor;
    bool is_spent;  /* an iterator that was walked */
    bool is_broken; /* an iterator over what cannot be walked */
    size_t n;
    qmi_jvalue *items;
} qmi_jlist;

typedef struct qmi_jentry {
    qmi_jvalue key, value;
} qmi_jentry;

/* In order of insertion. */
typedef struct qmi_jdict {
    size_t n, capacity;
    qmi_jentry *entries;
} qmi_jdict;

/* The variable `loop`. */
typedef struct qmi_jloop {
    const qmi_jlist *list;
    size_t index; /* from 0 */
} qmi_jloop;

typedef struct qmi_jmacro {
    const struct qmi_jnode *node;
    struct qmi_jscope *scope; /* where it was defined */
} qmi_jmacro;

typedef struct qmi_jmethod {
    qmi_jvalue self;
    const struct qmi_jfunction *function;
} qmi_jmethod;

static inline qmi_jvalue qmi_jundefined(const qmi_jstring *name)
{
    return (qmi_jvalue){QMI_J_UNDEFINED, {.name = name}};
}

static inline qmi_jvalue qmi_jnone(void)
{
    return (qmi_jvalue){QMI_J_NONE, {.boolean = false}};
}

static inline qmi_jvalue qmi_jbool(bool value)
{
    return (qmi_jvalue){QMI_J_BOOL, {.boolean = value}};
}

static inline qmi_jvalue qmi_jint(int64_t value)
{
    return (qmi_jvalue){QMI_J_INT, {.integer = value}};
}

static inline qmi_jvalue qmi_jfloat(double value)
{
    return (qmi_jvalue){QMI_J_FLOAT, {.real = value}};
}

static inline qmi_jvalue qmi_jof_string(const qmi_jstring *string)
{
    return (qmi_jvalue){QMI_J_STRING, {.string = string}};
}

static inline qmi_jvalue qmi_jof_list(qmi_jlist *list)
{
    return (qmi_jvalue){QMI_J_LIST, {.list = list}};
}

static inline qmi_jvalue qmi_jof_dict(qmi_jdict *dict)
{
    return (qmi_jvalue){QMI_J_DICT, {.dict = dict}};
}

/* A list with one of the flavors in the set `flavors` (bits). */
static inline bool qmi_jis_list(qmi_jvalue value, unsigned flavors)
{
    return value.kind == QMI_J_LIST &&
           (flavors >> value.as.list->flavor & 1u) != 0;
}

/* int or bool, which is an int in Python. */
static inline bool qmi_jis_integer(qmi_jvalue value)
{
    return value.kind == QMI_J_INT || value.kind == QMI_J_BOOL;
}

static inline bool qmi_jis_number(qmi_jvalue value)
{
    return qmi_jis_integer(value) || value.kind == QMI_J_FLOAT;
}

static inline int64_t qmi_jinteger(qmi_jvalue value)
{
    return value.kind == QMI_J_BOOL ? value.as.boolean : value.as.integer;
}

static inline double qmi_jreal(qmi_jvalue value)
{
    return value.kind == QMI_J_FLOAT ? value.as.real
                                     : (double)qmi_jinteger(value);
}

/* Python's bool(). */
bool qmi_jtruth(qmi_jvalue value);
/* Python's name of the type, for errors. */
const char *qmi_jtype(qmi_jvalue value);

bool qmi_jname_is(const qmi_jstring *name, const char *text);
bool qmi_jname_same(const qmi_jstring *a, const qmi_jstring *b);

#endif
