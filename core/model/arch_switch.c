/* SPDX-License-Identifier: Apache-2.0
 * SwitchTransformers: T5 encoder-decoder whose sparse blocks route every token
 * to one of many relu experts.  Definition: transformers 4.27/4.28,
 * modeling_switch_transformers.py. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "arch.h"
#include "arch_switch_weights.h"
#include "model.h"

/* ---- config.json ---- */

enum { MAX_DIMENSION = 1 << 24, MAX_BLOCKS = 1024 };

typedef struct reader {
    const cJSON *json;
    const char *file;
    qmi_error *err;
} reader;

static qmoe_status need(
    const reader *r, int64_t *out, const char *key, int64_t low, int64_t high)
{
    return qmi_json_int(out, r->json, key, true, 0, low, high, r->file, r->err);
}

static qmoe_status may(const reader *r, int64_t *out, const char *key,
    int64_t fallback, int64_t low, int64_t high)
{
    return qmi_json_int(
        out, r->json, key, false, fallback, low, high, r->file, r->err);
}

static qmoe_status read_shape(const reader *r, qmi_config *c)
{
    QMI_TRY(need(r, &c->vocab_size, "vocab_size", 1, MAX_DIMENSION));
    QMI_TRY(need(r, &c->d_model, "d_model", 1, MAX_DIMENSION));
    QMI_TRY(need(r, &c->d_kv, "d_kv", 1, MAX_DIMENSION));
    QMI_TRY(need(r, &c->d_ff, "d_ff", 1, MAX_DIMENSION));
    QMI_TRY(need(r, &c->n_heads, "num_heads", 1, MAX_DIMENSION));
    if (c->n_heads * c->d_kv > MAX_DIMENSION)
        return qmi_fail(r->err, QMOE_E_FORMAT,
            "%s: num_heads * d_kv is above %d", r->file, MAX_DIMENSION);
    QMI_TRY(need(r, &c->n_experts, "num_experts", 1, MAX_DIMENSION));
    QMI_TRY(need(r, &c->n_blocks[QMI_ENCODER], "num_layers", 1, MAX_BLOCKS));
    return may(r, &c->n_blocks[QMI_DECODER], "num_decoder_layers",
        c->n_blocks[QMI_ENCODER], 1, MAX_BLOCKS);
}

/* The step keys win over the counts, as in the library; without a step it is
 * layers / sparse layers. */
static qmoe_status read_sparse_step(const reader *r, qmi_config *c, int stack,
    const char *step_key, const char *count_key)
{
    int64_t n_sparse = 0;
    QMI_TRY(may(r, &n_sparse, count_key, 3, 0, MAX_BLOCKS));
    int64_t step = n_sparse > 0 ? c->n_blocks[stack] / n_sparse : 0;
    return may(r, &c->sparse_step[stack], step_key, step, 0, MAX_BLOCKS);
}

static qmoe_status read_sparsity(const reader *r, qmi_config *c)
{
    QMI_TRY(read_sparse_step(
        r, c, QMI_ENCODER, "encoder_sparse_step", "num_sparse_encoder_layers"));
    QMI_TRY(read_sparse_step(
        r, c, QMI_DECODER, "decoder_sparse_step", "num_sparse_decoder_layers"));
    bool full = false;
    QMI_TRY(qmi_json_bool(
        &full, r->json, "is_full_sparse", false, r->file, r->err));
    if (full)
        c->sparse_step[QMI_ENCODER] = c->sparse_step[QMI_DECODER] = 1;
    c->top_k = 1;
    return QMOE_OK;
}

/* Added to a mean of squares under a root in float32: positive and normal
 * there, or a row of zeros is divided by zero, and not above the 1 that a
 * normalised row has itself. */
static qmoe_status read_epsilon(const reader *r, qmi_config *c)
{
    QMI_TRY(qmi_json_double(&c->norm_epsilon, r->json, "layer_norm_epsilon",
        1e-6, r->file, r->err));
    if (c->norm_epsilon >= (double)FLT_MIN && c->norm_epsilon <= 1)
        return QMOE_OK;
    return qmi_fail(r->err, QMOE_E_FORMAT,
        "%s: layer_norm_epsilon is %g, not in %g..1", r->file, c->norm_epsilon,
        (double)FLT_MIN);
}

