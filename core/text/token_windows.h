/* SPDX-License-Identifier: Apache-2.0
 * Texts as ids for models that predict the next token: one long list, cut into
 * windows of a fixed length (docs/evaluation.md, "Next-token loss"). */
#ifndef QMI_TOKEN_WINDOWS_H
#define QMI_TOKEN_WINDOWS_H

#include "tokenizer.h"

typedef struct qmi_token_text {
    int32_t *ids; /* [n], of all texts */
    size_t n;
    bool begins; /* the tokenizer begins texts with its BOS */
} qmi_token_text;

typedef struct qmi_token_text_options {
    const char *const *paths; /* [n_paths], read in order */
    size_t n_paths;
    /* Each line is a document, or a JSON record with one (documents.h), and
     * end_id stands between them; else a file is one text as it is. */
    bool documents;
    int32_t end_id;
    uint64_t max_ids; /* stop reading when there are so many; 0: all */
} qmi_token_text_options;

/* The first text begins as the tokenizer begins texts; none ends.  Release with
 * qmi_token_text_free, after failure, too.  E_FORMAT: not UTF-8. */
qmoe_status qmi_token_text_read(qmi_token_text *out,
    const qmi_tokenizer *tokenizer, const qmi_token_text_options *options,
    qmi_error *err);
void qmi_token_text_free(qmi_token_text *text);

#endif
