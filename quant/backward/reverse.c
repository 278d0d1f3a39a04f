/* SPDX-License-Identifier: Apache-2.0
 * In: a chunk's values and the gradient of what its steps left.  Out: the
 * gradient of what they were given.  Each step takes the gradient of what it
 * wrote, which is so that of the value before it, and adds to those of what it
 * read: so slots that are overwritten need no names of their own. */
#include "reverse.h"

#include "alloc.h"
#include "reference.h"

static const qmi_weight *weight_of(
    const qmi_reverse *r, const qmi_step *step, int i)
{
    return i < step->n_weights ? &r->session->model->weights[step->weights[i]]
                               : NULL;
}

static qmoe_status vector_of(float **out, const qmi_reverse *r,
    const qmi_step *step, int i, qmi_error *err)
{
    const bool has = i < step->n_weights;
    return qmi_reference_vector(
        out, has ? &r->session->stage.bound[step->weights[i]] : NULL, err);
}

static int64_t width_of(const qmi_reverse *r, qmi_slot slot)
{
    return r->session->model->graph.slots[slot].width;
}

static float *room(float **place, int64_t n, qmi_error *err)
{
    if (*place == NULL)
        *place = qmi_calloc((size_t)n, sizeof **place, "gradients", err);
    return *place;
}

float *qmi_reverse_slot(qmi_reverse *reverse, qmi_slot slot, qmi_error *err)
{
    return room(&reverse->slots[slot],
        reverse->pass->n_tokens * width_of(reverse, slot), err);
}

/* The owner is then the caller; NULL: zeros. */
static float *take(float **place)
{
    float *gradient = *place;
    *place = NULL;
    return gradient;
}

static qmoe_status add_to(
    qmi_reverse *r, qmi_slot slot, const float *gradient, qmi_error *err)
{
    const int64_t n = r->pass->n_tokens * width_of(r, slot);
    float *sum = qmi_reverse_slot(r, slot, err);
    if (sum == NULL)
        return QMOE_E_NOMEM;
    for (int64_t i = 0; i < n; i++)
        sum[i] += gradient[i];
    return QMOE_OK;
}

/* ---- steps; d_y is what was taken ---- */

static qmoe_status linear(
    qmi_reverse *r, const qmi_step *step, size_t i, float *d_y, qmi_error *err)
{
    const qmi_weight *w = weight_of(r, step, 0);
    const int64_t n = r->pass->n_tokens;
    const qmi_act act = step->u.linear.act;
    if (act != QMI_ACT_NONE &&
        (step->residual != QMI_NONE ||
            !qmi_backward_act(d_y, qmi_tape_written(r->tape, step->dst, i),
                n * w->n_rows, act)))
        return qmi_fail(err, QMOE_E_UNSUPPORTED,
            "'%s': gradients through this activation of a product", w->name);
    if (step->residual != QMI_NONE)
        QMI_TRY(add_to(r, step->residual, d_y, err));
    if (r->sink->rows != NULL)
        QMI_TRY(r->sink->rows(r->sink->user, w, 0, d_y, n, err));
    float *d_x = qmi_reverse_slot(r, step->src, err);
    if (d_x == NULL)
        return QMOE_E_NOMEM;
    return qmi_backward_linear(r->backward, d_x, d_y, n, step->u.linear.alpha,
        qmi_all_rows(w, 0), err);
}

static qmoe_status norm_rows(const qmi_reverse *r, const qmi_step *step,
    qmi_backward_rmsnorm *o, qmi_error *err)
{
    if (r->sink->vector != NULL) {
        o->d_weight = qmi_calloc(
            (size_t)o->n_cols, sizeof *o->d_weight, "gradients", err);
        if (o->d_weight == NULL)
            return QMOE_E_NOMEM;
    }
    qmi_backward_rmsnorm_run(o);
    qmoe_status status = QMOE_OK;
    if (o->d_weight != NULL)
        status = r->sink->vector(
            r->sink->user, weight_of(r, step, 0), o->d_weight, err);
    qmi_free(o->d_weight);
    return status;
}

