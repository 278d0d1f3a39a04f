/* SPDX-License-Identifier: Apache-2.0
 * The published Switch Transformers by name: what plans and synthetic models
 * are made from where no checkpoint is at hand.  Values: the configuration
 * files of the models, corrected where the files contradict their own tensors
 * (c-2048: 15 decoder blocks, every block sparse). */
#ifndef QMI_SWITCH_CONFIGS_H
#define QMI_SWITCH_CONFIGS_H

#include "json.h"

enum { QMI_SWITCH_ENCODER, QMI_SWITCH_DECODER, QMI_SWITCH_STACKS };

typedef struct qmi_switch_config {
    const char *name;  /* "base-128" */
    const char *dtype; /* torch_dtype of the published files; "float32" where
                          not known */
    int64_t d_model, d_ff, d_kv, n_heads, vocab_size, n_experts;
    int64_t n_blocks[QMI_SWITCH_STACKS];
    /* As in config.json: 1 with full_sparse = every block. */
    int64_t sparse_step[QMI_SWITCH_STACKS];
    int64_t n_sparse[QMI_SWITCH_STACKS];
    bool full_sparse;
    bool tied_head;
} qmi_switch_config;

/* NULL when unknown. */
const qmi_switch_config *qmi_switch_config_find(const char *name);
/* Table order; NULL past the end. */
const qmi_switch_config *qmi_switch_config_at(size_t index);

/* A config.json that the architecture "switch_transformers" reads: an
 * object to add members to (delete with cJSON_Delete), and its text (release
 * with cJSON_free).  NULL when out of memory. */
cJSON *qmi_switch_config_json(const qmi_switch_config *config);
char *qmi_switch_config_text(const qmi_switch_config *config);

#endif
