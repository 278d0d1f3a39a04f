/* SPDX-License-Identifier: Apache-2.0
 * Text from the tokens of a byte-pair tokenizer, one at a time. */
#ifndef QMI_TOKEN_DECODER_H
#define QMI_TOKEN_DECODER_H

#include <stdbool.h>

#include "text.h"

/* How tokens become text.  Zeros: they are bytes of UTF-8. */
typedef struct qmi_token_decoder {
    bool by_characters; /* tokens are text; the members below are for this */
    char *space;        /* owned: stands for a space; NULL: nothing does */
    bool drop_first;    /* not in the first token, where it is left out */
    int n_strip;        /* leading spaces of the whole text left out, at most */
} qmi_token_decoder;

void qmi_token_decoder_free(qmi_token_decoder *decoder);

/* Where a text is; begin with zeros. */
typedef struct qmi_decoding {
    bool begun;    /* a token came */
    bool has_text; /* text other than left out spaces came */
    int n_stripped;
    char held[4]; /* [n_held] a character that is not complete */
    size_t n_held;
} qmi_decoding;

/* Appends what a token, added or not, adds.  Bytes of a character are held back until it is
 * complete; what is no UTF-8 becomes U+FFFD. */
void qmi_decode_text(const qmi_token_decoder *decoder, qmi_decoding *state,
    qmi_text *out, const char *bytes, size_t n);
/* A token that stands for one byte beside tokens that are text. */
void qmi_decode_byte(const qmi_token_decoder *decoder, qmi_decoding *state,
    qmi_text *out, char byte);
/* After the last token: what was held back. */
void qmi_decode_end(
    const qmi_token_decoder *decoder, qmi_decoding *state, qmi_text *out);

#endif
