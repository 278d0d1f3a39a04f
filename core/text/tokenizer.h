/* SPDX-License-Identifier: Apache-2.0
 * Text to token ids and back, for every kind of tokenizer file.  A tokenizer
 * does not change: several threads may use one. */
#ifndef QMI_TOKENIZER_H
#define QMI_TOKENIZER_H

#include "text.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qmi_tokenizer qmi_tokenizer;

/* Opens the tokenizer of a model's directory: spiece.model (T5), else
 * tokenizer.json, tokenizer.model (SentencePiece of type BPE, or Llama 3's),
 * tiktoken.model or qwen.tiktoken, with tokenizer_config.json.  *out NULL: there is none of
 * them.  E_FORMAT; E_UNSUPPORTED: it asks for what we do not compute. */
qmoe_status qmi_tokenizer_open_directory(
    qmi_tokenizer **out, const char *directory, qmi_error *err);
/* A spiece.model alone.  E_NOT_FOUND, E_FORMAT. */
qmoe_status qmi_tokenizer_open_spiece(
    qmi_tokenizer **out, const char *path, qmi_error *err);
void qmi_tokenizer_close(qmi_tokenizer *tokenizer);

/* The names of the files, for messages: "a, b or c". */
#define QMI_TOKENIZER_FILES                                                    \
    "spiece.model, tokenizer.json, tokenizer.model, tiktoken.model or "        \
    "qwen.tiktoken"

/* ---- ids ---- */

/* Ids are below this. */
int32_t qmi_tokenizer_size(const qmi_tokenizer *tokenizer);
/* The id of a token with exactly this text, added tokens first; -1: none.  The
 * texts of byte-level tokens are the bytes they stand for. */
int32_t qmi_tokenizer_id(const qmi_tokenizer *tokenizer, const char *text);
/* Named by the tokenizer's files; -1: none. */
int32_t qmi_tokenizer_bos(const qmi_tokenizer *tokenizer);
int32_t qmi_tokenizer_eos(const qmi_tokenizer *tokenizer);
int32_t qmi_tokenizer_pad(const qmi_tokenizer *tokenizer);

typedef enum qmi_token_kind {
    QMI_TOKEN_NOTHING, /* no token: a gap, padding of a model's vocabulary */
    QMI_TOKEN_CONTROL, /* a special token, without text unless asked for */
    QMI_TOKEN_PIECE,   /* text, or a part of it */
    QMI_TOKEN_BYTE,    /* one byte, among tokens that are text */
    QMI_TOKEN_ADDED    /* an added token that has text */
} qmi_token_kind;

/* id >= 0.  *byte: the value of a QMI_TOKEN_BYTE. */
qmi_token_kind qmi_tokenizer_kind(
    const qmi_tokenizer *tokenizer, int32_t id, uint8_t *byte);

/* ---- text to ids ---- */

typedef struct qmi_encode_options {
    /* Add what the tokenizer puts around a text (BOS, EOS), as Hugging Face
     * does by default. */
    bool frame;
    /* Text that somebody has typed: special tokens are not recognised in it.
     * The rest of the text is tokenised as if all were plain. */
    bool all_literal;
    const uint8_t *literal; /* [n_bytes] of 0 and 1: where; NULL: nowhere */
} qmi_encode_options;

/* *ids is a new array of *n ids (qmi_free).  Text is UTF-8 (E_INVALID).
 * `options` NULL: all zeros.  T5: sentinels in the text are split off first and
 * the white space around them dropped (as the slow Hugging Face tokenizer). */
qmoe_status qmi_tokenizer_encode(const qmi_tokenizer *tokenizer, int32_t **ids,
    size_t *n, const char *text, size_t n_bytes,
    const qmi_encode_options *options, qmi_error *err);

/* ---- ids to text ---- */

/* *text is new (qmi_free).  An id without a token gives nothing (models pad
 * their vocabulary), nor does the byte 0, which would end the text; special
 * tokens give their names if `specials` (T5's have none, but a sentinel always
 * gives its name, with one space before it unless it comes first).  Negative
 * ids are E_INVALID. */
qmoe_status qmi_tokenizer_decode(const qmi_tokenizer *tokenizer, char **text,
    const int32_t *ids, size_t n, bool specials, qmi_error *err);

#ifdef __cplusplus
}
#endif

#endif
