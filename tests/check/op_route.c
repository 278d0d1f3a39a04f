/* SPDX-License-Identifier: Apache-2.0
 * Cases, bounds and judgement of `route`.  Expert numbers are exact unless two
 * probabilities are closer than their own rounding errors; equal logits must
 * give the lowest index in any case. */
#include "check.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

/* How logits are drawn. */
enum {
    LOGITS_RANDOM,
    LOGITS_TIES,
    LOGITS_EQUAL,
    LOGITS_LARGE,
    LOGITS_CLOSE,
    LOGITS_SPACED,
    LOGITS_APART, /* what decides is further apart than its errors */
    LOGITS_COUNT
};
static const char *const logit_names[LOGITS_COUNT] = {
    "random", "ties", "equal", "large", "close", "spaced", "apart"};

static const int64_t expert_counts[] = {1, 2, 15, 16, 17, 31, 33, 61, 128, 257};
static const int64_t token_counts[] = {1, 2, 7, 33};
static const int64_t capacities[] = {1, 2, 5};

/* Rules of decoder-only models; their numbers of experts and others. */
static const struct {
    int64_t n_experts, n_tokens, top_k;
    qmi_router router;
    bool bias;
} wide_shapes[] = {
    {64, 7, 8, {QMI_SOFTMAX, 0, 0, 0, true, 0}, false},
    {8, 33, 2, {QMI_SOFTMAX, 0, 0, 0, true, 0}, false},
    {33, 2, 6, {QMI_SOFTMAX, 0, 0, 0, false, 16}, false},
    {32, 33, 4, {QMI_SOFTMAX, 0, 0, 0, true, 2.5f}, true},
    {61, 7, 3, {QMI_SOFTMAX, 0, 0, 0, false, 0}, true},
    {160, 2, 6, {QMI_SOFTMAX, 8, 3, 1, false, 16}, false},
    {40, 33, 8, {QMI_SOFTMAX, 8, 2, 1, true, 0}, false},
    {24, 7, 4, {QMI_SOFTMAX, 4, 2, 2, false, 0.5f}, true},
    {16, 33, 1, {QMI_SIGMOID, 0, 0, 0, false, 0}, false},
    {128, 7, 8, {QMI_SIGMOID, 0, 0, 0, true, 0}, true},
    {31, 33, 5, {QMI_SIGMOID, 0, 0, 0, true, 2.5f}, false},
    {256, 7, 8, {QMI_SIGMOID, 8, 4, 2, true, 2.5f}, true},
    {32, 33, 8, {QMI_SIGMOID, 8, 4, 2, true, 2.446f}, true},
    {36, 7, 3, {QMI_SIGMOID, 12, 1, 2, false, 0}, true},
    {8, 33, 2, {QMI_SIGMOID, 8, 2, 1, true, 0}, true},
    {17, 7, 3, {QMI_SIGMOID, 1, 1, 2, true, 0}, true},
    {384, 2, 8, {QMI_SIGMOID, 1, 1, 2, true, 2.827f}, true},
    {257, 1, 7, {QMI_SIGMOID, 0, 0, 0, false, 3}, true},
    {2, 33, 2, {QMI_SIGMOID, 2, 2, 1, true, 0}, true},
    {1, 7, 1, {QMI_SIGMOID, 0, 0, 0, true, 0}, false},
};

static const struct {
    int64_t n_experts, n_tokens, top_k;
} qmi_bench_shapes[] = {{128, 33, 1}, {2048, 33, 1}, {128, 33, 2}};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static void add_case(case_list *list, int64_t n_experts, int64_t n_tokens,
    int64_t top_k, int mode, int64_t capacity)
{
    check_case *c = case_add(list);
    c->n_cols = n_experts;
    c->n_tokens = n_tokens;
    c->top_k = top_k;
    c->mode = mode;
    c->capacity = capacity;
    case_name(c, QMI_OP_ROUTE, "e%lld/t%lld/top%lld/capacity%lld/%s",
        (long long)n_experts, (long long)n_tokens, (long long)top_k,
        (long long)capacity, logit_names[mode]);
}

static void list_wide(case_list *list)
{
    for (size_t i = 0; i < COUNT(wide_shapes); i++) {
        const qmi_router *r = &wide_shapes[i].router;
        add_case(list, wide_shapes[i].n_experts, wide_shapes[i].n_tokens,
            wide_shapes[i].top_k, LOGITS_APART, 0);
        check_case *c = &list->cases[list->n - 1];
        c->wide = true;
        c->router = *r;
        if (wide_shapes[i].bias)
            c->second = choose_dense(list->n, 4);
        case_name_add(c, "/%s/g%lld.%lld.%d/%s/x%g/%s",
            r->scoring == QMI_SIGMOID ? "sigmoid" : "softmax",
            (long long)r->n_groups, (long long)r->top_groups, r->group_best,
            r->normalises ? "normalised" : "plain", (double)r->scale,
            c->second != NULL ? c->second->name : "no-bias");
    }
}

