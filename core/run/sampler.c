/* SPDX-License-Identifier: Apache-2.0
 * Greedy and random choice of the next token.  In: logits, or the likeliest of
 * them with their ids.  Out: one id.  The kept candidates come off a heap one
 * by one, most likely first, so that top_k and top_p cost O(n + kept log n) and
 * not a sort of the vocabulary.  The same logits and the same seed give the
 * same id on every machine: sums have a fixed order and exp is our own. */
#include "sampler.h"

#include <math.h>

#include "alloc.h"
#include "top_logits.h"

struct qmi_sampler {
    qmi_sampler_options options;
    qmi_mt19937 rng;
    int32_t n;
    int32_t *order;  /* [n] heap of ids, kept ones sorted at the end */
    double *weights; /* [n] of ids: exp((logit - highest) / temperature) */
};

qmoe_status qmi_sampler_create(qmi_sampler **out,
    const qmi_sampler_options *options, int64_t n, uint64_t seed,
    qmi_error *err)
{
    *out = NULL;
    if (n < 1 || n > INT32_MAX)
        return qmi_fail(err, QMOE_E_INVALID,
            "a vocabulary of %lld tokens cannot be sampled", (long long)n);
    if (isnan(options->temperature) || isinf(options->temperature))
        return qmi_fail(err, QMOE_E_INVALID, "temperature is not finite");
    if (isnan(options->top_p))
        return qmi_fail(err, QMOE_E_INVALID, "top_p is not a number");
    if (isnan(options->min_p) || options->min_p > 1.0f)
        return qmi_fail(err, QMOE_E_INVALID, "min_p is not in 0..1");
    if (options->top_k < 0)
        return qmi_fail(
            err, QMOE_E_INVALID, "top_k is negative: %d", options->top_k);

    qmi_sampler *sampler = qmi_calloc(1, sizeof *sampler, "a sampler", err);
    if (sampler == NULL)
        return QMOE_E_NOMEM;
    sampler->options = *options;
    sampler->n = (int32_t)n;
    /* Seeds below 2^32 are NumPy's; the upper half of others is folded in. */
    qmi_mt19937_seed(
        &sampler->rng, (uint32_t)seed ^ (uint32_t)(seed >> 32) * 0x9e3779b9u);
    /* A greedy choice needs neither. */
    if (options->temperature > 0.0f) {
        sampler->order = qmi_calloc(
            (size_t)n, sizeof *sampler->order, "a sampler's candidates", err);
        sampler->weights = qmi_calloc(
            (size_t)n, sizeof *sampler->weights, "a sampler's weights", err);
        if (sampler->order == NULL || sampler->weights == NULL) {
            qmi_sampler_destroy(sampler);
            return QMOE_E_NOMEM;
        }
    }
    *out = sampler;
    return QMOE_OK;
}

void qmi_sampler_destroy(qmi_sampler *sampler)
{
    if (sampler == NULL)
        return;
    qmi_free(sampler->order);
    qmi_free(sampler->weights);
    qmi_free(sampler);
}

static double clean_logit(float logit)
{
    return (double)qmi_counted_logit(logit);
}

static int32_t pick_greedy(const float *logits, int32_t n)
{
    int32_t best = 0;
    /* Ties: the lowest id. */
    for (int32_t i = 1; i < n; i++) {
        if (clean_logit(logits[i]) > clean_logit(logits[best]))
            best = i;
    }
    return best;
}

/* exp(x) for x <= 0 out of exactly rounded operations only: the C library's
 * differs between machines in the last bit, and with it could a choice.
 * x = k ln2 + r with |r| <= ln2 / 2, then the Taylor series of r (what is left
 * out is below 0.35^14 / 14! < 1e-17). */
