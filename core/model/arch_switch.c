/* SPDX-License-Identifier: Apache-2.0
 * SwitchTransformers: T5 encoder-decoder whose sparse blocks route every token
 * to one of many relu experts.  Definition: transformers 4.27/4.28,
 * modeling_switch_transformers.py.
 *
 * In: config.json and the tensors of a checkpoint.  Out: blocks, weights and
 * the three programs.  Blocks and steps are added in the order of execution, so
 * that running a program is walking its list; every weight that a step names
 * has been found and has the shape that the slots beside it demand. */
#include "arch_switch.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "arch.h"

typedef struct builder {
    qmoe_model *model;
    const qmi_switch *s;
    qmi_error *err;
    uint32_t embedding;
    /* Slots. */
    qmi_slot residual, normed, q, k, v, attended, hidden;
    qmi_slot router_logits, chosen, scale, logits;
    /* What is being added. */
    qmi_program program;
    int stack;
    qmi_table bias;                         /* of the stack */
    int32_t block;                          /* of the model */
    qmi_cache k_cache, v_cache;             /* of the block: own tokens */
    qmi_cache cross_k_cache, cross_v_cache; /* and the encoder's */
} builder;

/* As they begin the names of tensors. */
static const char *const stack_names[QMI_SWITCH_STACKS] = {
    "encoder", "decoder"};

static const qmi_block *block_of(const builder *b)
{
    return &b->model->blocks[b->block];
}

/* ---- steps ---- */

/* Steps outside of blocks have the number QMI_BEFORE_BLOCKS or
 * QMI_AFTER_BLOCKS. */
static qmoe_status add(const builder *b, qmoe_role role, qmi_step step)
{
    step.role = role;
    step.block = b->block;
    return qmi_graph_add_step(&b->model->graph, b->program, step, b->err);
}

/* Adds "<prefix><name>" as the only weight of a step. */
static qmoe_status matrix(const builder *b, qmoe_role role, qmi_step *step,
    const char *prefix, const char *name, int64_t n_rows, int64_t n_cols)
{
    char full[256];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    step->n_weights = 1;
    return qmi_model_add_matrix(
        b->model, &step->weights[0], role, full, n_rows, n_cols, b->err);
}

/* T5 norms come before their layer and scale without a mean or a bias. */
static qmoe_status norm(const builder *b, const char *prefix, const char *name)
{
    qmi_step step = {.kind = QMI_OP_RMSNORM,
        .dst = b->normed,
        .src = b->residual,
        .u.rmsnorm.epsilon = (float)b->s->norm_epsilon};
    QMI_TRY(
        matrix(b, QMOE_ROLE_NORM, &step, prefix, name, 1, b->s->shape.d_model));
    return add(b, QMOE_ROLE_NORM, step);
}

/* A product with a new weight, as wide as the slots it goes between. */
static qmoe_status linear(const builder *b, qmoe_role role, const char *prefix,
    const char *name, qmi_step step)
{
    const qmi_slot_spec *slots = b->model->graph.slots;
    step.kind = QMI_OP_LINEAR;
    step.u.linear.alpha = 1.0f;
    QMI_TRY(matrix(b, role, &step, prefix, name, slots[step.dst].width,
        slots[step.src].width));
    return add(b, role, step);
}

static qmoe_status store(const builder *b, qmi_slot src, qmi_cache cache)
{
    return add(b, QMOE_ROLE_ATTENTION,
        (qmi_step){
            .kind = QMI_OP_KV_STORE, .src = src, .u.kv_store.cache = cache});
}

/* ---- attention ---- */

static qmoe_status keys_values(const builder *b, const char *prefix)
{
    QMI_TRY(linear(b, QMOE_ROLE_ATTENTION, prefix, "k.weight",
        (qmi_step){.dst = b->k, .src = b->normed}));
    return linear(b, QMOE_ROLE_ATTENTION, prefix, "v.weight",
        (qmi_step){.dst = b->v, .src = b->normed});
}

