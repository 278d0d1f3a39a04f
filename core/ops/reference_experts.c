/* SPDX-License-Identifier: Apache-2.0
 * Routing and experts of the reference backend.  In: operands of ops.h.  Out:
 * results rounded once, at the end. */
#include "reference.h"

#include <math.h>
#include <string.h>

#include "alloc.h"
#include "cancel.h"

int64_t qmi_reference_next_largest(
    const double *values, const bool *taken, int64_t n)
{
    int64_t best = -1;
    for (int64_t i = 0; i < n; i++)
        if (!taken[i] && (best < 0 || values[i] > values[best]))
            best = i;
    return best;
}

/* Work space of one token's choice. */
typedef struct choice {
    double *score, *order; /* [n_experts]: weights; what decides */
    double *group;         /* [n_groups] */
    bool *taken;           /* [n_experts]: chosen, or of no group that counts */
    bool *kept;            /* [n_groups] */
} choice;

static void score_experts(const qmi_op_route *o, const float *logits,
    const float *bias, const choice *c)
{
    double largest = -INFINITY, sum = 0;
    for (int64_t e = 0; e < o->n_experts; e++)
        largest = fmax(largest, logits[e]);
    for (int64_t e = 0; e < o->n_experts; e++)
        sum += exp(logits[e] - largest);
    for (int64_t e = 0; e < o->n_experts; e++) {
        c->score[e] = o->router.scoring == QMI_SIGMOID
                          ? qmi_reference_act(QMI_ACT_SIGMOID, logits[e])
                          : exp(logits[e] - largest) / sum;
        c->order[e] = c->score[e] + (bias != NULL ? bias[e] : 0.0f);
        /* Without a bias or groups logits decide: scores rise with them, but
         * not where they are rounded to 0 or 1. */
        if (bias == NULL && o->router.n_groups == 0)
            c->order[e] = logits[e];
        c->taken[e] = false;
    }
}

/* Experts outside of the best groups count as taken. */
static void keep_groups(const qmi_op_route *o, const choice *c)
{
    const int64_t n_groups = o->router.n_groups, size = o->n_experts / n_groups;
    for (int64_t g = 0; g < n_groups; g++) {
        c->kept[g] = false;
        c->group[g] = 0;
        for (int i = 0; i < o->router.group_best && i < size; i++) {
            const int64_t e = qmi_reference_next_largest(
                c->order + g * size, c->taken + g * size, size);
            c->group[g] += c->order[g * size + e];
            c->taken[g * size + e] = true;
        }
    }
    for (int64_t i = 0; i < o->router.top_groups; i++)
        c->kept[qmi_reference_next_largest(c->group, c->kept, n_groups)] = true;
    for (int64_t e = 0; e < o->n_experts; e++)
        c->taken[e] = !c->kept[e / size];
}

static void route_token(
    const qmi_op_route *o, int64_t t, const float *bias, const choice *c)
{
    const qmi_router *r = &o->router;
    int32_t *expert = qmi_reference_ints(o->expert) + t * o->top_k;
    float *weight = qmi_reference_floats(o->weight) + t * o->top_k;
    score_experts(
        o, qmi_reference_floats(o->logits) + t * o->n_experts, bias, c);
    if (r->n_groups != 0)
        keep_groups(o, c);
    double sum = 0;
    for (int64_t j = 0; j < o->top_k; j++) {
        const int64_t e =
            qmi_reference_next_largest(c->order, c->taken, o->n_experts);
        c->taken[e] = true;
        expert[j] = (int32_t)e;
        sum += c->score[e];
    }
    const double scale = r->scale != 0 ? r->scale : 1;
    for (int64_t j = 0; j < o->top_k; j++)
        weight[j] =
            (float)(c->score[expert[j]] * scale / (r->normalises ? sum : 1));
}

