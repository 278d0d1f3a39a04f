/* SPDX-License-Identifier: Apache-2.0
 * In: what each stack would cost in errors and bytes, and a budget of bytes.
 * Out: a format for each stack.  Of stacks that cost the same, the best k are
 * the k with the largest gains, and models have few shapes of stacks, so all
 * combinations of such k are few: trying them all is exact. */
#include "allocate_bits.h"

#include <string.h>

#include "alloc.h"

/* Stacks of the same bytes that gain from the larger format, best first. */
typedef struct ranking {
    int64_t *stack;
    int64_t n;
    uint64_t bytes[QMI_N_SIZES]; /* of one */
    int64_t best;                /* how many to enlarge */
} ranking;

static uint64_t price_of(const ranking *r)
{
    return r->bytes[QMI_LARGE] - r->bytes[QMI_SMALL];
}

static double gain_of(const qmi_bits_choice *c)
{
    return c->error[QMI_SMALL] - c->error[QMI_LARGE];
}

/* Insertion keeps equals in the order of stacks. */
static void insert(ranking *r, const qmi_bits_choice *stacks, int64_t i)
{
    int64_t at = r->n++;
    /* Strictly less: with equal gains the earlier stack stays in front. */
    for (; at > 0 && gain_of(&stacks[r->stack[at - 1]]) < gain_of(&stacks[i]);
         at--)
        r->stack[at] = r->stack[at - 1];
    r->stack[at] = i;
}

/* How many of them at most fit. */
static int64_t fitting(const ranking *r, uint64_t bytes)
{
    /* Asked in this order, so that the quotient fits the number of stacks. */
    const uint64_t price = price_of(r);
    if (price == 0 || bytes / price > (uint64_t)r->n)
        return r->n;
    return (int64_t)(bytes / price);
}

static double sum_of(
    const ranking *r, const qmi_bits_choice *stacks, int64_t count)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += gain_of(&stacks[r->stack[i]]);
    return sum;
}

/* The search over all combinations of counts. */
typedef struct search {
    const qmi_bits_choice *stacks;
    ranking ranks[QMI_MAX_STACK_SIZES];
    int n;
    int64_t counts[QMI_MAX_STACK_SIZES]; /* at hand */
    double best_gain;
    uint64_t best_bytes;
} search;

static void judge(search *s, double gain, uint64_t bytes)
{
    /* Of equal gains the fewer bytes; then the counts found first.  No choice
     * depends on anything but the numbers. */
    if (gain < s->best_gain || (gain == s->best_gain && bytes >= s->best_bytes))
        return;
    s->best_gain = gain;
    s->best_bytes = bytes;
    for (int i = 0; i < s->n; i++)
        s->ranks[i].best = s->counts[i];
}

/* Counts of the rankings from `at` on, behind those that took `bytes` of the
 * spare ones and gained `gain`. */
static void search_from(
    search *s, int at, uint64_t spare, uint64_t bytes, double gain)
{
    if (at == QMI_MAX_STACK_SIZES || at == s->n) {
        judge(s, gain, bytes);
        return;
    }
    const ranking *r = &s->ranks[at];
    const int64_t most = fitting(r, spare - bytes);
    /* Of the last one as many as still fit: gains are positive, so more is
     * better. */
    int64_t count = at + 1 == s->n ? most : 0;
    for (; count <= most; count++) {
        s->counts[at] = count;
        search_from(s, at + 1, spare, bytes + (uint64_t)count * price_of(r),
            gain + sum_of(r, s->stacks, count));
    }
}

/* The ranking of stacks with these bytes, a new one if there is none; NULL: there
 * are too many. */
static ranking *ranking_of(
    search *s, const uint64_t bytes[QMI_N_SIZES], int64_t *lists, int64_t n)
{
    for (int i = 0; i < s->n; i++)
        if (memcmp(s->ranks[i].bytes, bytes, sizeof s->ranks[i].bytes) == 0)
            return &s->ranks[i];
    if (s->n == QMI_MAX_STACK_SIZES)
        return NULL;
    ranking *r = &s->ranks[s->n];
    r->stack = lists + s->n++ * n;
    memcpy(r->bytes, bytes, sizeof r->bytes);
    return r;
}

static qmoe_status rank(search *s, qmi_bits_choice *stacks, int64_t *lists,
    int64_t n, qmi_error *err)
{
    for (int64_t i = 0; i < n; i++) {
        ranking *r = ranking_of(s, stacks[i].bytes, lists, n);
        if (r == NULL)
            return qmi_fail(err, QMOE_E_UNSUPPORTED,
                "a bit budget for a model whose experts have more than %d "
                "different sizes of matrices",
                QMI_MAX_STACK_SIZES);
        /* A stack that does not gain keeps the small format, however large the
         * budget. */
        if (gain_of(&stacks[i]) > 0)
            insert(r, stacks, i);
    }
    return QMOE_OK;
}

static qmoe_status allocate(qmi_bits_choice *stacks, int64_t n, uint64_t budget,
    int64_t *lists, qmi_error *err)
{
    search s = {.stacks = stacks, .best_gain = -1};
    uint64_t spent = 0;
    for (int64_t i = 0; i < n; i++) {
        stacks[i].size = QMI_SMALL;
        spent += stacks[i].bytes[QMI_SMALL];
    }
    if (spent > budget)
        return qmi_fail(err, QMOE_E_INTERNAL,
            "the smallest formats exceed the bytes allowed");
    QMI_TRY(rank(&s, stacks, lists, n, err));
    search_from(&s, 0, budget - spent, 0, 0);
    for (int i = 0; i < s.n; i++)
        for (int64_t k = 0; k < s.ranks[i].best; k++)
            stacks[s.ranks[i].stack[k]].size = QMI_LARGE;
    return QMOE_OK;
}

qmoe_status qmi_allocate_bits(
    qmi_bits_choice *stacks, int64_t n, uint64_t budget, qmi_error *err)
{
    int64_t *lists = qmi_calloc(QMI_MAX_STACK_SIZES * (size_t)n, sizeof *lists,
        "the choice of formats", err);
    if (lists == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status = allocate(stacks, n, budget, lists, err);
    qmi_free(lists);
    return status;
}
