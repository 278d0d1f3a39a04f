/* SPDX-License-Identifier: Apache-2.0
 * Ways to get wrong what decoder-only models ask of an operation, one per field
 * of its description at least.  Attention's are in mutants_attention.c. */
#include "mutants.h"

#include <math.h>
#include <stdlib.h>

/* ---- linear ---- */

ALTERED(linear_no_bias, o.u.linear.bias = NULL)
ALTERED(linear_silu_as_sigmoid,
    if (o.u.linear.act == QMI_ACT_SILU) o.u.linear.act = QMI_ACT_SIGMOID)
ALTERED(linear_sigmoid_as_silu,
    if (o.u.linear.act == QMI_ACT_SIGMOID) o.u.linear.act = QMI_ACT_SILU)

/* The bias with a factor, added to what `act` leaves of the rest. */
static qmoe_status linear_bias_apart(qmi_device *device, const qmi_op *op,
    qmi_error *err, qmi_act act, float factor)
{
    qmi_op o = *op;
    const qmi_op_linear *l = &op->u.linear;
    const int64_t n_rows = l->weight->host->n_rows;
    if (l->bias == NULL || (act == QMI_ACT_NONE && l->act != QMI_ACT_NONE))
        return run_reference(device, op, err);
    o.u.linear.bias = NULL;
    QMI_TRY(run_reference(device, &o, err));
    float *bias = check_calloc((size_t)n_rows, sizeof *bias);
    qmi_weight_decode(l->bias->host, 0, 0, 1, bias);
    float *y = qmi_host_pointer(l->dst);
    for (int64_t i = 0; i < l->n_tokens * n_rows; i++)
        y[i] += factor * bias[i % n_rows];
    free(bias);
    return QMOE_OK;
}

static qmoe_status linear_bias_last(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    return linear_bias_apart(device, op, err, op->u.linear.act, 1);
}

static qmoe_status linear_bias_scaled(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    return linear_bias_apart(device, op, err, QMI_ACT_NONE, op->u.linear.alpha);
}

/* ---- rope, glu ---- */

ALTERED(rope_other_pairs, o.u.rope.interleaved = !o.u.rope.interleaved)
ALTERED(
    rope_one_head, (o.u.rope.d_head *= o.u.rope.n_heads, o.u.rope.n_heads = 1))

static qmoe_status rope_turns(qmi_device *device, const qmi_op *op,
    qmi_error *err, float (*alter)(const float *row, int64_t i, int64_t n))
{
    qmi_op o = *op;
    const int64_t n = op->u.rope.d_rotary;
    stand_in s;
    QMI_TRY(replace(&s, &o.u.rope.turns, n * op->u.rope.n_tokens, err));
    const float *turns = qmi_host_pointer(op->u.rope.turns);
    for (int64_t i = 0; i < n * op->u.rope.n_tokens; i++)
        ((float *)s.data)[i] = alter(turns + i / n * n, i % n, n);
    return run_replaced(&s, device, &o, err);
}

static float turned_back(const float *row, int64_t i, int64_t n)
{
    return i < n / 2 ? row[i] : -row[i];
}

static float turned_aside(const float *row, int64_t i, int64_t n)
{
    return row[(i + n / 2) % n];
}

static qmoe_status rope_backwards(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    return rope_turns(device, op, err, turned_back);
}

static qmoe_status rope_sines_first(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    return rope_turns(device, op, err, turned_aside);
}

/* What does not rotate stays as it was in dst. */
static qmoe_status rope_rest_lost(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_rope *r = &op->u.rope;
    QMI_TRY(run_reference(device, op, err));
    float *y = qmi_host_pointer(r->dst);
    for (int64_t i = 0; i < r->n_tokens * r->n_heads * r->d_head; i++)
        if (i % r->d_head >= r->d_rotary)
            y[i] = 0;
    return QMOE_OK;
}

ALTERED(glu_no_act, o.u.glu.act = QMI_ACT_NONE)
ALTERED(glu_silu_as_sigmoid,
    if (o.u.glu.act == QMI_ACT_SILU) o.u.glu.act = QMI_ACT_SIGMOID)
ALTERED(
    glu_swapped, if (o.u.glu.n_gate_cols == o.u.glu.n_cols) {
        o.u.glu.gate = op->u.glu.up;
        o.u.glu.up = op->u.glu.gate;
    })

/* One gate is taken for the gate of the first column. */
static qmoe_status glu_first_column(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_glu *g = &op->u.glu;
    QMI_TRY(run_reference(device, op, err));
    float *y = qmi_host_pointer(g->dst);
    for (int64_t i = 0; i < g->n_tokens * g->n_cols; i++)
        if (g->n_gate_cols != g->n_cols && i % g->n_cols != 0)
            y[i] = 0;
    return QMOE_OK;
}