/* Attention within a sequence: in the encoder over the keys and values at hand,
 * in the decoder over the tokens so far. */
static qmoe_status own_keys(
    const builder *b, const char *prefix, qmi_step *attend)
{
    QMI_TRY(keys_values(b, prefix));
    attend->u.attention.bias = b->bias;
    if (b->program == QMI_ENCODE) {
        attend->u.attention.k = b->k;
        attend->u.attention.v = b->v;
        return QMOE_OK;
    }
    QMI_TRY(store(b, b->k, b->k_cache));
    QMI_TRY(store(b, b->v, b->v_cache));
    attend->u.attention.k_cache = b->k_cache;
    attend->u.attention.v_cache = b->v_cache;
    attend->u.attention.causal = true;
    return QMOE_OK;
}

/* One attention layer: norm, products, attention, and the product that adds to
 * the residual.  `layer` is the number in the tensors' names. */
static qmoe_status attention(const builder *b, int layer, bool cross)
{
    char prefix[128];
    const qmi_attention *shape = &block_of(b)->attention;
    int n = snprintf(prefix, sizeof prefix, "%s.block.%d.layer.%d.",
        stack_names[b->stack], (int)block_of(b)->number, layer);
    /* The part of the prefix behind the layer is replaced: the norm is named by
     * the layer, the products by the kind of attention. */
    QMI_TRY(norm(b, prefix, "layer_norm.weight"));
    snprintf(prefix + n, sizeof prefix - (size_t)n, "%s.",
        cross ? "EncDecAttention" : "SelfAttention");
    QMI_TRY(linear(b, QMOE_ROLE_ATTENTION, prefix, "q.weight",
        (qmi_step){.dst = b->q, .src = b->normed}));
    /* scale 1: T5 puts the root of d_head into its weights. */
    qmi_step attend = {.kind = QMI_OP_ATTENTION,
        .dst = b->attended,
        .src = b->q,
        .u.attention = {.n_heads = shape->n_heads,
            .n_kv_heads = shape->n_kv_heads,
            .d_key = shape->d_key,
            .d_value = shape->d_value,
            .scale = 1.0f}};
    /* The encoder's keys have no bias: distances to it mean nothing. */
    if (cross) {
        attend.u.attention.k_cache = b->cross_k_cache;
        attend.u.attention.v_cache = b->cross_v_cache;
    } else {
        QMI_TRY(own_keys(b, prefix, &attend));
    }
    QMI_TRY(add(b, QMOE_ROLE_ATTENTION, attend));
    return linear(b, QMOE_ROLE_ATTENTION, prefix, "o.weight",
        (qmi_step){
            .dst = b->residual, .src = b->attended, .residual = b->residual});
}

/* Keys and values of the encoder's output, once per encoded batch. */
static qmoe_status cross_program(builder *b)
{
    char prefix[128];
    snprintf(prefix, sizeof prefix, "decoder.block.%d.layer.1.EncDecAttention.",
        (int)block_of(b)->number);
    /* The steps go to another program while the decoder's are being added. */
    b->program = QMI_CROSS;
    QMI_TRY(keys_values(b, prefix));
    QMI_TRY(store(b, b->k, b->cross_k_cache));
    QMI_TRY(store(b, b->v, b->cross_v_cache));
    b->program = QMI_DECODE;
    return QMOE_OK;
}

/* ---- feed-forward ---- */

/* relu between the two products; the second adds to the residual. */
static qmoe_status dense_ffn(const builder *b, const char *prefix)
{
    QMI_TRY(linear(b, QMOE_ROLE_DENSE_FFN, prefix, "wi.weight",
        (qmi_step){
            .dst = b->hidden, .src = b->normed, .u.linear.act = QMI_ACT_RELU}));
    return linear(b, QMOE_ROLE_DENSE_FFN, prefix, "wo.weight",
        (qmi_step){
            .dst = b->residual, .src = b->hidden, .residual = b->residual});
}

