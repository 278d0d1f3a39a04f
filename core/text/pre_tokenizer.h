/* SPDX-License-Identifier: Apache-2.0
 * Cutting normalised text into the pieces that are encoded one by one. */
#ifndef QMI_PRE_TOKENIZER_H
#define QMI_PRE_TOKENIZER_H

#include "pattern.h"

typedef enum qmi_split_kind {
    QMI_SPLIT_PATTERN,      /* at the matches of `pattern` */
    QMI_SPLIT_DIGITS,       /* numeric characters apart from others */
    QMI_SPLIT_PREFIX_SPACE, /* a space before each piece without one */
    QMI_SPLIT_METASPACE     /* spaces become `replacement` */
} qmi_split_kind;

/* What becomes of a match. */
typedef enum qmi_split_behavior {
    QMI_SPLIT_ISOLATED,      /* a piece of its own */
    QMI_SPLIT_REMOVED,       /* left out */
    QMI_SPLIT_WITH_PREVIOUS, /* the end of the piece before it */
    QMI_SPLIT_WITH_NEXT,     /* the start of the piece after it */
    QMI_SPLIT_CONTIGUOUS     /* one piece with the matches beside it */
} qmi_split_behavior;

typedef enum qmi_prepend_scheme {
    QMI_PREPEND_NEVER,
    QMI_PREPEND_FIRST, /* to the piece that begins the text */
    QMI_PREPEND_ALWAYS /* to every piece */
} qmi_prepend_scheme;

typedef struct qmi_split_step {
    qmi_split_kind kind;
    qmi_pattern *pattern; /* owned; of METASPACE: one replacement character */
    qmi_split_behavior behavior;
    bool invert;       /* what matches and what does not change places */
    bool individual;   /* DIGITS: each is a piece */
    bool splits;       /* METASPACE: before each replacement */
    char *replacement; /* owned */
    qmi_prepend_scheme scheme;
} qmi_split_step;

enum { QMI_MAX_SPLIT_STEPS = 16 };

typedef struct qmi_pre_tokenizer {
    qmi_split_step steps[QMI_MAX_SPLIT_STEPS]; /* [n] */
    size_t n;
} qmi_pre_tokenizer;

void qmi_pre_tokenizer_free(qmi_pre_tokenizer *pre_tokenizer);

typedef struct qmi_spans {
    struct qmi_span {
        size_t start, n;
    } * spans; /* [n] */
    size_t n, capacity;
} qmi_spans;

/* What one call of encode works with; begin with zeros but texts[*].err. */
typedef struct qmi_pieces {
    const char *text;  /* the result's, changed by some steps */
    qmi_spans current; /* the result: pieces of it, none empty */
    qmi_spans other;
    qmi_text texts[2];
} qmi_pieces;
void qmi_pieces_free(qmi_pieces *pieces);

/* Cuts text[0..n), valid UTF-8.  `first`: it begins the whole text.  Each step
 * works on every piece of the one before as if it were all there is. */
qmoe_status qmi_pre_tokenize(const qmi_pre_tokenizer *pre_tokenizer,
    qmi_matcher *matcher, qmi_pieces *pieces, const char *text, size_t n,
    bool first, qmi_error *err);

#endif
