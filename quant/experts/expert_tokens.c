/* SPDX-License-Identifier: Apache-2.0
 * In: an expert's number in the block at hand, the kept inputs of its tokens and
 * their rows of the residual stream.  Out: second moments of its matrices'
 * inputs, or the rows moved on through an encoded expert.  Tokens are taken in chunks of QMI_CHUNK_TOKENS in
 * their order, so that each sum has one order, and a worker's memory does not
 * grow with them.  What is not finite is refused before it is summed or
 * stored. */
#include "expert_tokens.h"

#include <math.h>

#include "alloc.h"
#include "hessian.h"

/* ---- originals ---- */

uint64_t qmi_expert_source_bytes(const qmi_weight *stack)
{
    return (uint64_t)stack->n_rows * (uint64_t)stack->n_cols *
           (qmi_dtype_bits(stack->format->dtype) / 8);
}

/* Reading at once, by the worker, turns a disk that fails into an error with
 * the file's name; through the map alone it would be a signal. */
qmoe_status qmi_expert_fetch(
    const qmi_expert_pass *p, int64_t expert, qmi_error *err)
{
    for (int kind = 0; kind < p->stacks.n; kind++)
        QMI_TRY(qmi_checkpoint_fetch(p->model->checkpoint,
            qmi_weight_dense(p->stacks.of[kind], expert),
            qmi_expert_source_bytes(p->stacks.of[kind]), err));
    return QMOE_OK;
}

/* A hint: it cannot fail, and nothing depends on it. */
void qmi_expert_announce(const qmi_expert_pass *p, int64_t expert)
{
    for (int kind = 0; kind < p->stacks.n; kind++)
        qmi_map_will_need(qmi_weight_dense(p->stacks.of[kind], expert),
            qmi_expert_source_bytes(p->stacks.of[kind]));
}

/* Called after the last use of an expert: the rest of the run does not need it,
 * and the source may be larger than the memory. */
void qmi_expert_release(const qmi_expert_pass *p, int64_t expert)
{
    for (int kind = 0; kind < p->stacks.n; kind++)
        qmi_checkpoint_release(p->model->checkpoint,
            qmi_weight_dense(p->stacks.of[kind], expert),
            qmi_expert_source_bytes(p->stacks.of[kind]));
}

qmoe_status qmi_expert_weights(float **out, const qmi_expert_pass *p,
    qmi_expert_worker *w, int kind, int64_t expert)
{
    const qmi_weight *stack = p->stacks.of[kind];
    size_t n = (size_t)(stack->n_rows * stack->n_cols);
    *out = qmi_calloc(n, sizeof **out, "a matrix", &w->error);
    if (*out == NULL)
        return QMOE_E_NOMEM;
    qmi_weight_decode(stack, expert, 0, stack->n_rows, *out);
    return QMOE_OK;
}

qmoe_status qmi_expert_blame(const qmi_expert_pass *p, qmi_expert_worker *w,
    int kind, int64_t expert, qmoe_status status)
{
    /* Other failures, such as lack of memory, are not the weight's. */
    if (status != QMOE_E_FORMAT)
        return status;
    return qmi_error_prefix(&w->error, status, "%s: '%s', expert %lld",
        qmi_checkpoint_directory(p->model->checkpoint),
        p->stacks.of[kind]->name, (long long)expert);
}

/* ---- what is done ---- */

static void add(qmi_expert_tally *sum, const qmi_expert_tally *more)
{
    sum->n_experts += more->n_experts;
    sum->n_matrices += more->n_matrices;
    sum->n_weights += more->n_weights;
    sum->n_tokens += more->n_tokens;
    sum->error += more->error;
}

/* Workers count at the same time, and the calling thread reads. */
void qmi_expert_count(qmi_expert_pass *p, const qmi_expert_tally *more)
{
    pthread_mutex_lock(&p->lock);
    add(&p->tally, more);
    pthread_mutex_unlock(&p->lock);
}

