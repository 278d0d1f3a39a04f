/* SPDX-License-Identifier: Apache-2.0
 * In: the config.json of a decoder-only model and what was read of it.  Out: an
 * error that names the first member that asks for something else.  A member
 * that is not listed does not change what a model of these families computes,
 * or its tensors have other names and are missed. */
#include <math.h>
#include <string.h>

#include "arch_decoder.h"
#include "config_reader.h"

typedef qmi_config_reader reader;

static qmoe_status refuse(const reader *r, const char *key)
{
    return qmi_fail(r->err, QMOE_E_UNSUPPORTED,
        "%s: '%s' has a value that is not supported for this model_type",
        r->file, key);
}

/* NULL, too, when it is null: that says that a thing is not there. */
static const cJSON *member(const cJSON *json, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
    return cJSON_IsNull(item) ? NULL : item;
}

/* A truth value counts as a number; NAN: something else. */
static double number_of(const cJSON *item)
{
    if (cJSON_IsBool(item))
        return cJSON_IsTrue(item);
    return cJSON_IsNumber(item) ? item->valuedouble : NAN;
}

/* ---- one value each ---- */

/* The only number that changes nothing. */
static const struct {
    const char *key;
    double neutral; /* NAN: every value changes something */
} NUMBERS[] = {
    /* attention */
    {"add_cross_attention", 0},
    {"alibi", 0},
    {"attention_chunk_size", NAN},
    {"attention_multiplier", NAN},
    {"attn_logit_softcapping", NAN},
    {"attn_output_gate", 0},
    {"clip_qkv", NAN},
    {"is_causal", 1},
    {"kv_lora_rank", NAN},
    {"num_kv_shared_layers", 0},
    {"q_lora_rank", NAN},
    {"query_pre_attn_scalar", NAN},
    {"use_bidirectional_attention", 0},
    /* positions */
    {"no_rope_layer_interval", NAN},
    {"no_rope_layers", NAN},
    {"partial_rotary_factor", 1},
    {"rope_interleave", 0},
    {"rope_interleaved", 0},
    {"rope_local_base_freq", NAN},
    {"rotary_pct", 1},
    {"use_mrope", 0},
    /* feed-forward */
    {"first_k_dense_replace", 0},
    {"interleave_moe_layer_step", 1},
    {"moe_layer_freq", 1},
    {"n_group", 1},
    {"n_routed_experts", NAN},
    {"n_shared_experts", 0},
    {"routed_scaling_factor", 1},
    {"shared_intermediate_size", 0},
    {"swiglu_limit", NAN},
    {"topk_group", 1},
    /* between them */
    {"add_bias_linear", 0},
    {"embedding_multiplier", 1},
    {"final_logit_softcapping", NAN},
    {"logit_scale", 1},
    {"logits_scaling", 1},
    {"parallel_attn", 0},
    {"residual_multiplier", 1},
    {"scale_emb", 1},
    {"scale_embeddings", 0},
    {"use_bias", 0},
    {"use_parallel_residual", 0},
};

/* The same for texts. */
static const struct {
    const char *key, *neutral;
} TEXTS[] = {
    {"hidden_act", "silu"},
    {"hidden_activation", "silu"},
    {"scoring_func", "softmax"},
    {"topk_method", "greedy"},
};

static qmoe_status check_values(const reader *r)
{
    for (size_t i = 0; i < sizeof NUMBERS / sizeof *NUMBERS; i++) {
        const cJSON *item = member(r->json, NUMBERS[i].key);
        if (item != NULL && number_of(item) != NUMBERS[i].neutral)
            return refuse(r, NUMBERS[i].key);
    }
    for (size_t i = 0; i < sizeof TEXTS / sizeof *TEXTS; i++) {
        const cJSON *item = member(r->json, TEXTS[i].key);
        const char *text = cJSON_GetStringValue(item);
        if (item != NULL &&
            (text == NULL || strcmp(text, TEXTS[i].neutral) != 0))
            return refuse(r, TEXTS[i].key);
    }
    return QMOE_OK;
}

/* ---- by family ---- */

static qmoe_status expect(const reader *r, const char *key, double expected)
{
    const cJSON *item = member(r->json, key);
    return item == NULL || number_of(item) == expected ? QMOE_OK
                                                       : refuse(r, key);
}

static qmoe_status check_attention(const reader *r, const qmi_decoder *d)
{
    static const char *const norms[] = {
        "qk_layernorm", "qk_norm", "use_qk_norm"};
    for (size_t i = 0; i < sizeof norms / sizeof *norms; i++)
        QMI_TRY(expect(r, norms[i], d->family->qk_norm != QMI_QK_NONE));
    QMI_TRY(expect(r, "rotary_dim", (double)d->d_head));
    QMI_TRY(expect(r, "v_head_dim", (double)d->d_head));
    /* Families with biases and no key for them do not look. */
    return d->family->bias_key == NULL && !d->qkv_bias
               ? expect(r, "attention_bias", 0)
               : QMOE_OK;
}

static qmoe_status check_experts(const reader *r, const qmi_decoder *d)
{
    const cJSON *types = member(r->json, "mlp_layer_types"), *item = NULL;
    int64_t i = 0;
    if (d->family->sparse == NULL) {
        QMI_TRY(expect(r, "num_experts", 0));
        QMI_TRY(expect(r, "num_local_experts", 0));
    }
    if (d->family->normalises)
        QMI_TRY(expect(r, "norm_topk_prob", 1));
    if (!d->family->has_shared)
        QMI_TRY(expect(r, "shared_expert_intermediate_size", 0));
    cJSON_ArrayForEach(item, types)
    {
        const char *type = cJSON_GetStringValue(item);
        const bool is_sparse = i < d->n_blocks && qmi_decoder_is_sparse(d, i);
        if (type == NULL || strcmp(type, is_sparse ? "sparse" : "dense") != 0)
            return refuse(r, "mlp_layer_types");
        i++;
    }
    return QMOE_OK;
}

/* Types that no window rule has looked at. */
static qmoe_status check_layers(const reader *r)
{
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, member(r->json, "layer_types"))
    {
        const char *type = cJSON_GetStringValue(item);
        if (type == NULL || (strcmp(type, "full_attention") != 0 &&
                                strcmp(type, "sliding_attention") != 0))
            return qmi_fail(r->err, QMOE_E_UNSUPPORTED,
                "%s: layer_types has '%.64s'", r->file,
                type != NULL ? type : "something that is no text");
    }
    return QMOE_OK;
}

/* Newer files have what older ones have beside them among these, or a set for
 * each type of layers. */
static qmoe_status check_rotary(const reader *r)
{
    static const char *const places[] = {"rope_parameters", "rope_scaling"};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        const cJSON *all = member(r->json, places[i]), *item = NULL;
        const reader inner = {all, r->file, r->err};
        cJSON_ArrayForEach(item, all)
        {
            if (cJSON_IsObject(item))
                return refuse(r, places[i]);
        }
        QMI_TRY(expect(&inner, "partial_rotary_factor", 1));
    }
    return QMOE_OK;
}

qmoe_status qmi_decoder_refuse(
    const qmi_decoder *d, const cJSON *config, const char *file, qmi_error *err)
{
    const reader r = {config, file, err};
    QMI_TRY(check_values(&r));
    QMI_TRY(check_attention(&r, d));
    QMI_TRY(check_experts(&r, d));
    QMI_TRY(check_layers(&r));
    return check_rotary(&r);
}
