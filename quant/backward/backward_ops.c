/* SPDX-License-Identifier: Apache-2.0
 * Backward of the operations without products (backward_ops.h).  In: gradients
 * of results and the values that were read.  Out: additions to gradients.
 * Written as plainly as the reference operations, one token after the other,
 * with double accumulators. */
#include "backward_ops.h"

#include <math.h>
#include <string.h>

#include "alloc.h"
#include "reference.h"

double qmi_act_slope(qmi_act act, double x)
{
    const double s = 1 / (1 + exp(-x));
    switch (act) {
    case QMI_ACT_RELU:
        return x > 0;
    case QMI_ACT_SILU:
        return s * (1 + x * (1 - s));
    case QMI_ACT_SIGMOID:
        return s * (1 - s);
    case QMI_ACT_NONE:
    case QMI_ACT_COUNT:
        break;
    }
    return 1;
}

bool qmi_backward_act(float *d_y, const float *y, int64_t n, qmi_act act)
{
    if (act == QMI_ACT_SILU)
        return false;
    for (int64_t i = 0; act == QMI_ACT_RELU && i < n; i++)
        if (y[i] <= 0)
            d_y[i] = 0;
    for (int64_t i = 0; act == QMI_ACT_SIGMOID && i < n; i++)
        d_y[i] = (float)(d_y[i] * (double)y[i] * (1 - (double)y[i]));
    return true;
}

/* y = f w x with f = (mean x^2 + epsilon)^-1/2, and df/dx = -f^3 x / n. */
static void rmsnorm_token(const qmi_backward_rmsnorm *o, int64_t t)
{
    const float *x = o->src + t * o->n_cols;
    const float *dy = o->d_dst + t * o->n_cols;
    float *dx = o->d_src + t * o->n_cols;
    double squares = 0, along = 0;
    for (int64_t c = 0; c < o->n_cols; c++) {
        squares += (double)x[c] * x[c];
        along += (double)dy[c] * o->weight[c] * x[c];
    }
    const double n = (double)o->n_cols;
    const double f = 1 / sqrt(squares / n + o->epsilon);
    for (int64_t c = 0; c < o->n_cols; c++) {
        dx[c] += (float)(f * ((double)dy[c] * o->weight[c] -
                                 f * f * along / n * x[c]));
        if (o->d_weight != NULL)
            o->d_weight[c] += (double)dy[c] * x[c] * f;
    }
}

void qmi_backward_rmsnorm_run(const qmi_backward_rmsnorm *o)
{
    for (int64_t t = 0; t < o->n_tokens; t++)
        rmsnorm_token(o, t);
}

/* A turn by the opposite angle. */
void qmi_backward_rope(float *d_src, const float *d_dst,
    const qmi_op_rope *rope, const float *turns)
{
    const int64_t n_pairs = rope->d_rotary / 2;
    for (int64_t at = 0; at < rope->n_tokens * rope->n_heads; at++) {
        const float *dy = d_dst + at * rope->d_head;
        float *dx = d_src + at * rope->d_head;
        const float *turn = turns + at / rope->n_heads * rope->d_rotary;
        for (int64_t m = 0; m < n_pairs; m++) {
            const int64_t i = rope->interleaved ? 2 * m : m;
            const int64_t j = rope->interleaved ? 2 * m + 1 : m + n_pairs;
            const double c = turn[m], s = turn[n_pairs + m];
            dx[i] += (float)(dy[i] * c + dy[j] * s);
            dx[j] += (float)(dy[j] * c - dy[i] * s);
        }
        for (int64_t i = rope->d_rotary; i < rope->d_head; i++)
            dx[i] += dy[i];
    }
}

void qmi_backward_glu_run(const qmi_backward_glu *o)
{
    for (int64_t t = 0; t < o->n_tokens; t++) {
        double whole = 0; /* of a gate for all columns */
        for (int64_t c = 0; c < o->n_cols; c++) {
            const int64_t at = t * o->n_cols + c;
            const int64_t g = o->n_gate_cols == 1 ? t : at;
            const double dy = o->d_dst[at];
            const double more =
                dy * o->up[at] * qmi_act_slope(o->act, o->gate[g]);
            o->d_up[at] += (float)(dy * qmi_reference_act(o->act, o->gate[g]));
            if (o->n_gate_cols == 1)
                whole += more;
            else
                o->d_gate[at] += (float)more;
        }
        if (o->n_gate_cols == 1)
            o->d_gate[t] += (float)whole;
    }
}

