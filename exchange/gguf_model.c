/* SPDX-License-Identifier: Apache-2.0
 * In: the values of a GGUF file.  Out: family and sizes of its model.  A key of
 * the architecture that is not known here may change what the model computes,
 * so it is refused by name, and so is a known one with a value that a
 * checkpoint cannot express. */
#include "gguf_model.h"

#include <stdio.h>
#include <string.h>

/* ---- families ---- */

static const qmi_gguf_family families[] = {
    {.arch = "llama",
        .model_type = "llama",
        .model_class = "LlamaForCausalLM",
        .may_be_bias = true,
        .is_permuted = true,
        .has_head_dim = true,
        .norm_topk = -1},
    {.arch = "llama",
        .has_experts = true,
        .model_type = "mixtral",
        .model_class = "MixtralForCausalLM",
        .is_permuted = true,
        .has_block_sparse_moe = true,
        .has_head_dim = true,
        .experts_key = "num_local_experts",
        .norm_topk = -1},
    {.arch = "qwen2",
        .model_type = "qwen2",
        .model_class = "Qwen2ForCausalLM",
        .has_bias = true,
        .norm_topk = -1},
    {.arch = "qwen2moe",
        .has_experts = true,
        .model_type = "qwen2_moe",
        .model_class = "Qwen2MoeForCausalLM",
        .has_bias = true,
        .has_shared_expert = true,
        .experts_key = "num_experts",
        .expert_width_key = "moe_intermediate_size",
        .norm_topk = 0},
    {.arch = "qwen3",
        .model_type = "qwen3",
        .model_class = "Qwen3ForCausalLM",
        .norm = QMI_GGUF_HEAD_NORM,
        .has_head_dim = true,
        .norm_topk = -1},
    {.arch = "qwen3moe",
        .has_experts = true,
        .model_type = "qwen3_moe",
        .model_class = "Qwen3MoeForCausalLM",
        .norm = QMI_GGUF_HEAD_NORM,
        .has_head_dim = true,
        .experts_key = "num_experts",
        .expert_width_key = "moe_intermediate_size",
        .norm_topk = 1},
    {.arch = "olmoe",
        .has_experts = true,
        .model_type = "olmoe",
        .model_class = "OlmoeForCausalLM",
        .norm = QMI_GGUF_WHOLE_NORM,
        .has_clip = true,
        .experts_key = "num_experts",
        .norm_topk = 0},
};
enum { N_FAMILIES = sizeof families / sizeof *families };

/* ---- keys ---- */

/* Keys of the architecture that are read here or in gguf_config.c. */
static const char *const read_keys[] = {"attention.clamp_kqv",
    "attention.head_count", "attention.head_count_kv", "attention.key_length",
    "attention.layer_norm_rms_epsilon", "attention.value_length", "block_count",
    "context_length", "embedding_length", "expert_count",
    "expert_feed_forward_length", "expert_shared_feed_forward_length",
    "expert_used_count", "feed_forward_length", "rope.dimension_count",
    "rope.freq_base", "rope.scaling.factor",
    "rope.scaling.original_context_length", "rope.scaling.type",
    "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow", "vocab_size"};

/* Keys that say nothing as long as they have the value of a model that does
 * not need them. */
static const struct {
    const char *key;
    double value;
} fixed_keys[] = {
    {"attention.causal", 1},
    {"attention.scale", 0},
    {"expert_gating_func", 1}, /* softmax */
    {"expert_group_count", 0},
    {"expert_group_used_count", 0},
    {"expert_weights_scale", 1},
    {"leading_dense_block_count", 0},
    {"logit_scale", 1},
    {"rope.scaling.attn_factor", 1},
    {"rope.scaling.yarn_attn_factor", 1},
    {"rope.scaling.yarn_ext_factor", 1},
    {"use_parallel_residual", 0},
};

static bool is_listed(const char *key)
{
    /* About the history of a file, not about its model. */
    if (strcmp(key, "rope.scaling.finetuned") == 0 ||
        strcmp(key, "tensor_data_layout") == 0 ||
        strcmp(key, "expert_weights_norm") == 0) /* check_topk */
        return true;
    for (size_t i = 0; i < sizeof read_keys / sizeof *read_keys; i++)
        if (strcmp(key, read_keys[i]) == 0)
            return true;
    return false;
}