static void list_cases(case_list *list, bool bench)
{
    for (size_t i = 0; bench && i < COUNT(qmi_bench_shapes); i++)
        add_case(list, qmi_bench_shapes[i].n_experts,
            qmi_bench_shapes[i].n_tokens, qmi_bench_shapes[i].top_k,
            LOGITS_RANDOM, 0);
    if (bench)
        return;
    for (size_t e = 0; e < COUNT(expert_counts); e++) {
        for (size_t t = 0; t < COUNT(token_counts); t++) {
            int64_t n = expert_counts[e];
            const int64_t tops[] = {1, 2, n < 9 ? n : 9};
            int64_t top_k = tops[choose(list->n, 1, COUNT(tops))];
            top_k = top_k < n ? top_k : n;
            const int modes[] = {
                LOGITS_RANDOM, LOGITS_EQUAL, LOGITS_LARGE, LOGITS_CLOSE};
            int mode = modes[choose(list->n, 2, COUNT(modes))];
            add_case(list, n, token_counts[t], top_k, mode, 0);
            add_case(list, n, token_counts[t], top_k, LOGITS_TIES, 0);
            /* A swap of near-equal experts would change who is dropped, so
             * capacity goes with well separated logits. */
            add_case(list, n, token_counts[t], top_k, LOGITS_SPACED,
                capacities[choose(list->n, 3, COUNT(capacities))]);
        }
    }
    list_wide(list);
}

static void draw_logits(float *dst, int64_t n, int mode, rng *r)
{
    int32_t *order = check_calloc((size_t)n, sizeof *order);
    rng_permutation(r, order, n);
    for (int64_t e = 0; e < n; e++) {
        float random = draw_value(r, VALUES_RANDOM);
        switch (mode) {
        case LOGITS_TIES:
            dst[e] = 0.5f * (float)rng_below(r, 3);
            break;
        case LOGITS_EQUAL:
            dst[e] = -3.25f;
            break;
        case LOGITS_LARGE:
            dst[e] = 1e38f * random;
            break;
        case LOGITS_CLOSE:
            dst[e] = 1 + 0x1p-23f * (float)rng_below(r, 4);
            break;
        case LOGITS_SPACED:
            dst[e] = 0.25f * (float)order[e] - 7;
            break;
        case LOGITS_APART:
            dst[e] = 8 * ((float)order[e] + 0.3f * random) / (float)n - 4;
            break;
        default:
            dst[e] = 6 * random;
        }
    }
    free(order);
}

/* ---- scores, and whether it is plain who is chosen ---- */

/* Probabilities of one token and how far float32 may be off. */
static void probabilities(
    double *p, double *error, const float *logits, int64_t n)
{
    double largest = -INFINITY, sum = 0, spread = 0;
    for (int64_t e = 0; e < n; e++)
        largest = fmax(largest, (double)logits[e]);
    for (int64_t e = 0; e < n; e++) {
        p[e] = exp((double)logits[e] - largest);
        sum += p[e];
        if (p[e] > 0)
            spread += p[e] * (largest - (double)logits[e]);
    }
    spread /= sum;
    for (int64_t e = 0; e < n; e++) {
        p[e] /= sum;
        double d = largest - (double)logits[e];
        double relative =
            2 * (p[e] > 0 ? d : 0) + 2 * spread + sum_growth(n) + 10;
        error[e] = UNIT_ROUNDOFF * relative * p[e] + 2 * SMALLEST_NORMAL;
    }
}

/* Scores of one token, softmax or sigmoid, and how far float32 may be off. */
static void score_experts(
    double *p, double *error, const check_case *c, const float *logits)
{
    if (c->router.scoring == QMI_SOFTMAX) {
        probabilities(p, error, logits, c->n_cols);
        return;
    }
    for (int64_t e = 0; e < c->n_cols; e++) {
        const double z = (double)logits[e];
        p[e] = act_size(QMI_ACT_SIGMOID, z);
        error[e] = act_error(QMI_ACT_SIGMOID, z, 0) + UNIT_ROUNDOFF * p[e];
    }
}

