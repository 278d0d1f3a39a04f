/* SPDX-License-Identifier: Apache-2.0
 * Configurations of decoder-only models: the published ones have as many
 * weights as their checkpoints; what is not computed is refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model.h"

#define SPARSE(type, d, layers, heads, kv, experts, k, vocab)                  \
    "{\"model_type\": \"" type "\", \"hidden_size\": " #d                      \
    ", \"num_hidden_layers\": " #layers ", \"num_attention_heads\": " #heads   \
    ", \"num_key_value_heads\": " #kv ", \"num_experts\": " #experts           \
    ", \"num_experts_per_tok\": " #k ", \"vocab_size\": " #vocab

/* Weights: of the checkpoints' own indices, or in units of a million. */
static const struct {
    const char *name, *config;
    double n_weights, within;
} published[] = {
    {"OLMoE-1B-7B",
        SPARSE("olmoe", 2048, 16, 16, 16, 64, 8,
            50304) ", \"intermediate_size\": 1024}",
        6919161856.0, 0},
    {"Mixtral-8x7B",
        SPARSE("mixtral", 4096, 32, 32, 8, 8, 2,
            32000) ", \"intermediate_size\": 14336}",
        46702792704.0, 0},
    {"Mixtral-8x22B",
        SPARSE("mixtral", 6144, 56, 48, 8, 8, 2,
            32768) ", \"intermediate_size\": 16384}",
        140630e6, 0.5e6},
    {"Qwen1.5-MoE-A2.7B",
        SPARSE("qwen2_moe", 2048, 24, 16, 16, 60, 4,
            151936) ", \"moe_intermediate_size\": 1408, \"intermediate_size\": "
                    "5632"
                    ", \"shared_expert_intermediate_size\": 5632}",
        14316e6, 0.5e6},
    {"Qwen2-57B-A14B",
        SPARSE("qwen2_moe", 3584, 28, 28, 4, 64, 8,
            151936) ", \"moe_intermediate_size\": 2560, \"intermediate_size\": "
                    "18944"
                    ", \"shared_expert_intermediate_size\": 20480}",
        57409e6, 0.5e6},
    {"Qwen3-30B-A3B",
        SPARSE("qwen3_moe", 2048, 48, 32, 4, 128, 8,
            151936) ", \"moe_intermediate_size\": 768, \"intermediate_size\": "
                    "6144"
                    ", \"head_dim\": 128}",
        30532122624.0, 0},
    {"Qwen3-235B-A22B",
        SPARSE("qwen3_moe", 4096, 94, 64, 4, 128, 8,
            151936) ", \"moe_intermediate_size\": 1536, \"head_dim\": 128}",
        235094e6, 0.5e6},
    {"Qwen3-Coder-480B-A35B",
        SPARSE("qwen3_moe", 6144, 62, 96, 8, 160, 8,
            151936) ", \"moe_intermediate_size\": 2560, \"head_dim\": 128}",
        480155e6, 0.5e6},
    {"SmolLM2-135M",
        "{\"model_type\": \"llama\", \"hidden_size\": 576,"
        " \"num_hidden_layers\": 30, \"num_attention_heads\": 9,"
        " \"num_key_value_heads\": 3, \"intermediate_size\": 1536,"
        " \"vocab_size\": 49152, \"tie_word_embeddings\": true}",
        134515008.0, 0},
};

/* A small one of each family. */
#define DENSE_OF(type)                                                         \
    "{\"model_type\": \"" type "\", \"hidden_size\": 64, "                     \
    "\"num_hidden_layers\": 2, \"num_attention_heads\": 4, "                   \
    "\"head_dim\": 16, \"vocab_size\": 96, \"intermediate_size\": 48"
#define SPARSE_OF(type)                                                        \
    DENSE_OF(type)                                                             \
    ", \"num_experts\": 4, \"num_experts_per_tok\": 2, "                       \
    "\"moe_intermediate_size\": 8"
