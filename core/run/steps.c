/* SPDX-License-Identifier: Apache-2.0
 * Comes in: steps of a graph and a pass whose lists are on the device.  Goes
 * out: one operation for each step, run in order, with room for what it writes.
 * No step knows a size or a pointer; no operation knows a graph. */
#include "steps.h"

#include "probe.h"

static qmi_view view_of(const qmi_growing *g)
{
    return (qmi_view){.buffer = g->buffer};
}

static qmi_view slot_view(const qmoe_session *s, qmi_slot slot)
{
    /* Steps without an operand have QMI_NONE. */
    if (slot == QMI_NONE)
        return (qmi_view){0};
    return view_of(&s->stage.slots[slot]);
}

/* NULL when the step has fewer. */
static const qmi_bound_weight *weight_of(
    const qmoe_session *s, const qmi_step *step, int i)
{
    return i < step->n_weights ? &s->stage.bound[step->weights[i]] : NULL;
}

static void make_attention(qmi_op_attention *o, const qmoe_session *s,
    const qmi_step *step, const qmi_pass *pass)
{
    const qmi_cache k = step->u.attention.k_cache;
    const qmi_cache v = step->u.attention.v_cache;
    const qmi_table bias = step->u.attention.bias;
    /* Which cache is read decides which spans say where keys are. */
    const bool cross =
        k != QMI_NONE && s->model->graph.caches[k].rule == QMI_CACHE_ENCODED;
    *o = (qmi_op_attention){
        .dst = slot_view(s, step->dst),
        .q = slot_view(s, step->src),
        .k = k != QMI_NONE ? view_of(&s->stage.caches[k])
                           : slot_view(s, step->u.attention.k),
        .v = v != QMI_NONE ? view_of(&s->stage.caches[v])
                           : slot_view(s, step->u.attention.v),
        .spans = qmi_lists_view(
            &s->stage.lists, cross ? QMI_LIST_CROSS_SPANS : QMI_LIST_SPANS),
        .n_spans = pass->n_spans,
        .n_queries = pass->n_tokens,
        .n_heads = step->u.attention.n_heads,
        .n_kv_heads = step->u.attention.n_kv_heads,
        .d_key = step->u.attention.d_key,
        .d_value = step->u.attention.d_value,
        .window = step->u.attention.window,
        .sinks = weight_of(s, step, 0),
        .max_keys = cross ? pass->max_cross_keys : pass->max_keys,
        /* Slots are never narrower. */
        .kv_type = k != QMI_NONE ? s->kv_type : QMI_KV_F32,
        .scale = step->u.attention.scale,
        .causal = step->u.attention.causal,
    };
    if (bias == QMI_NONE)
        return;
    /* The table's own reach: attention clamps distances to it. */
    o->bias = view_of(&s->stage.tables[bias].values);
    o->max_distance = s->stage.tables[bias].reach;
}

static void make_rope(qmi_op_rope *o, const qmoe_session *s,
    const qmi_step *step, const qmi_pass *pass)
{
    const qmi_graph *graph = &s->model->graph;
    const size_t number = (size_t)step->u.rope.rotary;
    *o = (qmi_op_rope){
        .dst = slot_view(s, step->dst),
        .src = slot_view(s, step->src),
        .turns = qmi_lists_view(&s->stage.lists, QMI_LIST_TURNS),
        .n_tokens = pass->n_tokens,
        .n_heads = step->u.rope.n_heads,
        .d_head = step->u.rope.d_head,
        .d_rotary = graph->rotaries[number].width,
        .interleaved = graph->rotaries[number].interleaved,
    };
    /* Those of the embeddings before it come first (fill_turns). */
    o->turns.offset +=
        (uint64_t)(pass->n_tokens * qmi_turns_width(graph, number - 1)) *
        sizeof(float);
}

/* Parts of a row that are normed by themselves. */
static int64_t groups_of(const qmi_step *step)
{
    return step->u.rmsnorm.n_groups != 0 ? step->u.rmsnorm.n_groups : 1;
}