/* Whether each two values differ by several times their errors. */
static bool are_apart(const double *value, const double *error, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < i; j++)
            if (fabs(value[i] - value[j]) < 4 * (error[i] + error[j]))
                return false;
    return true;
}

/* A group's score, and its error: of its `best` largest. */
static double score_group(double *error, const double *order,
    const double *errors, int64_t size, int best)
{
    double first = -INFINITY, second = -INFINITY, worst = 0;
    for (int64_t e = 0; e < size; e++) {
        second = fmax(second, fmin(first, order[e]));
        first = fmax(first, order[e]);
        worst = fmax(worst, errors[e]);
    }
    const double sum = best == 2 && size > 1 ? first + second : first;
    *error = 2 * worst + UNIT_ROUNDOFF * fabs(sum);
    return sum;
}

static bool is_plain_choice(
    const check_case *c, const float *logits, const float *bias)
{
    const int64_t n = c->n_cols, n_groups = c->router.n_groups;
    double *order = check_calloc(4 * (size_t)n, sizeof *order);
    double *error = order + n, *group = error + n, *group_error = group + n;
    score_experts(order, error, c, logits);
    for (int64_t e = 0; e < n && bias != NULL; e++) {
        order[e] += (double)bias[e];
        error[e] += UNIT_ROUNDOFF * fabs(order[e]);
    }
    for (int64_t g = 0; g < n_groups; g++)
        group[g] = score_group(&group_error[g], order + g * (n / n_groups),
            error + g * (n / n_groups), n / n_groups, c->router.group_best);
    const bool is_plain =
        are_apart(order, error, n) && are_apart(group, group_error, n_groups);
    free(order);
    return is_plain;
}

static void draw_token(
    float *dst, const check_case *c, const float *bias, rng *r)
{
    do
        draw_logits(dst, c->n_cols, c->mode, r);
    while (c->mode == LOGITS_APART && !is_plain_choice(c, dst, bias));
}

static qmoe_status build(problem *p, rng *r, qmi_error *err)
{
    const check_case *c = p->c;
    QMI_TRY(add_vector(
        p, offsetof(qmi_op, u.route.bias), c->n_cols, VALUES_RANDOM, r, err));
    qmi_op_route *o = &p->body.u.route;
    o->n_tokens = c->n_tokens;
    o->n_experts = c->n_cols;
    o->top_k = c->top_k;
    o->capacity = c->capacity;
    o->router = c->router;
    float *logits =
        add_floats(p, "logits", VIEW_AT(route.logits), c->n_tokens, c->n_cols)
            ->data.floats;
    for (int64_t t = 0; t < c->n_tokens; t++)
        draw_token(logits + t * c->n_cols, c, find_vector(p), r);
    int32_t *sequence =
        add_ints(p, "sequence", VIEW_AT(route.sequence), c->n_tokens, 1)
            ->data.ints;
    for (int64_t t = 1; t < c->n_tokens; t++)
        sequence[t] = sequence[t - 1] + (rng_below(r, 8) == 0);
    add_output(p, "expert", VIEW_AT(route.expert), c->n_tokens, c->top_k)
        ->is_integer = true;
    add_output(p, "weight", VIEW_AT(route.weight), c->n_tokens, c->top_k);
    return QMOE_OK;
}

static bool listed_before(const int32_t *expert, int64_t j, int64_t e)
{
    for (int64_t i = 0; i < j; i++)
        if (expert[i] == e)
            return true;
    return false;
}

/* Among equal logits the lower index comes first. */
static bool tie_respected(const float *logits, const int32_t *expert, int64_t j)
{
    for (int64_t e = 0; e < expert[j]; e++)
        if (logits[e] == logits[expert[j]] && !listed_before(expert, j, e))
            return false;
    return true;
}

typedef struct token {
    const check_case *c;
    int64_t t;
    const float *logits;
    const int32_t *expert, *want;
    const float *weight;
    const double *p, *error;
} token;

