/* SPDX-License-Identifier: Apache-2.0
 * T5 tokenizer: a SentencePiece model plus sentinels <extra_id_k>.  A thin C
 * face over the C++ SentencePiece library (tokenizer_sentencepiece.cpp). */
#ifndef QMI_TOKENIZER_H
#define QMI_TOKENIZER_H

#include "text.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qmi_tokenizer qmi_tokenizer;

enum { QMI_N_SENTINELS = 100 };

/* Loads a spiece.model file. E_NOT_FOUND, E_FORMAT (not a SentencePiece
 * model). */
qmoe_status qmi_tokenizer_open(
    qmi_tokenizer **out, const char *path, qmi_error *err);
void qmi_tokenizer_close(qmi_tokenizer *tokenizer);

/* Pieces of the file plus the sentinels. */
int32_t qmi_tokenizer_size(const qmi_tokenizer *tokenizer);
/* Id of <extra_id_k>, 0 <= k < QMI_N_SENTINELS: size - 1 - k. */
int32_t qmi_tokenizer_sentinel(const qmi_tokenizer *tokenizer, int k);
bool qmi_tokenizer_is_sentinel(const qmi_tokenizer *tokenizer, int32_t id);

/* Text to ids: sentinels in the text are split off first and the white space
 * around them dropped (the slow Hugging Face T5 tokenizer); the rest goes
 * through SentencePiece piece by piece.  No end token.  *ids is a new array of
 * *n ids (qmi_free). */
qmoe_status qmi_tokenizer_encode(const qmi_tokenizer *tokenizer, int32_t **ids,
    size_t *n, const char *text, size_t n_bytes, qmi_error *err);

typedef enum qmi_token_kind {
    QMI_TOKEN_NOTHING, /* control pieces, padding of a model's vocabulary */
    QMI_TOKEN_PIECE,   /* a piece of text */
    QMI_TOKEN_BYTE,    /* one byte of a character */
    QMI_TOKEN_SENTINEL
} qmi_token_kind;

/* id >= 0.  *byte: the value of a QMI_TOKEN_BYTE. */
qmi_token_kind qmi_tokenizer_kind(
    const qmi_tokenizer *tokenizer, int32_t id, uint8_t *byte);

/* Ids to text: control pieces (pad, end) give nothing, a sentinel gives its
 * name with one space before it unless it comes first, an id beyond the
 * tokenizer's (T5 pads the vocabulary of its models) gives nothing, nor does
 * the byte 0, which would end the text.  *text is new (qmi_free).  Negative ids
 * are E_INVALID. */
qmoe_status qmi_tokenizer_decode(const qmi_tokenizer *tokenizer, char **text,
    const int32_t *ids, size_t n, qmi_error *err);
/* The same, appended to `text`. */
qmoe_status qmi_tokenizer_append(const qmi_tokenizer *tokenizer, qmi_text *text,
    const int32_t *ids, size_t n, qmi_error *err);

#ifdef __cplusplus
}
#endif

#endif
