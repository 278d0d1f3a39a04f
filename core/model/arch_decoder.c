/* SPDX-License-Identifier: Apache-2.0
 * The skeleton of decoder-only models.
 *
 * In: a checked configuration and the tensors of a checkpoint.  Out: blocks,
 * weights and the program DECODE.  Steps are added in the order of execution;
 * every weight that a step names has been found and has the shape that the
 * slots beside it demand.  No name of a family occurs here. */
#include "arch_decoder.h"

#include <math.h>
#include <stdio.h>

#include "alloc.h"
#include "fused_experts.h"

typedef struct builder {
    qmoe_model *model;
    const qmi_decoder *d;
    qmi_error *err;
    int32_t block; /* of the model, which is that of the tensors' names */
    uint32_t embedding;
    qmi_rotary rotary;
    /* q_normed and k_normed are q and k where nothing is normed. */
    qmi_slot residual, normed, q, k, v, q_normed, k_normed, attended;
    qmi_slot gate, hidden;               /* dense */
    qmi_slot shared_gate, shared, whole; /* shared; `whole`: its own gate */
    qmi_slot router_logits, chosen, scale, logits;
} builder;

/* ---- steps ---- */

static qmoe_status add(const builder *b, qmoe_role role, qmi_step step)
{
    step.role = role;
    step.block = b->block;
    return qmi_graph_add_step(&b->model->graph, QMI_DECODE, step, b->err);
}

/* Adds the tensor as one more weight of a step; inside of blocks `name` is what
 * stands behind "model.layers.N.". */
static qmoe_status weight(const builder *b, qmoe_role role, qmi_step *step,
    const char *name, int64_t n_rows, int64_t n_cols)
{
    char full[256];
    snprintf(full, sizeof full, "%s", name);
    if (b->block >= 0)
        snprintf(full, sizeof full, "model.layers.%d.%s", (int)b->block, name);
    return qmi_model_add_matrix(b->model, &step->weights[step->n_weights++],
        role, full, n_rows, n_cols, b->err);
}

/* A norm of whole rows, or of n_groups parts of each by itself. */
static qmoe_status norm(const builder *b, const char *name, qmi_slot dst,
    qmi_slot src, int64_t n_groups)
{
    const int64_t width = b->model->graph.slots[src].width;
    qmi_step step = {.kind = QMI_OP_RMSNORM,
        .dst = dst,
        .src = src,
        .u.rmsnorm = {.epsilon = (float)b->d->epsilon, .n_groups = n_groups}};
    QMI_TRY(weight(b, QMOE_ROLE_NORM, &step, name, 1, width / n_groups));
    return add(b, QMOE_ROLE_NORM, step);
}

/* A product with a new weight, "<name>.weight", and perhaps "<name>.bias", as
 * wide as the slots it goes between. */
static qmoe_status linear(const builder *b, qmoe_role role, const char *name,
    bool has_bias, qmi_step step)
{
    char full[128];
    const qmi_slot_spec *slots = b->model->graph.slots;
    const int64_t n_rows = slots[step.dst].width;
    step.kind = QMI_OP_LINEAR;
    step.u.linear.alpha = 1.0f;
    snprintf(full, sizeof full, "%s.weight", name);
    QMI_TRY(weight(b, role, &step, full, n_rows, slots[step.src].width));
    if (has_bias) {
        snprintf(full, sizeof full, "%s.bias", name);
        QMI_TRY(weight(b, role, &step, full, 1, n_rows));
    }
    return add(b, role, step);
}

/* ---- attention ---- */

static qmoe_status project(
    const builder *b, const char *name, bool has_bias, qmi_slot dst)
{
    return linear(b, QMOE_ROLE_ATTENTION, name, has_bias,
        (qmi_step){.dst = dst, .src = b->normed});
}

/* Norms of queries and keys, then their positions. */
static qmoe_status settle_heads(const builder *b)
{
    const qmi_decoder *d = b->d;
    const struct {
        const char *name;
        qmi_slot from, to;
        int64_t n_heads;
    } of[] = {
        {"self_attn.q_norm.weight", b->q, b->q_normed, d->n_heads},
        {"self_attn.k_norm.weight", b->k, b->k_normed, d->n_kv_heads},
    };
    for (int i = 0; i < 2; i++) {
        const bool by_heads = d->family->qk_norm == QMI_QK_HEADS;
        if (d->family->qk_norm != QMI_QK_NONE)
            QMI_TRY(norm(b, of[i].name, of[i].to, of[i].from,
                by_heads ? of[i].n_heads : 1));
        QMI_TRY(add(b, QMOE_ROLE_ATTENTION,
            (qmi_step){.kind = QMI_OP_ROPE,
                .dst = of[i].to,
                .src = of[i].to,
                .u.rope = {.rotary = b->rotary,
                    .n_heads = of[i].n_heads,
                    .d_head = d->d_head}}));
    }
    return QMOE_OK;
}

