/* SPDX-License-Identifier: Apache-2.0
 * The reference backend: every operation written as plainly as its comment in
 * ops.h, on host memory, with double accumulators and one thread.  In: operands
 * of ops.h.  Out: results that are rounded to f32 once, at the end.  It judges
 * the other backends and is never optimised. */
#include "reference.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "cancel.h"
#include "top_logits.h"

/* ---- shared by the files of the reference ---- */

double qmi_reference_act(qmi_act act, double x)
{
    switch (act) {
    case QMI_ACT_RELU:
        return x < 0 ? 0 : x;
    case QMI_ACT_SILU:
        return x / (1 + exp(-x));
    case QMI_ACT_SIGMOID:
        return 1 / (1 + exp(-x));
    case QMI_ACT_NONE:
    case QMI_ACT_COUNT:
        break;
    }
    return x;
}

float *qmi_reference_row(const qmi_weight *w, qmi_error *err)
{
    return qmi_calloc((size_t)w->n_cols, sizeof(float), "a row", err);
}

qmoe_status qmi_reference_vector(
    float **out, const qmi_bound_weight *w, qmi_error *err)
{
    *out = NULL;
    if (w == NULL)
        return QMOE_OK;
    QMI_TRY(qmi_weight_check(w->host, 0, err));
    *out = qmi_reference_row(w->host, err);
    if (*out == NULL)
        return QMOE_E_NOMEM;
    qmi_weight_decode(w->host, 0, 0, 1, *out);
    return QMOE_OK;
}

/* ---- operations ---- */

qmoe_status qmi_reference_embed(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    (void)device;
    const qmi_op_embed *o = &op->u.embed;
    const qmi_weight *w = o->table->host;
    /* Every operation that reads a weight checks it first: the payload comes
     * from a file. */
    QMI_TRY(qmi_weight_check(w, 0, err));
    for (int64_t t = 0; t < o->n_tokens; t++)
        qmi_weight_decode(w, 0, qmi_reference_ints(o->ids)[t], 1,
            qmi_reference_floats(o->dst) + t * w->n_cols);
    return QMOE_OK;
}

qmoe_status qmi_reference_rmsnorm(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    (void)device;
    const qmi_op_rmsnorm *o = &op->u.rmsnorm;
    const qmi_weight *w = o->weight->host;
    QMI_TRY(qmi_weight_check(w, 0, err));
    float *scale = qmi_reference_row(w, err);
    if (scale == NULL)
        return QMOE_E_NOMEM;
    qmi_weight_decode(w, 0, 0, 1, scale);
    for (int64_t t = 0; t < o->n_tokens; t++) {
        const float *x = qmi_reference_floats(o->src) + t * w->n_cols;
        float *y = qmi_reference_floats(o->dst) + t * w->n_cols;
        double mean = qmi_reference_dot(x, x, w->n_cols) / (double)w->n_cols;
        double factor = 1.0 / sqrt(mean + o->epsilon);
        for (int64_t c = 0; c < w->n_cols; c++)
            y[c] = (float)(x[c] * factor * scale[c]);
    }
    qmi_free(scale);
    return QMOE_OK;
}

qmoe_status qmi_reference_rope(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    (void)device;
    (void)err;
    const qmi_op_rope *o = &op->u.rope;
    const int64_t n_pairs = o->d_rotary / 2;
    for (int64_t t = 0; t < o->n_tokens; t++)
        for (int64_t h = 0; h < o->n_heads; h++) {
            const int64_t at = (t * o->n_heads + h) * o->d_head;
            const float *x = qmi_reference_floats(o->src) + at;
            const float *turns =
                qmi_reference_floats(o->turns) + t * o->d_rotary;
            float *y = qmi_reference_floats(o->dst) + at;
            for (int64_t m = 0; m < n_pairs; m++) {
                const int64_t i = o->interleaved ? 2 * m : m;
                const int64_t j = o->interleaved ? 2 * m + 1 : m + n_pairs;
                /* Both are read before one is written: dst may be src. */
                const double a = x[i], b = x[j];
                const double c = turns[m], s = turns[n_pairs + m];
                y[i] = (float)(a * c - b * s);
                y[j] = (float)(b * c + a * s);
            }
            for (int64_t i = o->d_rotary; i < o->d_head; i++)
                y[i] = x[i];
        }
    return QMOE_OK;
}

