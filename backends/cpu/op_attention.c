/* SPDX-License-Identifier: Apache-2.0
 * The operation `attention`: cuts the spans of a batch into units of work for
 * the threads, and merges the partial results of those that are cut along their
 * keys.  In: the operation, checked by the session.  Out: every row of dst that
 * a span covers.  The cut, and so every bit of the result, depends on the shape
 * alone, not on the number of threads. */
#include <float.h>
#include <math.h>
#include <pthread.h>

#include "attention.h"
#include "cancel.h"
#include "cpu.h"

enum {
    /* New tokens of a span from which on they are the lanes of a block.  Fewer
     * would leave most lanes empty: each is a step of its own. */
    MIN_BLOCK = 5,
    /* Floats of a key's row that a step reads in one piece, at least, if it has
     * so many: whole heads side by side. */
    MIN_PIECE = 256,
    /* Multiply-adds below which the other threads are left alone. */
    MIN_PARALLEL = 100000
};

/* How a span is cut. */
typedef struct plan {
    bool steps;      /* units [query][group of heads][chunk of keys]; else
                        [head][block of queries] */
    int64_t n_parts; /* chunks or blocks */
    int64_t n_units, n_partials;
    int64_t first_unit, first_partial; /* numbers of its first ones */
} plan;

typedef struct job {
    const qmi_op_attention *op;
    const qcpu_attention_kernel *kernel;
    const float *q, *bias;
    const uint8_t *k, *v;
    float *sinks; /* [n_heads], or NULL */
    float *dst;
    const qmi_attention_span *spans;
    const plan *plans;
    int64_t shared;     /* heads of queries per head of keys */
    int64_t step_heads; /* of keys, of one step; the last may have fewer */
    uint8_t *partials;
    size_t partial_bytes;
    uint8_t *scratch;
    size_t scratch_bytes; /* per thread */
    const qmi_error *err;
} job;

static int64_t divide_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Neighbouring heads are read together, so that a step reads memory in long
 * pieces. */
static int64_t step_heads(const qmi_op_attention *o)
{
    const int64_t n = divide_up(MIN_PIECE, o->d_key);
    return n < o->n_kv_heads ? n : o->n_kv_heads;
}

/* The most keys that one query sees. */
static int64_t seen_keys(const qmi_op_attention *o, int64_t n_keys)
{
    return o->window > 0 && o->window < n_keys ? o->window : n_keys;
}

/* Many queries: a block of them shares each key.  Few: keys are cut, since
 * there is nothing else to give to the threads. */
static void plan_span(plan *p, const job *j, const qmi_attention_span *span)
{
    const int64_t n_heads = j->op->n_heads;
    p->steps = span->q_len < MIN_BLOCK;
    if (!p->steps) {
        p->n_parts = divide_up(span->q_len, QCPU_QUERIES);
        p->n_units = n_heads * p->n_parts;
        return;
    }
    p->n_parts = divide_up(seen_keys(j->op, span->k_len), QCPU_CHUNK);
    p->n_units =
        span->q_len * divide_up(j->op->n_kv_heads, j->step_heads) * p->n_parts;
    p->n_partials = span->q_len * n_heads * p->n_parts;
}

/* The plans of all spans, unless NULL; returns their sums. */
static plan plan_batch(const job *j, plan *plans)
{
    plan all = {0};
    /* Units are numbered through the batch, so that short and long sequences
     * share the threads. */
    for (int64_t s = 0; s < j->op->n_spans; s++) {
        plan p = {.first_unit = all.n_units, .first_partial = all.n_partials};
        plan_span(&p, j, &j->spans[s]);
        all.n_units += p.n_units;
        all.n_partials += p.n_partials;
        if (plans != NULL)
            plans[s] = p;
    }
    return all;
}

/* Rows of a span from one head of keys on. */
static qcpu_kv_rows rows_of(const job *j, const uint8_t *rows,
    const qmi_attention_span *span, int64_t kv_head, int64_t width)
{
    const qmi_op_attention *o = j->op;
    const uint64_t n_bytes =
        qmi_kv_row_bytes(o->kv_type, o->n_kv_heads * width);
    return (qcpu_kv_rows){.rows = rows + (uint64_t)span->k_begin * n_bytes,
        .row_bytes = n_bytes,
        .type = o->kv_type,
        .first = kv_head * width,
        .width = width};
}

