/* SPDX-License-Identifier: Apache-2.0
 * Table of the published Switch Transformers (switch_configs.h).  In: a name or
 * a number.  Out: dimensions, or a config.json made of them.  Dimensions and
 * dtypes are those of the published checkpoints' weights, which contradict
 * their configurations in places (arch_switch_weights.c). */
#include "switch_configs.h"

#include <string.h>

/* The base models differ in the number of experts and the dtype. */
#define BASE(experts, type)                                                    \
    {                                                                          \
        .name = "base-" #experts, .dtype = type, .d_model = 768, .d_ff = 3072, \
        .d_kv = 64, .n_heads = 12, .vocab_size = 32128, .n_experts = experts,  \
        .n_blocks = {12, 12}, .sparse_step = {2, 2}, .n_sparse = {6, 6},       \
        .tied_head = true                                                      \
    }

static const qmi_switch_config configs[] = {
    BASE(8, "bfloat16"),
    BASE(16, "float32"),
    BASE(32, "float32"),
    BASE(64, "float32"),
    BASE(128, "float32"),
    BASE(256, "float32"),
    {
        .name = "large-128",
        .dtype = "bfloat16",
        .d_model = 1024,
        .d_ff = 4096,
        .d_kv = 64,
        .n_heads = 16,
        .vocab_size = 32128,
        .n_experts = 128,
        .n_blocks = {24, 24},
        .sparse_step = {2, 2},
        .n_sparse = {12, 12},
        .tied_head = true,
    },
    {
        .name = "c-2048",
        .dtype = "bfloat16",
        .d_model = 2080,
        .d_ff = 6144,
        .d_kv = 64,
        .n_heads = 30,
        .vocab_size = 32128,
        .n_experts = 2048,
        .n_blocks = {15, 15},
        .sparse_step = {1, 1},
        .n_sparse = {15, 15},
        .full_sparse = true,
        .tied_head = false,
    },
};

const qmi_switch_config *qmi_switch_config_at(size_t index)
{
    return index < sizeof configs / sizeof *configs ? &configs[index] : NULL;
}

const qmi_switch_config *qmi_switch_config_find(const char *name)
{
    const qmi_switch_config *c;
    for (size_t i = 0; (c = qmi_switch_config_at(i)) != NULL; i++)
        if (strcmp(c->name, name) == 0)
            return c;
    return NULL;
}

/* cJSON_Add... return NULL when out of memory. */
static bool add_numbers(cJSON *json, const qmi_switch_config *c)
{
    /* Members from expert_capacity on are the same in all published files. */
    const struct {
        const char *key;
        double value;
    } members[] = {
        {"vocab_size", (double)c->vocab_size},
        {"d_model", (double)c->d_model},
        {"d_ff", (double)c->d_ff},
        {"d_kv", (double)c->d_kv},
        {"num_heads", (double)c->n_heads},
        {"num_experts", (double)c->n_experts},
        {"num_layers", (double)c->n_blocks[QMI_SWITCH_ENCODER]},
        {"num_decoder_layers", (double)c->n_blocks[QMI_SWITCH_DECODER]},
        {"num_sparse_encoder_layers", (double)c->n_sparse[QMI_SWITCH_ENCODER]},
        {"num_sparse_decoder_layers", (double)c->n_sparse[QMI_SWITCH_DECODER]},
        {"encoder_sparse_step", (double)c->sparse_step[QMI_SWITCH_ENCODER]},
        {"decoder_sparse_step", (double)c->sparse_step[QMI_SWITCH_DECODER]},
        {"expert_capacity", 64},
        {"relative_attention_num_buckets", 32},
        {"relative_attention_max_distance", 128},
        {"layer_norm_epsilon", 1e-6},
        {"pad_token_id", 0},
        {"eos_token_id", 1},
        {"decoder_start_token_id", 0},
    };
    for (size_t i = 0; i < sizeof members / sizeof *members; i++)
        if (cJSON_AddNumberToObject(json, members[i].key, members[i].value) ==
            NULL)
            return false;
    return true;
}

/* Each addition is looked at: a configuration with a member missing would be
 * another model. */
cJSON *qmi_switch_config_json(const qmi_switch_config *c)
{
    cJSON *json = cJSON_CreateObject();
    if (json == NULL)
        return NULL;
    if (cJSON_AddStringToObject(json, "model_type", "switch_transformers") !=
            NULL &&
        cJSON_AddStringToObject(json, "torch_dtype", c->dtype) != NULL &&
        cJSON_AddStringToObject(json, "feed_forward_proj", "relu") != NULL &&
        cJSON_AddStringToObject(json, "dense_act_fn", "relu") != NULL &&
        cJSON_AddBoolToObject(json, "is_gated_act", false) != NULL &&
        cJSON_AddBoolToObject(json, "router_bias", false) != NULL &&
        cJSON_AddBoolToObject(json, "is_full_sparse", c->full_sparse) != NULL &&
        cJSON_AddBoolToObject(json, "tie_word_embeddings", c->tied_head) !=
            NULL &&
        add_numbers(json, c))
        return json;
    cJSON_Delete(json);
    return NULL;
}

char *qmi_switch_config_text(const qmi_switch_config *config)
{
    cJSON *json = qmi_switch_config_json(config);
    char *text = json != NULL ? cJSON_Print(json) : NULL;
    cJSON_Delete(json);
    return text;
}