/* Marks tokens beyond `capacity` of an expert within a sequence: -1. */
static void drop_over_capacity(const qmi_op_route *o, int64_t *used)
{
    int32_t *expert = qmi_host_pointer(o->expert);
    const int32_t *sequence = qmi_reference_ints(o->sequence);
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

static qmoe_status route_all(const qmi_op_route *o, const float *bias,
    const choice *c, int64_t *used, qmi_error *err)
{
    for (int64_t t = 0; t < o->n_tokens && !qmi_cancelled(err); t++)
        route_token(o, t, bias, c);
    QMI_TRY(qmi_check_cancel(err));
    if (o->capacity > 0)
        drop_over_capacity(o, used);
    return QMOE_OK;
}

qmoe_status qmi_reference_route(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    (void)device;
    const qmi_op_route *o = &op->u.route;
    const size_t n = (size_t)o->n_experts;
    float *bias;
    QMI_TRY(qmi_reference_vector(&bias, o->bias, err));
    /* Groups are at most as many as experts. */
    double *numbers = qmi_calloc(3 * n, sizeof *numbers, "scores", err);
    int64_t *used = qmi_calloc(n, sizeof *used, "router counts", err);
    bool *flags = qmi_calloc(2 * n, sizeof *flags, "choices", err);
    qmoe_status status = QMOE_E_NOMEM;
    if (numbers != NULL && used != NULL && flags != NULL) {
        const choice c = {.score = numbers,
            .order = numbers + n,
            .group = numbers + 2 * n,
            .taken = flags,
            .kept = flags + n};
        status = route_all(o, bias, &c, used, err);
    }
    qmi_free(flags);
    qmi_free(used);
    qmi_free(numbers);
    qmi_free(bias);
    return status;
}

/* y[r] = sum_c W[r, c] x[c] of one matrix.  Both vectors are double: what lies
 * between the two products of an expert is not rounded to f32. */
static qmoe_status matvec(double *y, const qmi_weight *w, int64_t mat,
    const double *x, qmi_act act, qmi_error *err)
{
    /* The first use of an expert's matrix is here: experts that no token takes
     * are never checked. */
    QMI_TRY(qmi_weight_check(w, mat, err));
    float *row = qmi_reference_row(w, err);
    if (row == NULL)
        return QMOE_E_NOMEM;
    for (int64_t r = 0; r < w->n_rows && !qmi_cancelled(err); r++) {
        qmi_weight_decode(w, mat, r, 1, row);
        double sum = 0;
        for (int64_t c = 0; c < w->n_cols; c++)
            sum += row[c] * x[c];
        y[r] = qmi_reference_act(act, sum);
    }
    qmi_free(row);
    return qmi_check_cancel(err);
}

/* h = act(gate x) * up x, or act(up x); room for twice d_ff. */
static qmoe_status hidden(double *h, const qmi_op_expert_ffn *o, int64_t expert,
    const double *x, qmi_error *err)
{
    const qmi_weight *up = o->up->host;
    if (o->gate == NULL)
        return matvec(h, up, expert, x, o->act, err);
    double *gate = h + up->n_rows;
    QMI_TRY(matvec(h, up, expert, x, QMI_ACT_NONE, err));
    QMI_TRY(matvec(gate, o->gate->host, expert, x, o->act, err));
    for (int64_t r = 0; r < up->n_rows; r++)
        h[r] *= gate[r];
    return QMOE_OK;
}

/* sum[c] += weight * F_expert(x)[c]; h and y are work space.  A dropped token
 * passes its input (ops.h). */
static qmoe_status add_expert(double *sum, const qmi_op_expert_ffn *o,
    int64_t expert, double weight, const double *x, double *h, double *y,
    qmi_error *err)
{
    const qmi_weight *down = o->down->host;
    const double *result = x;
    if (expert >= 0) {
        QMI_TRY(hidden(h, o, expert, x, err));
        QMI_TRY(matvec(y, down, expert, h, QMI_ACT_NONE, err));
        result = y;
    }
    for (int64_t c = 0; c < down->n_rows; c++)
        sum[c] += weight * result[c];
    return QMOE_OK;
}

static qmoe_status expert_token(
    const qmi_op_expert_ffn *o, int64_t t, double *work, qmi_error *err)
{
    int64_t d_model = o->down->host->n_rows;
    /* One block of work space: three vectors of d_model, two of d_ff. */
    double *x = work, *y = x + d_model, *sum = y + d_model, *h = sum + d_model;
    const float *residual = qmi_reference_floats(o->residual);
    for (int64_t c = 0; c < d_model; c++) {
        x[c] = qmi_reference_floats(o->src)[t * d_model + c];
        sum[c] = residual != NULL ? residual[t * d_model + c] : 0;
    }
    /* Experts in the order of choice, so that the sum is the same on every
     * run. */
    for (int64_t j = 0; j < o->top_k; j++)
        QMI_TRY(add_expert(sum, o,
            qmi_reference_ints(o->expert)[t * o->top_k + j],
            qmi_reference_floats(o->weight)[t * o->top_k + j], x, h, y, err));
    for (int64_t c = 0; c < d_model; c++)
        qmi_reference_floats(o->dst)[t * d_model + c] = (float)sum[c];
    return QMOE_OK;
}

qmoe_status qmi_reference_expert_ffn(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    (void)device;
    const qmi_op_expert_ffn *o = &op->u.expert_ffn;
    size_t n_work =
        (size_t)(3 * o->down->host->n_rows + 2 * o->up->host->n_rows);
    double *work = qmi_calloc(n_work, sizeof *work, "work space", err);
    if (work == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status = QMOE_OK;
    for (int64_t t = 0; status == QMOE_OK && t < o->n_tokens; t++)
        status = expert_token(o, t, work, err);
    qmi_free(work);
    return status;
}