static const char *const families[] = {DENSE_OF("llama"), DENSE_OF("mistral"),
    DENSE_OF("qwen2"), DENSE_OF("qwen3"), SPARSE_OF("olmoe"),
    SPARSE_OF("mixtral"),
    SPARSE_OF("qwen2_moe") ", \"shared_expert_intermediate_size\": 16",
    SPARSE_OF("qwen3_moe")};
enum { N_FAMILIES = sizeof families / sizeof *families };

/* What no family computes, and what says that nothing of it is asked for. */
static const struct {
    const char *key, *value, *neutral;
} mutations[] = {
    {"add_bias_linear", "true", "false"},
    {"add_cross_attention", "true", "false"},
    {"alibi", "true", "false"},
    {"attention_chunk_size", "16", "null"},
    {"attention_multiplier", "0.01", "null"},
    {"attn_logit_softcapping", "50.0", "null"},
    {"attn_output_gate", "true", "false"},
    {"clip_qkv", "8.0", "null"},
    {"embedding_multiplier", "12", "1.0"},
    {"final_logit_softcapping", "30.0", "null"},
    {"first_k_dense_replace", "1", "0"},
    {"hidden_act", "\"gelu\"", "\"silu\""},
    {"hidden_act", "1", "null"},
    {"hidden_activation", "\"gelu_pytorch_tanh\"", "\"silu\""},
    {"interleave_moe_layer_step", "2", "1"},
    {"is_causal", "false", "true"},
    {"kv_lora_rank", "32", "null"},
    {"layer_types", "[\"full_attention\", \"linear_attention\"]",
        "[\"full_attention\", \"sliding_attention\"]"},
    {"logit_scale", "0.5", "1"},
    {"logits_scaling", "4", "1.0"},
    {"mlp_layer_types", "[\"sparse\", \"dense\"]", "null"},
    {"moe_layer_freq", "2", "1"},
    {"n_group", "4", "1"},
    {"n_routed_experts", "8", "null"},
    {"n_shared_experts", "1", "0"},
    {"no_rope_layers", "[1, 0]", "null"},
    {"num_kv_shared_layers", "1", "0"},
    {"parallel_attn", "true", "false"},
    {"partial_rotary_factor", "0.5", "1"},
    {"q_lora_rank", "32", "null"},
    {"query_pre_attn_scalar", "256", "null"},
    {"residual_multiplier", "0.2", "1"},
    {"rope_interleave", "true", "false"},
    {"rope_local_base_freq", "1e4", "null"},
    {"rope_parameters", "{\"full_attention\": {\"rope_theta\": 1e6}}",
        "{\"rope_type\": \"default\", \"rope_theta\": 1e6}"},
    {"rope_parameters", "{\"partial_rotary_factor\": 0.25}",
        "{\"partial_rotary_factor\": 1}"},
    {"rope_scaling", "{\"type\": \"mrope\", \"mrope_section\": [1]}", "null"},
    {"rotary_dim", "8", "16"},
    {"routed_scaling_factor", "2.5", "1.0"},
    {"scale_embeddings", "true", "false"},
    {"scoring_func", "\"sigmoid\"", "\"softmax\""},
    {"shared_intermediate_size", "32", "0"},
    {"swiglu_limit", "7.0", "null"},
    {"topk_group", "2", "1"},
    {"topk_method", "\"noaux_tc\"", "\"greedy\""},
    {"use_bidirectional_attention", "true", "false"},
    {"use_parallel_residual", "true", "false"},
    {"v_head_dim", "8", "16"},
};

/* What some compute: the families that refuse it, by their order above. */
static const struct {
    const char *key, *value, *refused;
} of_some[] = {
    {"attention_bias", "true", ".x...x.."},
    {"norm_topk_prob", "false", ".....x.."},
    {"num_experts", "4", "xxxx...."},
    {"num_local_experts", "4", "xxxx...."},
    {"shared_expert_intermediate_size", "32", "xxxxxx.x"},
    {"use_qk_norm", "true", "xxx..xx."},
    {"use_qk_norm", "false", "...xx..x"},
};