void qmi_expert_count_matrix(qmi_expert_pass *p, qmi_expert_worker *w, int kind,
    const qmi_quant_result *quality)
{
    const qmi_weight *stack = p->stacks.of[kind];
    /* A matrix of zeros, or inputs of zeros, has no relative error: it counts
     * as exact. */
    const qmi_expert_tally more = {
        .n_matrices = 1,
        .n_weights = stack->n_rows * stack->n_cols,
        .error = quality->energy > 0 ? quality->error / quality->energy : 0,
    };
    pthread_mutex_lock(&p->lock);
    add(&p->tally, &more);
    /* Under the lock: whoever reads the tally must not see the matrix both as
     * weights at hand and as done. */
    atomic_store(&w->n_coded, 0);
    pthread_mutex_unlock(&p->lock);
}

/* ---- experts at the same time ---- */

/* A status and an error per item, since a worker goes on to other items after a
 * failure. */
typedef struct group {
    const qmi_expert_loop *loop;
    qmoe_status *status; /* [n] */
    qmi_error *errors;   /* [n] */
} group;

static void visit_item(void *user, int64_t item, int thread)
{
    const group *g = user;
    qmi_expert_pass *p = g->loop->pass;
    qmi_expert_worker *w = &p->workers[thread];
    g->status[item] = g->loop->visit(g->loop->user, w, item);
    /* The worker's error is written over by its next item. */
    if (g->status[item] != QMOE_OK)
        g->errors[item] = w->error;
}

/* Runs in the calling thread; NULL: the caller only waits. */
static qmoe_status watch_group(void *user)
{
    const qmi_expert_pass *p = ((const group *)user)->loop->pass;
    return p->watch != NULL ? p->watch(p->watcher) : QMOE_OK;
}

static qmoe_status run_group(const group *g, qmi_error *err)
{
    const qmi_loop all = {
        .n_threads = g->loop->pass->n_workers,
        .n_items = g->loop->n,
        .work = visit_item,
        .watch = watch_group,
        .user = (void *)(uintptr_t)g,
    };
    QMI_TRY(qmi_parallel(&all, err));
    /* In the order of the items, not of time: the message is the same for any
     * number of threads. */
    for (int64_t i = 0; i < g->loop->n; i++)
        if (g->status[i] != QMOE_OK)
            return qmi_fail(err, g->status[i], "%s", g->errors[i].text);
    return QMOE_OK;
}

/* Runs one group to its end: when this returns, no worker is at an item. */
qmoe_status qmi_expert_loop_run(const qmi_expert_loop *loop, qmi_error *err)
{
    const size_t n = (size_t)loop->n;
    group g = {.loop = loop,
        .status = qmi_calloc(n, sizeof *g.status, "a group", err),
        .errors = qmi_calloc(n, sizeof *g.errors, "a group", err)};
    qmoe_status status = QMOE_E_NOMEM;
    if (g.status != NULL && g.errors != NULL)
        status = run_group(&g, err);
    qmi_free(g.status);
    qmi_free(g.errors);
    return status;
}

/* ---- gathering ---- */

static qmi_view at(qmi_buffer *buffer)
{
    return (qmi_view){.buffer = buffer};
}

/* Rows of tokens, which lie scattered in the states, side by side in a buffer.
 * `routes` [n]: of each the token is meant. */
static qmoe_status gather(const qmi_expert_pass *p, qmi_expert_worker *w,
    qmi_buffer *to, const qmi_states *states, const int64_t *routes, int64_t n)
{
    const int64_t d_model = states->width;
    const int64_t top_k = p->step->u.expert_ffn.top_k;
    for (int64_t i = 0; i < n; i++)
        QMI_TRY(qmi_states_read(
            states, w->host + i * d_model, routes[i] / top_k, 1, &w->error));
    return p->backend->buffer_write(w->device, at(to), w->host,
        (uint64_t)(n * d_model) * sizeof(float), &w->error);
}