static qmoe_status rmsnorm(qmi_reverse *r, const qmi_step *step, size_t i,
    const float *d_y, qmi_error *err)
{
    const int64_t groups =
        step->u.rmsnorm.n_groups != 0 ? step->u.rmsnorm.n_groups : 1;
    float *weight;
    qmi_backward_rmsnorm o = {.d_src = qmi_reverse_slot(r, step->src, err),
        .d_dst = d_y,
        .src = qmi_tape_read(r->tape, step->src, i),
        .n_tokens = r->pass->n_tokens * groups,
        .n_cols = weight_of(r, step, 0)->n_cols,
        .epsilon = (double)step->u.rmsnorm.epsilon};
    if (o.d_src == NULL)
        return QMOE_E_NOMEM;
    QMI_TRY(vector_of(&weight, r, step, 0, err));
    o.weight = weight;
    const qmoe_status status = norm_rows(r, step, &o, err);
    qmi_free(weight);
    return status;
}

static qmoe_status rope(
    qmi_reverse *r, const qmi_step *step, const float *d_y, qmi_error *err)
{
    const qmi_graph *graph = &r->session->model->graph;
    const size_t number = (size_t)step->u.rope.rotary;
    const qmi_op_rope o = {.n_tokens = r->pass->n_tokens,
        .n_heads = step->u.rope.n_heads,
        .d_head = step->u.rope.d_head,
        .d_rotary = graph->rotaries[number].width,
        .interleaved = graph->rotaries[number].interleaved};
    const float *turns =
        qmi_lists_host(&r->session->stage.lists, QMI_LIST_TURNS);
    float *d_x = qmi_reverse_slot(r, step->src, err);
    if (d_x == NULL)
        return QMOE_E_NOMEM;
    turns += o.n_tokens * qmi_turns_width(graph, number - 1);
    qmi_backward_rope(d_x, d_y, &o, turns);
    return QMOE_OK;
}

static qmoe_status glu(qmi_reverse *r, const qmi_step *step, size_t i,
    const float *d_y, qmi_error *err)
{
    const qmi_backward_glu o = {.d_up = qmi_reverse_slot(r, step->src, err),
        .d_gate = qmi_reverse_slot(r, step->u.glu.gate, err),
        .d_dst = d_y,
        .up = qmi_tape_read(r->tape, step->src, i),
        .gate = qmi_tape_read(r->tape, step->u.glu.gate, i),
        .n_tokens = r->pass->n_tokens,
        .n_cols = width_of(r, step->dst),
        .n_gate_cols = width_of(r, step->u.glu.gate),
        .act = step->u.glu.act};
    if (o.d_up == NULL || o.d_gate == NULL)
        return QMOE_E_NOMEM;
    qmi_backward_glu_run(&o);
    return QMOE_OK;
}

/* Keys or values: what the attention of a chunk from position 0 on finds in a
 * cache is what a step has stored, of the same block or, for keys of the
 * encoder, of CROSS. */
typedef struct stored {
    const float *values;
    float *gradient;
} stored;

static qmoe_status find_cached(
    stored *out, qmi_reverse *r, qmi_cache cache, size_t end, qmi_error *err)
{
    const qmi_steps *steps = r->tape->steps;
    *out = (stored){0};
    for (size_t j = 0; j < end; j++)
        if (steps->items[j].kind == QMI_OP_KV_STORE &&
            steps->items[j].u.kv_store.cache == cache)
            out->values = qmi_tape_read(r->tape, steps->items[j].src, j);
    out->gradient = room(&r->caches[cache],
        r->pass->n_tokens * r->session->model->graph.caches[cache].width, err);
    return out->gradient != NULL ? QMOE_OK : QMOE_E_NOMEM;
}

static bool is_encoded(const qmi_reverse *r, qmi_cache cache)
{
    return cache != QMI_NONE &&
           r->session->model->graph.caches[cache].rule == QMI_CACHE_ENCODED;
}

static qmoe_status find_stored(stored *out, qmi_reverse *r, qmi_cache cache,
    qmi_slot slot, size_t i, qmi_error *err)
{
    if (is_encoded(r, cache))
        return find_cached(out, r->cross, cache, r->cross->tape->steps->n, err);
    if (cache != QMI_NONE)
        return find_cached(out, r, cache, i, err);
    out->values = qmi_tape_read(r->tape, slot, i);
    out->gradient = qmi_reverse_slot(r, slot, err);
    return out->gradient != NULL ? QMOE_OK : QMOE_E_NOMEM;
}

/* What attention reads beside the values, on the host. */
typedef struct surroundings {
    qmi_attention_span *spans;
    float *bias, *sinks;
    int64_t reach;
} surroundings;

static void free_surroundings(surroundings *s)
{
    qmi_free(s->spans);
    qmi_free(s->bias);
    qmi_free(s->sinks);
}