/* A number of any kind; NAN-like -1 for a text. */
static double number_of(const qmi_gguf_value *v)
{
    int64_t integer = 0;
    double real = -1;
    bool truth = false;
    if (v->is_array)
        return -1;
    if (qmi_gguf_int(v, 0, &integer))
        return (double)integer;
    if (qmi_gguf_bool(v, 0, &truth))
        return truth;
    return qmi_gguf_real(v, 0, &real) ? real : -1;
}

static bool is_fixed(const char *key, const qmi_gguf_value *v)
{
    for (size_t i = 0; i < sizeof fixed_keys / sizeof *fixed_keys; i++)
        if (strcmp(key, fixed_keys[i].key) == 0)
            return number_of(v) == fixed_keys[i].value;
    return false;
}

static qmoe_status check_keys(const qmi_gguf_source *s)
{
    const size_t n = strlen(s->arch);
    for (size_t i = 0; i < qmi_gguf_count(s->files[0]); i++) {
        const qmi_gguf_value *v = qmi_gguf_at(s->files[0], i);
        if (strncmp(v->key, s->arch, n) != 0 || v->key[n] != '.')
            continue;
        const char *key = v->key + n + 1;
        if (!is_listed(key) && !is_fixed(key, v))
            return qmi_fail(s->err, QMOE_E_UNSUPPORTED,
                "%s: key '%.200s' is not known, or has a value that is not "
                "supported",
                qmi_gguf_source_path(s), v->key);
    }
    return QMOE_OK;
}

/* ---- sizes ---- */

/* Far above all models; bounds products of two sizes. */
enum { MOST = 1 << 24, MOST_BLOCKS = 10000, MOST_EXPERTS = 1 << 16 };

static qmoe_status find_family(
    qmi_gguf_model *m, const qmi_gguf_source *s, int64_t n_experts)
{
    char known[200];
    size_t n = 0;
    for (int i = 0; i < N_FAMILIES; i++)
        if (strcmp(families[i].arch, s->arch) == 0 &&
            families[i].has_experts == (n_experts != 0)) {
            m->family = &families[i];
            return QMOE_OK;
        }
    for (int i = 0; i < N_FAMILIES; i++)
        if (i == 0 || strcmp(families[i].arch, families[i - 1].arch) != 0)
            n += (size_t)snprintf(known + n, sizeof known - n, "%s%s",
                n != 0 ? ", " : "", families[i].arch);
    return qmi_fail(s->err, QMOE_E_UNSUPPORTED,
        "%s: architecture '%s' with %lld experts; supported are %s",
        qmi_gguf_source_path(s), s->arch, (long long)n_experts, known);
}

static qmoe_status read_heads(qmi_gguf_model *m, const qmi_gguf_source *s)
{
    int64_t width = 0, rotated = 0;
    QMI_TRY(qmi_gguf_source_require_int(
        s, "*.attention.head_count", 1, MOST, &m->n_heads));
    m->n_kv_heads = m->n_heads;
    QMI_TRY(qmi_gguf_source_int(
        s, "*.attention.head_count_kv", 1, MOST, &m->n_kv_heads));
    m->head_dim = m->d_model / m->n_heads;
    QMI_TRY(qmi_gguf_source_int(
        s, "*.attention.key_length", 1, MOST, &m->head_dim));
    width = rotated = m->head_dim;
    QMI_TRY(
        qmi_gguf_source_int(s, "*.attention.value_length", 1, MOST, &width));
    QMI_TRY(
        qmi_gguf_source_int(s, "*.rope.dimension_count", 1, MOST, &rotated));
    if (width != m->head_dim || rotated != m->head_dim)
        return qmi_fail(s->err, QMOE_E_UNSUPPORTED,
            "%s: keys of %lld, values of %lld and %lld rotated elements; one "
            "width for all is supported",
            qmi_gguf_source_path(s), (long long)m->head_dim, (long long)width,
            (long long)rotated);
    if (m->head_dim < 2 || m->head_dim % 2 != 0 ||
        m->n_heads % m->n_kv_heads != 0)
        return qmi_fail(s->err, QMOE_E_FORMAT,
            "%s: %lld heads of %lld elements with %lld for keys",
            qmi_gguf_source_path(s), (long long)m->n_heads,
            (long long)m->head_dim, (long long)m->n_kv_heads);
    if (!m->family->has_head_dim && m->head_dim * m->n_heads != m->d_model)
        return qmi_fail(s->err, QMOE_E_UNSUPPORTED,
            "%s: %lld heads of %lld elements are not the width of the model, "
            "%lld, which architecture '%s' requires",
            qmi_gguf_source_path(s), (long long)m->n_heads,
            (long long)m->head_dim, (long long)m->d_model, s->arch);
    return QMOE_OK;
}