static qmoe_status sketch(
    qmoe_model **out, qmoe_context *context, const char *text)
{
    cJSON *config = cJSON_Parse(text);
    assert_non_null(config);
    qmoe_status status =
        qmi_model_sketch(out, qmi_hooks_of(context), config, "config.json");
    cJSON_Delete(config);
    return status;
}

static void counts_weights(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof published / sizeof *published; i++) {
        qmoe_context *context;
        qmoe_model *model;
        double n = 0;
        assert_int_equal(qmoe_context_create(&context, NULL), QMOE_OK);
        if (sketch(&model, context, published[i].config) != QMOE_OK)
            fail_msg("%s: %s", published[i].name, qmoe_context_error(context));
        for (size_t w = 0; w < model->n_weights; w++)
            n += (double)model->weights[w].n_mats *
                 (double)model->weights[w].n_rows *
                 (double)model->weights[w].n_cols;
        if (fabs(n - published[i].n_weights) > published[i].within)
            fail_msg("%s: %.0f weights", published[i].name, n);
        qmoe_model_close(model);
        qmoe_context_destroy(context);
    }
}

#define TINY                                                                   \
    SPARSE("qwen3_moe", 64, 2, 4, 2, 4, 2, 96)                                 \
    ", \"moe_intermediate_size\": "                                            \
    "8"

/* What is added to a good configuration, and what the error names. */
static const struct {
    const char *config;
    qmoe_status status;
    const char *part;
} refused[] = {
    {TINY ", \"hidden_act\": \"gelu\"}", QMOE_E_UNSUPPORTED, "hidden_act"},
    {TINY ", \"clip_qkv\": 8.0}", QMOE_E_UNSUPPORTED, "clip_qkv"},
    {TINY ", \"rope_scaling\": {\"type\": \"abacus\", \"factor\": 2}}",
        QMOE_E_UNSUPPORTED, "abacus"},
    {TINY ", \"rope_scaling\": {\"type\": \"linear\", \"factor\": -2}}",
        QMOE_E_FORMAT, "factor"},
    {TINY ", \"rope_scaling\": {\"type\": \"linear\"}}", QMOE_E_FORMAT,
        "factor"},
    {TINY ", \"rope_scaling\": {\"type\": \"longrope\", \"long_factor\": [1]}}",
        QMOE_E_FORMAT, "short_factor"},
    {TINY ", \"rope_theta\": 1}", QMOE_E_FORMAT, "rope_theta"},
    {TINY ", \"partial_rotary_factor\": 0.5}", QMOE_E_UNSUPPORTED,
        "partial_rotary_factor"},
    {TINY ", \"head_dim\": 15}", QMOE_E_UNSUPPORTED, "15 rotated values"},
    {TINY ", \"rms_norm_eps\": 0}", QMOE_E_FORMAT, "rms_norm_eps"},
    {TINY ", \"eos_token_id\": 96}", QMOE_E_FORMAT, "eos_token_id"},
    {TINY ", \"eos_token_id\": [1, \"x\"]}", QMOE_E_FORMAT, "eos_token_id"},
    {TINY ", \"mlp_only_layers\": [-1]}", QMOE_E_FORMAT, "mlp_only_layers"},
    {TINY ", \"use_sliding_window\": true, \"sliding_window\": 4,"
          " \"layer_types\": [\"full_attention\", \"linear_attention\"]}",
        QMOE_E_UNSUPPORTED, "linear_attention"},
    {TINY ", \"use_sliding_window\": true, \"sliding_window\": 4,"
          " \"layer_types\": [\"full_attention\"]}",
        QMOE_E_FORMAT, "layer_types"},
    {SPARSE(
         "qwen3_moe", 64, 2, 4, 3, 4, 2, 96) ", \"moe_intermediate_size\": 8}",
        QMOE_E_FORMAT, "num_key_value_heads"},
    {SPARSE(
         "qwen3_moe", 64, 2, 4, 2, 4, 5, 96) ", \"moe_intermediate_size\": 8}",
        QMOE_E_FORMAT, "num_experts_per_tok"},
    {SPARSE(
         "qwen2_moe", 64, 2, 4, 2, 4, 2, 96) ", \"moe_intermediate_size\": 8}",
        QMOE_E_FORMAT, "shared_expert_intermediate_size"},
    {"{\"model_type\": \"llama\", \"hidden_size\": 64}", QMOE_E_FORMAT,
        "vocab_size"},
};