/* Scores s_e of all experts, from which weights come as in ops.h. */
static void scores_of(
    double *s, const float *logits, int64_t n, qmi_scoring scoring)
{
    double largest = -INFINITY, sum = 0;
    for (int64_t e = 0; e < n; e++)
        largest = fmax(largest, logits[e]);
    for (int64_t e = 0; e < n; e++) {
        s[e] = scoring == QMI_SIGMOID
                   ? qmi_reference_act(QMI_ACT_SIGMOID, logits[e])
                   : exp(logits[e] - largest);
        sum += s[e];
    }
    for (int64_t e = 0; scoring == QMI_SOFTMAX && e < n; e++)
        s[e] /= sum;
}

/* d_s of the chosen: w_j = scale s_j, or scale s_j / sum of the chosen s. */
static void route_token(
    const qmi_backward_route *o, int64_t t, double *s, double *d_s)
{
    const int32_t *expert = o->expert + t * o->top_k;
    const float *d_w = o->d_weight + t * o->top_k;
    const double scale = o->router.scale != 0 ? o->router.scale : 1;
    double sum = 0, along = 0, mean = 0;
    scores_of(s, o->logits + t * o->n_experts, o->n_experts, o->router.scoring);
    memset(d_s, 0, (size_t)o->n_experts * sizeof *d_s);
    for (int64_t j = 0; j < o->top_k; j++)
        if (expert[j] >= 0) {
            sum += s[expert[j]];
            along += d_w[j] * s[expert[j]];
        }
    if (!o->router.normalises) {
        sum = 1;
        along = 0;
    }
    for (int64_t j = 0; j < o->top_k; j++)
        if (expert[j] >= 0)
            d_s[expert[j]] = scale * (d_w[j] - along / sum) / sum;
    for (int64_t e = 0; e < o->n_experts; e++)
        mean += d_s[e] * s[e];
    for (int64_t e = 0; e < o->n_experts; e++)
        o->d_logits[t * o->n_experts + e] +=
            (float)(s[e] * (o->router.scoring == QMI_SIGMOID
                                   ? d_s[e] * (1 - s[e])
                                   : d_s[e] - mean));
}

qmoe_status qmi_backward_route_run(const qmi_backward_route *o, qmi_error *err)
{
    double *s = qmi_calloc(2 * (size_t)o->n_experts, sizeof *s, "scores", err);
    if (s == NULL)
        return QMOE_E_NOMEM;
    for (int64_t t = 0; t < o->n_tokens; t++)
        route_token(o, t, s, s + o->n_experts);
    qmi_free(s);
    return QMOE_OK;
}

/* ---- losses ---- */

/* log sum exp of a row. */
static double log_sum(const float *logits, int64_t n)
{
    double largest = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++)
        largest = fmax(largest, logits[i]);
    for (int64_t i = 0; i < n; i++)
        sum += exp(logits[i] - largest);
    return largest + log(sum);
}

double qmi_backward_cross_entropy(
    float *logits, const int32_t *targets, int64_t n, int64_t n_cols)
{
    double loss = 0;
    for (int64_t t = 0; t < n; t++) {
        float *row = logits + t * n_cols;
        if (targets[t] < 0) {
            memset(row, 0, (size_t)n_cols * sizeof *row);
            continue;
        }
        const double all = log_sum(row, n_cols);
        loss += all - row[targets[t]];
        for (int64_t i = 0; i < n_cols; i++)
            row[i] = (float)(exp(row[i] - all) - (i == targets[t]));
    }
    return loss;
}

double qmi_backward_kl(
    float *logits, const float *reference, int64_t n, int64_t n_cols)
{
    double loss = 0;
    for (int64_t t = 0; t < n; t++) {
        float *row = logits + t * n_cols;
        const float *other = reference + t * n_cols;
        const double all = log_sum(row, n_cols);
        const double other_all = log_sum(other, n_cols);
        for (int64_t i = 0; i < n_cols; i++) {
            const double p = exp(other[i] - other_all);
            loss += p * ((other[i] - other_all) - (row[i] - all));
            row[i] = (float)(exp(row[i] - all) - p);
        }
    }
    return loss;
}
