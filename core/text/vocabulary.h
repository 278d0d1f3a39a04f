/* SPDX-License-Identifier: Apache-2.0
 * Tokens as bytes, by id and by content. */
#ifndef QMI_VOCABULARY_H
#define QMI_VOCABULARY_H

#include <stdbool.h>
#include <stdint.h>

#include "error.h"

enum {
    QMI_MAX_TOKENS = 1 << 20,     /* ids; today's largest has 262,144 */
    QMI_MAX_TOKEN_BYTES = 1 << 16 /* of one token */
};

typedef struct qmi_vocabulary {
    int32_t size; /* ids are below this; some may have no token */
    struct qmi_token_place {
        uint32_t start, n; /* in `bytes`; n 0: no token */
    } * places;            /* [capacity] */
    int32_t capacity;
    char *bytes; /* of all tokens, back to back */
    size_t n_bytes, bytes_capacity;
    struct qmi_token_slot {
        uint32_t hash;
        int32_t id; /* plus 1; 0: free */
    } * slots;      /* [n_slots], a power of two */
    size_t n_slots, n_used;
} qmi_vocabulary;

/* Gives an id, at most QMI_MAX_TOKENS - 1 and without a token so far, its
 * bytes.  `find`: qmi_vocabulary_find gives the id, unless it gives another
 * one already.  E_FORMAT without a file name. */
qmoe_status qmi_vocabulary_put(qmi_vocabulary *v, int64_t id, const char *bytes,
    size_t n, bool find, qmi_error *err);
/* -1: there is none. */
int32_t qmi_vocabulary_find(
    const qmi_vocabulary *v, const char *bytes, size_t n);
/* The bytes of an id in [0, size); *n is 0 if it has no token. */
const char *qmi_vocabulary_bytes(
    const qmi_vocabulary *v, int32_t id, size_t *n);
void qmi_vocabulary_free(qmi_vocabulary *v);

#endif
