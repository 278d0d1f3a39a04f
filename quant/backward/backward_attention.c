/* SPDX-License-Identifier: Apache-2.0
 * Backward of attention (backward_ops.h).  In: queries, keys, values and the
 * gradient of the result.  Out: additions to the gradients of the three.  The
 * shares P of the softmax are made again, a tile of queries at a time.  A head
 * of keys of a span is an item of work, whose gradients nothing else writes to;
 * its query heads and tiles come in order. */
#include <math.h>

#include "alloc.h"
#include "backward_ops.h"
#include "blas.h"

enum { TILE_QUERIES = 64 };

typedef struct job {
    const qmi_backward_attention *o;
    float *space; /* of thread i: [i][2, TILE_QUERIES, max_keys] */
} job;

/* Queries of a span and the keys that any of them sees, of one head. */
typedef struct tile {
    int64_t row;               /* of the first query */
    int64_t n, q_pos;          /* queries, position of the first */
    int64_t first_key, n_keys; /* in the span */
    int64_t key_row, head, kv_head;
    float *p, *d_p; /* [n, n_keys] */
} tile;

static bool is_seen(const qmi_backward_attention *o, int64_t q_pos, int64_t key)
{
    return !(o->causal && key > q_pos) &&
           !(o->window > 0 && key <= q_pos - o->window);
}

static double bias_of(
    const qmi_backward_attention *o, int64_t head, int64_t distance)
{
    if (o->bias == NULL)
        return 0;
    if (distance > o->max_distance)
        distance = o->max_distance;
    if (distance < -o->max_distance)
        distance = -o->max_distance;
    return o
        ->bias[head * (2 * o->max_distance + 1) + distance + o->max_distance];
}

/* Scores of query i become its shares. */
static void soften(const qmi_backward_attention *o, const tile *t, int64_t i)
{
    float *p = t->p + i * t->n_keys;
    const int64_t q_pos = t->q_pos + i;
    double largest = o->sinks != NULL ? o->sinks[t->head] : -INFINITY;
    double sum = 0;
    for (int64_t k = 0; k < t->n_keys; k++) {
        const int64_t key = t->first_key + k;
        p[k] = is_seen(o, q_pos, key)
                   ? (float)(p[k] + bias_of(o, t->head, key - q_pos))
                   : -INFINITY;
        largest = fmax(largest, p[k]);
    }
    if (o->sinks != NULL)
        sum = exp(o->sinks[t->head] - largest);
    for (int64_t k = 0; k < t->n_keys; k++) {
        p[k] = (float)exp(p[k] - largest);
        sum += p[k];
    }
    for (int64_t k = 0; k < t->n_keys; k++)
        p[k] = (float)(p[k] / sum);
}

/* Gradients of shares become those of scores: P (dP - sum P dP). */
static void harden(const tile *t, int64_t i)
{
    const float *p = t->p + i * t->n_keys;
    float *d_p = t->d_p + i * t->n_keys;
    double sum = 0;
    for (int64_t k = 0; k < t->n_keys; k++)
        sum += (double)p[k] * d_p[k];
    for (int64_t k = 0; k < t->n_keys; k++)
        d_p[k] = (float)(p[k] * (d_p[k] - sum));
}

/* C [m, n] = or += alpha A B, each perhaps transposed. */
typedef struct side {
    const float *values;
    int64_t stride;
    bool is_transposed;
} side;

static void product(float *c, int64_t stride, int64_t m, int64_t n, int64_t k,
    float alpha, side a, side b, bool adds)
{
    qmi_blas.sgemm(CblasRowMajor, a.is_transposed ? CblasTrans : CblasNoTrans,
        b.is_transposed ? CblasTrans : CblasNoTrans, (int)m, (int)n, (int)k,
        alpha, a.values, (int)a.stride, b.values, (int)b.stride,
        adds ? 1.0f : 0.0f, c, (int)stride);
}

static void run_tile(const qmi_backward_attention *o, const tile *t)
{
    const int64_t q_width = o->n_heads * o->d_key;
    const int64_t o_width = o->n_heads * o->d_value;
    const int64_t k_width = o->n_kv_heads * o->d_key;
    const int64_t v_width = o->n_kv_heads * o->d_value;
    const int64_t q = t->row * q_width + t->head * o->d_key;
    const int64_t y = t->row * o_width + t->head * o->d_value;
    const int64_t k = t->key_row * k_width + t->kv_head * o->d_key;
    const int64_t v = t->key_row * v_width + t->kv_head * o->d_value;
    const side d_s = {t->d_p, t->n_keys, false};
    const side p_t = {t->p, t->n_keys, true}, d_s_t = {t->d_p, t->n_keys, true};
    const side d_y = {o->d_dst + y, o_width, false};
    product(t->p, t->n_keys, t->n, t->n_keys, o->d_key, o->scale,
        (side){o->q + q, q_width, false}, (side){o->k + k, k_width, true},
        false);
    for (int64_t i = 0; i < t->n; i++)
        soften(o, t, i);
    product(t->d_p, t->n_keys, t->n, t->n_keys, o->d_value, 1, d_y,
        (side){o->v + v, v_width, true}, false);
    for (int64_t i = 0; i < t->n; i++)
        harden(t, i);
    product(
        o->d_v + v, v_width, t->n_keys, o->d_value, t->n, 1, p_t, d_y, true);
    product(o->d_q + q, q_width, t->n, o->d_key, t->n_keys, o->scale, d_s,
        (side){o->k + k, k_width, false}, true);
    product(o->d_k + k, k_width, t->n_keys, o->d_key, t->n, o->scale, d_s_t,
        (side){o->q + q, q_width, false}, true);
}

static void run_head(void *context, int64_t item, int thread)
{
    const job *j = context;
    const qmi_backward_attention *o = j->o;
    const qmi_attention_span *span = &o->spans[item / o->n_kv_heads];
    const int64_t n_shared = o->n_heads / o->n_kv_heads;
    const int64_t size = TILE_QUERIES * o->max_keys;
    tile t = {.kv_head = item % o->n_kv_heads,
        .p = j->space + 2 * thread * size,
        .d_p = j->space + (2 * thread + 1) * size};
    for (int64_t h = 0; h < n_shared; h++)
        for (int64_t i = 0; i < span->q_len; i += TILE_QUERIES) {
            const int64_t left = span->q_len - i;
            int64_t end = span->k_len;
            t.head = t.kv_head * n_shared + h;
            t.row = span->q_begin + i;
            t.n = left < TILE_QUERIES ? left : TILE_QUERIES;
            t.q_pos = span->q_pos + i;
            if (o->causal && t.q_pos + t.n < end)
                end = t.q_pos + t.n;
            t.first_key = 0;
            if (o->window > 0 && t.q_pos + 1 > o->window)
                t.first_key = t.q_pos + 1 - o->window;
            t.n_keys = end - t.first_key;
            t.key_row = span->k_begin + t.first_key;
            run_tile(o, &t);
        }
}

qmoe_status qmi_backward_attention_run(
    qmi_backward *backward, const qmi_backward_attention *o, qmi_error *err)
{
    job j = {.o = o};
    j.space = qmi_calloc(2 * TILE_QUERIES * (size_t)backward->n_threads,
        (size_t)o->max_keys * sizeof *j.space, "scores", err);
    if (j.space == NULL)
        return QMOE_E_NOMEM;
    const qmoe_status status = qmi_team_run(
        backward->team, o->n_spans * o->n_kv_heads, run_head, &j, err);
    qmi_free(j.space);
    return status;
}
