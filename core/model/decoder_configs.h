/* SPDX-License-Identifier: Apache-2.0
 * The published decoder-only Mixture-of-Experts models by name: what plans and
 * synthetic models are made from where no checkpoint is at hand. */
#ifndef QMI_DECODER_CONFIGS_H
#define QMI_DECODER_CONFIGS_H

#include "json.h"

typedef struct qmi_decoder_config {
    const char *name;       /* "qwen3-30b-a3b" */
    const char *expert_key; /* the key that has n_experts */
    int64_t n_blocks;       /* all of them sparse */
    int64_t n_experts, top_k;
    const char *rest; /* the other members of config.json, as JSON */
} qmi_decoder_config;

/* NULL when unknown. */
const qmi_decoder_config *qmi_decoder_config_find(const char *name);
/* Table order; NULL past the end. */
const qmi_decoder_config *qmi_decoder_config_at(size_t index);

/* The config.json of the model; a token takes no more experts than there are.
 * Delete with cJSON_Delete.  NULL when out of memory. */
cJSON *qmi_decoder_config_json(const qmi_decoder_config *config);

#endif
