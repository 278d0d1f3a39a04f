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
    LOGITS_COUNT
};
static const char *const logit_names[LOGITS_COUNT] = {
    "random", "ties", "equal", "large", "close", "spaced"};

static const int64_t expert_counts[] = {1, 2, 15, 16, 17, 31, 33, 61, 128, 257};
static const int64_t token_counts[] = {1, 2, 7, 33};
static const int64_t capacities[] = {1, 2, 5};

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
        default:
            dst[e] = 6 * random;
        }
    }
    free(order);
}

static qmoe_status build(problem *p, rng *r, qmi_error *err)
{
    const check_case *c = p->c;
    (void)err;
    qmi_op_route *o = &p->body.u.route;
    o->n_tokens = c->n_tokens;
    o->n_experts = c->n_cols;
    o->top_k = c->top_k;
    o->capacity = c->capacity;
    float *logits =
        add_floats(p, "logits", VIEW_AT(route.logits), c->n_tokens, c->n_cols)
            ->data.floats;
    for (int64_t t = 0; t < c->n_tokens; t++)
        draw_logits(logits + t * c->n_cols, c->n_cols, c->mode, r);
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

static void bound(problem *p)
{
    const check_case *c = p->c;
    const float *logits = find_floats(p, "logits");
    const operand *weight = find_operand(p, "weight");
    double *out = make_bound(p, "weight");
    double *chance = check_calloc((size_t)c->n_cols, sizeof *chance);
    double *error = check_calloc((size_t)c->n_cols, sizeof *error);
    for (int64_t t = 0; t < c->n_tokens; t++) {
        probabilities(chance, error, logits + t * c->n_cols, c->n_cols);
        for (int64_t j = 0; j < c->top_k; j++) {
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
