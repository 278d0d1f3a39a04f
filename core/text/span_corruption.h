/* SPDX-License-Identifier: Apache-2.0
 * T5 span corruption as the reference prepares calibration and validation
 * samples (docs/evaluation.md): noise density 0.15, mean span 3. */
#ifndef QMI_SPAN_CORRUPTION_H
#define QMI_SPAN_CORRUPTION_H

#include "mt19937.h"
#include "tokenizer.h"

/* Longest document (tokens with the end token); longer ones are skipped. */
enum { QMI_MAX_DOCUMENT_TOKENS = 568 };

typedef struct qmi_sample {
    int32_t *encoder_ids; /* [n_encoder] kept tokens, sentinels, end token */
    int32_t *decoder_ids; /* [n_decoder] start token, then the target */
    size_t n_encoder, n_decoder;
} qmi_sample;

/* The sentinels <extra_id_k>, which stand for spans: how many there may be, and
 * their ids; -1: the tokenizer has none. */
enum { QMI_N_SENTINELS = 100 };
int32_t qmi_sentinel(const qmi_tokenizer *tokenizer, int k);
bool qmi_is_sentinel(const qmi_tokenizer *tokenizer, int32_t id);

/* Draws the span lengths for a document of n_tokens >= 2: noise and kept parts
 * alternate starting with a kept one.  Arrays of n_tokens entries each. */
void qmi_span_mask(qmi_mt19937 *rng, int32_t *noise_parts, int32_t *kept_parts,
    int32_t *n_spans, int32_t n_tokens);

/* Corrupts one document, `ids` including its end token.  E_INVALID when
 * n_tokens < 2 or more spans than sentinels are needed. */
qmoe_status qmi_sample_make(qmi_sample *out, qmi_mt19937 *rng,
    const qmi_tokenizer *tokenizer, const int32_t *ids, size_t n_tokens,
    int32_t start_id, int32_t end_id, qmi_error *err);
void qmi_sample_free(qmi_sample *sample);

#endif
