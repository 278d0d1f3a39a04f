/* SPDX-License-Identifier: Apache-2.0
 * The operation `expert_ffn`.  In: tokens and the experts each was routed to.
 * Out: dst, each token's experts added up in the order of choice.  Tokens are
 * grouped by expert and each expert runs its products on its tokens
 * while they are in the cache.  An expert with more than a thread's share of
 * the tokens is computed by all threads together, the others by one thread
 * each, at the same time; a row's sum is the same either way. */
#include <pthread.h>
#include <string.h>

#include "cancel.h"
#include "product.h"

/* A slot is one choice of a token: token * top_k + j. */
typedef struct group {
    int32_t expert;
    int32_t first, n; /* places in `order` */
} group;

typedef struct experts {
    const qmi_op_expert_ffn *o;
    const qcpu_matmul *kernel;
    int n_lanes;    /* threads that work on experts of their own */
    int32_t *order; /* [n_slots] slots by expert, dropped ones last */
    int32_t *place; /* [n_slots] where a slot is in `order` */
    group *groups;  /* [n_experts + 1], the used ones; bins while sorting */
    int32_t n_groups, n_shared; /* shared ones first */
    int32_t most;               /* tokens of a group */
    float *y;                   /* [n_slots, d_model] in the order of `order` */
    uint8_t *lanes;             /* work spaces, lane_bytes each */
    size_t lane_bytes;
    uint8_t *threads; /* of all threads together, for shared groups */
    size_t thread_stride;
    qmi_error *err; /* threads only read it */
} experts;

/* ---- work space ---- */

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* What one lane needs for a group of `n` tokens. */
typedef struct lane {
    float *x; /* [n, d_model] */
    float *h; /* [n, d_ff] */
    float *g; /* [n, d_ff], of the gate */
    void *input;
    uint8_t *threads;
    size_t n_bytes;
} lane;

/* base NULL: sizes only. */
static lane lay_out_lane(const experts *e, uint8_t *base, int64_t n)
{
    const qmi_weight *up = e->o->up->host, *down = e->o->down->host;
    const size_t x = qcpu_align((size_t)(n * up->n_cols) * sizeof(float));
    const size_t h = qcpu_align((size_t)(n * up->n_rows) * sizeof(float));
    size_t input = larger(qcpu_product_input_bytes(e->kernel, up, n),
        qcpu_product_input_bytes(e->kernel, down, n));
    if (e->o->gate != NULL)
        input = larger(
            input, qcpu_product_input_bytes(e->kernel, e->o->gate->host, n));
    const size_t g = e->o->gate != NULL ? h : 0;
    lane l = {.n_bytes = x + h + g + input + e->thread_stride};
    if (base == NULL)
        return l;
    l.x = (float *)(void *)base;
    l.h = (float *)(void *)(base + x);
    l.g = (float *)(void *)(base + x + h);
    l.input = base + x + h + g;
    l.threads = base + x + h + g + input;
    return l;
}

/* A part of n_bytes at *at; NULL while only sizes are counted. */
static void *take(uint8_t *base, size_t *at, size_t n_bytes)
{
    void *block = base == NULL ? NULL : base + *at;
    *at += qcpu_align(n_bytes);
    return block;
}

/* The largest group is not known before the slots are sorted, so the work
 * space is laid out twice; most == 0 asks for the part that sorting needs. */
