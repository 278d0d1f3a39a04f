/* SPDX-License-Identifier: Apache-2.0
 * In: the config.json of a decoder-only model, not trusted, and its family.
 * Out: what it says, every number in its range, so that products of dimensions
 * fit 64 bits.  Missing members get the defaults of the reference
 * implementation. */
#include <string.h>

#include "arch_decoder.h"
#include "config_reader.h"

enum { MAX_EXPERTS = 1 << 16 };

typedef qmi_config_reader reader;

static const cJSON *member(const reader *r, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(r->json, key);
    return cJSON_IsNull(item) ? NULL : item;
}

/* ---- shape ---- */

static qmoe_status read_shape(const reader *r, qmi_decoder *d)
{
    QMI_TRY(qmi_config_need(
        r, &d->shape.vocab_size, "vocab_size", 1, QMI_MAX_DIMENSION));
    QMI_TRY(qmi_config_need(
        r, &d->shape.d_model, "hidden_size", 1, QMI_MAX_DIMENSION));
    QMI_TRY(qmi_config_need(
        r, &d->n_blocks, "num_hidden_layers", 1, QMI_DECODER_MAX_BLOCKS));
    QMI_TRY(qmi_config_need(
        r, &d->n_heads, "num_attention_heads", 1, QMI_MAX_DIMENSION));
    d->n_kv_heads = d->n_heads;
    QMI_TRY(qmi_config_may(
        r, &d->n_kv_heads, "num_key_value_heads", 1, d->n_heads));
    if (d->n_heads % d->n_kv_heads != 0)
        return qmi_fail(r->err, QMOE_E_FORMAT,
            "%s: num_attention_heads is not a multiple of num_key_value_heads",
            r->file);
    d->d_head = d->family->default_head;
    if (d->d_head == 0)
        d->d_head = d->shape.d_model / d->n_heads;
    QMI_TRY(qmi_config_may(r, &d->d_head, "head_dim", 1, QMI_MAX_DIMENSION));
    /* The product is a width, too, so it has the same bound. */
    if (d->d_head < 1 || d->n_heads > QMI_MAX_DIMENSION / d->d_head)
        return qmi_fail(r->err, QMOE_E_FORMAT,
            "%s: num_attention_heads * head_dim is not in 1..%d", r->file,
            QMI_MAX_DIMENSION);
    return QMOE_OK;
}

static qmoe_status read_flags(const reader *r, qmi_decoder *d)
{
    const qmi_decoder_family *family = d->family;
    d->qkv_bias = family->bias_default;
    if (family->bias_key != NULL)
        QMI_TRY(qmi_config_flag(r, &d->qkv_bias, family->bias_key));
    d->o_bias = d->qkv_bias && family->bias_of_o;
    QMI_TRY(qmi_config_flag(r, &d->mlp_bias, "mlp_bias"));
    QMI_TRY(qmi_config_flag(r, &d->tied_head, "tie_word_embeddings"));
    d->epsilon = family->default_epsilon;
    return qmi_config_epsilon(r, &d->epsilon, "rms_norm_eps");
}

static qmoe_status read_ids(const reader *r, qmi_decoder *d)
{
    int64_t start = 0;
    d->shape.objective = QMI_NEXT_TOKEN;
    QMI_TRY(
        qmi_config_may(r, &start, "bos_token_id", 0, d->shape.vocab_size - 1));
    d->shape.start_id = (int32_t)start;
    return qmi_config_ends(r, &d->shape);
}

/* ---- feed-forward ---- */

static qmoe_status read_dense_blocks(const reader *r, qmi_decoder *d)
{
    const cJSON *list = member(r, "mlp_only_layers"), *item = NULL;
    d->sparse_step = 1;
    QMI_TRY(qmi_config_may(
        r, &d->sparse_step, "decoder_sparse_step", 1, QMI_DECODER_MAX_BLOCKS));
    cJSON_ArrayForEach(item, list)
    {
        uint64_t block;
        if (!qmi_json_to_u64(&block, item))
            return qmi_fail(r->err, QMOE_E_FORMAT,
                "%s: mlp_only_layers is not a list of numbers", r->file);
        /* Published files name blocks that cut models do not have. */
        if (block < (uint64_t)d->n_blocks)
            d->is_dense[block] = true;
    }
    return QMOE_OK;
}

