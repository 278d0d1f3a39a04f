/* SPDX-License-Identifier: Apache-2.0
 * Attention of the reference backend, and the caches it reads.  In: operands of
 * ops.h.  Out: results rounded once, at the end. */
#include "reference.h"

#include <math.h>
#include <string.h>

#include "alloc.h"
#include "cancel.h"
#include "kv_rows.h"

qmoe_status qmi_reference_kv_store(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    (void)device;
    (void)err;
    const qmi_op_kv_store *o = &op->u.kv_store;
    const uint64_t row = qmi_kv_row_bytes(o->type, o->n_cols);
    uint8_t *cache = qmi_host_pointer(o->cache);
    const int32_t *rows = qmi_reference_ints(o->rows);
    /* Rows are distinct (ops.h): no token overwrites another's. */
    for (int64_t t = 0; t < o->n_tokens; t++)
        qmi_kv_pack(cache + (uint64_t)rows[t] * row, o->type,
            qmi_reference_floats(o->src) + t * o->n_cols, o->n_cols);
    return QMOE_OK;
}

/* Work space of one query and head. */
typedef struct space {
    double *scores; /* [max_keys] */
    float *values;  /* of a head: [larger of d_key and d_value] */
} space;

/* The values of head `head` of a key or value. */
static const float *read_head(const qmi_op_attention *o, qmi_view view,
    int64_t row, int64_t head, int64_t width, float *out)
{
    const uint64_t bytes = qmi_kv_row_bytes(o->kv_type, o->n_kv_heads * width);
    const uint8_t *rows = qmi_host_pointer(view);
    qmi_kv_unpack(
        out, rows + (uint64_t)row * bytes, o->kv_type, head * width, width);
    return out;
}

static double bias_of(const qmi_op_attention *o, int64_t head, int64_t distance)
{
    const float *bias = qmi_reference_floats(o->bias);
    if (bias == NULL)
        return 0;
    /* Far keys share the outermost column of the bias. */
    if (distance > o->max_distance)
        distance = o->max_distance;
    if (distance < -o->max_distance)
        distance = -o->max_distance;
    return bias[head * (2 * o->max_distance + 1) + distance + o->max_distance];
}

/* Keys [*first, *last) that a query at q_pos sees: the others are masked by not
 * being looked at. */
static void seen_keys(int64_t *first, int64_t *last, const qmi_op_attention *o,
    const qmi_attention_span *span, int64_t q_pos)
{
    *first = 0;
    *last = span->k_len;
    if (o->causal && q_pos + 1 < *last)
        *last = q_pos + 1;
    if (o->window > 0 && q_pos + 1 > o->window)
        *first = q_pos + 1 - o->window;
}

/* Scores of one query and head over its keys, then the weighted values. */
static void attend(const qmi_op_attention *o, const qmi_attention_span *span,
    int64_t query, int64_t head, const float *sinks, const space *s)
{
    const int64_t row = span->q_begin + query, q_pos = span->q_pos + query;
    const int64_t kv_head = head / (o->n_heads / o->n_kv_heads);
    const float *q =
        qmi_reference_floats(o->q) + (row * o->n_heads + head) * o->d_key;
    int64_t first, last;
    seen_keys(&first, &last, o, span, q_pos);
    double largest = sinks != NULL ? sinks[head] : -INFINITY;
    for (int64_t k = first; k < last; k++) {
        const float *key =
            read_head(o, o->k, span->k_begin + k, kv_head, o->d_key, s->values);
        s->scores[k] = o->scale * qmi_reference_dot(q, key, o->d_key) +
                       bias_of(o, head, k - q_pos);
        largest = fmax(largest, s->scores[k]);
    }
    /* Less the largest score: no exponential overflows, and the sum is at least
     * 1. */
    double sum = sinks != NULL ? exp(sinks[head] - largest) : 0;
    for (int64_t k = first; k < last; k++) {
        s->scores[k] = exp(s->scores[k] - largest);
        sum += s->scores[k];
    }
    float *dst =
        qmi_reference_floats(o->dst) + (row * o->n_heads + head) * o->d_value;
    double *y = s->scores + o->max_keys; /* [d_value] */
    memset(y, 0, (size_t)o->d_value * sizeof *y);
    for (int64_t k = first; k < last; k++) {
        const float *value = read_head(
            o, o->v, span->k_begin + k, kv_head, o->d_value, s->values);
        for (int64_t i = 0; i < o->d_value; i++)
            y[i] += s->scores[k] * value[i];
    }
    /* Divided once, at the end, as the definition does. */
    for (int64_t i = 0; i < o->d_value; i++)
        dst[i] = (float)(y[i] / sum);
}

static void attend_all(const qmi_op_attention *o, const float *sinks,
    const space *s, qmi_error *err)
{
    /* Spans cover all queries, so every row of dst is written. */
    const qmi_attention_span *spans = qmi_host_pointer(o->spans);
    for (int64_t i = 0; i < o->n_spans; i++)
        for (int64_t query = 0; query < spans[i].q_len; query++)
            for (int64_t head = 0; head < o->n_heads && !qmi_cancelled(err);
                 head++)
                attend(o, &spans[i], query, head, sinks, s);
}

qmoe_status qmi_reference_attention(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    (void)device;
    const qmi_op_attention *o = &op->u.attention;
    const int64_t wider = o->d_key > o->d_value ? o->d_key : o->d_value;
    float *sinks;
    QMI_TRY(qmi_reference_vector(&sinks, o->sinks, err));
    /* max_keys bounds the row of scores. */
    const space s = {
        .scores = qmi_calloc((size_t)(o->max_keys + o->d_value),
            sizeof *s.scores, "scores", err),
        .values = qmi_calloc((size_t)wider, sizeof *s.values, "a head", err),
    };
    const bool has_room = s.scores != NULL && s.values != NULL;
    if (has_room)
        attend_all(o, sinks, &s, err);
    qmi_free(s.scores);
    qmi_free(s.values);
    qmi_free(sinks);
    return has_room ? qmi_check_cancel(err) : QMOE_E_NOMEM;
}