static size_t lay_out(experts *e, uint8_t *base, int n_threads)
{
    const qmi_weight *up = e->o->up->host, *down = e->o->down->host;
    const size_t n_slots = (size_t)(e->o->n_tokens * e->o->top_k);
    size_t at = 0;
    e->order = take(base, &at, n_slots * sizeof *e->order);
    e->place = take(base, &at, n_slots * sizeof *e->place);
    e->groups = take(base, &at, (size_t)(up->n_mats + 1) * sizeof *e->groups);
    if (e->most == 0)
        return at;
    e->thread_stride = larger(qcpu_product_thread_bytes(e->kernel, up, e->most),
        qcpu_product_thread_bytes(e->kernel, down, e->most));
    if (e->o->gate != NULL)
        e->thread_stride = larger(e->thread_stride,
            qcpu_product_thread_bytes(e->kernel, e->o->gate->host, e->most));
    e->lane_bytes = lay_out_lane(e, NULL, e->most).n_bytes;
    e->y = take(base, &at, n_slots * (size_t)down->n_rows * sizeof *e->y);
    e->lanes = take(base, &at, e->lane_bytes * (size_t)e->n_lanes);
    e->threads = take(base, &at, e->thread_stride * (size_t)n_threads);
    return at;
}

/* ---- grouping ---- */

enum { ENOUGH_ROUNDS = 4 }; /* for threads to finish at about the same time */

/* Moves shared groups to the front, keeping the order of both kinds. */
static void put_shared_first(experts *e, int64_t share)
{
    for (int32_t i = 0; i < e->n_groups; i++) {
        group g = e->groups[i];
        if (g.n <= share)
            continue;
        memmove(e->groups + e->n_shared + 1, e->groups + e->n_shared,
            (size_t)(i - e->n_shared) * sizeof g);
        e->groups[e->n_shared++] = g;
    }
}

/* Sorts slots by expert, stable; keeps the experts that have any. */
static void sort_slots(experts *e, int n_threads)
{
    const int32_t *expert = qmi_host_pointer(e->o->expert);
    const int32_t n_experts = (int32_t)e->o->up->host->n_mats;
    const int32_t n_slots = (int32_t)(e->o->n_tokens * e->o->top_k);
    /* Counting sort: counts, places, then the slots in their order.  The last
     * bin is that of dropped tokens. */
    memset(e->groups, 0, (size_t)(n_experts + 1) * sizeof *e->groups);
    for (int32_t s = 0; s < n_slots; s++)
        e->groups[expert[s] < 0 ? n_experts : expert[s]].n++;
    int32_t first = 0;
    for (int32_t i = 0; i <= n_experts; i++) {
        e->groups[i].expert = i;
        e->groups[i].first = first;
        first += e->groups[i].n;
    }
    for (int32_t s = 0; s < n_slots; s++) {
        group *g = &e->groups[expert[s] < 0 ? n_experts : expert[s]];
        e->order[g->first] = s;
        e->place[s] = g->first++;
    }
    const int32_t n_kept = n_slots - e->groups[n_experts].n;
    e->n_groups = e->n_shared = e->most = 0;
    for (int32_t i = 0; i < n_experts; i++) {
        group g = e->groups[i];
        /* `first` has moved to the group's end. */
        g.first -= g.n;
        if (g.n == 0)
            continue;
        /* Kept groups move to the front of the bins, which never overtakes
         * i. */
        e->groups[e->n_groups++] = g;
        e->most = g.n > e->most ? g.n : e->most;
    }
    put_shared_first(e, n_kept / n_threads);
    /* A last round with threads left over would take as long as a full one. */
    const int32_t n_own = e->n_groups - e->n_shared;
    if (n_own < ENOUGH_ROUNDS * n_threads)
        e->n_shared += n_own % n_threads;
}

/* ---- one expert ---- */

/* Tokens of the expert are gathered, so that the product reads them as one
 * block. */
