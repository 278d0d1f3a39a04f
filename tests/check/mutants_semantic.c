/* SPDX-License-Identifier: Apache-2.0
 * Ways to get one operation wrong.  That each is caught shows that the case
 * lists hold what tells right from wrong. */
#include "mutants.h"

#include <float.h>
#include <math.h>

#include "top_logits.h"

/* ---- linear ---- */

ALTERED(linear_no_residual, o.u.linear.residual.buffer = NULL)
ALTERED(linear_no_alpha, o.u.linear.alpha = 1)
ALTERED(linear_no_relu, o.u.linear.act = QMI_ACT_NONE)
ALTERED(linear_first_matrix, o.u.linear.mat = 0)
ALTERED(linear_one_tile_of_tokens,
    o.u.linear.n_tokens = o.u.linear.n_tokens > 16 ? 16 : o.u.linear.n_tokens)

/* Silent on shapes that nobody listed. */
static qmoe_status linear_listed_shapes(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_weight *w = op->u.linear.weight->host;
    if (w->n_rows % 16 != 0 || w->n_cols % 16 != 0)
        return QMOE_OK;
    return run_reference(device, op, err);
}

/* Rows beyond a multiple of 32 are left alone. */
static qmoe_status linear_truncated_grid(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    qmi_op o = *op;
    int64_t n_rows = op->u.linear.weight->host->n_rows;
    int64_t n_tokens = op->u.linear.n_tokens;
    stand_in s;
    QMI_TRY(replace(&s, &o.u.linear.dst, n_tokens * n_rows, err));
    float *y = qmi_host_pointer(op->u.linear.dst);
    qmoe_status status = run_reference(device, &o, err);
    for (int64_t i = 0; i < n_tokens * n_rows; i++)
        if (i % n_rows < n_rows / 32 * 32)
            y[i] = ((float *)s.data)[i];
    qmi_host_buffer_free(NULL, s.buffer);
    return status;
}

/* src in a format with `n_bits` fewer bits of fraction, as matrix units of
 * GPUs take it: 16 leaves bf16, 13 leaves tf32. */
static qmoe_status linear_rounded(
    qmi_device *device, const qmi_op *op, qmi_error *err, int n_bits)
{
    qmi_op o = *op;
    int64_t n = op->u.linear.n_tokens * op->u.linear.weight->host->n_cols;
    stand_in s;
    QMI_TRY(replace(&s, &o.u.linear.src, n, err));
    uint32_t *bits = s.data;
    for (int64_t i = 0; i < n; i++)
        bits[i] = (bits[i] + (1u << (n_bits - 1))) >> n_bits << n_bits;
    return run_replaced(&s, device, &o, err);
}

static qmoe_status linear_bf16_inputs(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    return linear_rounded(device, op, err, 16);
}

static qmoe_status linear_tf32_inputs(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    return linear_rounded(device, op, err, 13);
}

static qmoe_status linear_relu_last(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    qmi_op o = *op;
    o.u.linear.act = QMI_ACT_NONE;
    QMI_TRY(run_reference(device, &o, err));
    float *y = qmi_host_pointer(op->u.linear.dst);
    int64_t n = op->u.linear.n_tokens * op->u.linear.weight->host->n_rows;
    for (int64_t i = 0; i < n && op->u.linear.act == QMI_ACT_RELU; i++)
        if (y[i] < 0)
            y[i] = 0;
    return QMOE_OK;
}

/* ---- rotated weights ---- */

/* The stand-in for a weight: the same bytes, another rotation. */
typedef struct turned {
    qmi_weight host;
    qmi_bound_weight bound;
} turned;

enum { SAME_PARTS = -1 };

static void turn(turned *t, const qmi_bound_weight **weight, int32_t rotation,
    uint32_t seed_change)
{
    t->host = *(*weight)->host;
    t->bound = **weight;
    t->bound.host = &t->host;
    if (rotation != SAME_PARTS)
        t->host.rotation = rotation;
    t->host.rotation_seed ^= seed_change;
    *weight = &t->bound;
}

static bool is_rotated(const problem *p)
{
    return p->n_weights != 0 && p->weights[0]->host.rotation != 0;
}

#define TURNED(name, member, weight, rotation, seed_change)                    \
    static qmoe_status name(                                                   \
        qmi_device *device, const qmi_op *op, qmi_error *err)                  \
    {                                                                          \
        qmi_op o = *op;                                                        \
        turned t;                                                              \
        turn(&t, &o.u.member.weight, rotation, seed_change);                   \
        return run_reference(device, &o, err);                                 \
    }