static qmoe_status read_experts(const reader *r, qmi_decoder *d)
{
    const qmi_decoder_family *family = d->family;
    /* Both spellings are found; files that were saved anew have the other. */
    const char *key =
        member(r, "num_experts") != NULL ? "num_experts" : "num_local_experts";
    QMI_TRY(qmi_config_need(r, &d->n_experts, key, 1, MAX_EXPERTS));
    QMI_TRY(
        qmi_config_need(r, &d->top_k, "num_experts_per_tok", 1, d->n_experts));
    QMI_TRY(qmi_config_need(
        r, &d->d_expert, family->expert_width_key, 1, QMI_MAX_DIMENSION));
    d->normalises = family->normalises;
    if (!family->normalises)
        QMI_TRY(qmi_config_flag(r, &d->normalises, "norm_topk_prob"));
    if (family->has_shared)
        QMI_TRY(qmi_config_need(r, &d->d_shared,
            "shared_expert_intermediate_size", 1, QMI_MAX_DIMENSION));
    return read_dense_blocks(r, d);
}

static qmoe_status read_ffn(const reader *r, qmi_decoder *d)
{
    bool any_dense = d->family->sparse == NULL;
    if (!any_dense)
        QMI_TRY(read_experts(r, d));
    for (int64_t i = 0; i < d->n_blocks && !any_dense; i++)
        any_dense = !qmi_decoder_is_sparse(d, i);
    /* Of models without a dense block the key may say anything. */
    if (!any_dense)
        return QMOE_OK;
    return qmi_config_need(
        r, &d->d_ff, "intermediate_size", 1, QMI_MAX_DIMENSION);
}

bool qmi_decoder_is_sparse(const qmi_decoder *d, int64_t block)
{
    return d->family->sparse != NULL && !d->is_dense[block] &&
           (block + 1) % d->sparse_step == 0;
}

/* ---- windows ---- */

static qmoe_status read_layer_types(
    const reader *r, qmi_decoder *d, const cJSON *types, int64_t window)
{
    const cJSON *item = NULL;
    int64_t i = 0;
    cJSON_ArrayForEach(item, types)
    {
        const char *type = cJSON_GetStringValue(item);
        if (i == d->n_blocks || type == NULL)
            break;
        if (strcmp(type, "sliding_attention") == 0)
            d->window[i] = window;
        else if (strcmp(type, "full_attention") != 0)
            return qmi_fail(r->err, QMOE_E_UNSUPPORTED,
                "%s: layer_types has '%.64s'", r->file, type);
        i++;
    }
    if (i == d->n_blocks)
        return QMOE_OK;
    return qmi_fail(r->err, QMOE_E_FORMAT,
        "%s: layer_types is not a list of a string per layer", r->file);
}

static qmoe_status read_windows(const reader *r, qmi_decoder *d)
{
    const cJSON *types = member(r, "layer_types");
    const qmi_window_rule rule = d->family->window;
    bool is_used = rule == QMI_WINDOW_GIVEN;
    int64_t window = 0, first = 0;
    if (rule == QMI_WINDOW_ASKED)
        QMI_TRY(qmi_config_flag(r, &is_used, "use_sliding_window"));
    if (!is_used)
        return QMOE_OK;
    /* null says that there is none, a missing key the default. */
    if (cJSON_GetObjectItemCaseSensitive(r->json, "sliding_window") == NULL)
        window = d->family->default_window;
    QMI_TRY(qmi_config_may(r, &window, "sliding_window", 1, INT32_MAX));
    if (window == 0)
        return QMOE_OK;
    if (types != NULL)
        return read_layer_types(r, d, types, window);
    if (rule == QMI_WINDOW_ASKED)
        QMI_TRY(qmi_config_may(r, &first, "max_window_layers", 0, INT32_MAX));
    for (int64_t i = first; i < d->n_blocks; i++)
        d->window[i] = window;
    return QMOE_OK;
}

/* ---- the whole ---- */

qmoe_status qmi_decoder_configure(qmi_decoder *out,
    const qmi_decoder_family *family, const cJSON *config, const char *file,
    qmi_error *err)
{
    const reader r = {config, file, err};
    /* What a file says when it says nothing: far above every sequence. */
    int64_t max_positions = 2048;
    memset(out, 0, sizeof *out);
    out->family = family;
    QMI_TRY(read_shape(&r, out));
    QMI_TRY(read_flags(&r, out));
    QMI_TRY(read_ids(&r, out));
    QMI_TRY(read_ffn(&r, out));
    QMI_TRY(read_windows(&r, out));
    QMI_TRY(qmi_decoder_refuse(out, config, file, err));
    QMI_TRY(qmi_config_may(
        &r, &max_positions, "max_position_embeddings", 1, INT32_MAX));
    return qmi_rotary_configure(&out->rotary, config, out->d_head,
        family->default_base, max_positions, file, err);
}