static void refuses_by_name(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        qmoe_context *context;
        qmoe_model *model;
        assert_int_equal(qmoe_context_create(&context, NULL), QMOE_OK);
        const qmoe_status status = sketch(&model, context, refused[i].config);
        const char *text = qmoe_context_error(context);
        if (status != refused[i].status ||
            strstr(text, refused[i].part) == NULL)
            fail_msg("case %zu: status %d, \"%s\"", i, (int)status, text);
        qmoe_context_destroy(context);
    }
}

/* Opens a family's configuration with one more member. */
static qmoe_status sketch_with(
    char error[512], const char *family, const char *key, const char *value)
{
    char text[1024];
    qmoe_context *context;
    qmoe_model *model = NULL;
    snprintf(text, sizeof text, "%s, \"%s\": %s}", family, key, value);
    /* The first of two members of a name is found. */
    char *first = strstr(text, key);
    if (strstr(first + 1, key) != NULL)
        first[0] = '-';
    assert_int_equal(qmoe_context_create(&context, NULL), QMOE_OK);
    const qmoe_status status = sketch(&model, context, text);
    snprintf(error, 512, "%s", qmoe_context_error(context));
    qmoe_model_close(model);
    qmoe_context_destroy(context);
    return status;
}

static void refuses_in_each_family(void **state)
{
    char error[512];
    (void)state;
    for (size_t i = 0; i < sizeof mutations / sizeof *mutations; i++)
        for (int f = 0; f < N_FAMILIES; f++) {
            const char *key = mutations[i].key;
            const qmoe_status status =
                sketch_with(error, families[f], key, mutations[i].value);
            if (status != QMOE_E_UNSUPPORTED ||
                (strstr(error, key) == NULL &&
                    strchr(mutations[i].value, '{') == NULL))
                fail_msg("%s of family %d: status %d, \"%s\"", key, f,
                    (int)status, error);
            if (sketch_with(error, families[f], key, mutations[i].neutral) !=
                QMOE_OK)
                fail_msg("%s of family %d: \"%s\"", key, f, error);
        }
}

static void refuses_in_some_families(void **state)
{
    char error[512];
    (void)state;
    for (size_t i = 0; i < sizeof of_some / sizeof *of_some; i++)
        for (int f = 0; f < N_FAMILIES; f++) {
            const qmoe_status status = sketch_with(
                error, families[f], of_some[i].key, of_some[i].value);
            if ((status != QMOE_OK) != (of_some[i].refused[f] == 'x') ||
                (status != QMOE_OK && strstr(error, of_some[i].key) == NULL))
                fail_msg("%s of family %d: status %d, \"%s\"", of_some[i].key,
                    f, (int)status, error);
        }
}

/* Both names of the number type; without one it is bf16. */
static void reads_number_type(void **state)
{
    static const struct {
        const char *config;
        qmi_dtype dtype;
    } cases[] = {
        {TINY "}", QMI_BF16},
        {TINY ", \"torch_dtype\": \"float16\"}", QMI_F16},
        {TINY ", \"dtype\": \"float32\"}", QMI_F32},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qmoe_context *context;
        qmoe_model *model;
        assert_int_equal(qmoe_context_create(&context, NULL), QMOE_OK);
        assert_int_equal(sketch(&model, context, cases[i].config), QMOE_OK);
        assert_int_equal(model->weights[0].format->dtype, cases[i].dtype);
        qmoe_model_close(model);
        qmoe_context_destroy(context);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_weights),
        cmocka_unit_test(refuses_by_name),
        cmocka_unit_test(refuses_in_each_family),
        cmocka_unit_test(refuses_in_some_families),
        cmocka_unit_test(reads_number_type),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