static void run_expert(
    const experts *e, const group *g, const lane *l, qmi_team *team)
{
    const qmi_op_expert_ffn *o = e->o;
    const qmi_weight *up = o->up->host, *down = o->down->host;
    const float *src = qmi_host_pointer(o->src);
    const int64_t d_model = up->n_cols;
    for (int64_t i = 0; i < g->n; i++)
        memcpy(l->x + i * d_model,
            src + e->order[g->first + i] / o->top_k * d_model,
            (size_t)d_model * sizeof *src);
    /* Without a team the lane's own space, since lanes run side by side. */
    uint8_t *threads = team != NULL ? e->threads : l->threads;
    qcpu_product in = {
        .kernel = e->kernel,
        .w = up,
        .mat = g->expert,
        .x = l->x,
        .n_tokens = g->n,
        .dst = l->h,
        .alpha = 1.0f,
        .act = o->gate == NULL ? o->act : QMI_ACT_NONE,
    };
    qcpu_product_run(&in, team, l->input, threads, e->thread_stride, e->err);
    if (o->gate != NULL) {
        in.w = o->gate->host;
        in.dst = l->g;
        in.act = o->act;
        qcpu_product_run(
            &in, team, l->input, threads, e->thread_stride, e->err);
        for (int64_t i = 0; i < g->n * up->n_rows; i++)
            l->h[i] *= l->g[i];
    }
    const qcpu_product out = {
        .kernel = e->kernel,
        .w = down,
        .mat = g->expert,
        .x = l->h,
        .n_tokens = g->n,
        .dst = e->y + (int64_t)g->first * down->n_rows,
        .alpha = 1.0f,
    };
    qcpu_product_run(&out, team, l->input, threads, e->thread_stride, e->err);
}

/* One thread, one expert: groups write rows of `y` of their own. */
static void run_own(void *context, int64_t item, int thread)
{
    const experts *e = context;
    const group *g = &e->groups[e->n_shared + item];
    uint8_t *base = e->lanes + e->lane_bytes * (size_t)thread;
    const lane l = lay_out_lane(e, base, e->most);
    run_expert(e, g, &l, NULL);
}

/* ---- the operation ---- */

static void combine_token(void *context, int64_t t, int thread)
{
    const experts *e = context;
    const qmi_op_expert_ffn *o = e->o;
    const int64_t d_model = o->down->host->n_rows;
    const int32_t *expert = qmi_host_pointer(o->expert);
    const float *weight = qmi_host_pointer(o->weight);
    const float *src = qmi_host_pointer(o->src);
    const float *residual = qmi_host_pointer(o->residual);
    float *dst = (float *)qmi_host_pointer(o->dst) + t * d_model;
    (void)thread;
    /* dst may be the residual itself. */
    if (residual == NULL)
        memset(dst, 0, (size_t)d_model * sizeof *dst);
    else if (residual + t * d_model != dst)
        memcpy(dst, residual + t * d_model, (size_t)d_model * sizeof *dst);
    /* In the order of choice, so that bits do not depend on the experts'
     * order. */
    for (int64_t s = t * o->top_k; s < (t + 1) * o->top_k; s++) {
        const float *y =
            expert[s] < 0 ? src + t * d_model : e->y + e->place[s] * d_model;
        for (int64_t c = 0; c < d_model; c++)
            dst[c] += weight[s] * y[c];
    }
}

static qmoe_status prepare(experts *e, qmi_device *device, qmi_error *err)
{
    /* The second round sorts again: new work space has undefined contents. */
    for (int round = 0; round < 2; round++) {
        size_t n_bytes = lay_out(e, NULL, device->n_threads);
        uint8_t *scratch = qcpu_scratch(device, n_bytes, err);
        if (scratch == NULL)
            return QMOE_E_NOMEM;
        lay_out(e, scratch, device->n_threads);
        sort_slots(e, device->n_threads);
    }
    return QMOE_OK;
}

/* To the cache of experts when their number is bounded. */
static void announce_matrix(
    qmi_device *device, const qmi_bound_weight *w, int64_t mat)
{
    if (w->device == NULL)
        qcpu_read_ahead(&device->looks, w->host, mat);
    else
        qcpu_expert_cache_announce(
            device->experts, (int)((uintptr_t)w->device - 1), mat);
}

/* All of them before the first is computed, so that the disk works while the
 * threads do. */