/* One product of the uncompressed expert. */
static qmoe_status product(const qmi_expert_pass *p, qmi_expert_worker *w,
    qmi_buffer *dst, int kind, qmi_act act, int64_t expert, int64_t n)
{
    const qmi_op op = {.kind = QMI_OP_LINEAR,
        .u.linear = {.dst = at(dst),
            .src = at(w->input),
            .weight = &p->bound[kind],
            .mat = expert,
            .n_tokens = n,
            .alpha = 1.0f,
            .act = act}};
    return qmi_run(p->backend, w->device, &op, &w->error);
}

/* Hidden activations of the uncompressed expert, act(up x) or
 * act(gate x) * up x: the inputs that its last matrix is calibrated on (as in
 * the paper's code). */
static qmoe_status hidden(
    const qmi_expert_pass *p, qmi_expert_worker *w, int64_t expert, int64_t n)
{
    const qmi_act act = p->step->u.expert_ffn.act;
    if (p->stacks.n <= QMI_EXPERT_GATE)
        return product(p, w, w->hidden, QMI_EXPERT_UP, act, expert, n);
    QMI_TRY(product(p, w, w->hidden, QMI_EXPERT_UP, QMI_ACT_NONE, expert, n));
    QMI_TRY(product(p, w, w->gate, QMI_EXPERT_GATE, QMI_ACT_NONE, expert, n));
    const int64_t d_ff = p->stacks.of[QMI_EXPERT_UP]->n_rows;
    const qmi_op op = {.kind = QMI_OP_GLU,
        .u.glu = {.dst = at(w->hidden),
            .up = at(w->hidden),
            .gate = at(w->gate),
            .n_tokens = n,
            .n_cols = d_ff,
            .n_gate_cols = d_ff,
            .act = act}};
    return qmi_run(p->backend, w->device, &op, &w->error);
}

/* The first n floats of w->host, which are what `what` says of an expert. */
static qmoe_status check_host(const qmi_expert_pass *p, qmi_expert_worker *w,
    int kind, int64_t expert, int64_t n, const char *what)
{
    const size_t n_floats = (size_t)n;
    /* A NaN that reached the moments would turn into a matrix that cannot be
     * factored, far from its cause. */
    if (qmi_first_non_finite(w->host, QMI_F32, n_floats) == n_floats)
        return QMOE_OK;
    qmi_fail(&w->error, QMOE_E_FORMAT, "%s are not finite", what);
    return qmi_expert_blame(p, w, kind, expert, QMOE_E_FORMAT);
}

/* An input for a chunk of tokens, in w->host. */
static qmoe_status inputs(const qmi_expert_pass *p, qmi_expert_worker *w,
    qmi_expert_input input, int64_t expert, const int64_t *routes, int64_t n)
{
    const int kind = qmi_expert_last_kind(&p->stacks, input);
    const int64_t width = p->stacks.of[kind]->n_cols;
    const bool is_hidden = input == QMI_INPUT_HIDDEN;
    QMI_TRY(gather(p, w, w->input, &p->forward->inputs, routes, n));
    if (is_hidden)
        QMI_TRY(hidden(p, w, expert, n));
    QMI_TRY(p->backend->buffer_read(w->device, w->host,
        at(is_hidden ? w->hidden : w->input),
        (uint64_t)(n * width) * sizeof(float), &w->error));
    return check_host(p, w, kind, expert, n * width, "inputs");
}

/* Tokens that enter moments together, and the square roots of their weights. */
typedef struct chunk {
    int64_t n, routes[QMI_CHUNK_TOKENS];
    float factors[QMI_CHUNK_TOKENS];
} chunk;

static qmoe_status add_chunk(const qmi_expert_pass *p, qmi_expert_worker *w,
    qmi_expert_input input, int64_t expert, qmi_hessian *hessian, chunk *c)
{
    const int64_t width = hessian->n_cols;
    if (c->n == 0)
        return QMOE_OK;
    QMI_TRY(inputs(p, w, input, expert, c->routes, c->n));
    for (int64_t i = 0; i < c->n; i++)
        for (int64_t j = 0; j < width; j++)
            w->host[i * width + j] *= c->factors[i];
    QMI_TRY(qmi_hessian_add(hessian, w->host, c->n, &w->error));
    c->n = 0;
    return QMOE_OK;
}