/* A head of queries, and those beside it, of some queries of a span. */
static qcpu_attention_task attention_of(const job *j,
    const qmi_attention_span *span, int64_t query, int64_t n_queries,
    int64_t head, int64_t n_heads)
{
    const qmi_op_attention *o = j->op;
    const int64_t at = (span->q_begin + query) * o->n_heads + head;
    return (qcpu_attention_task){
        .q = j->q + at * o->d_key,
        .dst = j->dst + at * o->d_value,
        .q_stride = o->n_heads * o->d_key,
        .dst_stride = o->n_heads * o->d_value,
        .k = rows_of(j, j->k, span, head / j->shared, o->d_key),
        .v = rows_of(j, j->v, span, head / j->shared, o->d_value),
        .shared = j->shared,
        .n_queries = n_queries,
        .n_keys = span->k_len,
        .n_heads = n_heads,
        .d_key = o->d_key,
        .d_value = o->d_value,
        .q_pos = span->q_pos + query,
        .scale = o->scale,
        .bias =
            j->bias != NULL ? j->bias + head * (2 * o->max_distance + 1) : NULL,
        .max_distance = o->max_distance,
        .sinks = j->sinks != NULL ? j->sinks + head : NULL,
        .window = o->window,
        .causal = o->causal,
    };
}

static void run_block(const job *j, const qmi_attention_span *span,
    const plan *p, int64_t unit, void *scratch)
{
    const int64_t query = unit % p->n_parts * QCPU_QUERIES;
    const int64_t left = span->q_len - query;
    const qcpu_attention_task a = attention_of(j, span, query,
        left < QCPU_QUERIES ? left : QCPU_QUERIES, unit / p->n_parts, 1);
    j->kernel->block(&a, scratch, j->err);
}

/* Partials lie in the order [query][chunk][head]. */
static uint8_t *partial_at(
    const job *j, const plan *p, int64_t query, int64_t chunk, int64_t head)
{
    const int64_t at = (query * p->n_parts + chunk) * j->op->n_heads + head;
    return j->partials + j->partial_bytes * (size_t)(p->first_partial + at);
}

static void run_step(const job *j, const qmi_attention_span *span,
    const plan *p, int64_t unit, void *scratch)
{
    const int64_t n_groups = divide_up(j->op->n_kv_heads, j->step_heads);
    const int64_t chunk = unit % p->n_parts;
    const int64_t kv_head = unit / p->n_parts % n_groups * j->step_heads;
    const int64_t query = unit / p->n_parts / n_groups;
    const int64_t left = j->op->n_kv_heads - kv_head;
    const int64_t head = kv_head * j->shared;
    const qcpu_attention_task a = attention_of(j, span, query, 1, head,
        (left < j->step_heads ? left : j->step_heads) * j->shared);
    /* Keys the query does not see are left out; a chunk of none gives an empty
     * partial, which merge takes as nothing. */
    const int64_t n_keys =
        a.causal && a.q_pos + 1 < a.n_keys ? a.q_pos + 1 : a.n_keys;
    const int64_t first =
        qcpu_first_key(a.window, a.q_pos) + chunk * QCPU_CHUNK;
    int64_t n = n_keys - first;
    n = n < 0 ? 0 : n > QCPU_CHUNK ? QCPU_CHUNK : n;
    j->kernel->step(partial_at(j, p, query, chunk, head), j->partial_bytes, &a,
        first, n, scratch);
}

