/* SPDX-License-Identifier: Apache-2.0
 * What a model is, from its config.json, in terms common to architectures. */
#ifndef QMI_CONFIG_H
#define QMI_CONFIG_H

#include "json.h"

enum { QMI_ENCODER, QMI_DECODER, QMI_N_STACKS };

typedef struct qmi_config {
    int64_t vocab_size, d_model, d_ff, d_kv, n_heads;
    int64_t n_blocks[QMI_N_STACKS];
    /* Block i is sparse iff step == 1, or step > 1 and i % step == 1. */
    int64_t sparse_step[QMI_N_STACKS];
    int64_t n_experts, top_k;
    int64_t n_buckets, max_distance; /* relative position bias */
    double norm_epsilon;
    bool tied_head; /* head = embedding, its input scaled by d_model^-0.5 */
    int32_t pad_id, end_id, start_id;
} qmi_config;

bool qmi_config_is_sparse(const qmi_config *config, int stack, int64_t block);
int64_t qmi_config_sparse_count(const qmi_config *config);

#endif
