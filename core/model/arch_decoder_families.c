/* SPDX-License-Identifier: Apache-2.0
 * The families of decoder-only models: what their configurations leave out and
 * what their tensors are called.  In: a model_type.  Out: an architecture each;
 * all of them build by the one skeleton of arch_decoder.c. */
#include "arch.h"
#include "arch_decoder.h"

/* Experts of most families. */
#define EXPERTS                                                                \
    .sparse = "mlp", .gate = "gate_proj", .up = "up_proj", .down = "down_proj"

#define FAMILY(symbol, type, ...)                                              \
    static const qmi_decoder_family family_##symbol = {                        \
        .model_type = type, __VA_ARGS__};                                      \
    static qmoe_status build_##symbol(qmoe_model *model, const cJSON *config,  \
        const char *file, qmi_error *err)                                      \
    {                                                                          \
        return qmi_decoder_build(model, &family_##symbol, config, file, err);  \
    }                                                                          \
    extern const qmi_arch qmi_arch_##symbol;                                   \
    const qmi_arch qmi_arch_##symbol = {                                       \
        .model_type = type, .build = build_##symbol};

/* ---- dense ---- */

FAMILY(llama, "llama", .bias_key = "attention_bias", .bias_of_o = true,
    .default_epsilon = 1e-6, .default_base = 1e4)
FAMILY(mistral, "mistral", .window = QMI_WINDOW_GIVEN, .default_window = 4096,
    .default_epsilon = 1e-6, .default_base = 1e4)
FAMILY(qwen2, "qwen2", .bias_default = true, .window = QMI_WINDOW_ASKED,
    .default_epsilon = 1e-6, .default_base = 1e4)
FAMILY(qwen3, "qwen3", .qk_norm = QMI_QK_HEADS, .bias_key = "attention_bias",
    .bias_of_o = true, .window = QMI_WINDOW_ASKED, .default_head = 128,
    .default_epsilon = 1e-6, .default_base = 1e4)

/* ---- sparse ---- */

FAMILY(olmoe, "olmoe", EXPERTS, .expert_width_key = "intermediate_size",
    .qk_norm = QMI_QK_WHOLE, .bias_key = "attention_bias", .bias_of_o = true,
    .default_epsilon = 1e-5, .default_base = 1e4)
FAMILY(mixtral, "mixtral", .sparse = "block_sparse_moe", .gate = "w1",
    .up = "w3", .down = "w2", .expert_width_key = "intermediate_size",
    .window = QMI_WINDOW_GIVEN, .normalises = true, .default_epsilon = 1e-5,
    .default_base = 1e6)
FAMILY(qwen2_moe, "qwen2_moe", EXPERTS,
    .expert_width_key = "moe_intermediate_size", .bias_key = "qkv_bias",
    .bias_default = true, .has_shared = true, .window = QMI_WINDOW_ASKED,
    .default_epsilon = 1e-6, .default_base = 1e4)
FAMILY(qwen3_moe, "qwen3_moe", EXPERTS,
    .expert_width_key = "moe_intermediate_size", .qk_norm = QMI_QK_HEADS,
    .bias_key = "attention_bias", .bias_of_o = true, .window = QMI_WINDOW_ASKED,
    .default_epsilon = 1e-6, .default_base = 1e4)
