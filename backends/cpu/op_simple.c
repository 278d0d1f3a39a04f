/* SPDX-License-Identifier: Apache-2.0
 * The cheap operations: embedding rows, norm, rotation of positions,
 * gates, cache stores, decode.
 * In: operands of ops.h.  Out: their results, each token by one thread.  Sums
 * have a fixed order. */
#include "cpu.h"

#include <math.h>
#include <string.h>

#include "cancel.h"
#include "kv_rows.h"

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
        if (t % QCPU_LOOK_TOKENS == 0)
            QMI_TRY(qmi_check_cancel(err));
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

typedef struct norm_job {
    const qmi_op_rmsnorm *o;
    const float *scale; /* decoded once for all tokens */
} norm_job;

static void norm_token(void *context, int64_t t, int thread)
{
    const norm_job *job = context;
    const qmi_op_rmsnorm *o = job->o;
    const int64_t n = o->weight->host->n_cols;
    const float *x = (float *)qmi_host_pointer(o->src) + t * n;
    float *y = (float *)qmi_host_pointer(o->dst) + t * n;
    const float factor = 1.0f / sqrtf(mean_of_squares(x, n) + o->epsilon);
    (void)thread;
    for (int64_t c = 0; c < n; c++)
        y[c] = x[c] * factor * job->scale[c];
}

static qmoe_status run_rmsnorm(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_rmsnorm *o = &op->u.rmsnorm;
    const qmi_weight *w = o->weight->host;
    QMI_TRY(qmi_weight_check(w, 0, err));
    float *scale = qcpu_scratch(device, (size_t)w->n_cols * sizeof *scale, err);
    if (scale == NULL)
        return QMOE_E_NOMEM;
    qmi_weight_decode(w, 0, 0, 1, scale);
    norm_job job = {o, scale};
    return qcpu_each_token(
        device, o->n_tokens, w->n_cols, norm_token, &job, err);
}

static void store_token(void *context, int64_t t, int thread)
{
    const qmi_op_kv_store *o = context;
    const float *src = qmi_host_pointer(o->src);
    const int32_t *rows = qmi_host_pointer(o->rows);
    uint8_t *cache = qmi_host_pointer(o->cache);
    (void)thread;
    qmi_kv_pack(
        cache + (uint64_t)rows[t] * qmi_kv_row_bytes(o->type, o->n_cols),
        o->type, src + t * o->n_cols, o->n_cols);
}

static qmoe_status run_kv_store(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    qmi_op_kv_store o = op->u.kv_store;
    return qcpu_each_token(device, o.n_tokens, o.n_cols, store_token, &o, err);
}

static void turn_token(void *context, int64_t t, int thread)
{
    const qmi_op_rope *o = context;
    const int64_t n_pairs = o->d_rotary / 2, n_rest = o->d_head - o->d_rotary;
    /* From one pair to the next, and from its first value to its second. */
    const int64_t step = o->interleaved ? 2 : 1;
    const int64_t apart = o->interleaved ? 1 : n_pairs;
    const float *c = (float *)qmi_host_pointer(o->turns) + t * o->d_rotary;
    const float *s = c + n_pairs;
    const int64_t at = t * o->n_heads * o->d_head;
    const float *x = (float *)qmi_host_pointer(o->src) + at;
    float *y = (float *)qmi_host_pointer(o->dst) + at;
    (void)thread;
    for (int64_t h = 0; h < o->n_heads; h++, x += o->d_head, y += o->d_head) {
        for (int64_t m = 0; m < n_pairs; m++) {
            const float a = x[step * m], b = x[step * m + apart];
            y[step * m] = a * c[m] - b * s[m];
            y[step * m + apart] = b * c[m] + a * s[m];
        }
        if (x != y)
            memcpy(
                y + o->d_rotary, x + o->d_rotary, (size_t)n_rest * sizeof *y);
    }
}

static qmoe_status run_rope(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    qmi_op_rope o = op->u.rope;
    return qcpu_each_token(
        device, o.n_tokens, o.n_heads * o.d_head, turn_token, &o, err);
}

/* Gates whose activations wait on the stack: dst may be `up` or `gate`. */
enum { GATES = 256 };

static void gate_token(void *context, int64_t t, int thread)
{
    const qmi_op_glu *o = context;
    const float *gate = (float *)qmi_host_pointer(o->gate) + t * o->n_gate_cols;
    const float *up = (float *)qmi_host_pointer(o->up) + t * o->n_cols;
    float *dst = (float *)qmi_host_pointer(o->dst) + t * o->n_cols;
    float act[GATES];
    (void)thread;
    if (o->n_gate_cols != o->n_cols) {
        qcpu_act_rows(act, gate, 1, o->act);
        for (int64_t c = 0; c < o->n_cols; c++)
            dst[c] = act[0] * up[c];
        return;
    }
    for (int64_t first = 0; first < o->n_cols; first += GATES) {
        const int64_t left = o->n_cols - first;
        const int64_t n = left < GATES ? left : GATES;
        qcpu_act_rows(act, gate + first, n, o->act);
        for (int64_t i = 0; i < n; i++)
            dst[first + i] = act[i] * up[first + i];
    }
}

static qmoe_status run_glu(qmi_device *device, const qmi_op *op, qmi_error *err)
{
    qmi_op_glu o = op->u.glu;
    return qcpu_each_token(device, o.n_tokens, o.n_cols, gate_token, &o, err);
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
SIMPLE_OP(rope)
SIMPLE_OP(glu)
SIMPLE_OP(decode)