TURNED(linear_not_rotated, linear, weight, 0, 0)
TURNED(linear_other_parts, linear, weight, 8, 0)
TURNED(linear_other_signs, linear, weight, SAME_PARTS, 1)
TURNED(decode_not_rotated, decode, weight, 0, 0)
TURNED(decode_other_signs, decode, weight, SAME_PARTS, 1)
TURNED(embed_not_rotated, embed, table, 0, 0)
TURNED(experts_wi_not_rotated, expert_ffn, up, 0, 0)
TURNED(experts_wo_not_rotated, expert_ffn, down, 0, 0)

/* ---- embed, rmsnorm, kv_store, decode ---- */

static qmoe_status embed_shifted(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    qmi_op o = *op;
    stand_in s;
    QMI_TRY(replace(&s, &o.u.embed.ids, op->u.embed.n_tokens, err));
    int32_t *ids = s.data;
    for (int64_t t = 0; t < op->u.embed.n_tokens; t++)
        ids[t] = ids[t] > 0 ? ids[t] - 1 : 0;
    return run_replaced(&s, device, &o, err);
}

ALTERED(rmsnorm_no_epsilon, o.u.rmsnorm.epsilon = 0)
ALTERED(rmsnorm_fixed_epsilon, o.u.rmsnorm.epsilon = 1e-6f)

static qmoe_status kv_store_in_order(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    qmi_op o = *op;
    stand_in s;
    QMI_TRY(replace(&s, &o.u.kv_store.rows, op->u.kv_store.n_tokens, err));
    for (int64_t t = 0; t < op->u.kv_store.n_tokens; t++)
        ((int32_t *)s.data)[t] = (int32_t)t;
    return run_replaced(&s, device, &o, err);
}

ALTERED(decode_first_row, o.u.decode.row = 0)
ALTERED(decode_first_matrix, o.u.decode.mat = 0)

/* ---- attention ---- */

ALTERED(attention_no_mask, o.u.attention.causal = false)
ALTERED(attention_no_bias, o.u.attention.bias.buffer = NULL)
ALTERED(attention_no_scale, o.u.attention.scale = 1)
ALTERED(attention_one_span, o.u.attention.n_spans = 1)

static qmoe_status attention_spans(qmi_device *device, const qmi_op *op,
    qmi_error *err, void (*change)(qmi_attention_span *span))
{
    qmi_op o = *op;
    stand_in s;
    int64_t words = sizeof(qmi_attention_span) / 4;
    QMI_TRY(
        replace(&s, &o.u.attention.spans, o.u.attention.n_spans * words, err));
    for (int64_t i = 0; i < o.u.attention.n_spans; i++)
        change((qmi_attention_span *)s.data + i);
    o.u.attention.max_keys++;
    return run_replaced(&s, device, &o, err);
}

static void at_start(qmi_attention_span *span)
{
    span->q_pos = 0;
}

static void one_key_more(qmi_attention_span *span)
{
    span->k_len++;
}

static qmoe_status attention_no_position(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    return attention_spans(device, op, err, at_start);
}

static qmoe_status attention_key_too_many(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    return attention_spans(device, op, err, one_key_more);
}

/* ---- route ---- */

static qmoe_status route_highest_of_ties(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_route *o = &op->u.route;
    QMI_TRY(run_reference(device, op, err));
    int32_t *expert = qmi_host_pointer(o->expert);
    const float *logits = qmi_host_pointer(o->logits);
    for (int64_t t = 0; t < o->n_tokens && o->top_k == 1; t++)
        for (int64_t e = 0; e < o->n_experts && expert[t] >= 0; e++)
            if (logits[t * o->n_experts + e] ==
                logits[t * o->n_experts + expert[t]])
                expert[t] = (int32_t)e;
    return QMOE_OK;
}

ALTERED(route_no_capacity, o.u.route.capacity = 0)

static qmoe_status route_one_sequence(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    qmi_op o = *op;
    stand_in s;
    QMI_TRY(replace(&s, &o.u.route.sequence, op->u.route.n_tokens, err));
    memset(s.data, 0, (size_t)op->u.route.n_tokens * 4);
    return run_replaced(&s, device, &o, err);
}

static qmoe_status route_dropped_weight(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_route *o = &op->u.route;
    QMI_TRY(run_reference(device, op, err));
    for (int64_t i = 0; i < o->n_tokens * o->top_k; i++)
        if (((int32_t *)qmi_host_pointer(o->expert))[i] < 0)
            ((float *)qmi_host_pointer(o->weight))[i] = 0;
    return QMOE_OK;
}

/* Weights that sum to one over the chosen experts alone. */
static qmoe_status route_renormalised(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_route *o = &op->u.route;
    QMI_TRY(run_reference(device, op, err));
    float *weight = qmi_host_pointer(o->weight);
    for (int64_t t = 0; t < o->n_tokens; t++) {
        float sum = 0;
        for (int64_t j = 0; j < o->top_k; j++)
            sum += weight[t * o->top_k + j];
        for (int64_t j = 0; j < o->top_k; j++)
            weight[t * o->top_k + j] /= sum;
    }
    return QMOE_OK;
}

