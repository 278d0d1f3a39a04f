/* SPDX-License-Identifier: Apache-2.0
 * In: the config.json of a Switch Transformer, not trusted.  Out: what it says,
 * every number in its range, so that products of dimensions fit 64 bits; what
 * is not computed is refused by name.  Missing members get the defaults of the
 * reference implementation. */
#include "arch_switch.h"

#include <string.h>

#include "config_reader.h"

enum { MAX_BLOCKS = QMI_SWITCH_MAX_BLOCKS };

typedef qmi_config_reader reader;

/* Missing: `fallback`. */
static qmoe_status may(const reader *r, int64_t *out, const char *key,
    int64_t fallback, int64_t low, int64_t high)
{
    *out = fallback;
    return qmi_config_may(r, out, key, low, high);
}

static qmoe_status read_shape(const reader *r, qmi_switch *c)
{
    QMI_TRY(qmi_config_need(
        r, &c->shape.vocab_size, "vocab_size", 1, QMI_MAX_DIMENSION));
    QMI_TRY(
        qmi_config_need(r, &c->shape.d_model, "d_model", 1, QMI_MAX_DIMENSION));
    QMI_TRY(qmi_config_need(r, &c->d_kv, "d_kv", 1, QMI_MAX_DIMENSION));
    QMI_TRY(qmi_config_need(r, &c->d_ff, "d_ff", 1, QMI_MAX_DIMENSION));
    QMI_TRY(qmi_config_need(r, &c->n_heads, "num_heads", 1, QMI_MAX_DIMENSION));
    /* The product is a width, too, so it has the same bound. */
    if (c->n_heads * c->d_kv > QMI_MAX_DIMENSION)
        return qmi_fail(r->err, QMOE_E_FORMAT,
            "%s: num_heads * d_kv is above %d", r->file, QMI_MAX_DIMENSION);
    QMI_TRY(
        qmi_config_need(r, &c->n_experts, "num_experts", 1, QMI_MAX_DIMENSION));
    QMI_TRY(qmi_config_need(
        r, &c->n_blocks[QMI_SWITCH_ENCODER], "num_layers", 1, MAX_BLOCKS));
    return may(r, &c->n_blocks[QMI_SWITCH_DECODER], "num_decoder_layers",
        c->n_blocks[QMI_SWITCH_ENCODER], 1, MAX_BLOCKS);
}

/* The step keys win over the counts, as in the library; without a step it is
 * layers / sparse layers. */
static qmoe_status read_sparse_step(const reader *r, qmi_switch *c, int stack,
    const char *step_key, const char *count_key)
{
    int64_t n_sparse = 0;
    /* 3: the default of the reference for both counts. */
    QMI_TRY(may(r, &n_sparse, count_key, 3, 0, MAX_BLOCKS));
    int64_t step = n_sparse > 0 ? c->n_blocks[stack] / n_sparse : 0;
    /* 0: no sparse block at all. */
    return may(r, &c->sparse_step[stack], step_key, step, 0, MAX_BLOCKS);
}

static qmoe_status read_sparsity(const reader *r, qmi_switch *c)
{
    QMI_TRY(read_sparse_step(r, c, QMI_SWITCH_ENCODER, "encoder_sparse_step",
        "num_sparse_encoder_layers"));
    QMI_TRY(read_sparse_step(r, c, QMI_SWITCH_DECODER, "decoder_sparse_step",
        "num_sparse_decoder_layers"));
    bool full = false;
    QMI_TRY(qmi_json_bool(
        &full, r->json, "is_full_sparse", false, r->file, r->err));
    if (full)
        c->sparse_step[QMI_SWITCH_ENCODER] =
            c->sparse_step[QMI_SWITCH_DECODER] = 1;
    return QMOE_OK;
}

static qmoe_status read_bias_and_ids(const reader *r, qmi_switch *c)
{
    int64_t pad = 0, end = 0, start = 0;
    int64_t last = c->shape.vocab_size - 1;
    QMI_TRY(may(
        r, &c->n_buckets, "relative_attention_num_buckets", 32, 4, 1 << 16));
    /* At least one distance per bucket. */
    QMI_TRY(may(r, &c->max_distance, "relative_attention_max_distance", 128,
        c->n_buckets, 1 << 20));
    c->norm_epsilon = 1e-6;
    QMI_TRY(qmi_config_epsilon(r, &c->norm_epsilon, "layer_norm_epsilon"));
    QMI_TRY(qmi_json_bool(
        &c->tied_head, r->json, "tie_word_embeddings", true, r->file, r->err));
    QMI_TRY(may(r, &pad, "pad_token_id", 0, 0, last));
    QMI_TRY(may(r, &end, "eos_token_id", 1, 0, last));
    /* The reference starts decoding with the padding token. */
    QMI_TRY(may(r, &start, "decoder_start_token_id", pad, 0, last));
    c->shape.objective = QMI_SPAN_CORRUPTION;
    c->shape.end_ids[0] = (int32_t)end;
    c->shape.n_end_ids = 1;
    c->shape.start_id = (int32_t)start;
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
    /* The message names the member that is wrong: both must say relu. */
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

qmoe_status qmi_switch_configure(
    qmi_switch *out, const cJSON *json, const char *file, qmi_error *err)
{
    const reader r = {json, file, err};
    *out = (qmi_switch){0};
    QMI_TRY(read_shape(&r, out));
    QMI_TRY(read_sparsity(&r, out));
    QMI_TRY(read_bias_and_ids(&r, out));
    return refuse_others(&r);
}

/* As in the reference: every block, or the second of each `step`. */
bool qmi_switch_is_sparse(const qmi_switch *s, int stack, int64_t block)
{
    const int64_t step = s->sparse_step[stack];
    return step == 1 || (step > 1 && block % step == 1);
}
