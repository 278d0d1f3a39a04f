/* SPDX-License-Identifier: Apache-2.0
 * A decoder-only architecture that no checkpoint has, of the operations there
 * are: causal attention without position bias, then experts, two per token, and
 * beside them a feed-forward that every token takes.  Its keys and tensors are
 * called otherwise than those of other architectures.  Blocks differ: only the
 * last one has experts. */
#include <stdio.h>

#include "arch.h"
#include "model.h"

typedef struct builder {
    qmoe_model *model;
    qmi_error *err;
    int64_t d_model, d_head, n_heads, d_ff, n_experts, n_layers, vocab_size;
    qmi_slot residual, normed, q, k, v, attended, hidden, scores, chosen, scale,
        logits;
    int32_t block;
} builder;

static qmoe_status read_config(builder *b, const cJSON *json, const char *file)
{
    const struct {
        const char *key;
        int64_t *out;
    } keys[] = {
        {"width", &b->d_model},
        {"head_width", &b->d_head},
        {"heads", &b->n_heads},
        {"expert_width", &b->d_ff},
        {"experts", &b->n_experts},
        {"layers", &b->n_layers},
        {"words", &b->vocab_size},
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        QMI_TRY(qmi_json_int(
            keys[i].out, json, keys[i].key, true, 0, 1, 4096, file, b->err));
    b->model->shape = (qmi_shape){.vocab_size = b->vocab_size,
        .d_model = b->d_model,
        .objective = QMI_NEXT_TOKEN,
        .start_id = 0,
        .end_ids = {1, 2},
        .n_end_ids = 2};
    return QMOE_OK;
}

static qmoe_status add_slots(builder *b)
{
    qmi_graph *graph = &b->model->graph;
    const int64_t inner = b->n_heads * b->d_head;
    const qmi_slot_entry slots[] = {
        {&b->residual, {"residual", b->d_model, QMI_F32}},
        {&b->normed, {"normed", b->d_model, QMI_F32}},
        {&b->q, {"q", inner, QMI_F32}},
        {&b->k, {"k", inner, QMI_F32}},
        {&b->v, {"v", inner, QMI_F32}},
        {&b->attended, {"attended", inner, QMI_F32}},
        {&b->hidden, {"hidden", b->d_ff, QMI_F32}},
        {&b->scores, {"scores", b->n_experts, QMI_F32}},
        {&b->chosen, {"chosen", 2, QMI_I32}},
        {&b->scale, {"scale", 2, QMI_F32}},
        {&b->logits, {"logits", b->vocab_size, QMI_F32}},
    };
    QMI_TRY(qmi_graph_add_slots(
        graph, slots, sizeof slots / sizeof *slots, b->err));
    graph->residual = b->residual;
    graph->programs[QMI_DECODE].output = b->logits;
    return QMOE_OK;
}

static qmoe_status add(builder *b, qmoe_role role, qmi_step step)
{
    step.role = role;
    step.block = b->block;
    return qmi_graph_add_step(&b->model->graph, QMI_DECODE, step, b->err);
}

/* A step with one weight, "<layer>.<name>". */
static qmoe_status with(builder *b, qmoe_role role, const char *name,
    int64_t n_rows, int64_t n_cols, qmi_step step)
{
    char full[64];
    if (b->block >= 0)
        snprintf(full, sizeof full, "l%d.%s", (int)b->block, name);
    else
        snprintf(full, sizeof full, "%s", name);
    step.n_weights = 1;
    QMI_TRY(qmi_model_add_matrix(
        b->model, &step.weights[0], role, full, n_rows, n_cols, b->err));
    return add(b, role, step);
}

static qmoe_status product(builder *b, qmoe_role role, const char *name,
    qmi_slot dst, qmi_slot src, qmi_slot residual, bool relu)
{
    const qmi_slot_spec *slots = b->model->graph.slots;
    return with(b, role, name, slots[dst].width, slots[src].width,
        (qmi_step){.kind = QMI_OP_LINEAR,
            .dst = dst,
            .src = src,
            .residual = residual,
            .u.linear = {
                .alpha = 1.0f, .act = relu ? QMI_ACT_RELU : QMI_ACT_NONE}});
}

static qmoe_status norm(builder *b, const char *name)
{
    return with(b, QMOE_ROLE_NORM, name, 1, b->d_model,
        (qmi_step){.kind = QMI_OP_RMSNORM,
            .dst = b->normed,
            .src = b->residual,
            .u.rmsnorm.epsilon = 1e-5f});
}

static qmoe_status store(builder *b, qmi_slot src, qmi_cache *cache)
{
    QMI_TRY(qmi_graph_add_cache(&b->model->graph, cache,
        (qmi_cache_spec){b->block, b->n_heads * b->d_head, QMI_CACHE_GROWING},
        b->err));
    return add(b, QMOE_ROLE_ATTENTION,
        (qmi_step){
            .kind = QMI_OP_KV_STORE, .src = src, .u.kv_store.cache = *cache});
}

static qmoe_status attention(builder *b)
{
    const qmoe_role role = QMOE_ROLE_ATTENTION;
    qmi_step attend = {.kind = QMI_OP_ATTENTION,
        .dst = b->attended,
        .src = b->q,
        .u.attention = {.n_heads = b->n_heads,
            .n_kv_heads = b->n_heads,
            .d_key = b->d_head,
            .d_value = b->d_head,
            .scale = 0.5f,
            .causal = true}};
    QMI_TRY(norm(b, "before"));
    QMI_TRY(product(b, role, "query", b->q, b->normed, QMI_NONE, false));
    QMI_TRY(product(b, role, "key", b->k, b->normed, QMI_NONE, false));
    QMI_TRY(product(b, role, "value", b->v, b->normed, QMI_NONE, false));
    QMI_TRY(store(b, b->k, &attend.u.attention.k_cache));
    QMI_TRY(store(b, b->v, &attend.u.attention.v_cache));
    QMI_TRY(add(b, role, attend));
    return product(
        b, role, "mix", b->residual, b->attended, b->residual, false);
}

/* Every token takes it: of a block without experts, or beside them. */
static qmoe_status plain_ffn(builder *b, qmoe_role role)
{
    QMI_TRY(product(b, role, "all.in", b->hidden, b->normed, QMI_NONE, true));
    return product(
        b, role, "all.out", b->residual, b->hidden, b->residual, false);
}

static qmoe_status stack(builder *b, uint32_t *index, const char *end,
    int64_t n_rows, int64_t n_cols)
{
    char name[64], source[64];
    snprintf(name, sizeof name, "l%d.some.%s", (int)b->block, end);
    snprintf(source, sizeof source, "l%d.no*.%s", (int)b->block, end);
    return qmi_model_add_experts(b->model, index,
        &(qmi_expert_names){.stack = name, .source = source}, b->n_experts,
        n_rows, n_cols, b->err);
}

static qmoe_status experts(builder *b)
{
    qmi_step step = {.kind = QMI_OP_EXPERT_FFN,
        .dst = b->residual,
        .src = b->normed,
        .residual = b->residual,
        .n_weights = 2,
        .u.expert_ffn = {.chosen = b->chosen,
            .scale = b->scale,
            .top_k = 2,
            .act = QMI_ACT_RELU}};
    QMI_TRY(product(
        b, QMOE_ROLE_ROUTER, "choose", b->scores, b->normed, QMI_NONE, false));
    QMI_TRY(add(b, QMOE_ROLE_ROUTER,
        (qmi_step){.kind = QMI_OP_ROUTE,
            .dst = b->scale,
            .src = b->scores,
            .u.route = {
                .chosen = b->chosen, .n_experts = b->n_experts, .top_k = 2}}));
    QMI_TRY(stack(b, &step.weights[0], "in", b->d_ff, b->d_model));
    QMI_TRY(stack(b, &step.weights[1], "out", b->d_model, b->d_ff));
    QMI_TRY(add(b, QMOE_ROLE_EXPERTS, step));
    return plain_ffn(b, QMOE_ROLE_SHARED_FFN);
}

static qmoe_status layer(builder *b)
{
    const bool sparse = b->block + 1 == b->n_layers;
    QMI_TRY(qmi_model_add_block(b->model,
        (qmi_block){.program = QMI_DECODE,
            .number = b->block,
            .attention = {b->n_heads, b->n_heads, b->d_head, b->d_head},
            .ffn = {b->d_ff, sparse ? b->n_experts : 0, sparse ? 2 : 0}},
        b->err));
    QMI_TRY(attention(b));
    QMI_TRY(norm(b, "between"));
    return sparse ? experts(b) : plain_ffn(b, QMOE_ROLE_DENSE_FFN);
}

static qmoe_status build(
    qmoe_model *model, const cJSON *config, const char *file, qmi_error *err)
{
    builder b = {.model = model, .err = err, .block = QMI_BEFORE_BLOCKS};
    QMI_TRY(read_config(&b, config, file));
    QMI_TRY(add_slots(&b));
    QMI_TRY(with(&b, QMOE_ROLE_EMBEDDING, "words", b.vocab_size, b.d_model,
        (qmi_step){.kind = QMI_OP_EMBED, .dst = b.residual}));
    for (b.block = 0; b.block < b.n_layers; b.block++)
        QMI_TRY(layer(&b));
    b.block = QMI_AFTER_BLOCKS;
    QMI_TRY(norm(&b, "last"));
    return product(
        &b, QMOE_ROLE_HEAD, "next", b.logits, b.normed, QMI_NONE, false);
}

extern const qmi_arch qmi_arch_toy;
const qmi_arch qmi_arch_toy = {.model_type = "toy", .build = build};