/* The span a unit belongs to: the last whose units begin no later. */
static int64_t span_of(const job *j, int64_t unit)
{
    int64_t low = 0, high = j->op->n_spans;
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        if (j->plans[middle].first_unit <= unit)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* Units write rows or partials of their own, so no two threads meet. */
static void run_unit(void *context, int64_t unit, int thread)
{
    const job *j = context;
    const int64_t span = span_of(j, unit);
    const plan *p = &j->plans[span];
    uint8_t *scratch = j->scratch + j->scratch_bytes * (size_t)thread;
    if (p->steps)
        run_step(j, &j->spans[span], p, unit - p->first_unit, scratch);
    else
        run_block(j, &j->spans[span], p, unit - p->first_unit, scratch);
}

/* dst of one query and head from its chunks, always in their order. */
static void merge(
    const job *j, const plan *p, float *dst, int64_t query, int64_t head)
{
    const int64_t d = j->op->d_value;
    const float *sink = j->sinks != NULL ? &j->sinks[head] : NULL;
    float largest = sink != NULL ? *sink : -FLT_MAX;
    /* The largest over all chunks first: every factor is at most 1. */
    for (int64_t i = 0; i < p->n_parts; i++) {
        const qcpu_partial *part =
            (const void *)partial_at(j, p, query, i, head);
        largest = fmaxf(largest, part->largest);
    }
    float sum = sink != NULL ? expf(*sink - largest) : 0;
    for (int64_t c = 0; c < d; c++)
        dst[c] = 0;
    /* Chunks in their order, whichever thread computed them when. */
    for (int64_t i = 0; i < p->n_parts; i++) {
        const qcpu_partial *part =
            (const void *)partial_at(j, p, query, i, head);
        const float *values = (const void *)(part + 1);
        const float factor = expf(part->largest - largest);
        sum += factor * part->sum;
        for (int64_t c = 0; c < d; c++)
            dst[c] += factor * values[c];
    }
    for (int64_t c = 0; c < d; c++)
        dst[c] /= sum;
}

static void merge_all(const job *j)
{
    const int64_t n_heads = j->op->n_heads, d = j->op->d_value;
    for (int64_t s = 0; s < j->op->n_spans; s++) {
        const qmi_attention_span *span = &j->spans[s];
        for (int64_t i = 0; j->plans[s].steps && i < span->q_len; i++)
            for (int64_t h = 0; h < n_heads; h++)
                merge(j, &j->plans[s],
                    j->dst + ((span->q_begin + i) * n_heads + h) * d, i, h);
    }
}

static qmoe_status attention(qmi_device *device, const qmi_op_attention *o,
    const qcpu_attention_kernel *kernel, qmi_error *err)
{
    const int64_t shared = o->n_heads / o->n_kv_heads;
    job j = {
        .op = o,
        .kernel = kernel,
        .q = qmi_host_pointer(o->q),
        .k = qmi_host_pointer(o->k),
        .v = qmi_host_pointer(o->v),
        .bias = qmi_host_pointer(o->bias),
        .dst = qmi_host_pointer(o->dst),
        .spans = qmi_host_pointer(o->spans),
        .shared = shared,
        .step_heads = step_heads(o),
        .partial_bytes =
            sizeof(qcpu_partial) + (size_t)o->d_value * sizeof(float),
        .scratch_bytes = qcpu_attention_scratch_bytes(
            step_heads(o) * shared, step_heads(o), o->d_key, o->d_value),
        .err = err,
    };
    /* Twice: how much room the plans and partials need is known only when they
     * are made. */
    plan all = plan_batch(&j, NULL);
    const size_t threads_bytes = j.scratch_bytes * (size_t)device->n_threads;
    const size_t plan_bytes = qcpu_align((size_t)o->n_spans * sizeof *j.plans);
    const size_t sink_bytes =
        o->sinks != NULL ? qcpu_align((size_t)o->n_heads * sizeof(float)) : 0;
    j.scratch = qcpu_scratch(device,
        threads_bytes + plan_bytes + sink_bytes +
            j.partial_bytes * (size_t)all.n_partials,
        err);
    if (j.scratch == NULL)
        return QMOE_E_NOMEM;
    plan *plans = (void *)(j.scratch + threads_bytes);
    j.partials = j.scratch + threads_bytes + plan_bytes + sink_bytes;
    if (o->sinks != NULL) {
        j.sinks = (void *)(j.scratch + threads_bytes + plan_bytes);
        QMI_TRY(qmi_weight_check(o->sinks->host, 0, err));
        qmi_weight_decode(o->sinks->host, 0, 0, 1, j.sinks);
    }
    all = plan_batch(&j, plans);
    j.plans = plans;
    const double n_products = (double)(o->n_heads * (o->d_key + o->d_value)) *
                              (double)o->n_queries *
                              (double)seen_keys(o, o->max_keys);
    if (n_products < MIN_PARALLEL)
        for (int64_t unit = 0; unit < all.n_units; unit++)
            run_unit(&j, unit, 0);
    else
        QMI_TRY(qmi_team_run(device->team, all.n_units, run_unit, &j, err));
    merge_all(&j);
    return qmi_check_cancel(err);
}

/* A variant's functions know their kernel by name only: the table of backend.h
 * has no room for more. */
#define VARIANT_FUNCTIONS(symbol, text)                                        \
    static bool can_##symbol(const qmi_device *device, const qmi_op *op)       \
    {                                                                          \
        (void)device;                                                          \
        (void)op;                                                              \
        return true;                                                           \
    }                                                                          \
    static qmoe_status run_##symbol(                                           \
        qmi_device *device, const qmi_op *op, qmi_error *err)                  \
    {                                                                          \
        return attention(                                                      \
            device, &op->u.attention, &qcpu_attention_##symbol, err);          \
    }

QCPU_ATTENTION(VARIANT_FUNCTIONS)

static const struct {
    const qcpu_attention_kernel *kernel;
    qmi_variant variant;
} variants[] = {
#define VARIANT(symbol, text)                                                  \
    {&qcpu_attention_##symbol, {text, can_##symbol, run_##symbol}},
    QCPU_ATTENTION(VARIANT)
#undef VARIANT
};

enum { N_VARIANTS = sizeof variants / sizeof *variants };

static qmi_variant usable[N_VARIANTS];
static size_t n_usable;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* The order of the list is the order of preference. */
static void select_usable(void)
{
    for (size_t i = 0; i < N_VARIANTS; i++)
        if ((variants[i].kernel->needs & ~qmi_cpu_features()) == 0)
            usable[n_usable++] = variants[i].variant;
}

const qmi_variant *qcpu_attention(size_t *n)
{
    pthread_once(&once, select_usable);
    *n = n_usable;
    return usable;
}
