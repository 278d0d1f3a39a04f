/* SPDX-License-Identifier: Apache-2.0
 * What a kind of tokenizer provides.  A tokenizer is a struct that begins with
 * a qmi_tokenizer; tokenizer_type.c and token_stream.c call through the table. */
#ifndef QMI_TOKENIZER_TYPE_H
#define QMI_TOKENIZER_TYPE_H

#include "id_list.h"
#include "tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qmi_tokenizer_type {
    void (*close)(qmi_tokenizer *tokenizer);
    /* The id of a text of n bytes; -1: none. */
    int32_t (*id)(const qmi_tokenizer *tokenizer, const char *text, size_t n);
    /* 0 <= id < size. */
    qmi_token_kind (*kind)(
        const qmi_tokenizer *tokenizer, int32_t id, uint8_t *byte);
    qmoe_status (*encode)(const qmi_tokenizer *tokenizer, qmi_id_list *ids,
        const char *text, size_t n_bytes, const qmi_encode_options *options,
        qmi_error *err);
    /* Appends the text of ids, none negative. */
    qmoe_status (*decode)(const qmi_tokenizer *tokenizer, qmi_text *text,
        const int32_t *ids, size_t n, bool specials, qmi_error *err);
    /* The state of a stream (token_stream.h); appends what an id, not
     * negative, adds. */
    qmoe_status (*stream_create)(
        void **state, const qmi_tokenizer *tokenizer, qmi_error *err);
    void (*stream_destroy)(void *state);
    qmoe_status (*stream_add)(
        void *state, qmi_text *text, int32_t id, bool last, qmi_error *err);
} qmi_tokenizer_type;

struct qmi_tokenizer {
    const qmi_tokenizer_type *type;
    int32_t size;
    int32_t bos, eos, pad; /* -1: none */
};

/* The stream of T5 (spiece_stream.c). */
qmoe_status qmi_spiece_stream_create(
    void **state, const qmi_tokenizer *tokenizer, qmi_error *err);
void qmi_spiece_stream_destroy(void *state);
qmoe_status qmi_spiece_stream_add(
    void *state, qmi_text *text, int32_t id, bool last, qmi_error *err);

#ifdef __cplusplus
}
#endif

#endif
