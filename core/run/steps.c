/* SPDX-License-Identifier: Apache-2.0
 * Comes in: steps of a graph and a pass whose lists are on the device.  Goes
 * out: one operation for each step, run in order, with room for what it writes.
 * No step knows a size or a pointer; no operation knows a graph. */
#include "steps.h"

#include "probe.h"
#include "profile.h"

static qmi_view view_of(const qmi_growing *g)
{
    return (qmi_view){.buffer = g->buffer};
}

static qmi_view slot_view(const qmoe_session *s, qmi_slot slot)
{
    if (slot == QMI_SLOT_NONE)
        return (qmi_view){0};
    return view_of(&s->slots[slot]);
}

static void make_attention(qmi_op_attention *o, const qmoe_session *s,
    const qmi_step *step, const qmi_pass *pass)
{
    const qmi_config *c = &s->model->config;
    bool cross = step->attention == QMI_ATTEND_CROSS;
    *o = (qmi_op_attention){
        .dst = slot_view(s, step->dst),
        .q = slot_view(s, step->src),
        .spans = qmi_lists_view(
            &s->lists, cross ? QMI_LIST_CROSS_SPANS : QMI_LIST_SPANS),
        .n_spans = pass->n_spans,
        .n_queries = pass->n_tokens,
        .n_heads = c->n_heads,
        .d_head = c->d_kv,
        .max_distance = s->reach[pass->stack],
        .max_keys = cross ? pass->max_cross_keys : pass->max_keys,
        .scale = 1.0f,
        .causal = step->attention == QMI_ATTEND_SELF,
    };
    if (!cross)
        o->bias = view_of(&s->bias[pass->stack]);
    if (step->attention == QMI_ATTEND_ENCODER) {
        o->k = slot_view(s, QMI_SLOT_K);
        o->v = slot_view(s, QMI_SLOT_V);
        return;
    }
    qmi_cache k = cross ? QMI_CACHE_CROSS_K : QMI_CACHE_SELF_K;
    qmi_cache v = cross ? QMI_CACHE_CROSS_V : QMI_CACHE_SELF_V;
    o->k = view_of(&s->caches[k][step->block]);
    o->v = view_of(&s->caches[v][step->block]);
}

static qmi_op make_op(
    const qmoe_session *s, const qmi_step *step, const qmi_pass *pass)
{
    const qmi_config *c = &s->model->config;
    const qmi_bound_weight *w = &s->bound[step->weight];
    qmi_op op = {.kind = step->kind};
    switch (step->kind) {
    case QMI_OP_EMBED:
        op.u.embed = (qmi_op_embed){.dst = slot_view(s, step->dst),
            .ids = qmi_lists_view(&s->lists, QMI_LIST_IDS),
            .table = w,
            .n_tokens = pass->n_tokens};
        break;
    case QMI_OP_RMSNORM:
        op.u.rmsnorm = (qmi_op_rmsnorm){.dst = slot_view(s, step->dst),
            .src = slot_view(s, step->src),
            .weight = w,
            .n_tokens = pass->n_tokens,
            .epsilon = (float)c->norm_epsilon};
        break;
    case QMI_OP_LINEAR:
        op.u.linear = (qmi_op_linear){.dst = slot_view(s, step->dst),
            .src = slot_view(s, step->src),
            .residual = slot_view(s, step->residual),
            .weight = w,
            .n_tokens = pass->n_tokens,
            .alpha = step->alpha,
            .relu = step->relu};
        break;
    case QMI_OP_KV_STORE:
        op.u.kv_store = (qmi_op_kv_store){
            .cache = view_of(&s->caches[step->cache][step->block]),
            .src = slot_view(s, step->src),
            .rows = qmi_lists_view(&s->lists, QMI_LIST_ROWS),
            .n_tokens = pass->n_tokens,
            .n_cols = c->n_heads * c->d_kv,
            .n_cache_rows = pass->n_cache_rows};
        break;
    case QMI_OP_ATTENTION:
        make_attention(&op.u.attention, s, step, pass);
        break;
    case QMI_OP_ROUTE:
        op.u.route = (qmi_op_route){.expert = view_of(&s->expert),
            .weight = view_of(&s->route_weight),
            .logits = slot_view(s, step->src),
            .sequence = qmi_lists_view(&s->lists, QMI_LIST_SEQUENCE),
            .n_tokens = pass->n_tokens,
            .n_experts = c->n_experts,
            .top_k = c->top_k,
            .capacity = s->capacity};
        break;
    case QMI_OP_EXPERT_FFN:
        op.u.expert_ffn = (qmi_op_expert_ffn){.dst = slot_view(s, step->dst),
            .src = slot_view(s, step->src),
            .residual = slot_view(s, step->residual),
            .expert = view_of(&s->expert),
            .weight = view_of(&s->route_weight),
            .wi = w,
            .wo = &s->bound[step->weight2],
            .n_tokens = pass->n_tokens,
            .top_k = c->top_k};
        break;
    case QMI_OP_DECODE:
    case QMI_OP_TOP_LOGITS: /* no step: top_pass.c */
    case QMI_OP_COUNT:
        break;
    }
    return op;
}

/* Makes room for what the step writes. */
static qmoe_status reserve(
    qmoe_session *s, const qmi_step *step, const qmi_pass *pass, qmi_error *err)
{
    const qmi_config *c = &s->model->config;
    uint64_t n_tokens = (uint64_t)pass->n_tokens;
    if (step->kind == QMI_OP_ROUTE) {
        uint64_t n_bytes = n_tokens * (uint64_t)c->top_k * 4;
        QMI_TRY(qmi_grow(s->backend, s->device, &s->expert, n_bytes, err));
        return qmi_grow(s->backend, s->device, &s->route_weight, n_bytes, err);
    }
    if (step->dst == QMI_SLOT_NONE || step->dst == step->residual)
        return QMOE_OK;
    uint64_t width = (uint64_t)qmi_slot_width(c, step->dst);
    return qmi_grow(s->backend, s->device, &s->slots[step->dst],
        n_tokens * width * sizeof(float), err);
}

static qmoe_status run_step(
    qmoe_session *s, const qmi_step *step, const qmi_pass *pass, qmi_error *err)
{
    QMI_TRY(reserve(s, step, pass, err));
    const qmi_op op = make_op(s, step, pass);
    return qmi_session_run_op(s, &op, pass->stack, qmi_step_part(step), err);
}

qmoe_status qmi_session_run(qmoe_session *session, const qmi_steps *steps,
    size_t first, size_t last, const qmi_pass *pass, qmi_error *err)
{
    for (size_t i = first; i < last; i++) {
        const qmi_step *step = &steps->items[i];
        QMI_TRY(run_step(session, step, pass, err));
        QMI_TRY(qmi_probe_all(session, step, pass, err));
    }
    return QMOE_OK;
}
