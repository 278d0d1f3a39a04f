/* SPDX-License-Identifier: Apache-2.0
 * Tokens that are found in a text as they are written, before it is split. */
#ifndef QMI_ADDED_TOKENS_H
#define QMI_ADDED_TOKENS_H

#include <stdbool.h>
#include <stdint.h>

#include "error.h"

/* Of one token: also bounds what a position of a text costs. */
enum { QMI_MAX_ADDED_BYTES = 1024 };

typedef struct qmi_added_token {
    char *content; /* owned; [n] bytes and NUL */
    size_t n;
    int32_t id;
    bool single_word;    /* only between characters of no word */
    bool lstrip, rstrip; /* takes in the white space on that side */
    bool special;        /* no text when ids are decoded */
    bool normalized;     /* is searched in normalised text */
} qmi_added_token;

typedef struct qmi_added_tokens {
    qmi_added_token *tokens; /* [n], by content once sorted */
    size_t n, capacity;
    bool begins[256]; /* whether a token begins with the byte */
} qmi_added_tokens;

/* Copies `token` and its content.  E_FORMAT without a file name: the content
 * is empty or too long. */
qmoe_status qmi_added_tokens_add(
    qmi_added_tokens *list, const qmi_added_token *token, qmi_error *err);
/* After the last one, before they are searched. */
void qmi_added_tokens_sort(qmi_added_tokens *list);
void qmi_added_tokens_free(qmi_added_tokens *list);
/* By content, of a sorted list; NULL: there is none. */
const qmi_added_token *qmi_added_tokens_find(
    const qmi_added_tokens *list, const char *content, size_t n);

/* A token in a text: bytes [start, end) with the white space it takes in. */
typedef struct qmi_added_match {
    const qmi_added_token *token; /* NULL: none is left */
    size_t start, end;
    size_t next; /* where the search goes on */
} qmi_added_match;

/* The first token at or behind `from`, the longest of those that begin there.
 * `literal`, [n] or NULL: bytes that are no part of a token, unless it is white
 * space and not special (some vocabularies have runs of spaces as such). */
void qmi_added_tokens_next(qmi_added_match *out, const qmi_added_tokens *list,
    const char *text, size_t n, const uint8_t *literal, size_t from);

#endif
