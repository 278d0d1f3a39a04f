/* SPDX-License-Identifier: Apache-2.0
 * Choice of the next token from logits. */
#ifndef QMI_SAMPLER_H
#define QMI_SAMPLER_H

#include "error.h"
#include "mt19937.h"

typedef struct qmi_sampler_options {
    float temperature; /* <= 0: greedy (ties: lowest id) */
    int top_k;         /* 0 = all */
    float top_p;       /* <= 0 or >= 1: all */
    float min_p;       /* <= 0: all; of the likeliest token's probability */
} qmi_sampler_options;

typedef struct qmi_sampler qmi_sampler;

/* n = vocabulary size.  The same options and seed give the same choices on
 * every machine for the same logits. */
qmoe_status qmi_sampler_create(qmi_sampler **out,
    const qmi_sampler_options *options, int64_t n, uint64_t seed,
    qmi_error *err);
void qmi_sampler_destroy(qmi_sampler *sampler);
/* logits f32 [n], finite.  Order of filters: temperature, top_k, top_p (the
 * smallest set of most likely tokens whose probability reaches top_p), min_p
 * (those at least min_p times as likely as the likeliest). */
int32_t qmi_sampler_pick(qmi_sampler *sampler, const float *logits);

/* How many of the largest logits decide the choice; 0: all are needed
 * (temperature without top_k). */
int32_t qmi_sampler_n_top(const qmi_sampler *sampler);
/* The choice of qmi_sampler_pick, with the same use of the seed, from the
 * qmi_sampler_n_top() >= 1 largest logits as operation top-logits gives them:
 * largest first, of equals the lowest id, with their ids, different and in
 * [0, n). */
int32_t qmi_sampler_pick_top(
    qmi_sampler *sampler, const float *logits, const int32_t *ids);

#endif
