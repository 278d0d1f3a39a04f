/* SPDX-License-Identifier: Apache-2.0
 * The files of a Hugging Face tokenizer, from the keys of a GGUF file. */
#ifndef QMI_GGUF_TOKENIZER_H
#define QMI_GGUF_TOKENIZER_H

#include "gguf_vocabulary.h"
#include "json_writer.h"

/* Ids of special tokens; -1: there is none. */
typedef struct qmi_gguf_special {
    int32_t bos, eos, pad, unk;
    int32_t ends[3]; /* of generation: eos, end of turn, end of message */
    int n_ends;
    bool adds_bos, adds_eos; /* to every text */
} qmi_gguf_special;

typedef struct qmi_gguf_tokenizer {
    bool exists; /* the file has one; all else is empty if not */
    qmi_gguf_vocabulary vocabulary;
    qmi_gguf_special special;
    const struct qmi_gguf_chain *chain; /* how text is split */
} qmi_gguf_tokenizer;

/* Reads and checks all keys.  `n_tokens` must be the rows of the embedding.
 * Destroy it in any case.  E_UNSUPPORTED names a kind of tokenizer or of
 * splitting that is not known; E_FORMAT. */
qmoe_status qmi_gguf_tokenizer_read(
    qmi_gguf_tokenizer *out, const qmi_gguf_source *source, int64_t n_tokens);
void qmi_gguf_tokenizer_destroy(qmi_gguf_tokenizer *tokenizer);

/* tokenizer.json */
void qmi_gguf_tokenizer_json(
    qmi_json_writer *w, const qmi_gguf_tokenizer *tokenizer);
/* tokenizer_config.json: special tokens, chat template.  E_FORMAT: a template
 * that is no text. */
qmoe_status qmi_gguf_tokenizer_config(qmi_json_writer *w,
    const qmi_gguf_tokenizer *tokenizer, const qmi_gguf_source *source,
    int64_t n_positions);
/* bos_token_id, eos_token_id (a list if there are several) and pad_token_id,
 * as members of the object that is open; none without a tokenizer. */
void qmi_gguf_tokenizer_ids(
    qmi_json_writer *w, const qmi_gguf_tokenizer *tokenizer);
/* generation_config.json.  E_FORMAT: settings that are no numbers. */
qmoe_status qmi_gguf_generation_config(qmi_json_writer *w,
    const qmi_gguf_tokenizer *tokenizer, const qmi_gguf_source *source);

#endif