/* The error of an expert's output reaches the model times the route's weight, so
 * its square weighs the token in the sum of squared errors. */
static float factor_of(const qmi_expert_pass *p, int64_t token, float route)
{
    const float *weight = p->forward->calibration->sets[p->program].weight;
    return sqrtf(weight[token]) * (p->options.by_route ? route : 1);
}

/* Of a route to the expert that a borrowed token does not have: less than its
 * own tokens have, since others are more like them.  Measured with weights 1, 0.3
 * and 0.1. */
static const float borrowed_weight = 0.3f;

/* Tokens that went elsewhere, evenly spread over the block's. */
static qmoe_status borrow(const qmi_expert_pass *p, qmi_expert_worker *w,
    qmi_expert_input input, int64_t expert, qmi_hessian *hessian, int64_t n)
{
    const qmi_token_set *set = &p->forward->calibration->sets[p->program];
    const int64_t n_tokens = set->n_tokens;
    chunk c = {0};
    if (n > n_tokens)
        n = n_tokens;
    for (int64_t i = 0; i < n; i++) {
        /* The middle of part i of n; the product fits, as both are counts of
         * rows in memory. */
        const int64_t token = (2 * i + 1) * n_tokens / (2 * n);
        if (set->weight[token] == 0)
            continue;
        c.factors[c.n] =
            sqrtf(borrowed_weight) * factor_of(p, token, p->mean_route);
        c.routes[c.n++] = token * p->step->u.expert_ffn.top_k;
        if (c.n == QMI_CHUNK_TOKENS)
            QMI_TRY(add_chunk(p, w, input, expert, hessian, &c));
    }
    return add_chunk(p, w, input, expert, hessian, &c);
}

/* A token that is not counted, or past the cap, still moves on through the
 * expert; it only leaves no trace in the moments. */
qmoe_status qmi_expert_moments(const qmi_expert_pass *p, qmi_expert_worker *w,
    qmi_expert_input input, int64_t expert, qmi_hessian *hessian,
    int64_t *n_counted)
{
    const float *weight = p->forward->calibration->sets[p->program].weight;
    const int64_t top_k = p->step->u.expert_ffn.top_k;
    const int64_t end = p->begin[expert + 1];
    chunk c = {0};
    *n_counted = 0;
    for (int64_t i = p->begin[expert]; i < end && *n_counted < p->cap; i++) {
        const int64_t route = p->order[i];
        if (weight[route / top_k] == 0)
            continue;
        c.factors[c.n] = factor_of(p, route / top_k, p->forward->weight[route]);
        c.routes[c.n++] = route;
        ++*n_counted;
        if (c.n == QMI_CHUNK_TOKENS)
            QMI_TRY(add_chunk(p, w, input, expert, hessian, &c));
    }
    QMI_TRY(add_chunk(p, w, input, expert, hessian, &c));
    if (p->options.borrows && *n_counted < hessian->n_cols)
        QMI_TRY(
            borrow(p, w, input, expert, hessian, hessian->n_cols - *n_counted));
    return qmi_hessian_finish(hessian, &w->error);
}

/* ---- moving on ---- */

/* Tokens of one expert through matrix `mat` of weights that are bound. */
typedef struct passage {
    qmi_expert_pass *pass;
    qmi_bound_weight bound[QMI_MAX_EXPERT_MATRICES];
    int64_t mat, expert;
} passage;