static qmi_op make_op(
    const qmoe_session *s, const qmi_step *step, const qmi_pass *pass)
{
    const qmi_bound_weight *w = weight_of(s, step, 0);
    const qmi_graph *graph = &s->model->graph;
    /* Members a step does not set are absent operands. */
    qmi_op op = {.kind = step->kind};
    switch (step->kind) {
    case QMI_OP_EMBED:
        op.u.embed = (qmi_op_embed){.dst = slot_view(s, step->dst),
            .ids = qmi_lists_view(&s->stage.lists, QMI_LIST_IDS),
            .table = w,
            .n_tokens = pass->n_tokens};
        break;
    case QMI_OP_RMSNORM:
        op.u.rmsnorm = (qmi_op_rmsnorm){.dst = slot_view(s, step->dst),
            .src = slot_view(s, step->src),
            .weight = w,
            .n_tokens = pass->n_tokens * groups_of(step),
            .epsilon = step->u.rmsnorm.epsilon};
        break;
    case QMI_OP_GLU:
        op.u.glu = (qmi_op_glu){.dst = slot_view(s, step->dst),
            .up = slot_view(s, step->src),
            .gate = slot_view(s, step->u.glu.gate),
            .n_tokens = pass->n_tokens,
            .n_cols = graph->slots[step->dst].width,
            .n_gate_cols = graph->slots[step->u.glu.gate].width,
            .act = step->u.glu.act};
        break;
    case QMI_OP_ROPE:
        make_rope(&op.u.rope, s, step, pass);
        break;
    case QMI_OP_LINEAR:
        op.u.linear = (qmi_op_linear){.dst = slot_view(s, step->dst),
            .src = slot_view(s, step->src),
            .residual = slot_view(s, step->residual),
            .weight = w,
            .n_tokens = pass->n_tokens,
            .alpha = step->u.linear.alpha,
            .bias = weight_of(s, step, 1),
            .act = step->u.linear.act};
        break;
    case QMI_OP_KV_STORE:
        op.u.kv_store = (qmi_op_kv_store){
            .cache = view_of(&s->stage.caches[step->u.kv_store.cache]),
            .src = slot_view(s, step->src),
            .rows = qmi_lists_view(&s->stage.lists, QMI_LIST_ROWS),
            .n_tokens = pass->n_tokens,
            .n_cols = graph->caches[step->u.kv_store.cache].width,
            .n_cache_rows = pass->n_cache_rows,
            .type = s->kv_type};
        break;
    case QMI_OP_ATTENTION:
        make_attention(&op.u.attention, s, step, pass);
        break;
    case QMI_OP_ROUTE:
        op.u.route =
            (qmi_op_route){.expert = slot_view(s, step->u.route.chosen),
                .weight = slot_view(s, step->dst),
                .logits = slot_view(s, step->src),
                .sequence = qmi_lists_view(&s->stage.lists, QMI_LIST_SEQUENCE),
                .n_tokens = pass->n_tokens,
                .n_experts = step->u.route.n_experts,
                .top_k = step->u.route.top_k,
                .capacity = s->capacity,
                .bias = weight_of(s, step, 0),
                .router = step->u.route.router};
        break;
    case QMI_OP_EXPERT_FFN:
        op.u.expert_ffn = (qmi_op_expert_ffn){.dst = slot_view(s, step->dst),
            .src = slot_view(s, step->src),
            .residual = slot_view(s, step->residual),
            .expert = slot_view(s, step->u.expert_ffn.chosen),
            .weight = slot_view(s, step->u.expert_ffn.scale),
            .up = w,
            .down = weight_of(s, step, 1),
            .gate = weight_of(s, step, 2),
            .n_tokens = pass->n_tokens,
            .top_k = step->u.expert_ffn.top_k,
            .act = step->u.expert_ffn.act};
        break;
    case QMI_OP_DECODE:
    case QMI_OP_TOP_LOGITS: /* no step: top_pass.c */
    case QMI_OP_COUNT:
        break;
    }
    return op;
}

/* A row per token of the pass. */
static qmoe_status reserve_slot(
    qmoe_session *s, qmi_slot slot, const qmi_pass *pass, qmi_error *err)
{
    const qmi_slot_spec *spec = &s->model->graph.slots[slot];
    const uint64_t width =
        (uint64_t)spec->width * (qmi_dtype_bits(spec->dtype) / 8);
    return qmi_grow(s->stage.backend, s->stage.device, &s->stage.slots[slot],
        (uint64_t)pass->n_tokens * width, err);
}

/* Makes room for what the step writes. */
static qmoe_status reserve(
    qmoe_session *s, const qmi_step *step, const qmi_pass *pass, qmi_error *err)
{
    if (step->kind == QMI_OP_ROUTE)
        QMI_TRY(reserve_slot(s, step->u.route.chosen, pass, err));
    /* A residual that is written in place must keep what it holds. */
    if (step->dst == QMI_NONE || step->dst == step->residual ||
        step->dst == step->src)
        return QMOE_OK;
    return reserve_slot(s, step->dst, pass, err);
}

static qmoe_status run_step(
    qmoe_session *s, const qmi_step *step, const qmi_pass *pass, qmi_error *err)
{
    QMI_TRY(reserve(s, step, pass, err));
    const qmi_op op = make_op(s, step, pass);
    return qmi_probe_run(s, &op, step, pass, err);
}

qmoe_status qmi_session_run(qmoe_session *session, const qmi_steps *steps,
    size_t first, size_t last, const qmi_pass *pass, qmi_error *err)
{
    size_t begin, end;
    qmi_stage_steps(&session->stage, steps, &begin, &end);
    for (size_t i = first > begin ? first : begin; i < last && i < end; i++) {
        const qmi_step *step = &steps->items[i];
        /* An error ends the pass: later steps would read what is not there. */
        QMI_TRY(run_step(session, step, pass, err));
    }
    return QMOE_OK;
}

qmoe_status qmi_session_run_program(
    qmoe_session *session, const qmi_pass *pass, qmi_error *err)
{
    const qmi_steps *steps = &session->model->graph.programs[pass->program];
    return qmi_session_run(session, steps, 0, steps->n, pass, err);
}