static qmoe_status read_bias_and_ids(const reader *r, qmi_config *c)
{
    int64_t pad = 0, end = 0, start = 0;
    int64_t last = c->vocab_size - 1;
    QMI_TRY(may(
        r, &c->n_buckets, "relative_attention_num_buckets", 32, 4, 1 << 16));
    QMI_TRY(may(r, &c->max_distance, "relative_attention_max_distance", 128,
        c->n_buckets, 1 << 20));
    QMI_TRY(read_epsilon(r, c));
    QMI_TRY(qmi_json_bool(
        &c->tied_head, r->json, "tie_word_embeddings", true, r->file, r->err));
    QMI_TRY(may(r, &pad, "pad_token_id", 0, 0, last));
    QMI_TRY(may(r, &end, "eos_token_id", 1, 0, last));
    QMI_TRY(may(r, &start, "decoder_start_token_id", pad, 0, last));
    c->pad_id = (int32_t)pad;
    c->end_id = (int32_t)end;
    c->start_id = (int32_t)start;
    return QMOE_OK;
}

/* What this definition does not compute is refused by name. */
static qmoe_status refuse_others(const reader *r)
{
    bool gated = false, router_bias = false;
    const char *act = NULL, *projection = NULL;
    QMI_TRY(
        qmi_json_bool(&gated, r->json, "is_gated_act", false, r->file, r->err));
    QMI_TRY(qmi_json_bool(
        &router_bias, r->json, "router_bias", false, r->file, r->err));
    QMI_TRY(qmi_json_string(
        &projection, r->json, "feed_forward_proj", "relu", r->file, r->err));
    QMI_TRY(qmi_json_string(
        &act, r->json, "dense_act_fn", projection, r->file, r->err));
    if (gated || strcmp(act, "relu") != 0 || strcmp(projection, "relu") != 0)
        return qmi_fail(r->err, QMOE_E_UNSUPPORTED,
            "%s: only the plain relu feed-forward is supported, not '%s'%s",
            r->file, strcmp(act, "relu") != 0 ? act : projection,
            gated ? " (gated)" : "");
    if (router_bias)
        return qmi_fail(r->err, QMOE_E_UNSUPPORTED,
            "%s: router_bias is not supported", r->file);
    return QMOE_OK;
}

static qmoe_status configure(
    qmi_config *out, const cJSON *json, const char *file, qmi_error *err)
{
    const reader r = {json, file, err};
    *out = (qmi_config){0};
    QMI_TRY(read_shape(&r, out));
    QMI_TRY(read_sparsity(&r, out));
    QMI_TRY(read_bias_and_ids(&r, out));
    return refuse_others(&r);
}

/* ---- weights and steps ---- */

typedef struct builder {
    qmoe_model *model;
    qmi_error *err;
    uint32_t embedding;
    int32_t block; /* of the steps being added */
} builder;

/* Adds a step of the current block. */
static qmoe_status add(const builder *b, qmi_steps *steps, qmi_step step)
{
    step.block = b->block;
    return qmi_steps_add(steps, step, b->err);
}

/* Adds "<prefix><name>" and returns its index. */
static qmoe_status matrix(const builder *b, uint32_t *index, const char *prefix,
    const char *name, int64_t n_rows, int64_t n_cols)
{
    char full[256];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    return qmi_model_add_matrix(b->model, index, full, n_rows, n_cols, b->err);
}

static qmoe_status norm(
    const builder *b, qmi_steps *steps, const char *prefix, const char *name)
{
    qmi_step step = {.kind = QMI_OP_RMSNORM,
        .dst = QMI_SLOT_NORMED,
        .src = QMI_SLOT_RESIDUAL};
    QMI_TRY(matrix(b, &step.weight, prefix, name, 1, b->model->config.d_model));
    return add(b, steps, step);
}

/* A product with a new weight.  `residual` NONE: plain. */
static qmoe_status linear(const builder *b, qmi_steps *steps,
    const char *prefix, const char *name, int64_t n_rows, int64_t n_cols,
    qmi_step step)
{
    step.kind = QMI_OP_LINEAR;
    step.alpha = 1.0f;
    QMI_TRY(matrix(b, &step.weight, prefix, name, n_rows, n_cols));
    return add(b, steps, step);
}

static qmoe_status store(
    const builder *b, qmi_steps *steps, qmi_slot src, qmi_cache cache)
{
    qmi_step step = {.kind = QMI_OP_KV_STORE, .src = src, .cache = cache};
    return add(b, steps, step);
}

/* Projections of keys and values, from `src`, into the K and V slots. */
static qmoe_status keys_values(
    const builder *b, qmi_steps *steps, const char *prefix)
{
    const qmi_config *c = &b->model->config;
    int64_t inner = c->n_heads * c->d_kv;
    QMI_TRY(linear(b, steps, prefix, "k.weight", inner, c->d_model,
        (qmi_step){.dst = QMI_SLOT_K, .src = QMI_SLOT_NORMED}));
    return linear(b, steps, prefix, "v.weight", inner, c->d_model,
        (qmi_step){.dst = QMI_SLOT_V, .src = QMI_SLOT_NORMED});
}

