/* SPDX-License-Identifier: Apache-2.0
 * The reference backend: every operation written as plainly as its comment in
 * ops.h, on host memory, with double accumulators and one thread.  In: operands
 * of ops.h.  Out: results that are rounded to f32 once, at the end.  It judges
 * the other backends and is never optimised. */
#include "backend.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "cancel.h"
#include "top_logits.h"

/* NULL for an operand that is absent. */
static float *floats(qmi_view view)
{
    return qmi_host_pointer(view);
}

static const int32_t *ints(qmi_view view)
{
    return qmi_host_pointer(view);
}

/* One decoded row of a checked matrix; release with qmi_free. */
static float *row_buffer(const qmi_weight *w, qmi_error *err)
{
    return qmi_calloc((size_t)w->n_cols, sizeof(float), "a row", err);
}

/* Left to right in double: the error is far below what f32 results can show. */
static double dot(const float *a, const float *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

static qmoe_status run_embed(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    (void)device;
    const qmi_op_embed *o = &op->u.embed;
    const qmi_weight *w = o->table->host;
    /* Every operation that reads a weight checks it first: the payload comes
     * from a file. */
    QMI_TRY(qmi_weight_check(w, 0, err));
    for (int64_t t = 0; t < o->n_tokens; t++)
        qmi_weight_decode(
            w, 0, ints(o->ids)[t], 1, floats(o->dst) + t * w->n_cols);
    return QMOE_OK;
}

static qmoe_status run_rmsnorm(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    (void)device;
    const qmi_op_rmsnorm *o = &op->u.rmsnorm;
    const qmi_weight *w = o->weight->host;
    QMI_TRY(qmi_weight_check(w, 0, err));
    float *scale = row_buffer(w, err);
    if (scale == NULL)
        return QMOE_E_NOMEM;
    qmi_weight_decode(w, 0, 0, 1, scale);
    for (int64_t t = 0; t < o->n_tokens; t++) {
        const float *x = floats(o->src) + t * w->n_cols;
        float *y = floats(o->dst) + t * w->n_cols;
        double mean = dot(x, x, w->n_cols) / (double)w->n_cols;
        double factor = 1.0 / sqrt(mean + o->epsilon);
        for (int64_t c = 0; c < w->n_cols; c++)
            y[c] = (float)(x[c] * factor * scale[c]);
    }
    qmi_free(scale);
    return QMOE_OK;
}

static qmoe_status run_linear(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    (void)device;
    const qmi_op_linear *o = &op->u.linear;
    const qmi_weight *w = o->weight->host;
    QMI_TRY(qmi_weight_check(w, o->mat, err));
    float *row = row_buffer(w, err);
    if (row == NULL)
        return QMOE_E_NOMEM;
    const float *residual = floats(o->residual);
    /* Row by row: a row is decoded once for all tokens, and only one is in
     * memory. */
    for (int64_t r = 0; r < w->n_rows; r++) {
        qmi_weight_decode(w, o->mat, r, 1, row);
        /* Asked per element: a product of a large model takes minutes here, and
         * Ctrl-C must not wait for it. */
        for (int64_t t = 0; t < o->n_tokens && !qmi_cancelled(err); t++) {
            const float *x = floats(o->src) + t * w->n_cols;
            double y = o->alpha * dot(x, row, w->n_cols);
            if (o->relu && y < 0)
                y = 0;
            int64_t at = t * w->n_rows + r;
            if (residual != NULL)
                y += residual[at];
            floats(o->dst)[at] = (float)y;
        }
    }
    qmi_free(row);
    return qmi_check_cancel(err);
}

static qmoe_status run_kv_store(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    (void)device;
    (void)err;
    const qmi_op_kv_store *o = &op->u.kv_store;
    /* Rows are distinct (ops.h): no token overwrites another's. */
    for (int64_t t = 0; t < o->n_tokens; t++)
        memcpy(floats(o->cache) + ints(o->rows)[t] * o->n_cols,
            floats(o->src) + t * o->n_cols, (size_t)o->n_cols * sizeof(float));
    return QMOE_OK;
}

/* Scores of one query and head over its keys, then the weighted values. */
static void attend(const qmi_op_attention *o, const qmi_attention_span *span,
    int64_t query, int64_t head, double *scores)
{
    int64_t width = o->n_heads * o->d_head;
    const float *q =
        floats(o->q) + (span->q_begin + query) * width + head * o->d_head;
    const float *bias = floats(o->bias);
    int64_t q_pos = span->q_pos + query;
    int64_t n_keys = span->k_len;
    /* Keys after the query's own position are masked by not being looked at. */
    if (o->causal && q_pos + 1 < n_keys)
        n_keys = q_pos + 1;
    double largest = -INFINITY;
    for (int64_t k = 0; k < n_keys; k++) {
        const float *key =
            floats(o->k) + (span->k_begin + k) * width + head * o->d_head;
        scores[k] = o->scale * dot(q, key, o->d_head);
        if (bias != NULL) {
            /* Far keys share the outermost column of the bias. */
            int64_t distance = k - q_pos;
            if (distance > o->max_distance)
                distance = o->max_distance;
            if (distance < -o->max_distance)
                distance = -o->max_distance;
            scores[k] += bias[head * (2 * o->max_distance + 1) + distance +
                              o->max_distance];
        }
        largest = fmax(largest, scores[k]);
    }
    /* Less the largest score: no exponential overflows, and the sum is at least
     * 1. */
    double sum = 0;
    for (int64_t k = 0; k < n_keys; k++) {
        scores[k] = exp(scores[k] - largest);
        sum += scores[k];
    }
    float *dst =
        floats(o->dst) + (span->q_begin + query) * width + head * o->d_head;
    /* Divided once, at the end, as the definition does. */
    for (int64_t i = 0; i < o->d_head; i++) {
        double y = 0;
        for (int64_t k = 0; k < n_keys; k++)
            y += scores[k] *
                 floats(
                     o->v)[(span->k_begin + k) * width + head * o->d_head + i];
        dst[i] = (float)(y / sum);
    }
}

static qmoe_status run_attention(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    (void)device;
    const qmi_op_attention *o = &op->u.attention;
    double *scores =
        qmi_calloc((size_t)o->max_keys, sizeof *scores, "scores", err);
    if (scores == NULL)
        return QMOE_E_NOMEM;
    /* Spans cover all queries, so every row of dst is written. max_keys bounds
     * the row of scores. */
    const qmi_attention_span *spans = qmi_host_pointer(o->spans);
    for (int64_t s = 0; s < o->n_spans; s++)
        for (int64_t query = 0; query < spans[s].q_len; query++)
            for (int64_t head = 0; head < o->n_heads && !qmi_cancelled(err);
                 head++)
                attend(o, &spans[s], query, head, scores);
    qmi_free(scores);
    return qmi_check_cancel(err);
}

/* Index of the largest value not yet taken; ties: lowest index. -1 cannot be:
 * callers take at most n. */
static int64_t next_largest(const float *values, const bool *taken, int64_t n)
{
    int64_t best = -1;
    for (int64_t i = 0; i < n; i++)
        if (!taken[i] && (best < 0 || values[i] > values[best]))
            best = i;
    return best;
}

/* Softmax runs over all experts, not over the chosen ones: the weights of a
 * token sum up to less than 1. */
static void route_token(const qmi_op_route *o, int64_t t, bool *taken)
{
    const float *logits = floats(o->logits) + t * o->n_experts;
    int32_t *expert = (int32_t *)qmi_host_pointer(o->expert) + t * o->top_k;
    float *weight = floats(o->weight) + t * o->top_k;
    memset(taken, 0, (size_t)o->n_experts * sizeof *taken);
    double largest = -INFINITY, sum = 0;
    for (int64_t e = 0; e < o->n_experts; e++)
        largest = fmax(largest, logits[e]);
    for (int64_t e = 0; e < o->n_experts; e++)
        sum += exp(logits[e] - largest);
    for (int64_t j = 0; j < o->top_k; j++) {
        int64_t e = next_largest(logits, taken, o->n_experts);
        taken[e] = true;
        expert[j] = (int32_t)e;
        weight[j] = (float)(exp(logits[e] - largest) / sum);
    }
}

/* Marks tokens beyond `capacity` of an expert within a sequence: -1. */
static void drop_over_capacity(const qmi_op_route *o, int64_t *used)
{
    int32_t *expert = qmi_host_pointer(o->expert);
    const int32_t *sequence = ints(o->sequence);
    /* Tokens of a sequence are neighbours (ops.h), so counts begin anew where
     * the number changes.  Earlier tokens win, as in the published model. */
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
    (void)device;
    const qmi_op_route *o = &op->u.route;
    /* One array, used twice: as flags of a token's choices, then as counts of a
     * sequence. */
    int64_t *used =
        qmi_calloc((size_t)o->n_experts, sizeof *used, "router counts", err);
    if (used == NULL)
        return QMOE_E_NOMEM;
    for (int64_t t = 0; t < o->n_tokens && !qmi_cancelled(err); t++)
        route_token(o, t, (bool *)used);
    const qmoe_status status = qmi_check_cancel(err);
    if (status == QMOE_OK && o->capacity > 0)
        drop_over_capacity(o, used);
    qmi_free(used);
    return status;
}

/* y[r] = sum_c W[r, c] x[c] of one matrix.  Both vectors are double: what lies
 * between the two products of an expert is not rounded to f32. */
static qmoe_status matvec(double *y, const qmi_weight *w, int64_t mat,
    const double *x, bool relu, qmi_error *err)
{
    /* The first use of an expert's matrix is here: experts that no token takes
     * are never checked. */
    QMI_TRY(qmi_weight_check(w, mat, err));
    float *row = row_buffer(w, err);
    if (row == NULL)
        return QMOE_E_NOMEM;
    for (int64_t r = 0; r < w->n_rows && !qmi_cancelled(err); r++) {
        qmi_weight_decode(w, mat, r, 1, row);
        double sum = 0;
        for (int64_t c = 0; c < w->n_cols; c++)
            sum += row[c] * x[c];
        y[r] = relu && sum < 0 ? 0 : sum;
    }
    qmi_free(row);
    return qmi_check_cancel(err);
}

/* sum[c] += weight * F_expert(x)[c]; h and y are work space.  A dropped token
 * passes its input (ops.h). */
static qmoe_status add_expert(double *sum, const qmi_op_expert_ffn *o,
    int64_t expert, double weight, const double *x, double *h, double *y,
    qmi_error *err)
{
    int64_t d_model = o->wo->host->n_rows;
    const double *result = x;
    if (expert >= 0) {
        QMI_TRY(matvec(h, o->wi->host, expert, x, true, err));
        QMI_TRY(matvec(y, o->wo->host, expert, h, false, err));
        result = y;
    }
    for (int64_t c = 0; c < d_model; c++)
        sum[c] += weight * result[c];
    return QMOE_OK;
}

static qmoe_status expert_token(
    const qmi_op_expert_ffn *o, int64_t t, double *work, qmi_error *err)
{
    int64_t d_model = o->wo->host->n_rows;
    /* One block of work space: three vectors of d_model, one of d_ff. */
    double *x = work, *y = x + d_model, *sum = y + d_model, *h = sum + d_model;
    const float *residual = floats(o->residual);
    for (int64_t c = 0; c < d_model; c++) {
        x[c] = floats(o->src)[t * d_model + c];
        sum[c] = residual != NULL ? residual[t * d_model + c] : 0;
    }
    /* Experts in the order of choice, so that the sum is the same on every
     * run. */
    for (int64_t j = 0; j < o->top_k; j++)
        QMI_TRY(add_expert(sum, o, ints(o->expert)[t * o->top_k + j],
            floats(o->weight)[t * o->top_k + j], x, h, y, err));
    for (int64_t c = 0; c < d_model; c++)
        floats(o->dst)[t * d_model + c] = (float)sum[c];
    return QMOE_OK;
}

static qmoe_status run_expert_ffn(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    (void)device;
    const qmi_op_expert_ffn *o = &op->u.expert_ffn;
    size_t n_work = (size_t)(3 * o->wo->host->n_rows + o->wi->host->n_rows);
    double *work = qmi_calloc(n_work, sizeof *work, "work space", err);
    if (work == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status = QMOE_OK;
    for (int64_t t = 0; status == QMOE_OK && t < o->n_tokens; t++)
        status = expert_token(o, t, work, err);
    qmi_free(work);
    return status;
}

/* The formats' own plain decoders are the reference: backends are compared with
 * what the file format says. */
static qmoe_status run_decode(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    (void)device;
    const qmi_op_decode *o = &op->u.decode;
    QMI_TRY(qmi_weight_check(o->weight->host, o->mat, err));
    qmi_weight_decode(
        o->weight->host, o->mat, o->row, o->n_rows, floats(o->dst));
    return QMOE_OK;
}

/* The largest one by one: quadratic, but plain.  `counted` and `taken` are work
 * space. */
static void top_of_token(
    const qmi_op_top_logits *o, int64_t t, float *counted, bool *taken)
{
    const float *logits = floats(o->logits) + t * o->n_cols;
    float *value = floats(o->value) + t * o->top_k;
    int32_t *id = (int32_t *)qmi_host_pointer(o->id) + t * o->top_k;
    memset(taken, 0, (size_t)o->n_cols * sizeof *taken);
    for (int64_t c = 0; c < o->n_cols; c++)
        counted[c] = qmi_counted_logit(logits[c]);
    for (int64_t j = 0; j < o->top_k; j++) {
        int64_t c = next_largest(counted, taken, o->n_cols);
        taken[c] = true;
        value[j] = counted[c];
        id[j] = (int32_t)c;
    }
}

static qmoe_status run_top_logits(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    (void)device;
    const qmi_op_top_logits *o = &op->u.top_logits;
    const size_t n = (size_t)o->n_cols;
    float *counted = qmi_calloc(n, sizeof *counted, "logits", err);
    bool *taken = qmi_calloc(n, sizeof *taken, "logits", err);
    const bool has_room = counted != NULL && taken != NULL;
    /* Both allocations are looked at in the loop's condition, so that both are
     * freed below whatever came. */
    for (int64_t t = 0; has_room && t < o->n_tokens && !qmi_cancelled(err); t++)
        top_of_token(o, t, counted, taken);
    qmi_free(counted);
    qmi_free(taken);
    return has_room ? qmi_check_cancel(err) : QMOE_E_NOMEM;
}

/* Everything but absurd counts: the reference must judge what others
 * support. */
static bool supports(const qmi_device *device, const qmi_op *op)
{
    (void)device;
    return op->kind != QMI_OP_TOP_LOGITS ||
           qmi_top_logits_fit(&op->u.top_logits);
}

static const qmi_variant *variants(
    const qmi_device *device, qmi_op_kind kind, size_t *n)
{
    static const qmi_variant table[QMI_OP_COUNT] = {
#define X(name, member, text) {"reference", supports, run_##member},
        QMI_OP_MAP(X)
#undef X
    };
    (void)device;
    *n = 1;
    return &table[kind];
}

/* Always one device: there is no driver to be missing. */
static qmoe_status probe(int *n_devices, char *reason, size_t capacity)
{
    *n_devices = 1;
    if (capacity != 0)
        reason[0] = '\0';
    return QMOE_OK;
}

static qmoe_status describe(qmoe_device_info *out, int index, qmi_error *err)
{
    (void)err;
    *out = (qmoe_device_info){.index = index, .usable = true};
    snprintf(out->backend, sizeof out->backend, "reference");
    snprintf(out->name, sizeof out->name, "plain C, double accumulators");
    snprintf(out->detail, sizeof out->detail, "slow; for checking");
    return QMOE_OK;
}

/* C wants a member. */
struct qmi_device {
    int unused;
};

static qmoe_status device_open(qmi_device **out, int index,
    const qmi_device_options *options, qmi_error *err)
{
    static qmi_device device; /* stateless: one serves all */
    (void)options;
    *out = NULL;
    if (index != 0)
        return qmi_fail(err, QMOE_E_INVALID, "reference: no device %d", index);
    *out = &device;
    return QMOE_OK;
}

static void device_close(qmi_device *device)
{
    (void)device;
}

const qmi_backend *qmi_backend_reference(void)
{
    static const qmi_backend backend = {
        .api = QMI_BACKEND_API,
        .name = "reference",
        .probe = probe,
        .describe = describe,
        .device_open = device_open,
        .device_close = device_close,
        .buffer_alloc = qmi_host_buffer_alloc,
        .buffer_free = qmi_host_buffer_free,
        .buffer_write = qmi_host_buffer_write,
        .buffer_read = qmi_host_buffer_read,
        .buffer_copy = qmi_host_buffer_copy,
        .weights_plan = qmi_host_weights_plan,
        .weight_bind = qmi_host_weight_bind,
        .weight_unbind = qmi_host_weight_unbind,
        .sync = qmi_host_sync,
        .variants = variants,
    };
    return &backend;
}