static void judge_choice(const token *k, int64_t j, verdict *v)
{
    int64_t got = k->expert[j], want = k->want[j], weighed = want;
    if (got != want) {
        bool valid = got >= 0 && got < k->c->n_cols && k->c->capacity == 0 &&
                     !listed_before(k->expert, j, got);
        if (!valid ||
            fabs(k->p[got] - k->p[want]) > k->error[got] + k->error[want]) {
            verdict_fail(v, CHECK_VALUE,
                "expert[%" PRId64 ", %" PRId64 "] is %" PRId64
                ", must be %" PRId64,
                k->t, j, got, want);
            return;
        }
        weighed = got;
    }
    if (got >= 0 && k->c->capacity == 0 &&
        !tie_respected(k->logits, k->expert, j))
        verdict_fail(v, CHECK_VALUE,
            "expert[%" PRId64 ", %" PRId64 "] is %" PRId64
            " though a lower index has the same logit",
            k->t, j, got);
    if (weighed < 0)
        return; /* dropped: see judge */
    note_error(v, k->weight[j], (float)k->p[weighed], k->error[weighed]);
    if (!value_in_bound(k->weight[j], (float)k->p[weighed], k->error[weighed]))
        verdict_fail(v, CHECK_VALUE,
            "weight[%" PRId64 ", %" PRId64 "] is %.9g, must be %.9g", k->t, j,
            (double)k->weight[j], k->p[weighed]);
}

static void judge(const problem *p, const void *const *got, verdict *v)
{
    const check_case *c = p->c;
    const operand *expert = find_operand(p, "expert");
    const operand *weight = find_operand(p, "weight");
    const int32_t *got_expert = got[expert - p->operands];
    const float *got_weight = got[weight - p->operands];
    if (c->wide) {
        judge_operand(expert, got_expert, v);
        judge_operand(weight, got_weight, v);
        return;
    }
    double *chance = check_calloc((size_t)c->n_cols, sizeof *chance);
    double *error = check_calloc((size_t)c->n_cols, sizeof *error);
    for (int64_t t = 0; t < c->n_tokens; t++) {
        const token k = {
            .c = c,
            .t = t,
            .logits = find_floats(p, "logits") + t * c->n_cols,
            .expert = got_expert + t * c->top_k,
            .want = expert->want.ints + t * c->top_k,
            .weight = got_weight + t * c->top_k,
            .p = chance,
            .error = error,
        };
        probabilities(chance, error, k.logits, c->n_cols);
        for (int64_t j = 0; j < c->top_k; j++)
            judge_choice(&k, j, v);
    }
    /* A dropped token keeps its weight: the reference's, which is unambiguous
     * where logits are well separated. */
    if (c->capacity > 0)
        judge_operand(weight, got_weight, v);
    free(chance);
    free(error);
}

/* Weights of the experts that the reference chose: which they are is plain. */
static void bound_chosen(double *out, const check_case *c,
    const int32_t *expert, const double *p, const double *error)
{
    const double scale =
        c->router.scale != 0 ? fabs((double)c->router.scale) : 1;
    double sum = 0, sum_error = 0;
    for (int64_t j = 0; j < c->top_k; j++) {
        sum += p[expert[j]];
        sum_error += error[expert[j]];
    }
    for (int64_t j = 0; j < c->top_k; j++) {
        double weight = p[expert[j]], e = error[expert[j]];
        if (c->router.normalises) {
            e = e / sum + weight / (sum * sum) * sum_error;
            weight /= sum;
        }
        out[j] = scale * (e + UNIT_ROUNDOFF * (double)(c->top_k + 4) * weight) +
                 SMALLEST_NORMAL;
    }
}

static void bound(problem *p)
{
    const check_case *c = p->c;
    const int32_t *expert = find_operand(p, "expert")->want.ints;
    const float *logits = find_floats(p, "logits");
    const operand *weight = find_operand(p, "weight");
    double *out = make_bound(p, "weight");
    double *chance = check_calloc((size_t)c->n_cols, sizeof *chance);
    double *error = check_calloc((size_t)c->n_cols, sizeof *error);
    for (int64_t t = 0; t < c->n_tokens; t++) {
        score_experts(chance, error, c, logits + t * c->n_cols);
        if (c->wide)
            bound_chosen(
                out + t * c->top_k, c, expert + t * c->top_k, chance, error);
        for (int64_t j = 0; j < c->top_k && !c->wide; j++) {
            /* Equal weights have equal errors, so any expert of that weight
             * will do; a dropped one is not named in `expert`. */
            int64_t at = t * c->top_k + j, nearest = 0;
            double want = (double)weight->want.floats[at];
            for (int64_t e = 0; e < c->n_cols; e++)
                if (fabs(chance[e] - want) < fabs(chance[nearest] - want))
                    nearest = e;
            out[at] = error[nearest];
        }
    }
    free(chance);
    free(error);
}

static check_cost cost(const problem *p)
{
    return (check_cost){
        .bytes = operand_bytes(p),
        .flops = 4.0 * (double)p->c->n_tokens * (double)p->c->n_cols,
    };
}

const check_op check_route = {
    .list = list_cases,
    .build = build,
    .bound = bound,
    .judge = judge,
    .cost = cost,
};