/* ---- expert_ffn ---- */

ALTERED(experts_no_residual, o.u.expert_ffn.residual.buffer = NULL)

static qmoe_status experts_weights(qmi_device *device, const qmi_op *op,
    qmi_error *err, bool (*is_kept)(int64_t j, int32_t expert), float other)
{
    qmi_op o = *op;
    stand_in s;
    int64_t top_k = o.u.expert_ffn.top_k, n = o.u.expert_ffn.n_tokens * top_k;
    QMI_TRY(replace(&s, &o.u.expert_ffn.weight, n, err));
    const int32_t *expert = qmi_host_pointer(op->u.expert_ffn.expert);
    for (int64_t i = 0; i < n; i++)
        if (!is_kept(i % top_k, expert[i]))
            ((float *)s.data)[i] = other;
    return run_replaced(&s, device, &o, err);
}

static bool is_first(int64_t j, int32_t expert)
{
    (void)expert;
    return j == 0;
}

static bool is_routed(int64_t j, int32_t expert)
{
    (void)j;
    return expert >= 0;
}

static bool is_none(int64_t j, int32_t expert)
{
    (void)j;
    (void)expert;
    return false;
}

static qmoe_status experts_first_only(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    return experts_weights(device, op, err, is_first, 0);
}

static qmoe_status experts_dropped_is_zero(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    return experts_weights(device, op, err, is_routed, 0);
}

static qmoe_status experts_unweighted(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    return experts_weights(device, op, err, is_none, 1);
}

/* ---- top_logits ---- */

/* x without the last 16 bits of its fraction. */
static float bf16_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits &= 0xffff0000u;
    memcpy(&x, &bits, sizeof bits);
    return x;
}

/* The choice made among altered logits; the values given are the true ones. */
static qmoe_status top_of_altered(qmi_device *device, const qmi_op *op,
    qmi_error *err, float (*alter)(float x, int64_t col, int64_t n_cols))
{
    qmi_op o = *op;
    const qmi_op_top_logits *t = &op->u.top_logits;
    const int64_t n = t->n_tokens * t->n_cols;
    stand_in s;
    QMI_TRY(replace(&s, &o.u.top_logits.logits, n, err));
    for (int64_t i = 0; i < n; i++)
        ((float *)s.data)[i] =
            alter(((float *)s.data)[i], i % t->n_cols, t->n_cols);
    QMI_TRY(run_replaced(&s, device, &o, err));
    const float *logits = qmi_host_pointer(t->logits);
    const int32_t *id = qmi_host_pointer(t->id);
    float *value = qmi_host_pointer(t->value);
    for (int64_t i = 0; i < t->n_tokens * t->top_k; i++)
        value[i] = qmi_counted_logit(logits[i / t->top_k * t->n_cols + id[i]]);
    return QMOE_OK;
}