static void announce_experts(qmi_device *device, const experts *e)
{
    if (device->experts != NULL)
        qcpu_expert_cache_begin_step(device->experts);
    for (int32_t i = 0; i < e->n_groups; i++) {
        if (e->o->gate != NULL)
            announce_matrix(device, e->o->gate, e->groups[i].expert);
        announce_matrix(device, e->o->up, e->groups[i].expert);
        announce_matrix(device, e->o->down, e->groups[i].expert);
    }
    if (device->experts != NULL)
        qcpu_expert_cache_evict(device->experts);
}

/* On this thread, before the others read: a check may fail, and only here can it
 * be told. */
static qmoe_status check_experts(const experts *e, qmi_error *err)
{
    const qmi_op_expert_ffn *o = e->o;
    for (int32_t i = 0; i < e->n_groups; i++) {
        if (o->gate != NULL)
            QMI_TRY(qmi_weight_check(o->gate->host, e->groups[i].expert, err));
        QMI_TRY(qmi_weight_check(o->up->host, e->groups[i].expert, err));
        QMI_TRY(qmi_weight_check(o->down->host, e->groups[i].expert, err));
    }
    return QMOE_OK;
}

static qmoe_status expert_ffn(qmi_device *device, const qmi_op_expert_ffn *o,
    const qcpu_matmul *kernel, qmi_error *err)
{
    experts e = {
        .o = o, .kernel = kernel, .n_lanes = device->n_threads, .err = err};
    QMI_TRY(qcpu_product_begin(kernel, device->n_threads, err));
    QMI_TRY(prepare(&e, device, err));
    announce_experts(device, &e);
    qmoe_status status = check_experts(&e, err);
    if (status == QMOE_OK && e.n_groups != 0) {
        const lane l = lay_out_lane(&e, e.lanes, e.most);
        /* Shared groups first: they need all threads at once. */
        for (int32_t i = 0; i < e.n_shared; i++)
            run_expert(&e, &e.groups[i], &l, device->team);
        status = qmi_team_run(
            device->team, e.n_groups - e.n_shared, run_own, &e, err);
    }
    /* Also when a check or the run has failed: the step has ended. */
    if (device->experts != NULL)
        qcpu_expert_cache_end_step(device->experts);
    if (status != QMOE_OK)
        return status;
    return qcpu_each_token(device, o->n_tokens,
        o->top_k * o->down->host->n_rows, combine_token, &e, err);
}

static bool takes(const qmi_op_expert_ffn *o, const qcpu_matmul *kernel)
{
    return kernel->takes(o->up->host) && kernel->takes(o->down->host) &&
           (o->gate == NULL || kernel->takes(o->gate->host));
}

/* A variant's functions know their kernel by name only: the table of backend.h
 * has no room for more. */
#define FUNCTIONS(symbol, text)                                                \
    static bool takes_##symbol(const qmi_device *device, const qmi_op *op)     \
    {                                                                          \
        return qcpu_product_allowed(device, &qcpu_matmul_##symbol) &&          \
               takes(&op->u.expert_ffn, &qcpu_matmul_##symbol);                \
    }                                                                          \
    static qmoe_status run_##symbol(                                           \
        qmi_device *device, const qmi_op *op, qmi_error *err)                  \
    {                                                                          \
        return expert_ffn(                                                     \
            device, &op->u.expert_ffn, &qcpu_matmul_##symbol, err);            \
    }

QCPU_KERNELS(FUNCTIONS)

static const qcpu_kernel_variant variants[] = {
#define VARIANT(symbol, text)                                                  \
    {&qcpu_matmul_##symbol, {text, takes_##symbol, run_##symbol}},
    QCPU_KERNELS(VARIANT)
#undef VARIANT
};

enum { N_VARIANTS = sizeof variants / sizeof *variants };

static qmi_variant usable[N_VARIANTS];
static size_t n_usable;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void select_usable(void)
{
    n_usable = qcpu_usable_variants(usable, variants, N_VARIANTS);
}

const qmi_variant *qcpu_expert_ffn(size_t *n)
{
    pthread_once(&once, select_usable);
    *n = n_usable;
    return usable;
}