static qmoe_status store(const builder *b, qmi_cache *out, qmi_slot src)
{
    const qmi_cache_spec spec = {.block = b->block,
        .width = b->model->graph.slots[src].width,
        .rule = QMI_CACHE_GROWING};
    QMI_TRY(qmi_graph_add_cache(&b->model->graph, out, spec, b->err));
    return add(b, QMOE_ROLE_ATTENTION,
        (qmi_step){
            .kind = QMI_OP_KV_STORE, .src = src, .u.kv_store.cache = *out});
}

static qmoe_status attention(const builder *b)
{
    const qmi_decoder *d = b->d;
    QMI_TRY(norm(b, "input_layernorm.weight", b->normed, b->residual, 1));
    QMI_TRY(project(b, "self_attn.q_proj", d->qkv_bias, b->q));
    QMI_TRY(project(b, "self_attn.k_proj", d->qkv_bias, b->k));
    QMI_TRY(project(b, "self_attn.v_proj", d->qkv_bias, b->v));
    QMI_TRY(settle_heads(b));
    qmi_step attend = {.kind = QMI_OP_ATTENTION,
        .dst = b->attended,
        .src = b->q_normed,
        .u.attention = {.n_heads = d->n_heads,
            .n_kv_heads = d->n_kv_heads,
            .d_key = d->d_head,
            .d_value = d->d_head,
            .window = d->window[b->block],
            .scale = 1.0f / sqrtf((float)d->d_head),
            .causal = true}};
    QMI_TRY(store(b, &attend.u.attention.k_cache, b->k_normed));
    QMI_TRY(store(b, &attend.u.attention.v_cache, b->v));
    QMI_TRY(add(b, QMOE_ROLE_ATTENTION, attend));
    return linear(b, QMOE_ROLE_ATTENTION, "self_attn.o_proj", d->o_bias,
        (qmi_step){
            .dst = b->residual, .src = b->attended, .residual = b->residual});
}

/* ---- feed-forward ---- */

/* down (silu(gate x) * up x), added to the residual; with a slot `whole` times
 * the sigmoid of a gate for the whole of it. */
static qmoe_status gated(const builder *b, qmoe_role role, const char *prefix,
    qmi_slot gate, qmi_slot hidden, qmi_slot whole)
{
    char name[96];
    const bool has_bias = b->d->mlp_bias;
    snprintf(name, sizeof name, "%s.gate_proj", prefix);
    QMI_TRY(linear(
        b, role, name, has_bias, (qmi_step){.dst = gate, .src = b->normed}));
    snprintf(name, sizeof name, "%s.up_proj", prefix);
    QMI_TRY(linear(
        b, role, name, has_bias, (qmi_step){.dst = hidden, .src = b->normed}));
    QMI_TRY(add(b, role,
        (qmi_step){.kind = QMI_OP_GLU,
            .dst = hidden,
            .src = hidden,
            .u.glu = {.gate = gate, .act = QMI_ACT_SILU}}));
    if (whole != QMI_NONE) {
        snprintf(name, sizeof name, "%s_gate", prefix);
        QMI_TRY(linear(
            b, role, name, false, (qmi_step){.dst = whole, .src = b->normed}));
        QMI_TRY(add(b, role,
            (qmi_step){.kind = QMI_OP_GLU,
                .dst = hidden,
                .src = hidden,
                .u.glu = {.gate = whole, .act = QMI_ACT_SIGMOID}}));
    }
    snprintf(name, sizeof name, "%s.down_proj", prefix);
    return linear(b, role, name, has_bias,
        (qmi_step){.dst = b->residual, .src = hidden, .residual = b->residual});
}

/* What the feed-forward is called here: that of transformers 5 is "mlp" in
 * every family. */
static const char *sparse_name(const builder *b)
{
    char usual[192], other[192];
    const qmi_checkpoint *files = b->model->checkpoint;
    snprintf(usual, sizeof usual, "model.layers.%d.%s.gate.weight",
        (int)b->block, b->d->family->sparse);
    snprintf(
        other, sizeof other, "model.layers.%d.mlp.gate.weight", (int)b->block);
    const bool is_other = qmi_checkpoint_find(files, usual) == NULL &&
                          qmi_checkpoint_find(files, other) != NULL;
    return is_other ? "mlp" : b->d->family->sparse;
}