/* Keys are found by the rows of the chunk, not of a cache; those of the encoder
 * are counted so already. */
static qmoe_status copy_spans(
    surroundings *s, const qmi_reverse *r, bool is_cross, qmi_error *err)
{
    const size_t n = (size_t)r->pass->n_spans;
    const qmi_attention_span *from = qmi_lists_host(&r->session->stage.lists,
        is_cross ? QMI_LIST_CROSS_SPANS : QMI_LIST_SPANS);
    s->spans = qmi_calloc(n, sizeof *s->spans, "spans", err);
    if (s->spans == NULL)
        return QMOE_E_NOMEM;
    for (size_t i = 0; i < n; i++) {
        s->spans[i] = from[i];
        if (!is_cross)
            s->spans[i].k_begin = from[i].q_begin;
    }
    return QMOE_OK;
}

static qmoe_status copy_bias(
    surroundings *s, const qmi_reverse *r, const qmi_step *step, qmi_error *err)
{
    const qmi_stage *stage = &r->session->stage;
    const qmi_table table = step->u.attention.bias;
    if (table == QMI_NONE)
        return QMOE_OK;
    s->reach = stage->tables[table].reach;
    const size_t n = (size_t)(step->u.attention.n_heads * (2 * s->reach + 1));
    s->bias = qmi_calloc(n, sizeof *s->bias, "the bias", err);
    if (s->bias == NULL)
        return QMOE_E_NOMEM;
    return stage->backend->buffer_read(stage->device, s->bias,
        (qmi_view){.buffer = stage->tables[table].values.buffer},
        n * sizeof *s->bias, err);
}

static qmoe_status run_attention(qmi_reverse *r, const qmi_step *step, size_t i,
    const float *d_y, const surroundings *s, qmi_error *err)
{
    stored k, v;
    const bool is_cross = is_encoded(r, step->u.attention.k_cache);
    QMI_TRY(find_stored(
        &k, r, step->u.attention.k_cache, step->u.attention.k, i, err));
    QMI_TRY(find_stored(
        &v, r, step->u.attention.v_cache, step->u.attention.v, i, err));
    const qmi_backward_attention o = {
        .d_q = qmi_reverse_slot(r, step->src, err),
        .d_k = k.gradient,
        .d_v = v.gradient,
        .d_dst = d_y,
        .q = qmi_tape_read(r->tape, step->src, i),
        .k = k.values,
        .v = v.values,
        .spans = s->spans,
        .bias = s->bias,
        .sinks = s->sinks,
        .n_spans = r->pass->n_spans,
        .max_distance = s->reach,
        .max_keys = is_cross ? r->pass->max_cross_keys : r->pass->max_keys,
        .n_heads = step->u.attention.n_heads,
        .n_kv_heads = step->u.attention.n_kv_heads,
        .d_key = step->u.attention.d_key,
        .d_value = step->u.attention.d_value,
        .window = step->u.attention.window,
        .scale = step->u.attention.scale,
        .causal = step->u.attention.causal};
    return o.d_q != NULL ? qmi_backward_attention_run(r->backward, &o, err)
                         : QMOE_E_NOMEM;
}

static qmoe_status attention(qmi_reverse *r, const qmi_step *step, size_t i,
    const float *d_y, qmi_error *err)
{
    surroundings s = {0};
    qmoe_status status =
        copy_spans(&s, r, is_encoded(r, step->u.attention.k_cache), err);
    if (status == QMOE_OK)
        status = copy_bias(&s, r, step, err);
    if (status == QMOE_OK)
        status = vector_of(&s.sinks, r, step, 0, err);
    if (status == QMOE_OK)
        status = run_attention(r, step, i, d_y, &s, err);
    free_surroundings(&s);
    return status;
}

static qmoe_status route(qmi_reverse *r, const qmi_step *step, size_t i,
    const float *d_y, qmi_error *err)
{
    const qmi_backward_route o = {
        .d_logits = qmi_reverse_slot(r, step->src, err),
        .d_weight = d_y,
        .logits = qmi_tape_read(r->tape, step->src, i),
        .expert = qmi_tape_written(r->tape, step->u.route.chosen, i),
        .n_tokens = r->pass->n_tokens,
        .n_experts = step->u.route.n_experts,
        .top_k = step->u.route.top_k,
        .router = step->u.route.router};
    return o.d_logits != NULL ? qmi_backward_route_run(&o, err) : QMOE_E_NOMEM;
}