/* ---- kv_store ---- */

/* Sources altered before they are packed. */
static qmoe_status kv_of_altered(qmi_device *device, const qmi_op *op,
    qmi_error *err, qmi_kv_type type, float (*alter)(float x))
{
    qmi_op o = *op;
    const qmi_op_kv_store *k = &op->u.kv_store;
    if (k->type != type)
        return run_reference(device, op, err);
    stand_in s;
    QMI_TRY(replace(&s, &o.u.kv_store.src, k->n_tokens * k->n_cols, err));
    for (int64_t i = 0; i < k->n_tokens * k->n_cols; i++)
        ((float *)s.data)[i] = alter(((float *)s.data)[i]);
    return run_replaced(&s, device, &o, err);
}

static float cut_to_11_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits &= 0xffffe000u;
    memcpy(&x, &bits, sizeof bits);
    return x;
}

static float flushed(float x)
{
    return fabsf(x) < 0x1p-14f ? 0 : x;
}

static float clamped(float x)
{
    return fmaxf(fminf(x, 65504), -65504);
}

static qmoe_status kv_f16_cut(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    return kv_of_altered(device, op, err, QMI_KV_F16, cut_to_11_bits);
}

static qmoe_status kv_f16_flushed(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    return kv_of_altered(device, op, err, QMI_KV_F16, flushed);
}

static qmoe_status kv_f16_clamped(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    return kv_of_altered(device, op, err, QMI_KV_F16, clamped);
}

/* A cache row of a token, changed after the fact. */
static qmoe_status kv_changed(qmi_device *device, const qmi_op *op,
    qmi_error *err, qmi_kv_type type,
    void (*change)(uint8_t *row, const float *src, int64_t n))
{
    const qmi_op_kv_store *k = &op->u.kv_store;
    QMI_TRY(run_reference(device, op, err));
    const int32_t *rows = qmi_host_pointer(k->rows);
    const float *src = qmi_host_pointer(k->src);
    const uint64_t n_bytes = qmi_kv_row_bytes(k->type, k->n_cols);
    for (int64_t t = 0; t < k->n_tokens && k->type == type; t++)
        change(
            (uint8_t *)qmi_host_pointer(k->cache) + (uint64_t)rows[t] * n_bytes,
            src + t * k->n_cols, k->n_cols);
    return QMOE_OK;
}

static void spoil_half(uint8_t *row, const float *src, int64_t n)
{
    (void)src;
    if (n % 2 != 0)
        row[2 * n] = 0x7f;
}

static void spoil_code(uint8_t *row, const float *src, int64_t n)
{
    (void)src;
    if (n % QMI_KV_BLOCK != 0)
        row[qmi_kv_row_bytes(QMI_KV_Q8, n) - 1] = 0x7f;
}

/* Codes cut, not rounded. */
static void cut_codes(uint8_t *row, const float *src, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        uint8_t *block = row + i / QMI_KV_BLOCK * QMI_KV_BLOCK_BYTES;
        float scale;
        memcpy(&scale, block, sizeof scale);
        if (scale > 0)
            block[4 + i % QMI_KV_BLOCK] = (uint8_t)(int8_t)(src[i] / scale);
    }
}

/* The last block's scale in all blocks: one that the codes do not have. */
static void one_scale(uint8_t *row, const float *src, int64_t n)
{
    (void)src;
    const int64_t last = (n - 1) / QMI_KV_BLOCK * QMI_KV_BLOCK_BYTES;
    for (int64_t at = 0; at < last; at += QMI_KV_BLOCK_BYTES)
        memcpy(row + at, row + last, sizeof(float));
}

#define KV_CHANGED(name, type, change)                                         \
    static qmoe_status name(                                                   \
        qmi_device *device, const qmi_op *op, qmi_error *err)                  \
    {                                                                          \
        return kv_changed(device, op, err, type, change);                      \
    }

KV_CHANGED(kv_f16_rest, QMI_KV_F16, spoil_half)
KV_CHANGED(kv_q8_rest, QMI_KV_Q8, spoil_code)
KV_CHANGED(kv_q8_cut, QMI_KV_Q8, cut_codes)
KV_CHANGED(kv_q8_one_scale, QMI_KV_Q8, one_scale)

/* ---- attention ---- */

ALTERED(attention_no_window, o.u.attention.window = 0)
ALTERED(attention_no_sinks, o.u.attention.sinks = NULL)

/* ---- route ---- */

ALTERED(route_no_bias, o.u.route.bias = NULL)
ALTERED(route_no_groups, o.u.route.router.n_groups = 0)
ALTERED(route_one_group, o.u.route.router.top_groups = 1)
ALTERED(route_group_by_best, o.u.route.router.group_best = 1)
ALTERED(route_not_normalised, o.u.route.router.normalises = false)
ALTERED(route_not_scaled, o.u.route.router.scale = 1)
ALTERED(route_softmax, o.u.route.router.scoring = QMI_SOFTMAX)

