/* SPDX-License-Identifier: Apache-2.0
 * The tokens of a GGUF file and how they merge. */
#ifndef QMI_GGUF_VOCABULARY_H
#define QMI_GGUF_VOCABULARY_H

#include "gguf_source.h"

/* tokenizer.ggml.token_type */
typedef enum qmi_gguf_token_type {
    QMI_GGUF_NORMAL = 1,
    QMI_GGUF_UNKNOWN,
    QMI_GGUF_CONTROL,
    QMI_GGUF_USER_DEFINED,
    QMI_GGUF_UNUSED,
    QMI_GGUF_BYTE,
} qmi_gguf_token_type;

typedef struct qmi_gguf_token {
    char *text; /* UTF-8 */
    size_t n_bytes;
    qmi_gguf_token_type type;
    /* Fills a row of the embedding that belongs to no token. */
    bool is_padding;
} qmi_gguf_token;

/* Two tokens that become one. */
typedef struct qmi_gguf_merge {
    int32_t left, right;
} qmi_gguf_merge;

typedef struct qmi_gguf_vocabulary {
    qmi_gguf_token *tokens; /* [n] by id */
    int32_t *by_text;       /* [n] ids in order of their texts */
    int32_t n;
    qmi_gguf_merge *merges; /* [n_merges] in order of their rank */
    size_t n_merges;
} qmi_gguf_vocabulary;

/* Reads tokens and merges.  A vocabulary of scores has no merges of its own:
 * every way to put a token together from two others is one, those of tokens
 * with a higher score first, as transformers derives them.  Destroy it in any
 * case.
 * E_FORMAT names what is missing, a token that is there twice or is not UTF-8,
 * a merge of or to something that is no token.  E_UNSUPPORTED: scores that are
 * all equal and so rank nothing. */
qmoe_status qmi_gguf_vocabulary_read(
    qmi_gguf_vocabulary *out, const qmi_gguf_source *source);
void qmi_gguf_vocabulary_destroy(qmi_gguf_vocabulary *vocabulary);
/* The id of n bytes; -1: no token. */
int32_t qmi_gguf_vocabulary_find(
    const qmi_gguf_vocabulary *vocabulary, const char *text, size_t n);

/* For qmi_gguf_vocabulary_read: merges from the scores. */
qmoe_status qmi_gguf_rank_merges(
    qmi_gguf_vocabulary *out, const qmi_gguf_source *source);

#endif