static qmoe_status attention(const builder *b, qmi_steps *steps,
    const char *prefix, qmi_attention_kind kind)
{
    const qmi_config *c = &b->model->config;
    int64_t inner = c->n_heads * c->d_kv;
    QMI_TRY(linear(b, steps, prefix, "q.weight", inner, c->d_model,
        (qmi_step){.dst = QMI_SLOT_Q, .src = QMI_SLOT_NORMED}));
    if (kind != QMI_ATTEND_CROSS)
        QMI_TRY(keys_values(b, steps, prefix));
    if (kind == QMI_ATTEND_SELF) {
        QMI_TRY(store(b, steps, QMI_SLOT_K, QMI_CACHE_SELF_K));
        QMI_TRY(store(b, steps, QMI_SLOT_V, QMI_CACHE_SELF_V));
    }
    qmi_step attend = {.kind = QMI_OP_ATTENTION,
        .dst = QMI_SLOT_ATTENDED,
        .src = QMI_SLOT_Q,
        .attention = kind};
    QMI_TRY(add(b, steps, attend));
    return linear(b, steps, prefix, "o.weight", c->d_model, inner,
        (qmi_step){.dst = QMI_SLOT_RESIDUAL,
            .src = QMI_SLOT_ATTENDED,
            .residual = QMI_SLOT_RESIDUAL});
}

static qmoe_status dense_ffn(
    const builder *b, qmi_steps *steps, const char *prefix)
{
    const qmi_config *c = &b->model->config;
    QMI_TRY(linear(b, steps, prefix, "wi.weight", c->d_ff, c->d_model,
        (qmi_step){
            .dst = QMI_SLOT_HIDDEN, .src = QMI_SLOT_NORMED, .relu = true}));
    return linear(b, steps, prefix, "wo.weight", c->d_model, c->d_ff,
        (qmi_step){.dst = QMI_SLOT_RESIDUAL,
            .src = QMI_SLOT_HIDDEN,
            .residual = QMI_SLOT_RESIDUAL});
}

static qmoe_status sparse_ffn(
    const builder *b, qmi_steps *steps, const char *prefix)
{
    const qmi_config *c = &b->model->config;
    QMI_TRY(linear(b, steps, prefix, "router.classifier.weight", c->n_experts,
        c->d_model,
        (qmi_step){.dst = QMI_SLOT_ROUTER_LOGITS, .src = QMI_SLOT_NORMED}));
    QMI_TRY(add(b, steps,
        (qmi_step){.kind = QMI_OP_ROUTE, .src = QMI_SLOT_ROUTER_LOGITS}));
    char experts[256];
    snprintf(experts, sizeof experts, "%sexperts", prefix);
    qmi_step step = {.kind = QMI_OP_EXPERT_FFN,
        .dst = QMI_SLOT_RESIDUAL,
        .src = QMI_SLOT_NORMED,
        .residual = QMI_SLOT_RESIDUAL};
    QMI_TRY(qmi_model_add_experts(
        b->model, &step.weight, experts, "wi", c->d_ff, c->d_model, b->err));
    QMI_TRY(qmi_model_add_experts(
        b->model, &step.weight2, experts, "wo", c->d_model, c->d_ff, b->err));
    return add(b, steps, step);
}

static const char *const stack_names[QMI_N_STACKS] = {"encoder", "decoder"};

static qmoe_status ffn(const builder *b, qmi_steps *steps, int stack, int layer)
{
    char prefix[128];
    snprintf(prefix, sizeof prefix, "%s.block.%d.layer.%d.", stack_names[stack],
        (int)b->block, layer);
    QMI_TRY(norm(b, steps, prefix, "layer_norm.weight"));
    strncat(prefix, "mlp.", sizeof prefix - strlen(prefix) - 1);
    if (qmi_config_is_sparse(&b->model->config, stack, b->block))
        return sparse_ffn(b, steps, prefix);
    return dense_ffn(b, steps, prefix);
}

static qmoe_status attention_layer(const builder *b, qmi_steps *steps,
    int stack, int layer, qmi_attention_kind kind)
{
    char prefix[128];
    int n = snprintf(prefix, sizeof prefix, "%s.block.%d.layer.%d.",
        stack_names[stack], (int)b->block, layer);
    QMI_TRY(norm(b, steps, prefix, "layer_norm.weight"));
    snprintf(prefix + n, sizeof prefix - (size_t)n, "%s.",
        kind == QMI_ATTEND_CROSS ? "EncDecAttention" : "SelfAttention");
    return attention(b, steps, prefix, kind);
}

