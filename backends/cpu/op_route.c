/* SPDX-License-Identifier: Apache-2.0
 * The operation `route`.  In: logits of a router.  Out: each token's experts
 * and their weights, by the calling thread alone: there is little to do. */
#include "cpu.h"

#include <math.h>
#include <string.h>

#include "cancel.h"

/* Tokens between two looks at the wish to end early. */
enum { LOOK_TOKENS = 256 };

/* Work space: of one token, but for `used` and `bias`. */
typedef struct space {
    int64_t *used; /* [n_experts] tokens of a sequence, for capacities */
    float *bias;   /* [n_experts], or NULL */
    float *score;  /* [n_experts] */
    float *order;  /* [n_experts] what decides; -INFINITY: no choice */
    float *value;  /* [n_experts] of the best groups */
    int32_t *best; /* [n_experts] the best groups */
    bool *kept;    /* [n_experts] of groups */
} space;

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

/* Softmax or sigmoid of all logits. */
static void score_all(const qmi_op_route *o, const float *logits, float *score)
{
    float largest = -INFINITY, sum = 0;
    if (o->router.scoring == QMI_SIGMOID) {
        for (int64_t e = 0; e < o->n_experts; e++)
            score[e] = qcpu_act(QMI_ACT_SIGMOID, logits[e]);
        return;
    }
    for (int64_t e = 0; e < o->n_experts; e++)
        largest = fmaxf(largest, logits[e]);
    for (int64_t e = 0; e < o->n_experts; e++) {
        score[e] = expf(logits[e] - largest);
        sum += score[e];
    }
    for (int64_t e = 0; e < o->n_experts; e++)
        score[e] /= sum;
}

/* The sum of a group's largest one or two. */
static float score_group(const float *order, int64_t n, int n_best)
{
    float first = -INFINITY, second = -INFINITY;
    for (int64_t e = 0; e < n; e++) {
        if (order[e] > first) {
            second = first;
            first = order[e];
        } else if (order[e] > second) {
            second = order[e];
        }
    }
    return n_best == 2 && n > 1 ? first + second : first;
}

/* Leaves the experts of the best groups a choice. */
static void drop_groups(const qmi_op_route *o, const space *s)
{
    const int64_t n_groups = o->router.n_groups, size = o->n_experts / n_groups;
    const int64_t n_kept = o->router.top_groups;
    for (int64_t j = 0; j < n_kept; j++)
        s->best[j] = -1;
    for (int64_t g = 0; g < n_groups; g++) {
        s->kept[g] = false;
        insert_best(s->best, s->value, n_kept, (int32_t)g,
            score_group(s->order + g * size, size, o->router.group_best));
    }
    for (int64_t j = 0; j < n_kept; j++)
        s->kept[s->best[j]] = true;
    for (int64_t e = 0; e < o->n_experts; e++)
        if (!s->kept[e / size])
            s->order[e] = -INFINITY;
}

static void route_token(const qmi_op_route *o, const space *s,
    const float *logits, int32_t *expert, float *weight)
{
    const qmi_router *router = &o->router;
    score_all(o, logits, s->score);
    /* Without a bias or groups logits decide: scores rise with them, but not
     * where they are rounded to 0 or 1. */
    const bool plain = s->bias == NULL && router->n_groups == 0;
    for (int64_t e = 0; e < o->n_experts; e++)
        s->order[e] =
            plain ? logits[e] : s->score[e] + (s->bias ? s->bias[e] : 0.0f);
    if (router->n_groups != 0)
        drop_groups(o, s);
    /* -1: a free place. */
    for (int64_t j = 0; j < o->top_k; j++)
        expert[j] = -1;
    for (int64_t e = 0; e < o->n_experts; e++)
        insert_best(expert, weight, o->top_k, (int32_t)e, s->order[e]);
    float sum = 0;
    for (int64_t j = 0; j < o->top_k; j++)
        sum += s->score[expert[j]];
    const float scale = router->scale != 0 ? router->scale : 1;
    for (int64_t j = 0; j < o->top_k; j++) {
        weight[j] = s->score[expert[j]] * scale;
        if (router->normalises)
            weight[j] /= sum;
    }
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

static qmoe_status lay_out(
    space *s, qmi_device *device, const qmi_op_route *o, qmi_error *err)
{
    const size_t n = (size_t)o->n_experts,
                 bytes = qcpu_align(n * sizeof(float));
    uint8_t *base =
        qcpu_scratch(device, qcpu_align(8 * n) + 5 * bytes + n, err);
    if (base == NULL)
        return QMOE_E_NOMEM;
    uint8_t *arrays = base + qcpu_align(8 * n);
    *s = (space){
        .used = (int64_t *)(void *)base,
        .bias = o->bias != NULL ? (float *)(void *)arrays : NULL,
        .score = (float *)(void *)(arrays + bytes),
        .order = (float *)(void *)(arrays + 2 * bytes),
        .value = (float *)(void *)(arrays + 3 * bytes),
        .best = (int32_t *)(void *)(arrays + 4 * bytes),
        .kept = (bool *)(arrays + 5 * bytes),
    };
    if (o->bias == NULL)
        return QMOE_OK;
    QMI_TRY(qmi_weight_check(o->bias->host, 0, err));
    qmi_weight_decode(o->bias->host, 0, 0, 1, s->bias);
    return QMOE_OK;
}

static qmoe_status run(qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_route *o = &op->u.route;
    const float *logits = qmi_host_pointer(o->logits);
    int32_t *expert = qmi_host_pointer(o->expert);
    float *weight = qmi_host_pointer(o->weight);
    space s;
    QMI_TRY(lay_out(&s, device, o, err));
    for (int64_t t = 0; t < o->n_tokens; t++) {
        if (t % LOOK_TOKENS == 0)
            QMI_TRY(qmi_check_cancel(err));
        route_token(o, &s, logits + t * o->n_experts, expert + t * o->top_k,
            weight + t * o->top_k);
    }
    if (o->capacity > 0)
        drop_over_capacity(o, s.used);
    return QMOE_OK;
}

static bool supports(const qmi_device *device, const qmi_op *op)
{
    (void)device;
    (void)op;
    return true;
}

const qmi_variant *qcpu_route(size_t *n)
{
    static const qmi_variant variant = {"portable", supports, run};
    *n = 1;
    return &variant;
}