/* The stack "<prefix>experts.<kind>". */
static qmoe_status experts(const builder *b, uint32_t *index,
    const char *prefix, const char *kind, int64_t n_rows, int64_t n_cols)
{
    char name[256], source[256];
    /* One tensor per expert in a checkpoint; one stack in a compressed
     * model. */
    snprintf(name, sizeof name, "%sexperts.%s", prefix, kind);
    snprintf(
        source, sizeof source, "%sexperts.expert_*.%s.weight", prefix, kind);
    const qmi_expert_names names = {.stack = name, .source = source};
    return qmi_model_add_experts(b->model, index, &names,
        block_of(b)->ffn.n_experts, n_rows, n_cols, b->err);
}

static qmoe_status sparse_ffn(const builder *b, const char *prefix)
{
    const qmi_ffn *ffn = &block_of(b)->ffn;
    const int64_t d_model = b->s->shape.d_model;
    /* The router sees what the experts see: the normed tokens. */
    QMI_TRY(linear(b, QMOE_ROLE_ROUTER, prefix, "router.classifier.weight",
        (qmi_step){.dst = b->router_logits, .src = b->normed}));
    QMI_TRY(add(b, QMOE_ROLE_ROUTER,
        (qmi_step){.kind = QMI_OP_ROUTE,
            .dst = b->scale,
            .src = b->router_logits,
            .u.route = {.chosen = b->chosen,
                .n_experts = ffn->n_experts,
                .top_k = ffn->top_k}}));
    qmi_step step = {.kind = QMI_OP_EXPERT_FFN,
        .dst = b->residual,
        .src = b->normed,
        .residual = b->residual,
        .n_weights = 2,
        .u.expert_ffn = {.chosen = b->chosen,
            .scale = b->scale,
            .top_k = ffn->top_k,
            .act = QMI_ACT_RELU}};
    /* wi first, wo second: EXPERT_FFN takes them in this order. */
    QMI_TRY(experts(b, &step.weights[0], prefix, "wi", ffn->d_ff, d_model));
    QMI_TRY(experts(b, &step.weights[1], prefix, "wo", d_model, ffn->d_ff));
    return add(b, QMOE_ROLE_EXPERTS, step);
}

static qmoe_status ffn(const builder *b, int layer)
{
    char prefix[128];
    snprintf(prefix, sizeof prefix, "%s.block.%d.layer.%d.",
        stack_names[b->stack], (int)block_of(b)->number, layer);
    QMI_TRY(norm(b, prefix, "layer_norm.weight"));
    /* The prefix has room: it holds less than half of its bytes. */
    strncat(prefix, "mlp.", sizeof prefix - strlen(prefix) - 1);
    return qmi_block_is_sparse(block_of(b)) ? sparse_ffn(b, prefix)
                                            : dense_ffn(b, prefix);
}

/* ---- programs ---- */