/* One kind of an expert's matrices, which may begin at a row of a tensor. */
typedef struct expert_kind {
    const char *name;
    int64_t n_rows, n_cols;
    const qmi_tensor *fused; /* NULL: there is one for each expert */
    int64_t row;
} expert_kind;

static qmoe_status stack(const builder *b, qmi_step *step,
    const expert_kind *kind, bool is_transposed)
{
    char name[192], source[192];
    snprintf(name, sizeof name, "model.layers.%d.%s.experts.%s", (int)b->block,
        b->d->family->sparse, kind->name);
    snprintf(source, sizeof source, "model.layers.%d.%s.experts.*.%s.weight",
        (int)b->block, b->d->family->sparse, kind->name);
    const qmi_expert_names names = {.stack = name,
        .source = source,
        .fused = kind->fused,
        .row = kind->row,
        .is_transposed = is_transposed};
    return qmi_model_add_experts(b->model, &step->weights[step->n_weights++],
        &names, b->d->n_experts, kind->n_rows, kind->n_cols, b->err);
}

static qmoe_status stacks(
    const builder *b, qmi_step *step, const char *feed_forward)
{
    char prefix[192];
    const qmi_decoder *d = b->d;
    const qmi_decoder_family *family = d->family;
    const int64_t d_model = d->shape.d_model, d_ff = d->d_expert;
    qmi_fused_experts fused = {0};
    snprintf(prefix, sizeof prefix, "model.layers.%d.%s.experts", (int)b->block,
        feed_forward);
    /* Compressed, every model has stacks. */
    if (b->model->quantization == NULL)
        QMI_TRY(qmi_fused_find(&fused, b->model->checkpoint, prefix,
            d->n_experts, d_ff, d_model, b->err));
    /* In the order in which EXPERT_FFN takes them. */
    const expert_kind kinds[] = {
        {family->up, d_ff, d_model, fused.gate_up, d_ff},
        {family->down, d_model, d_ff, fused.down, 0},
        {family->gate, d_ff, d_model, fused.gate_up, 0},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        QMI_TRY(stack(b, step, &kinds[i], fused.is_transposed));
    return QMOE_OK;
}

static qmoe_status route(const builder *b, const char *feed_forward)
{
    char name[64];
    const qmi_decoder *d = b->d;
    snprintf(name, sizeof name, "%s.gate", feed_forward);
    /* The router sees what the experts see: the normed tokens. */
    QMI_TRY(linear(b, QMOE_ROLE_ROUTER, name, false,
        (qmi_step){.dst = b->router_logits, .src = b->normed}));
    return add(b, QMOE_ROLE_ROUTER,
        (qmi_step){.kind = QMI_OP_ROUTE,
            .dst = b->scale,
            .src = b->router_logits,
            .u.route = {.chosen = b->chosen,
                .n_experts = d->n_experts,
                .top_k = d->top_k,
                .router = {.normalises = d->normalises}}});
}

static qmoe_status sparse(const builder *b)
{
    const qmi_decoder *d = b->d;
    const char *feed_forward = sparse_name(b);
    qmi_step step = {.kind = QMI_OP_EXPERT_FFN,
        .dst = b->residual,
        .src = b->normed,
        .residual = b->residual,
        .u.expert_ffn = {.chosen = b->chosen,
            .scale = b->scale,
            .top_k = d->top_k,
            .act = QMI_ACT_SILU}};
    QMI_TRY(route(b, feed_forward));
    QMI_TRY(stacks(b, &step, feed_forward));
    QMI_TRY(add(b, QMOE_ROLE_EXPERTS, step));
    if (d->d_shared == 0)
        return QMOE_OK;
    return gated(b, QMOE_ROLE_SHARED_FFN, "mlp.shared_expert", b->shared_gate,
        b->shared, b->whole);
}

static qmoe_status ffn(const builder *b)
{
    QMI_TRY(
        norm(b, "post_attention_layernorm.weight", b->normed, b->residual, 1));
    if (qmi_decoder_is_sparse(b->d, b->block))
        return sparse(b);
    return gated(b, QMOE_ROLE_DENSE_FFN, "mlp", b->gate, b->hidden, QMI_NONE);
}

/* ---- the model ---- */

static qmoe_status add_blocks(const builder *b)
{
    const qmi_decoder *d = b->d;
    for (int32_t i = 0; i < d->n_blocks; i++) {
        qmi_block block = {.program = QMI_DECODE,
            .number = i,
            .attention = {.n_heads = d->n_heads,
                .n_kv_heads = d->n_kv_heads,
                .d_key = d->d_head,
                .d_value = d->d_head},
            .ffn.d_ff = d->d_ff};
        if (qmi_decoder_is_sparse(d, i))
            block.ffn = (qmi_ffn){.d_ff = d->d_expert,
                .n_experts = d->n_experts,
                .top_k = d->top_k};
        QMI_TRY(qmi_model_add_block(b->model, block, b->err));
    }
    return QMOE_OK;
}

/* Slots of no width are left out: no step has them. */
static qmoe_status add_slots(builder *b)
{
    const qmi_decoder *d = b->d;
    const int64_t d_model = d->shape.d_model;
    const int64_t q = d->n_heads * d->d_head, k = d->n_kv_heads * d->d_head;
    const bool is_normed = d->family->qk_norm != QMI_QK_NONE;
    const qmi_slot_entry slots[] = {
        {&b->residual, {"residual", d_model, QMI_F32}},
        {&b->normed, {"normed", d_model, QMI_F32}},
        {&b->q, {"q", q, QMI_F32}},
        {&b->k, {"k", k, QMI_F32}},
        {&b->v, {"v", k, QMI_F32}},
        {&b->q_normed, {"q_normed", is_normed ? q : 0, QMI_F32}},
        {&b->k_normed, {"k_normed", is_normed ? k : 0, QMI_F32}},
        {&b->attended, {"attended", q, QMI_F32}},
        {&b->gate, {"gate", d->d_ff, QMI_F32}},
        {&b->hidden, {"hidden", d->d_ff, QMI_F32}},
        {&b->shared_gate, {"shared_gate", d->d_shared, QMI_F32}},
        {&b->shared, {"shared", d->d_shared, QMI_F32}},
        {&b->whole, {"whole", d->d_shared != 0, QMI_F32}},
        {&b->router_logits, {"router_logits", d->n_experts, QMI_F32}},
        {&b->chosen, {"chosen", d->top_k, QMI_I32}},
        {&b->scale, {"scale", d->top_k, QMI_F32}},
        {&b->logits, {"logits", d->shape.vocab_size, QMI_F32}},
    };
    QMI_TRY(qmi_graph_add_slots(
        &b->model->graph, slots, sizeof slots / sizeof *slots, b->err));
    if (!is_normed) {
        b->q_normed = b->q;
        b->k_normed = b->k;
    }
    /* What is measured between blocks is this slot. */
    b->model->graph.residual = b->residual;
    return qmi_graph_add_rotary(
        &b->model->graph, &b->rotary, &d->rotary, b->err);
}

static qmoe_status embedding(builder *b)
{
    const qmi_shape *shape = &b->d->shape;
    qmi_step step = {.kind = QMI_OP_EMBED, .dst = b->residual};
    b->block = QMI_BEFORE_BLOCKS;
    QMI_TRY(weight(b, QMOE_ROLE_EMBEDDING, &step, "model.embed_tokens.weight",
        shape->vocab_size, shape->d_model));
    b->embedding = step.weights[0];
    return add(b, QMOE_ROLE_EMBEDDING, step);
}

static qmoe_status head(builder *b)
{
    b->block = QMI_AFTER_BLOCKS;
    QMI_TRY(norm(b, "model.norm.weight", b->normed, b->residual, 1));
    b->model->graph.programs[QMI_DECODE].output = b->logits;
    qmi_step step = {.dst = b->logits, .src = b->normed};
    if (!b->d->tied_head)
        return linear(b, QMOE_ROLE_HEAD, "lm_head", false, step);
    step.kind = QMI_OP_LINEAR;
    step.weights[0] = b->embedding;
    step.n_weights = 1;
    step.u.linear.alpha = 1.0f;
    return add(b, QMOE_ROLE_HEAD, step);
}

static qmoe_status fill(builder *b)
{
    QMI_TRY(add_blocks(b));
    QMI_TRY(add_slots(b));
    QMI_TRY(embedding(b));
    for (b->block = 0; b->block < b->model->n_blocks; b->block++) {
        QMI_TRY(attention(b));
        QMI_TRY(ffn(b));
    }
    return head(b);
}

qmoe_status qmi_decoder_build(qmoe_model *model,
    const qmi_decoder_family *family, const cJSON *config, const char *file,
    qmi_error *err)
{
    /* Too large for the stack of a thread that a program may have made. */
    qmi_decoder *d = qmi_calloc(1, sizeof *d, "a configuration", err);
    if (d == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status = qmi_decoder_configure(d, family, config, file, err);
    if (status == QMOE_OK) {
        builder b = {.model = model, .d = d, .err = err};
        model->shape = d->shape;
        status = fill(&b);
    }
    qmi_free(d);
    return status;
}
