/* SPDX-License-Identifier: Apache-2.0
 * The cheap operations: embedding rows, norm, cache stores, routing, decode.
 * In: operands of ops.h.  Out: their results, by the calling thread alone:
 * waking others would cost more than it saves.  Sums have a fixed order. */
#include "cpu.h"

#include <math.h>
#include <string.h>

#include "cancel.h"

/* Tokens between two looks at the wish to end early: at most a few
 * milliseconds of work. */
enum { LOOK_TOKENS = 256 };

static qmoe_status look(int64_t t, qmi_error *err)
{
    return t % LOOK_TOKENS == 0 ? qmi_check_cancel(err) : QMOE_OK;
}

/* Formats and counts of all kinds: nothing here depends on them. */
static bool always(const qmi_device *device, const qmi_op *op)
{
    (void)device;
    (void)op;
    return true;
}

static qmoe_status run_embed(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    (void)device;
    const qmi_op_embed *o = &op->u.embed;
    const qmi_weight *w = o->table->host;
    const int32_t *ids = qmi_host_pointer(o->ids);
    float *dst = qmi_host_pointer(o->dst);
    QMI_TRY(qmi_weight_check(w, 0, err));
    for (int64_t t = 0; t < o->n_tokens; t++) {
        QMI_TRY(look(t, err));
        qmi_weight_decode(w, 0, ids[t], 1, dst + t * w->n_cols);
    }
    return QMOE_OK;
}

/* Eight partial sums: vectorises without reordering by the compiler. */
static float mean_of_squares(const float *x, int64_t n)
{
    float sums[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; j++)
            sums[j] += x[i + j] * x[i + j];
    float sum = 0;
    for (int j = 0; j < 8; j++)
        sum += sums[j];
    for (; i < n; i++)
        sum += x[i] * x[i];
    return sum / (float)n;
}

static qmoe_status run_rmsnorm(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_rmsnorm *o = &op->u.rmsnorm;
    const qmi_weight *w = o->weight->host;
    QMI_TRY(qmi_weight_check(w, 0, err));
    /* Decoded once for all tokens. */
    float *scale = qcpu_scratch(device, (size_t)w->n_cols * sizeof *scale, err);
    if (scale == NULL)
        return QMOE_E_NOMEM;
    qmi_weight_decode(w, 0, 0, 1, scale);
    for (int64_t t = 0; t < o->n_tokens; t++) {
        QMI_TRY(look(t, err));
        const float *x = (float *)qmi_host_pointer(o->src) + t * w->n_cols;
        float *y = (float *)qmi_host_pointer(o->dst) + t * w->n_cols;
        float factor = 1.0f / sqrtf(mean_of_squares(x, w->n_cols) + o->epsilon);
        for (int64_t c = 0; c < w->n_cols; c++)
            y[c] = x[c] * factor * scale[c];
    }
    return QMOE_OK;
}

static qmoe_status run_kv_store(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    (void)device;
    (void)err;
    const qmi_op_kv_store *o = &op->u.kv_store;
    const float *src = qmi_host_pointer(o->src);
    const int32_t *rows = qmi_host_pointer(o->rows);
    float *cache = qmi_host_pointer(o->cache);
    for (int64_t t = 0; t < o->n_tokens; t++)
        memcpy(cache + rows[t] * o->n_cols, src + t * o->n_cols,
            (size_t)o->n_cols * sizeof *src);
    return QMOE_OK;
}

/* Inserts expert e into the token's list of the best top_k, kept in
 * descending order; equal logits keep the lower index first. */
static void insert_best(
    int32_t *best, float *value, int64_t n, int32_t e, float logit)
{
    /* From the end: an equal logit stays behind, and most experts never get
     * past the last place. */
    int64_t at = n;
    while (at > 0 && (best[at - 1] < 0 || logit > value[at - 1]))
        at--;
    if (at == n)
        return;
    for (int64_t i = n - 1; i > at; i--) {
        best[i] = best[i - 1];
        value[i] = value[i - 1];
    }
    best[at] = e;
    value[at] = logit;
}

static void route_token(
    const qmi_op_route *o, const float *logits, int32_t *expert, float *weight)
{
    float largest = -INFINITY;
    /* -1: a free place. */
    for (int64_t j = 0; j < o->top_k; j++)
        expert[j] = -1;
    for (int64_t e = 0; e < o->n_experts; e++) {
        largest = fmaxf(largest, logits[e]);
        /* `weight` holds logits until the sum is known. */
        insert_best(expert, weight, o->top_k, (int32_t)e, logits[e]);
    }
    float sum = 0;
    for (int64_t e = 0; e < o->n_experts; e++)
        sum += expf(logits[e] - largest);
    for (int64_t j = 0; j < o->top_k; j++)
        weight[j] = expf(weight[j] - largest) / sum;
}

static void drop_over_capacity(const qmi_op_route *o, int64_t *used)
{
    int32_t *expert = qmi_host_pointer(o->expert);
    const int32_t *sequence = qmi_host_pointer(o->sequence);
    /* Tokens of a sequence are neighbours (ops.h): counts begin anew where the
     * number changes, and earlier tokens win. */
    for (int64_t t = 0; t < o->n_tokens; t++) {
        if (t == 0 || sequence[t] != sequence[t - 1])
            memset(used, 0, (size_t)o->n_experts * sizeof *used);
        for (int64_t j = 0; j < o->top_k; j++) {
            int32_t *e = &expert[t * o->top_k + j];
            if (++used[*e] > o->capacity)
                *e = -1;
        }
    }
}

static qmoe_status run_route(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_route *o = &op->u.route;
    const float *logits = qmi_host_pointer(o->logits);
    int32_t *expert = qmi_host_pointer(o->expert);
    float *weight = qmi_host_pointer(o->weight);
    for (int64_t t = 0; t < o->n_tokens; t++) {
        QMI_TRY(look(t, err));
        route_token(o, logits + t * o->n_experts, expert + t * o->top_k,
            weight + t * o->top_k);
    }
    if (o->capacity <= 0)
        return QMOE_OK;
    int64_t *used =
        qcpu_scratch(device, (size_t)o->n_experts * sizeof *used, err);
    if (used == NULL)
        return QMOE_E_NOMEM;
    drop_over_capacity(o, used);
    return QMOE_OK;
}

static qmoe_status run_decode(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    (void)device;
    const qmi_op_decode *o = &op->u.decode;
    QMI_TRY(qmi_weight_check(o->weight->host, o->mat, err));
    qmi_weight_decode(
        o->weight->host, o->mat, o->row, o->n_rows, qmi_host_pointer(o->dst));
    return QMOE_OK;
}

#define SIMPLE_OP(op)                                                          \
    const qmi_variant *qcpu_##op(size_t *n)                                    \
    {                                                                          \
        static const qmi_variant variant = {"portable", always, run_##op};     \
        *n = 1;                                                                \
        return &variant;                                                       \
    }

SIMPLE_OP(embed)
SIMPLE_OP(rmsnorm)
SIMPLE_OP(kv_store)
SIMPLE_OP(route)
SIMPLE_OP(decode)
