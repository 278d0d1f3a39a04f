/* SPDX-License-Identifier: Apache-2.0
 * Attention over cached keys and values: one (span, head) pair is one unit of
 * work; scores stay in the thread's work space. */
#include "cpu.h"

#include <math.h>

#include "cancel.h"

typedef struct job {
    const qmi_op_attention *op;
    const float *q, *k, *v, *bias;
    float *dst;
    int64_t width; /* of a row: n_heads * d_head */
    const qmi_attention_span *spans;
    uint8_t *scratch; /* scores: score_bytes per thread */
    size_t score_bytes;
    const qmi_error *err;
} job;

static float dot(const float *a, const float *b, int64_t n)
{
    float sums[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; j++)
            sums[j] += a[i + j] * b[i + j];
    float sum = 0;
    for (int j = 0; j < 8; j++)
        sum += sums[j];
    for (; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

static float bias_at(const job *j, int64_t head, int64_t distance)
{
    int64_t m = j->op->max_distance;
    if (j->bias == NULL)
        return 0;
    if (distance > m)
        distance = m;
    if (distance < -m)
        distance = -m;
    return j->bias[head * (2 * m + 1) + distance + m];
}

/* scores[0 .. n_keys) = softmax weights of one query. */
static void score(const job *j, const qmi_attention_span *span, const float *q,
    int64_t q_pos, int64_t head, float *scores, int64_t n_keys)
{
    const float *keys = j->k + span->k_begin * j->width + head * j->op->d_head;
    float largest = -INFINITY;
    for (int64_t k = 0; k < n_keys; k++) {
        scores[k] = j->op->scale * dot(q, keys + k * j->width, j->op->d_head) +
                    bias_at(j, head, k - q_pos);
        largest = fmaxf(largest, scores[k]);
    }
    float sum = 0;
    for (int64_t k = 0; k < n_keys; k++) {
        scores[k] = expf(scores[k] - largest);
        sum += scores[k];
    }
    for (int64_t k = 0; k < n_keys; k++)
        scores[k] /= sum;
}

static void attend(
    const job *j, const qmi_attention_span *span, int64_t head, float *scores)
{
    int64_t d_head = j->op->d_head;
    const float *values = j->v + span->k_begin * j->width + head * d_head;
    for (int64_t i = 0; i < span->q_len && !qmi_cancelled(j->err); i++) {
        int64_t row = (span->q_begin + i) * j->width + head * d_head;
        int64_t q_pos = span->q_pos + i;
        int64_t n_keys = span->k_len;
        if (j->op->causal && q_pos + 1 < n_keys)
            n_keys = q_pos + 1;
        score(j, span, j->q + row, q_pos, head, scores, n_keys);
        float *y = j->dst + row;
        for (int64_t c = 0; c < d_head; c++)
            y[c] = 0;
        for (int64_t k = 0; k < n_keys; k++)
            for (int64_t c = 0; c < d_head; c++)
                y[c] += scores[k] * values[k * j->width + c];
    }
}

static void run_unit(void *context, int64_t unit, int thread)
{
    const job *j = context;
    const int64_t n_heads = j->op->n_heads;
    float *scores =
        (float *)(void *)(j->scratch + j->score_bytes * (size_t)thread);
    attend(j, &j->spans[unit / n_heads], unit % n_heads, scores);
}

/* Multiply-adds below which the other threads are left alone. */
enum { MIN_PARALLEL = 20000 };

static qmoe_status run_attention(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_attention *o = &op->u.attention;
    job j = {
        .op = o,
        .q = qmi_host_pointer(o->q),
        .k = qmi_host_pointer(o->k),
        .v = qmi_host_pointer(o->v),
        .bias = qmi_host_pointer(o->bias),
        .dst = qmi_host_pointer(o->dst),
        .width = o->n_heads * o->d_head,
        .spans = qmi_host_pointer(o->spans),
        .score_bytes = qcpu_align((size_t)o->max_keys * sizeof(float)),
        .err = err,
    };
    j.scratch =
        qcpu_scratch(device, j.score_bytes * (size_t)device->n_threads, err);
    if (j.scratch == NULL)
        return QMOE_E_NOMEM;
    const int64_t n_units = o->n_spans * o->n_heads;
    if (o->n_queries * o->max_keys * j.width >= MIN_PARALLEL)
        return qcpu_parallel(device->pool, n_units, run_unit, &j, err);
    for (int64_t unit = 0; unit < n_units; unit++)
        run_unit(&j, unit, 0);
    return QMOE_OK;
}

static bool always(const qmi_device *device, const qmi_op *op)
{
    (void)device;
    (void)op;
    return true;
}

const qmi_variant *qcpu_attention(size_t *n)
{
    static const qmi_variant variant = {"portable", always, run_attention};
    *n = 1;
    return &variant;
}