qmoe_status qmi_reference_glu(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    (void)device;
    (void)err;
    const qmi_op_glu *o = &op->u.glu;
    for (int64_t t = 0; t < o->n_tokens; t++)
        for (int64_t c = 0; c < o->n_cols; c++) {
            const float gate =
                o->n_gate_cols == 1
                    ? qmi_reference_floats(o->gate)[t]
                    : qmi_reference_floats(o->gate)[t * o->n_cols + c];
            const int64_t at = t * o->n_cols + c;
            qmi_reference_floats(o->dst)[at] =
                (float)(qmi_reference_act(o->act, gate) *
                        qmi_reference_floats(o->up)[at]);
        }
    return QMOE_OK;
}

qmoe_status qmi_reference_linear(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    (void)device;
    const qmi_op_linear *o = &op->u.linear;
    const qmi_weight *w = o->weight->host;
    float *bias;
    QMI_TRY(qmi_weight_check(w, o->mat, err));
    QMI_TRY(qmi_reference_vector(&bias, o->bias, err));
    float *row = qmi_reference_row(w, err);
    if (row == NULL) {
        qmi_free(bias);
        return QMOE_E_NOMEM;
    }
    const float *residual = qmi_reference_floats(o->residual);
    /* Row by row: a row is decoded once for all tokens, and only one is in
     * memory. */
    for (int64_t r = 0; r < w->n_rows; r++) {
        qmi_weight_decode(w, o->mat, r, 1, row);
        /* Asked per element: a product of a large model takes minutes here, and
         * Ctrl-C must not wait for it. */
        for (int64_t t = 0; t < o->n_tokens && !qmi_cancelled(err); t++) {
            const float *x = qmi_reference_floats(o->src) + t * w->n_cols;
            double y = o->alpha * qmi_reference_dot(x, row, w->n_cols);
            if (bias != NULL)
                y += bias[r];
            y = qmi_reference_act(o->act, y);
            int64_t at = t * w->n_rows + r;
            if (residual != NULL)
                y += residual[at];
            qmi_reference_floats(o->dst)[at] = (float)y;
        }
    }
    qmi_free(row);
    qmi_free(bias);
    return qmi_check_cancel(err);
}

/* The formats' own plain decoders are the reference: backends are compared with
 * what the file format says. */
qmoe_status qmi_reference_decode(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    (void)device;
    const qmi_op_decode *o = &op->u.decode;
    QMI_TRY(qmi_weight_check(o->weight->host, o->mat, err));
    qmi_weight_decode(o->weight->host, o->mat, o->row, o->n_rows,
        qmi_reference_floats(o->dst));
    return QMOE_OK;
}

/* The largest one by one: quadratic, but plain.  `counted` and `taken` are work
 * space. */
static void top_of_token(
    const qmi_op_top_logits *o, int64_t t, double *counted, bool *taken)
{
    const float *logits = qmi_reference_floats(o->logits) + t * o->n_cols;
    float *value = qmi_reference_floats(o->value) + t * o->top_k;
    int32_t *id = (int32_t *)qmi_host_pointer(o->id) + t * o->top_k;
    memset(taken, 0, (size_t)o->n_cols * sizeof *taken);
    for (int64_t c = 0; c < o->n_cols; c++)
        counted[c] = (double)qmi_counted_logit(logits[c]);
    for (int64_t j = 0; j < o->top_k; j++) {
        int64_t c = qmi_reference_next_largest(counted, taken, o->n_cols);
        taken[c] = true;
        value[j] = (float)counted[c];
        id[j] = (int32_t)c;
    }
}

qmoe_status qmi_reference_top_logits(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    (void)device;
    const qmi_op_top_logits *o = &op->u.top_logits;
    const size_t n = (size_t)o->n_cols;
    double *counted = qmi_calloc(n, sizeof *counted, "logits", err);
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
#define X(name, member, text) {"reference", supports, qmi_reference_##member},
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
