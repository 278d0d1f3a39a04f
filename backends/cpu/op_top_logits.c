/* SPDX-License-Identifier: Apache-2.0
 * Operation top-logits: one pass over each row with a sorted list of the best
 * so far.  In: logits.  Out: value and id, both sorted.  Few numbers get into
 * the list, so what counts is how fast the others are passed over: a run of
 * them at a time, by one comparison each.  A row belongs to one thread. */
#include "cpu.h"
#include "top_logits.h"

enum { RUN = 32 };

static bool supports(const qmi_device *device, const qmi_op *op)
{
    (void)device;
    return qmi_top_logits_fit(&op->u.top_logits);
}

/* The list of one row, n of them so far. */
typedef struct best {
    float *value;
    int32_t *id;
    int64_t n, capacity;
} best;

/* Ids come in ascending order: an equal value stays behind. */
static void insert(best *b, float logit, int32_t id)
{
    /* What is stored is what counts (top_logits.h): never NaN. */
    const float x = qmi_counted_logit(logit);
    int64_t at = b->n;
    while (at > 0 && x > b->value[at - 1])
        at--;
    if (at == b->capacity)
        return;
    if (b->n < b->capacity)
        b->n++;
    for (int64_t i = b->n - 1; i > at; i--) {
        b->value[i] = b->value[i - 1];
        b->id[i] = b->id[i - 1];
    }
    b->value[at] = x;
    b->id[at] = id;
}

/* NaN is above nothing, as it must be. */
static bool any_above(const float *x, float limit)
{
    /* No branch inside, so that it becomes vector comparisons. */
    int any = 0;
    for (int i = 0; i < RUN; i++)
        any |= x[i] > limit;
    return any != 0;
}

static void run_row(void *context, int64_t row, int thread)
{
    (void)thread;
    const qmi_op_top_logits *o = context;
    const float *x =
        (const float *)qmi_host_pointer(o->logits) + row * o->n_cols;
    best b = {
        .value = (float *)qmi_host_pointer(o->value) + row * o->top_k,
        .id = (int32_t *)qmi_host_pointer(o->id) + row * o->top_k,
        .capacity = o->top_k,
    };
    int64_t i = 0;
    /* The first top_k fill the list, so that it has a last place below. */
    for (; i < o->top_k; i++)
        insert(&b, x[i], (int32_t)i);
    while (i < o->n_cols) {
        /* The bound of the run; within it the list may rise, so each hit is
         * compared again. */
        const float least = b.value[o->top_k - 1];
        if (o->n_cols - i >= RUN && !any_above(x + i, least)) {
            i += RUN;
            continue;
        }
        const int64_t end = o->n_cols - i < RUN ? o->n_cols : i + RUN;
        for (; i < end; i++)
            if (x[i] > b.value[o->top_k - 1])
                insert(&b, x[i], (int32_t)i);
    }
}

static qmoe_status run(qmi_device *device, const qmi_op *op, qmi_error *err)
{
    qmi_op_top_logits o = op->u.top_logits;
    return qmi_team_run(device->team, o.n_tokens, run_row, &o, err);
}

const qmi_variant *qcpu_top_logits(size_t *n)
{
    static const qmi_variant variant = {"portable", supports, run};
    *n = 1;
    return &variant;
}