/* Keys and values of the encoder's output, once per encoded batch. */
static qmoe_status cross_layer(const builder *b)
{
    char prefix[128];
    qmi_steps *steps = &b->model->cross;
    snprintf(prefix, sizeof prefix, "decoder.block.%d.layer.1.EncDecAttention.",
        (int)b->block);
    QMI_TRY(keys_values(b, steps, prefix));
    QMI_TRY(store(b, steps, QMI_SLOT_K, QMI_CACHE_CROSS_K));
    return store(b, steps, QMI_SLOT_V, QMI_CACHE_CROSS_V);
}

static qmoe_status embed(const builder *b, qmi_steps *steps)
{
    return add(b, steps,
        (qmi_step){.kind = QMI_OP_EMBED,
            .dst = QMI_SLOT_RESIDUAL,
            .weight = b->embedding});
}

static qmoe_status relative_bias(const builder *b, int stack)
{
    const qmi_config *c = &b->model->config;
    char name[128];
    snprintf(name, sizeof name,
        "%s.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        stack_names[stack]);
    return qmi_model_add_matrix(b->model, &b->model->relative_bias[stack], name,
        c->n_buckets, c->n_heads, b->err);
}

static qmoe_status encoder(builder *b)
{
    qmi_steps *steps = &b->model->encoder;
    int64_t n_blocks = b->model->config.n_blocks[QMI_ENCODER];
    b->block = -1;
    QMI_TRY(embed(b, steps));
    QMI_TRY(relative_bias(b, QMI_ENCODER));
    for (b->block = 0; b->block < n_blocks; b->block++) {
        QMI_TRY(attention_layer(b, steps, QMI_ENCODER, 0, QMI_ATTEND_ENCODER));
        QMI_TRY(ffn(b, steps, QMI_ENCODER, 1));
    }
    return norm(b, steps, "encoder.", "final_layer_norm.weight");
}

static qmoe_status decoder_blocks(builder *b)
{
    qmi_steps *steps = &b->model->decoder;
    int64_t n_blocks = b->model->config.n_blocks[QMI_DECODER];
    b->block = -1;
    QMI_TRY(embed(b, steps));
    QMI_TRY(relative_bias(b, QMI_DECODER));
    for (b->block = 0; b->block < n_blocks; b->block++) {
        QMI_TRY(attention_layer(b, steps, QMI_DECODER, 0, QMI_ATTEND_SELF));
        QMI_TRY(attention_layer(b, steps, QMI_DECODER, 1, QMI_ATTEND_CROSS));
        QMI_TRY(cross_layer(b));
        QMI_TRY(ffn(b, steps, QMI_DECODER, 2));
    }
    return norm(b, steps, "decoder.", "final_layer_norm.weight");
}

/* Logits: the tied head multiplies its input by d_model^-0.5. */
static qmoe_status head(const builder *b)
{
    const qmi_config *c = &b->model->config;
    const qmi_checkpoint *files = b->model->checkpoint;
    qmi_step step = {.kind = QMI_OP_LINEAR,
        .dst = QMI_SLOT_LOGITS,
        .src = QMI_SLOT_NORMED,
        .weight = b->embedding,
        .alpha = 1.0f};
    if (c->tied_head) {
        step.alpha = 1.0f / sqrtf((float)c->d_model);
    } else {
        const char *name = "lm_head.weight";
        if (qmi_checkpoint_find(files, name) == NULL &&
            qmi_checkpoint_find(files, "decoder.lm_head.weight") != NULL)
            name = "decoder.lm_head.weight";
        QMI_TRY(matrix(b, &step.weight, "", name, c->vocab_size, c->d_model));
    }
    return add(b, &b->model->decoder, step);
}

static qmoe_status build(qmoe_model *model, qmi_error *err)
{
    builder b = {.model = model, .err = err};
    const qmi_config *c = &model->config;
    if (model->checkpoint != NULL)
        qmi_switch_settle(model);
    const char *name = "shared.weight";
    if (qmi_checkpoint_find(model->checkpoint, name) == NULL &&
        qmi_checkpoint_find(model->checkpoint, "encoder.embed_tokens.weight") !=
            NULL)
        name = "encoder.embed_tokens.weight";
    QMI_TRY(matrix(&b, &b.embedding, "", name, c->vocab_size, c->d_model));
    QMI_TRY(encoder(&b));
    QMI_TRY(decoder_blocks(&b));
    return head(&b);
}

extern const qmi_arch qmi_arch_switch;
const qmi_arch qmi_arch_switch = {
    .model_type = "switch_transformers",
    .configure = configure,
    .build = build,
};