/* Weights of chosen experts are normalised or not by architecture; the key can
 * only confirm it. */
static qmoe_status check_topk(const qmi_gguf_model *m, const qmi_gguf_source *s)
{
    bool is_normal = m->family->norm_topk != 0;
    const bool expected = is_normal;
    QMI_TRY(qmi_gguf_source_bool(s, "*.expert_weights_norm", &is_normal));
    if (is_normal != expected)
        return qmi_fail(s->err, QMOE_E_UNSUPPORTED,
            "%s: key '%s.expert_weights_norm' has a value that is not "
            "supported",
            qmi_gguf_source_path(s), s->arch);
    return QMOE_OK;
}

static qmoe_status read_experts(qmi_gguf_model *m, const qmi_gguf_source *s)
{
    QMI_TRY(check_topk(m, s));
    QMI_TRY(qmi_gguf_source_require_int(
        s, "*.expert_used_count", 1, m->n_experts, &m->top_k));
    m->d_expert = m->d_ff;
    if (m->family->expert_width_key != NULL)
        QMI_TRY(qmi_gguf_source_require_int(
            s, "*.expert_feed_forward_length", 1, MOST, &m->d_expert));
    if (m->family->has_shared_expert)
        QMI_TRY(qmi_gguf_source_require_int(
            s, "*.expert_shared_feed_forward_length", 1, MOST, &m->d_shared));
    return QMOE_OK;
}

static qmoe_status read_sizes(qmi_gguf_model *m, const qmi_gguf_source *s)
{
    QMI_TRY(qmi_gguf_source_require_int(
        s, "*.block_count", 1, MOST_BLOCKS, &m->n_blocks));
    QMI_TRY(qmi_gguf_source_require_int(
        s, "*.embedding_length", 1, MOST, &m->d_model));
    QMI_TRY(qmi_gguf_source_require_int(
        s, "*.feed_forward_length", 1, MOST, &m->d_ff));
    QMI_TRY(qmi_gguf_source_require_int(
        s, "*.context_length", 1, INT32_MAX, &m->n_positions));
    QMI_TRY(read_heads(m, s));
    if (m->n_experts != 0)
        QMI_TRY(read_experts(m, s));
    m->epsilon = -1;
    m->theta = 10000;
    QMI_TRY(qmi_gguf_source_real(
        s, "*.attention.layer_norm_rms_epsilon", &m->epsilon));
    QMI_TRY(qmi_gguf_source_real(s, "*.rope.freq_base", &m->theta));
    if (m->epsilon < 0 || m->theta <= 0)
        return qmi_fail(s->err, QMOE_E_FORMAT,
            "%s: epsilon of the norms is missing, or it or the base of the "
            "rotary frequencies is out of range",
            qmi_gguf_source_path(s));
    return QMOE_OK;
}

/* Where only the tensors tell. */
static qmoe_status look_at_tensors(qmi_gguf_model *m, const qmi_gguf_source *s)
{
    const qmi_tensor *embedding = qmi_gguf_source_find(s, "token_embd.weight");
    if (embedding == NULL || embedding->rank != 2 || embedding->shape[0] < 1 ||
        embedding->shape[0] > INT32_MAX)
        return qmi_fail(s->err, QMOE_E_FORMAT,
            "%s: tensor 'token_embd.weight' is missing or no matrix",
            qmi_gguf_source_path(s));
    m->n_tokens = embedding->shape[0];
    m->is_tied = qmi_gguf_source_find(s, "output.weight") == NULL;
    m->has_bias = m->family->has_bias ||
                  (m->family->may_be_bias &&
                      qmi_gguf_source_find(s, "blk.0.attn_q.bias") != NULL);
    return QMOE_OK;
}

qmoe_status qmi_gguf_model_read(qmi_gguf_model *out, qmi_gguf_source *source)
{
    *out = (qmi_gguf_model){0};
    QMI_TRY(qmi_gguf_source_int(
        source, "*.expert_count", 0, MOST_EXPERTS, &out->n_experts));
    QMI_TRY(find_family(out, source, out->n_experts));
    QMI_TRY(check_keys(source));
    QMI_TRY(read_sizes(out, source));
    return look_at_tensors(out, source);
}
