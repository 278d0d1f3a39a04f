/* SPDX-License-Identifier: Apache-2.0
 * Table of the published decoder-only Mixture-of-Experts models
 * (decoder_configs.h).  In: a name or a number.  Out: dimensions, or a
 * config.json made of them.  Members that the architectures do not read are
 * left out. */
#include "decoder_configs.h"

#include <string.h>

/* ---- what the members of a family share ---- */

#define MIXTRAL                                                                \
    "{\"model_type\": \"mixtral\", \"vocab_size\": 32000, "                    \
    "\"num_key_value_heads\": 8, \"rope_theta\": 1e6, "                        \
    "\"rms_norm_eps\": 1e-5, \"sliding_window\": null, "                       \
    "\"bos_token_id\": 1, \"eos_token_id\": 2, "
#define QWEN2                                                                  \
    "{\"model_type\": \"qwen2_moe\", \"vocab_size\": 151936, "                 \
    "\"norm_topk_prob\": false, \"rope_theta\": 1e6, "                         \
    "\"rms_norm_eps\": 1e-6, \"bos_token_id\": 151643, "                       \
    "\"eos_token_id\": 151643, "
#define QWEN3                                                                  \
    "{\"model_type\": \"qwen3_moe\", \"vocab_size\": 151936, "                 \
    "\"head_dim\": 128, \"norm_topk_prob\": true, "                            \
    "\"rms_norm_eps\": 1e-6, \"bos_token_id\": 151643, "                       \
    "\"eos_token_id\": 151645, "

static const qmi_decoder_config configs[] = {
    {"olmoe-1b-7b", "num_experts", 16, 64, 8,
        "{\"model_type\": \"olmoe\", \"vocab_size\": 50304, "
        "\"hidden_size\": 2048, \"num_attention_heads\": 16, "
        "\"num_key_value_heads\": 16, \"intermediate_size\": 1024, "
        "\"norm_topk_prob\": false, \"rope_theta\": 1e4, "
        "\"rms_norm_eps\": 1e-5, \"max_position_embeddings\": 4096, "
        "\"eos_token_id\": 50279}"},
    {"mixtral-8x7b", "num_local_experts", 32, 8, 2,
        MIXTRAL "\"hidden_size\": 4096, \"num_attention_heads\": 32, "
                "\"intermediate_size\": 14336, "
                "\"max_position_embeddings\": 32768}"},
    {"mixtral-8x22b", "num_local_experts", 56, 8, 2,
        MIXTRAL "\"hidden_size\": 6144, \"num_attention_heads\": 48, "
                "\"intermediate_size\": 16384, "
                "\"max_position_embeddings\": 65536}"},
    {"qwen1.5-moe-a2.7b", "num_experts", 24, 60, 4,
        QWEN2 "\"hidden_size\": 2048, \"num_attention_heads\": 16, "
              "\"num_key_value_heads\": 16, \"moe_intermediate_size\": 1408, "
              "\"shared_expert_intermediate_size\": 5632, "
              "\"max_position_embeddings\": 8192}"},
    {"qwen2-57b-a14b", "num_experts", 28, 64, 8,
        QWEN2 "\"hidden_size\": 3584, \"num_attention_heads\": 28, "
              "\"num_key_value_heads\": 4, \"moe_intermediate_size\": 2560, "
              "\"shared_expert_intermediate_size\": 20480, "
              "\"max_position_embeddings\": 131072}"},
    {"qwen3-30b-a3b", "num_experts", 48, 128, 8,
        QWEN3 "\"hidden_size\": 2048, \"num_attention_heads\": 32, "
              "\"num_key_value_heads\": 4, \"moe_intermediate_size\": 768, "
              "\"rope_theta\": 1e6, \"max_position_embeddings\": 40960}"},
    {"qwen3-235b-a22b", "num_experts", 94, 128, 8,
        QWEN3 "\"hidden_size\": 4096, \"num_attention_heads\": 64, "
              "\"num_key_value_heads\": 4, \"moe_intermediate_size\": 1536, "
              "\"rope_theta\": 1e6, \"max_position_embeddings\": 40960}"},
    {"qwen3-coder-480b-a35b", "num_experts", 62, 160, 8,
        QWEN3 "\"hidden_size\": 6144, \"num_attention_heads\": 96, "
              "\"num_key_value_heads\": 8, \"moe_intermediate_size\": 2560, "
              "\"rope_theta\": 1e7, \"max_position_embeddings\": 262144}"},
};

const qmi_decoder_config *qmi_decoder_config_at(size_t index)
{
    return index < sizeof configs / sizeof *configs ? &configs[index] : NULL;
}

const qmi_decoder_config *qmi_decoder_config_find(const char *name)
{
    const qmi_decoder_config *c;
    for (size_t i = 0; (c = qmi_decoder_config_at(i)) != NULL; i++)
        if (strcmp(c->name, name) == 0)
            return c;
    return NULL;
}

cJSON *qmi_decoder_config_json(const qmi_decoder_config *c)
{
    cJSON *json = cJSON_Parse(c->rest);
    const int64_t top_k = c->top_k < c->n_experts ? c->top_k : c->n_experts;
    if (json == NULL)
        return NULL;
    if (cJSON_AddStringToObject(json, "torch_dtype", "bfloat16") != NULL &&
        cJSON_AddNumberToObject(
            json, "num_hidden_layers", (double)c->n_blocks) != NULL &&
        cJSON_AddNumberToObject(json, c->expert_key, (double)c->n_experts) !=
            NULL &&
        cJSON_AddNumberToObject(json, "num_experts_per_tok", (double)top_k) !=
            NULL)
        return json;
    cJSON_Delete(json);
    return NULL;
}