/* The bias counts in the weights, too. */
static qmoe_status route_bias_in_weight(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_route *r = &op->u.route;
    QMI_TRY(run_reference(device, op, err));
    if (r->bias == NULL)
        return QMOE_OK;
    float *bias = check_calloc((size_t)r->n_experts, sizeof *bias);
    qmi_weight_decode(r->bias->host, 0, 0, 1, bias);
    const int32_t *expert = qmi_host_pointer(r->expert);
    float *weight = qmi_host_pointer(r->weight);
    for (int64_t i = 0; i < r->n_tokens * r->top_k; i++)
        weight[i] += bias[expert[i]];
    free(bias);
    return QMOE_OK;
}

/* ---- expert_ffn ---- */

ALTERED(experts_no_gate, o.u.expert_ffn.gate = NULL)
ALTERED(experts_no_act, o.u.expert_ffn.act = QMI_ACT_NONE)
ALTERED(experts_relu, o.u.expert_ffn.act = QMI_ACT_RELU)
ALTERED(
    experts_swapped, if (o.u.expert_ffn.gate != NULL) {
        o.u.expert_ffn.gate = op->u.expert_ffn.up;
        o.u.expert_ffn.up = op->u.expert_ffn.gate;
    })
ALTERED(experts_gate_twice,
    if (o.u.expert_ffn.gate != NULL) o.u.expert_ffn.up = op->u.expert_ffn.gate)

static const mutant mutants[] = {
    WRONG_WIDE("no-bias", LINEAR, linear_no_bias),
    WRONG_WIDE("bias-last", LINEAR, linear_bias_last),
    WRONG_WIDE("bias-scaled", LINEAR, linear_bias_scaled),
    WRONG_WIDE("silu-as-sigmoid", LINEAR, linear_silu_as_sigmoid),
    WRONG_WIDE("sigmoid-as-silu", LINEAR, linear_sigmoid_as_silu),
    WRONG("other-pairs", ROPE, rope_other_pairs),
    WRONG("one-head", ROPE, rope_one_head),
    WRONG("backwards", ROPE, rope_backwards),
    WRONG("sines-first", ROPE, rope_sines_first),
    WRONG("rest-lost", ROPE, rope_rest_lost),
    WRONG("no-act", GLU, glu_no_act),
    WRONG("silu-as-sigmoid", GLU, glu_silu_as_sigmoid),
    WRONG("swapped", GLU, glu_swapped),
    WRONG("first-column", GLU, glu_first_column),
    WRONG_WIDE("f16-cut", KV_STORE, kv_f16_cut),
    WRONG_WIDE("f16-flushed", KV_STORE, kv_f16_flushed),
    WRONG_WIDE("f16-clamped", KV_STORE, kv_f16_clamped),
    WRONG_WIDE("f16-rest-undefined", KV_STORE, kv_f16_rest),
    WRONG_WIDE("q8-rest-undefined", KV_STORE, kv_q8_rest),
    WRONG_WIDE("q8-cut", KV_STORE, kv_q8_cut),
    WRONG_WIDE("q8-one-scale", KV_STORE, kv_q8_one_scale),
    WRONG_WIDE("no-window", ATTENTION, attention_no_window),
    WRONG_WIDE("no-sinks", ATTENTION, attention_no_sinks),
    WRONG_WIDE("no-bias", ROUTE, route_no_bias),
    WRONG_WIDE("no-groups", ROUTE, route_no_groups),
    WRONG_WIDE("one-group", ROUTE, route_one_group),
    WRONG_WIDE("group-by-best", ROUTE, route_group_by_best),
    WRONG_WIDE("not-normalised", ROUTE, route_not_normalised),
    WRONG_WIDE("not-scaled", ROUTE, route_not_scaled),
    WRONG_WIDE("softmax", ROUTE, route_softmax),
    WRONG_WIDE("bias-in-weight", ROUTE, route_bias_in_weight),
    WRONG_WIDE("no-gate", EXPERT_FFN, experts_no_gate),
    WRONG_WIDE("no-act", EXPERT_FFN, experts_no_act),
    WRONG_WIDE("relu", EXPERT_FFN, experts_relu),
    WRONG_WIDE("swapped", EXPERT_FFN, experts_swapped),
    WRONG_WIDE("gate-twice", EXPERT_FFN, experts_gate_twice),
};

const mutant *decoder_mutant_at(size_t index)
{
    return index < sizeof mutants / sizeof *mutants ? &mutants[index] : NULL;
}