static qmoe_status experts(qmi_reverse *r, const qmi_step *step, size_t i,
    const float *d_y, qmi_error *err)
{
    const qmi_slot scale = step->u.expert_ffn.scale;
    if (step->residual != QMI_NONE)
        QMI_TRY(add_to(r, step->residual, d_y, err));
    const qmi_backward_experts o = {
        .d_src = qmi_reverse_slot(r, step->src, err),
        .d_weight = qmi_reverse_slot(r, scale, err),
        .d_dst = d_y,
        .src = qmi_tape_read(r->tape, step->src, i),
        .weight = qmi_tape_read(r->tape, scale, i),
        .expert = qmi_tape_read(r->tape, step->u.expert_ffn.chosen, i),
        .up = weight_of(r, step, QMI_EXPERT_UP),
        .down = weight_of(r, step, QMI_EXPERT_DOWN),
        .gate = weight_of(r, step, QMI_EXPERT_GATE),
        .n_tokens = r->pass->n_tokens,
        .top_k = step->u.expert_ffn.top_k,
        .act = step->u.expert_ffn.act,
        .rows = r->sink->rows,
        .user = r->sink->user};
    return o.d_src != NULL && o.d_weight != NULL
               ? qmi_backward_experts_run(r->backward, &o, err)
               : QMOE_E_NOMEM;
}

static qmoe_status run_step(
    qmi_reverse *r, const qmi_step *step, size_t i, float *d_y, qmi_error *err)
{
    switch (step->kind) {
    case QMI_OP_LINEAR:
        return linear(r, step, i, d_y, err);
    case QMI_OP_RMSNORM:
        return rmsnorm(r, step, i, d_y, err);
    case QMI_OP_ROPE:
        return rope(r, step, d_y, err);
    case QMI_OP_GLU:
        return glu(r, step, i, d_y, err);
    case QMI_OP_KV_STORE:
        return add_to(r, step->src, d_y, err);
    case QMI_OP_ATTENTION:
        return attention(r, step, i, d_y, err);
    case QMI_OP_ROUTE:
        return route(r, step, i, d_y, err);
    case QMI_OP_EXPERT_FFN:
        return experts(r, step, i, d_y, err);
    case QMI_OP_EMBED: /* a table of frozen rows */
        return QMOE_OK;
    default:
        return qmi_fail(err, QMOE_E_UNSUPPORTED, "gradients through '%s'",
            qmi_op_name(step->kind));
    }
}

qmoe_status qmi_reverse_run(
    qmi_reverse *reverse, size_t first, size_t last, qmi_error *err)
{
    qmoe_status status = QMOE_OK;
    for (size_t i = last; status == QMOE_OK && i-- > first;) {
        const qmi_step *step = &reverse->tape->steps->items[i];
        float *d_y = take(step->kind == QMI_OP_KV_STORE
                              ? &reverse->caches[step->u.kv_store.cache]
                              : &reverse->slots[step->dst]);
        /* Nothing behind depends on it. */
        if (d_y != NULL)
            status = run_step(reverse, step, i, d_y, err);
        qmi_free(d_y);
    }
    return status;
}

qmoe_status qmi_reverse_begin(qmi_reverse *out, qmi_backward *backward,
    const qmoe_session *session, const qmi_tape *tape,
    const qmi_gradient_sink *sink, const qmi_pass *pass, qmi_error *err)
{
    const qmi_graph *graph = &session->model->graph;
    *out = (qmi_reverse){
        .backward = backward,
        .session = session,
        .tape = tape,
        .sink = sink,
        .pass = pass,
        .slots = qmi_calloc(
            graph->n_slots + 1, sizeof *out->slots, "gradients", err),
        .caches = qmi_calloc(
            graph->n_caches + 1, sizeof *out->caches, "gradients", err),
    };
    if (out->slots != NULL && out->caches != NULL)
        return QMOE_OK;
    qmi_reverse_end(out);
    return QMOE_E_NOMEM;
}

void qmi_reverse_end(qmi_reverse *reverse)
{
    const qmi_graph *graph = &reverse->session->model->graph;
    for (size_t i = 0; reverse->slots != NULL && i <= graph->n_slots; i++)
        qmi_free(reverse->slots[i]);
    for (size_t i = 0; reverse->caches != NULL && i <= graph->n_caches; i++)
        qmi_free(reverse->caches[i]);
    qmi_free(reverse->slots);
    qmi_free(reverse->caches);
}
