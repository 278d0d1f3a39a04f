/* SPDX-License-Identifier: Apache-2.0
 * Byte-pair tokenizers: one engine for tokenizer.json, SentencePiece models of
 * type BPE and tiktoken files.  A reader of a file fills the struct, then seals
 * it. */
#ifndef QMI_TOKENIZER_BPE_H
#define QMI_TOKENIZER_BPE_H

#include "added_tokens.h"
#include "bpe.h"
#include "normalizer.h"
#include "pre_tokenizer.h"
#include "token_decoder.h"
#include "tokenizer_type.h"

typedef struct qmi_bpe_tokenizer {
    qmi_tokenizer base;
    qmi_added_tokens added;      /* searched in the text as it is */
    qmi_added_tokens normalized; /* searched in normalised text */
    qmi_normalizer normalizer;
    qmi_pre_tokenizer pre_tokenizer;
    qmi_bpe bpe;     /* its vocabulary has the added tokens, too */
    bool byte_level; /* the file spells tokens as byte_level.h says */
    qmi_token_decoder decoder;
    qmi_id_list before, after; /* of the frame */
    uint8_t *kinds;            /* [base.size] qmi_token_kind */
} qmi_bpe_tokenizer;

/* A tokenizer without anything; release with qmi_tokenizer_close. */
qmoe_status qmi_bpe_tokenizer_create(qmi_bpe_tokenizer **out, qmi_error *err);
/* An added token: one that the vocabulary has by the same id, or a new one.
 * The normalizer must be complete.  E_FORMAT naming `file`: the id has another
 * content, or the content another id. */
qmoe_status qmi_bpe_tokenizer_add(qmi_bpe_tokenizer *tokenizer,
    const qmi_added_token *token, const char *file, qmi_error *err);
/* After the last token: sorts and checks.  Once more if tokens were added
 * since. */
qmoe_status qmi_bpe_tokenizer_seal(
    qmi_bpe_tokenizer *tokenizer, const char *file, qmi_error *err);

/* The files that become such a tokenizer.  E_FORMAT, E_UNSUPPORTED naming
 * `path`. */
qmoe_status qmi_tokenizer_open_json(
    qmi_tokenizer **out, const char *path, qmi_error *err);
qmoe_status qmi_tokenizer_open_piece_bpe(
    qmi_tokenizer **out, const char *path, qmi_error *err);

/* What files of tiktoken do not say: how the models split text, and which
 * special tokens they have. */
typedef struct qmi_tiktoken_family qmi_tiktoken_family;
extern const qmi_tiktoken_family qmi_tiktoken_kimi, qmi_tiktoken_llama,
    qmi_tiktoken_qwen;

/* E_UNSUPPORTED: ranks of another model than that of the family. */
qmoe_status qmi_tokenizer_open_tiktoken(qmi_tokenizer **out,
    const qmi_tiktoken_family *family, const char *path, qmi_error *err);
/* After tokenizer_config.json: the special tokens that it did not name. */
qmoe_status qmi_tokenizer_end_tiktoken(qmi_tokenizer *tokenizer,
    const qmi_tiktoken_family *family, const char *path, qmi_error *err);
/* Whether a file begins like one of tiktoken. */
bool qmi_is_tiktoken(const char *path);

#endif
