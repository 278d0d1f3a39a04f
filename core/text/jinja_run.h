/* SPDX-License-Identifier: Apache-2.0
 * The state of one rendering, and what every part of the evaluator needs: its
 * limits, its errors, its text.  A string is made by writing to the end of the
 * text and taking that end off again. */
#ifndef QMI_JINJA_RUN_H
#define QMI_JINJA_RUN_H

#include "error.h"
#include "jinja_arena.h"
#include "jinja_value.h"

typedef enum qmi_jflow { QMI_J_GO_ON, QMI_J_BREAK, QMI_J_CONTINUE } qmi_jflow;

typedef struct qmi_jvariable {
    const qmi_jstring *name;
    qmi_jvalue value;
    struct qmi_jvariable *before;
} qmi_jvariable;

typedef struct qmi_jscope {
    struct qmi_jscope *outer;
    qmi_jvariable *variables;
} qmi_jscope;

typedef struct qmi_jrun {
    const char *file;
    qmi_error *err; /* not NULL */
    uint32_t line;  /* of what is being evaluated */
    int64_t now;    /* seconds since 1970 */
    qmi_jarena arena;
    uint64_t n_steps;
    int depth;
    qmi_jscope *scope;
    qmi_jflow flow;
    qmi_jvalue captured; /* the text that a filtered block made */
    char *text;
    uint8_t *mask;
    size_t n_bytes, capacity;
} qmi_jrun;

/* "file:line: ..." */
qmoe_status qmi_jfail(qmi_jrun *run, qmoe_status status, const char *format,
    ...) QMI_PRINTF(3, 4);
/* Counts work; E_FORMAT beyond the limit. */
qmoe_status qmi_jspend(qmi_jrun *run, size_t n_steps);
/* Around every recursion; E_FORMAT beyond the limit. */
qmoe_status qmi_jenter(qmi_jrun *run);
static inline void qmi_jleave(qmi_jrun *run)
{
    run->depth--;
}
/* *out = count * size zeroed bytes of the arena. */
qmoe_status qmi_jtake(qmi_jrun *run, void *out, size_t count, size_t size);

/* Writes to the end of the text. */
qmoe_status qmi_jwrite(qmi_jrun *run, const qmi_jstring *string);
/* The bytes [from, to) of the string. */
qmoe_status qmi_jwrite_part(
    qmi_jrun *run, const qmi_jstring *string, size_t from, size_t to);
/* Of the template's own making; is_data: of the user's. */
qmoe_status qmi_jwrite_bytes(
    qmi_jrun *run, const char *bytes, size_t n_bytes, bool is_data);
qmoe_status qmi_jwrite_text(qmi_jrun *run, const char *text);
/* As str() writes it; E_UNSUPPORTED for what has no text to speak of. */
qmoe_status qmi_jwrite_value(qmi_jrun *run, qmi_jvalue value);
/* Takes what was written since the text had `start` bytes, as a string. */
qmoe_status qmi_jtake_text(
    qmi_jrun *run, size_t start, const qmi_jstring **out);

/* str(value). */
qmoe_status qmi_jto_string(
    qmi_jrun *run, qmi_jvalue value, const qmi_jstring **out);
/* A string of the program's own making. */
qmoe_status qmi_jmake_string(
    qmi_jrun *run, const char *text, const qmi_jstring **out);

qmoe_status qmi_jnew_list(
    qmi_jrun *run, qmi_jflavor flavor, size_t n, qmi_jlist **out);
/* Begin with a list of none and a capacity of 0. */
qmoe_status qmi_jlist_add(
    qmi_jrun *run, qmi_jlist *list, size_t *capacity, qmi_jvalue value);
qmoe_status qmi_jnew_dict(qmi_jrun *run, size_t capacity, qmi_jdict **out);
/* Replaces the value of an equal key.  E_FORMAT for a key that cannot be. */
qmoe_status qmi_jdict_set(
    qmi_jrun *run, qmi_jdict *dict, qmi_jvalue key, qmi_jvalue value);
/* *out is NULL where there is no such key. */
qmoe_status qmi_jdict_find(
    qmi_jrun *run, const qmi_jdict *dict, qmi_jvalue key, qmi_jvalue **out);
/* What a loop over the value walks; an iterator is spent by it. */
qmoe_status qmi_jiterate(
    qmi_jrun *run, qmi_jvalue value, const qmi_jlist **out);
/* len(value). */
qmoe_status qmi_jlength(qmi_jrun *run, qmi_jvalue value, size_t *out);

/* Python's ==. */
qmoe_status qmi_jequal(qmi_jrun *run, qmi_jvalue a, qmi_jvalue b, bool *out);
/* < 0, 0, > 0; E_FORMAT for what has no order. */
qmoe_status qmi_jorder(qmi_jrun *run, qmi_jvalue a, qmi_jvalue b, int *out);
/* item in container */
qmoe_status qmi_jcontains(
    qmi_jrun *run, qmi_jvalue item, qmi_jvalue container, bool *out);

#endif