#define TOP_ALTERED(name, expression)                                          \
    static float name##_value(float x, int64_t col, int64_t n_cols)            \
    {                                                                          \
        (void)col;                                                             \
        (void)n_cols;                                                          \
        return expression;                                                     \
    }                                                                          \
    static qmoe_status name(                                                   \
        qmi_device *device, const qmi_op *op, qmi_error *err)                  \
    {                                                                          \
        return top_of_altered(device, op, err, name##_value);                  \
    }

TOP_ALTERED(top_tail_unseen, col < n_cols / 32 * 32 ? x : -INFINITY)
TOP_ALTERED(top_by_magnitude, fabsf(x))
TOP_ALTERED(top_nan_largest, isnan(x) ? INFINITY : x)
TOP_ALTERED(top_zeros_apart, x == 0 && signbit(x) ? -FLT_TRUE_MIN : x)
TOP_ALTERED(top_infinity_apart, x == FLT_MAX ? nextafterf(x, 0) : x)
TOP_ALTERED(top_as_bf16, bf16_of(x))

static qmoe_status top_highest_of_ties(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    qmi_op o = *op;
    const qmi_op_top_logits *t = &op->u.top_logits;
    stand_in s;
    QMI_TRY(replace(&s, &o.u.top_logits.logits, t->n_tokens * t->n_cols, err));
    const float *logits = qmi_host_pointer(t->logits);
    for (int64_t i = 0; i < t->n_tokens; i++)
        for (int64_t c = 0; c < t->n_cols; c++)
            ((float *)s.data)[i * t->n_cols + c] =
                logits[(i + 1) * t->n_cols - 1 - c];
    QMI_TRY(run_replaced(&s, device, &o, err));
    int32_t *id = qmi_host_pointer(t->id);
    for (int64_t i = 0; i < t->n_tokens * t->top_k; i++)
        id[i] = (int32_t)t->n_cols - 1 - id[i];
    return QMOE_OK;
}

/* The right ones, in the order of their ids. */
static qmoe_status top_unsorted(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_top_logits *t = &op->u.top_logits;
    QMI_TRY(run_reference(device, op, err));
    int32_t *id = qmi_host_pointer(t->id);
    float *value = qmi_host_pointer(t->value);
    for (int64_t i = 0; i + 1 < t->n_tokens * t->top_k; i++) {
        if ((i + 1) % t->top_k == 0 || id[i] < id[i + 1])
            continue;
        const int32_t first_id = id[i];
        const float first = value[i];
        id[i] = id[i + 1];
        value[i] = value[i + 1];
        id[i + 1] = first_id;
        value[i + 1] = first;
    }
    return QMOE_OK;
}

#define NOT_ROTATED(text, kind, function)                                      \
    {                                                                          \
        text, QMI_OP_##kind, is_rotated, function, SOMETIMES, CHECK_VALUE,     \
            CHECK_REPEAT                                                       \
    }

static const mutant mutants[] = {
    NOT_ROTATED("not-rotated", LINEAR, linear_not_rotated),
    NOT_ROTATED("rotated-in-other-parts", LINEAR, linear_other_parts),
    NOT_ROTATED("rotated-by-other-signs", LINEAR, linear_other_signs),
    NOT_ROTATED("not-rotated", DECODE, decode_not_rotated),
    NOT_ROTATED("rotated-by-other-signs", DECODE, decode_other_signs),
    NOT_ROTATED("not-rotated", EMBED, embed_not_rotated),
    NOT_ROTATED("wi-not-rotated", EXPERT_FFN, experts_wi_not_rotated),
    NOT_ROTATED("wo-not-rotated", EXPERT_FFN, experts_wo_not_rotated),
    WRONG("no-residual", LINEAR, linear_no_residual),
    WRONG("no-alpha", LINEAR, linear_no_alpha),
    WRONG("no-relu", LINEAR, linear_no_relu),
    WRONG("relu-last", LINEAR, linear_relu_last),
    WRONG("first-matrix", LINEAR, linear_first_matrix),
    WRONG("one-tile-of-tokens", LINEAR, linear_one_tile_of_tokens),
    WRONG("listed-shapes", LINEAR, linear_listed_shapes),
    WRONG("truncated-grid", LINEAR, linear_truncated_grid),
    WRONG("bf16-inputs", LINEAR, linear_bf16_inputs),
    WRONG("tf32-inputs", LINEAR, linear_tf32_inputs),
    WRONG("shifted-ids", EMBED, embed_shifted),
    WRONG("no-epsilon", RMSNORM, rmsnorm_no_epsilon),
    WRONG("fixed-epsilon", RMSNORM, rmsnorm_fixed_epsilon),
    WRONG("in-order", KV_STORE, kv_store_in_order),
    WRONG("first-row", DECODE, decode_first_row),
    WRONG("first-matrix", DECODE, decode_first_matrix),
    WRONG("no-mask", ATTENTION, attention_no_mask),
    WRONG("no-bias", ATTENTION, attention_no_bias),
    WRONG("no-scale", ATTENTION, attention_no_scale),
    WRONG("one-span", ATTENTION, attention_one_span),
    WRONG("no-position", ATTENTION, attention_no_position),
    WRONG("key-too-many", ATTENTION, attention_key_too_many),
    WRONG("highest-of-ties", ROUTE, route_highest_of_ties),
    WRONG("no-capacity", ROUTE, route_no_capacity),
    WRONG("one-sequence", ROUTE, route_one_sequence),
    WRONG("dropped-weight", ROUTE, route_dropped_weight),
    WRONG("renormalised", ROUTE, route_renormalised),
    WRONG("no-residual", EXPERT_FFN, experts_no_residual),
    WRONG("first-expert-only", EXPERT_FFN, experts_first_only),
    WRONG("dropped-is-zero", EXPERT_FFN, experts_dropped_is_zero),
    WRONG("unweighted", EXPERT_FFN, experts_unweighted),
    WRONG("tail-unseen", TOP_LOGITS, top_tail_unseen),
    WRONG("by-magnitude", TOP_LOGITS, top_by_magnitude),
    WRONG("nan-largest", TOP_LOGITS, top_nan_largest),
    WRONG("zeros-apart", TOP_LOGITS, top_zeros_apart),
    WRONG("infinity-apart", TOP_LOGITS, top_infinity_apart),
    WRONG("as-bf16", TOP_LOGITS, top_as_bf16),
    WRONG("highest-of-ties", TOP_LOGITS, top_highest_of_ties),
    WRONG("unsorted", TOP_LOGITS, top_unsorted),
};

const mutant *semantic_mutant_at(size_t index)
{
    return index < sizeof mutants / sizeof *mutants ? &mutants[index] : NULL;
}
