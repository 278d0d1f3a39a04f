/* SPDX-License-Identifier: Apache-2.0
 * In: what each stack would cost in errors and bytes, and a budget of bytes.
 * Out: a format for each stack.  Stacks of a kind cost the same, so the best k
 * of them are the k with the largest gains, and all pairs of such k are few:
 * trying them all is exact. */
#include "allocate_bits.h"

#include <stdlib.h>

#include "alloc.h"

/* One kind's stacks that gain from the larger format, best first. */
typedef struct ranking {
    int64_t *stack;
    int64_t n;
    uint64_t price; /* bytes of one */
} ranking;

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
    r->price = stacks[i].bytes[QMI_LARGE] - stacks[i].bytes[QMI_SMALL];
}

/* How many of a kind at most fit. */
static int64_t fitting(const ranking *r, uint64_t bytes)
{
    /* Asked in this order, so that the quotient fits the number of stacks. */
    if (r->price == 0 || bytes / r->price > (uint64_t)r->n)
        return r->n;
    return (int64_t)(bytes / r->price);
}

static double sum_of(
    const ranking *r, const qmi_bits_choice *stacks, int64_t count)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += gain_of(&stacks[r->stack[i]]);
    return sum;
}

/* best[kind]: how many of each to enlarge. */
static void find_counts(int64_t best[QMI_N_KINDS],
    const ranking ranks[QMI_N_KINDS], const qmi_bits_choice *stacks,
    uint64_t spare)
{
    const ranking *wi = &ranks[QMI_WI], *wo = &ranks[QMI_WO];
    const int64_t most = fitting(wi, spare);
    double best_gain = -1;
    uint64_t best_bytes = 0;
    /* For each number of wi the largest number of wo that still fits: gains are
     * positive, so more is better. */
    for (int64_t i = 0; i <= most; i++) {
        uint64_t bytes = (uint64_t)i * wi->price;
        int64_t j = fitting(wo, spare - bytes);
        bytes += (uint64_t)j * wo->price;
        double gain = sum_of(wi, stacks, i) + sum_of(wo, stacks, j);
        /* Of equal gains the fewer bytes; then the pair found first.  No choice
         * depends on anything but the numbers. */
        if (gain < best_gain || (gain == best_gain && bytes >= best_bytes))
            continue;
        best_gain = gain;
        best_bytes = bytes;
        best[QMI_WI] = i;
        best[QMI_WO] = j;
    }
}

qmoe_status qmi_allocate_bits(
    qmi_bits_choice *stacks, int64_t n, uint64_t budget, qmi_error *err)
{
    int64_t *lists = qmi_calloc(
        QMI_N_KINDS * (size_t)n, sizeof *lists, "the choice of formats", err);
    if (lists == NULL)
        return QMOE_E_NOMEM;
    ranking ranks[QMI_N_KINDS] = {{.stack = lists}, {.stack = lists + n}};
    uint64_t spent = 0;
    for (int64_t i = 0; i < n; i++) {
        stacks[i].size = QMI_SMALL;
        spent += stacks[i].bytes[QMI_SMALL];
        /* A stack that does not gain keeps the small format, however large the
         * budget. */
        if (gain_of(&stacks[i]) > 0)
            insert(&ranks[stacks[i].kind], stacks, i);
    }
    qmoe_status status = QMOE_OK;
    int64_t best[QMI_N_KINDS] = {0};
    if (spent > budget)
        status = qmi_fail(err, QMOE_E_INTERNAL,
            "the smallest formats exceed the bytes allowed");
    else
        find_counts(best, ranks, stacks, budget - spent);
    for (int kind = 0; kind < QMI_N_KINDS; kind++)
        for (int64_t k = 0; k < best[kind]; k++)
            stacks[ranks[kind].stack[k]].size = QMI_LARGE;
    qmi_free(lists);
    return status;
}