/* Begins the program of a stack: its embedding and its position bias. */
static qmoe_status begin_stack(builder *b, int stack, qmi_program program)
{
    char name[128];
    const qmi_switch *s = b->s;
    b->stack = stack;
    b->program = program;
    b->block = QMI_BEFORE_BLOCKS;
    QMI_TRY(add(b, QMOE_ROLE_EMBEDDING,
        (qmi_step){.kind = QMI_OP_EMBED,
            .dst = b->residual,
            .weights = {b->embedding},
            .n_weights = 1}));
    /* The first block's table serves all blocks of its stack (T5). */
    snprintf(name, sizeof name,
        "%s.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        stack_names[stack]);
    qmi_table_spec table = {.program = program,
        .max_distance = s->max_distance,
        .bidirectional = program == QMI_ENCODE};
    QMI_TRY(qmi_model_add_matrix(b->model, &table.weight,
        QMOE_ROLE_POSITION_BIAS, name, s->n_buckets, s->n_heads, b->err));
    return qmi_graph_add_table(&b->model->graph, &b->bias, table, b->err);
}

/* The norm after the last block. */
static qmoe_status end_stack(builder *b)
{
    char prefix[16];
    snprintf(prefix, sizeof prefix, "%s.", stack_names[b->stack]);
    b->block = QMI_AFTER_BLOCKS;
    return norm(b, prefix, "final_layer_norm.weight");
}

static qmoe_status encoder(builder *b)
{
    const int32_t end = (int32_t)b->s->n_blocks[QMI_SWITCH_ENCODER];
    QMI_TRY(begin_stack(b, QMI_SWITCH_ENCODER, QMI_ENCODE));
    /* b->block runs through the blocks of the model, encoder first. */
    for (b->block = 0; b->block < end; b->block++) {
        QMI_TRY(attention(b, 0, false));
        QMI_TRY(ffn(b, 1));
    }
    QMI_TRY(end_stack(b));
    b->model->graph.programs[QMI_ENCODE].output = b->normed;
    return QMOE_OK;
}

static qmoe_status add_caches(builder *b)
{
    qmi_graph *graph = &b->model->graph;
    const qmi_attention *a = &block_of(b)->attention;
    const int64_t k = a->n_kv_heads * a->d_key, v = a->n_kv_heads * a->d_value;
    /* k and v of the tokens so far grow by one row per token; those of the
     * encoder are written once for each encoded batch. */
    const struct {
        qmi_cache *out;
        qmi_cache_spec spec;
    } caches[] = {
        {&b->k_cache, {b->block, k, QMI_CACHE_GROWING}},
        {&b->v_cache, {b->block, v, QMI_CACHE_GROWING}},
        {&b->cross_k_cache, {b->block, k, QMI_CACHE_ENCODED}},
        {&b->cross_v_cache, {b->block, v, QMI_CACHE_ENCODED}},
    };
    for (size_t i = 0; i < sizeof caches / sizeof *caches; i++)
        QMI_TRY(
            qmi_graph_add_cache(graph, caches[i].out, caches[i].spec, b->err));
    return QMOE_OK;
}

static qmoe_status decoder(builder *b)
{
    const int32_t n_blocks = (int32_t)b->model->n_blocks;
    QMI_TRY(begin_stack(b, QMI_SWITCH_DECODER, QMI_DECODE));
    /* Decoder blocks follow the encoder's in the list of blocks. */
    for (b->block = (int32_t)b->s->n_blocks[QMI_SWITCH_ENCODER];
         b->block < n_blocks; b->block++) {
        QMI_TRY(add_caches(b));
        QMI_TRY(attention(b, 0, false));
        QMI_TRY(attention(b, 1, true));
        /* Within the walk over the decoder's blocks, so that CROSS has its
         * steps in the order of the blocks, too. */
        QMI_TRY(cross_program(b));
        QMI_TRY(ffn(b, 2));
    }
    return end_stack(b);
}

/* The name that a tensor has in this checkpoint. */
static const char *found_as(const builder *b, const char *name)
{
    const char *other = qmi_arch_other_name(b->model->arch, name);
    /* The usual name wins where both are there. */
    const bool is_other = !qmi_model_has_matrix(b->model, name) &&
                          other != NULL &&
                          qmi_model_has_matrix(b->model, other);
    return is_other ? other : name;
}

/* Logits: the tied head multiplies its input by d_model^-0.5. */
static qmoe_status head(const builder *b)
{
    const qmi_shape *shape = &b->s->shape;
    qmi_step step = {.kind = QMI_OP_LINEAR,
        .dst = b->logits,
        .src = b->normed,
        .weights = {b->embedding},
        .n_weights = 1,
        .u.linear.alpha = 1.0f};
    if (b->s->tied_head) {
        step.u.linear.alpha = 1.0f / sqrtf((float)shape->d_model);
    } else {
        QMI_TRY(matrix(b, QMOE_ROLE_HEAD, &step, "",
            found_as(b, "lm_head.weight"), shape->vocab_size, shape->d_model));
    }
    b->model->graph.programs[QMI_DECODE].output = b->logits;
    return add(b, QMOE_ROLE_HEAD, step);
}

/* ---- the model ---- */

static qmoe_status add_blocks(const builder *b)
{
    const qmi_switch *s = b->s;
    /* The encoder's blocks first: `begin_stack` and its callers count on it. */
    for (int stack = 0; stack < QMI_SWITCH_STACKS; stack++)
        for (int32_t i = 0; i < s->n_blocks[stack]; i++) {
            qmi_block block = {.program = stack == QMI_SWITCH_ENCODER
                                              ? QMI_ENCODE
                                              : QMI_DECODE,
                .number = i,
                .attention = {.n_heads = s->n_heads,
                    .n_kv_heads = s->n_heads,
                    .d_key = s->d_kv,
                    .d_value = s->d_kv},
                .ffn.d_ff = s->d_ff};
            if (qmi_switch_is_sparse(s, stack, i)) {
                block.ffn.n_experts = s->n_experts;
                /* Switch: one expert per token. */
                block.ffn.top_k = 1;
            }
            QMI_TRY(qmi_model_add_block(b->model, block, b->err));
        }
    return QMOE_OK;
}

static qmoe_status add_slots(builder *b)
{
    const qmi_switch *s = b->s;
    /* Heads side by side in one row. */
    const int64_t d_model = s->shape.d_model, inner = s->n_heads * s->d_kv;
    const qmi_slot_entry slots[] = {
        {&b->residual, {"residual", d_model, QMI_F32}},
        {&b->normed, {"normed", d_model, QMI_F32}},
        {&b->q, {"q", inner, QMI_F32}},
        {&b->k, {"k", inner, QMI_F32}},
        {&b->v, {"v", inner, QMI_F32}},
        {&b->attended, {"attended", inner, QMI_F32}},
        {&b->hidden, {"hidden", s->d_ff, QMI_F32}},
        {&b->router_logits, {"router_logits", s->n_experts, QMI_F32}},
        {&b->chosen, {"chosen", 1, QMI_I32}},
        {&b->scale, {"scale", 1, QMI_F32}},
        {&b->logits, {"logits", s->shape.vocab_size, QMI_F32}},
    };
    QMI_TRY(qmi_graph_add_slots(
        &b->model->graph, slots, sizeof slots / sizeof *slots, b->err));
    /* What is measured between blocks is this slot. */
    b->model->graph.residual = b->residual;
    return QMOE_OK;
}

static qmoe_status embedding(builder *b)
{
    const qmi_shape *shape = &b->s->shape;
    return qmi_model_add_matrix(b->model, &b->embedding, QMOE_ROLE_EMBEDDING,
        found_as(b, "shared.weight"), shape->vocab_size, shape->d_model,
        b->err);
}

static qmoe_status build(
    qmoe_model *model, const cJSON *json, const char *file, qmi_error *err)
{
    qmi_switch s;
    QMI_TRY(qmi_switch_configure(&s, json, file, err));
    /* A sketch has no tensors to ask. */
    if (model->checkpoint != NULL)
        qmi_switch_settle(&s, model);
    model->shape = s.shape;
    builder b = {.model = model, .s = &s, .err = err};
    QMI_TRY(add_blocks(&b));
    QMI_TRY(add_slots(&b));
    QMI_TRY(embedding(&b));
    QMI_TRY(encoder(&b));
    QMI_TRY(decoder(&b));
    return head(&b);
}

/* Published checkpoints of both names exist; the first is what the model asks
 * for. */
static const char *const other_names[][2] = {
    {"shared.weight", "encoder.embed_tokens.weight"},
    {"lm_head.weight", "decoder.lm_head.weight"},
    {NULL, NULL},
};

extern const qmi_arch qmi_arch_switch;
const qmi_arch qmi_arch_switch = {
    .model_type = "switch_transformers",
    .build = build,
    .doubt = qmi_switch_doubt,
    .other_names = other_names,
};