/* residual += weight * expert(input), in place, for one chunk. */
static qmoe_status apply(
    const passage *g, qmi_expert_worker *w, const int64_t *routes, int64_t n)
{
    const qmi_expert_pass *p = g->pass;
    const int64_t d_model = p->model->shape.d_model;
    int32_t experts[QMI_CHUNK_TOKENS];
    float weights[QMI_CHUNK_TOKENS];
    /* All items of this operation are of one expert: matrix `mat` of the stacks
     * given, which hold one expert or a group. */
    for (int64_t i = 0; i < n; i++) {
        experts[i] = (int32_t)g->mat;
        weights[i] = p->forward->weight[routes[i]];
    }
    QMI_TRY(gather(p, w, w->input, &p->forward->inputs, routes, n));
    QMI_TRY(
        gather(p, w, w->residual, &p->forward->states[p->program], routes, n));
    QMI_TRY(p->backend->buffer_write(w->device, at(w->expert), experts,
        (uint64_t)n * sizeof *experts, &w->error));
    QMI_TRY(p->backend->buffer_write(w->device, at(w->weight), weights,
        (uint64_t)n * sizeof *weights, &w->error));
    const qmi_op op = {.kind = QMI_OP_EXPERT_FFN,
        .u.expert_ffn = {.dst = at(w->residual),
            .src = at(w->input),
            .residual = at(w->residual),
            .expert = at(w->expert),
            .weight = at(w->weight),
            .act = p->step->u.expert_ffn.act,
            .up = &g->bound[QMI_EXPERT_UP],
            .down = &g->bound[QMI_EXPERT_DOWN],
            .gate = p->stacks.n > QMI_EXPERT_GATE ? &g->bound[QMI_EXPERT_GATE]
                                                  : NULL,
            .n_tokens = n,
            .top_k = 1}};
    QMI_TRY(qmi_run(p->backend, w->device, &op, &w->error));
    return p->backend->buffer_read(w->device, w->host, at(w->residual),
        (uint64_t)(n * d_model) * sizeof(float), &w->error);
}

/* Chunk number `item` of the expert's tokens.  A token has an expert once, so no
 * other worker touches these rows. */
static qmoe_status apply_chunk(void *user, qmi_expert_worker *w, int64_t item)
{
    const passage *g = user;
    qmi_expert_pass *p = g->pass;
    const int64_t d_model = p->model->shape.d_model;
    const int64_t top_k = p->step->u.expert_ffn.top_k;
    const int64_t first = p->begin[g->expert] + item * QMI_CHUNK_TOKENS;
    const int64_t rest = p->begin[g->expert + 1] - first;
    const int64_t n = rest < QMI_CHUNK_TOKENS ? rest : QMI_CHUNK_TOKENS;
    const int64_t *routes = p->order + first;
    QMI_TRY(apply(g, w, routes, n));
    /* Before anything is stored: rows are changed in place, so a bad one could
     * not be taken back. */
    QMI_TRY(
        check_host(p, w, QMI_EXPERT_DOWN, g->expert, n * d_model, "results"));
    for (int64_t i = 0; i < n; i++)
        QMI_TRY(qmi_states_write(&p->forward->states[p->program],
            w->host + i * d_model, routes[i] / top_k, 1, &w->error));
    qmi_expert_count(p, &(qmi_expert_tally){.n_tokens = n});
    return QMOE_OK;
}

qmoe_status qmi_expert_apply(qmi_expert_pass *p, const qmi_weight *stacks,
    int64_t mat, int64_t expert, qmi_error *err)
{
    /* The encoded weights are host memory, which host backends bind by
     * reference: the devices of all workers share these bindings, and a failure
     * leaves nothing behind. */
    qmi_device *device = p->workers[0].device;
    const int64_t n_tokens = p->begin[expert + 1] - p->begin[expert];
    passage g = {.pass = p, .mat = mat, .expert = expert};
    const qmi_expert_loop loop = {.pass = p,
        .n = (n_tokens + QMI_CHUNK_TOKENS - 1) / QMI_CHUNK_TOKENS,
        .visit = apply_chunk,
        .user = &g};
    for (int kind = 0; kind < p->stacks.n; kind++)
        QMI_TRY(p->backend->weight_bind(
            &g.bound[kind], device, &stacks[kind], err));
    qmoe_status status = qmi_expert_loop_run(&loop, err);
    for (int kind = 0; kind < p->stacks.n; kind++)
        p->backend->weight_unbind(device, &g.bound[kind]);
    return status;
}