static double portable_exp(double x)
{
    static const double LOG2E = 0x1.71547652b82fep+0;
    static const double LN2_HIGH =
        0x1.62e42fefap-1; /* short: k * it is exact */
    static const double LN2_LOW = 0x1.cf79abc9e3b3ap-40;
    static const double INVERSE_FACTORIALS[] = {1.0, 1.0, 1.0 / 2, 1.0 / 6,
        1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880,
        1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
    /* Below, e^x is no double; NaN is none, either. */
    if (!(x > -745.0))
        return 0.0;
    double k = floor(x * LOG2E + 0.5);
    double r = (x - k * LN2_HIGH) - k * LN2_LOW;
    double sum = 0.0;
    /* Horner's scheme: one rounding after the other, in a fixed order. */
    for (int i = 13; i >= 0; i--)
        sum = sum * r + INVERSE_FACTORIALS[i];
    return ldexp(sum, (int)k);
}

static double weigh(qmi_sampler *s, float logit, double highest, int32_t id)
{
    /* Both are finite or the weight is 0: highest is not -infinity
     * (is_certain). */
    double below = clean_logit(logit) - highest;
    s->weights[id] = portable_exp(below / (double)s->options.temperature);
    return s->weights[id];
}

/* Does id a come before id b: more likely, or equal and lower. */
static bool is_before(const float *logits, int32_t a, int32_t b)
{
    double x = clean_logit(logits[a]), y = clean_logit(logits[b]);
    return x > y || (x == y && a < b);
}

static void sift_down(int32_t *heap, int32_t n, int32_t at, const float *logits)
{
    int32_t id = heap[at];
    while (at < n / 2) {
        int32_t child = 2 * at + 1;
        if (child + 1 < n && is_before(logits, heap[child + 1], heap[child]))
            child++;
        if (is_before(logits, id, heap[child]))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = id;
}

static void make_heap(int32_t *heap, int32_t n, const float *logits)
{
    for (int32_t i = 0; i < n; i++)
        heap[i] = i;
    /* From the last parent up: every subtree is a heap before its root is
     * placed. */
    for (int32_t i = n / 2; i-- > 0;)
        sift_down(heap, n, i, logits);
}

/* Takes the first of the `n` ids left in the heap and stores it behind them. */
static int32_t pop(int32_t *heap, int32_t n, const float *logits)
{
    int32_t first = heap[0];
    heap[0] = heap[n - 1];
    sift_down(heap, n - 1, 0, logits);
    heap[n - 1] = first;
    return first;
}

static bool has_top_k(const qmi_sampler *s)
{
    return s->options.top_k > 0 && s->options.top_k < s->n;
}

static bool has_top_p(const qmi_sampler *s)
{
    return s->options.top_p > 0.0f && s->options.top_p < 1.0f;
}

int32_t qmi_sampler_n_top(const qmi_sampler *sampler)
{
    if (!(sampler->options.temperature > 0.0f))
        return 1;
    return has_top_k(sampler) ? sampler->options.top_k : 0;
}

/* Candidates are, most likely first, at order[n - 1], order[n - 2], ...
 * Cuts the first `limit` down to what top_p keeps, of which n_popped are there
 * and the others still in the heap; returns their number, *total becomes their
 * weight. */
static int32_t keep_top_p(qmi_sampler *s, const float *logits, int32_t limit,
    int32_t n_popped, double *total)
{
    if (!has_top_p(s))
        return limit;
    double needed = (double)s->options.top_p * *total, reached = 0.0;
    int32_t n = 0;
    /* One candidate at least, whatever top_p is. */
    while (n < limit && (n == 0 || reached < needed)) {
        if (n == n_popped)
            pop(s->order, s->n - n_popped++, logits);
        reached += s->weights[s->order[s->n - 1 - n]];
        n++;
    }
    *total = reached;
    return n;
}

/* Applies top_k and top_p to all logits; one of them is asked for. */
static int32_t keep_likely(
    qmi_sampler *s, const float *logits, double highest, double *total)
{
    int32_t limit = s->n, n_popped = 0;
    *total = 0.0;
    make_heap(s->order, s->n, logits);
    /* Without top_k all ids carry weight, also those that top_p then drops. */
    if (has_top_k(s)) {
        limit = s->options.top_k;
        for (; n_popped < limit; n_popped++) {
            int32_t id = pop(s->order, s->n - n_popped, logits);
            *total += weigh(s, logits[id], highest, id);
        }
    } else {
        for (int32_t id = 0; id < s->n; id++)
            *total += weigh(s, logits[id], highest, id);
    }
    return keep_top_p(s, logits, limit, n_popped, total);
}

/* Candidate number i of those kept.  Without a filter the heap was never made:
 * all ids in their order. */
static int32_t candidate(const qmi_sampler *s, int32_t i)
{
    return has_top_k(s) || has_top_p(s) ? s->order[s->n - 1 - i] : i;
}

/* Weights are shares of the likeliest token's: those below min_p become 0. */
static void keep_min_p(qmi_sampler *s, int32_t n_kept, double *total)
{
    const double least = (double)s->options.min_p;
    if (!(least > 0.0))
        return;
    *total = 0.0;
    for (int32_t i = 0; i < n_kept; i++) {
        double *weight = &s->weights[candidate(s, i)];
        if (*weight < least)
            *weight = 0.0;
        *total += *weight;
    }
}

/* One of the n_kept first candidates. */
static int32_t draw(qmi_sampler *s, int32_t n_kept, double total, int32_t best)
{
    double left = qmi_mt19937_double(&s->rng) * total;
    int32_t choice = best;
    for (int32_t i = 0; i < n_kept; i++) {
        int32_t id = candidate(s, i);
        /* Its share is nothing, and rounding must not give it one. */
        if (s->weights[id] == 0.0)
            continue;
        /* Rounding can leave a rest at the end: the last one stands then. */
        choice = id;
        left -= s->weights[id];
        if (left < 0.0)
            break;
    }
    return choice;
}

/* Nothing to draw: greedy, or no logit is a number. */
static bool is_certain(const qmi_sampler *s, double highest)
{
    return !(s->options.temperature > 0.0f) || highest == -INFINITY;
}

int32_t qmi_sampler_pick(qmi_sampler *sampler, const float *logits)
{
    qmi_sampler *s = sampler;
    int32_t best = pick_greedy(logits, s->n), n_kept = s->n;
    double highest = clean_logit(logits[best]), total = 0.0;
    if (is_certain(s, highest))
        return best;
    if (has_top_k(s) || has_top_p(s))
        n_kept = keep_likely(s, logits, highest, &total);
    else
        for (int32_t id = 0; id < s->n; id++)
            total += weigh(s, logits[id], highest, id);
    keep_min_p(s, n_kept, &total);
    return draw(s, n_kept, total, best);
}

int32_t qmi_sampler_pick_top(
    qmi_sampler *sampler, const float *logits, const int32_t *ids)
{
    qmi_sampler *s = sampler;
    double highest = clean_logit(logits[0]), total = 0.0;
    if (is_certain(s, highest))
        return ids[0];
    const int32_t k = s->options.top_k;
    for (int32_t i = 0; i < k; i++) {
        /* As pop would have left them. */
        s->order[s->n - 1 - i] = ids[i];
        total += weigh(s, logits[i], highest, ids[i]);
    }
    /* NULL: all k are there, so the heap is not asked. */
    int32_t n_kept = keep_top_p(s, NULL, k, k, &total);
    keep_min_p(s, n_kept, &total);
    return draw(s, n_kept, total, ids[0]);
}
