/* SPDX-License-Identifier: Apache-2.0
 * In: an expert's number in the block at hand, and the residual rows of its
 * tokens.  Out: second moments of the inputs of wi or wo, or the rows moved on
 * through an encoded expert.  Tokens are taken in chunks of QMI_CHUNK_TOKENS in
 * their order, so that each sum has one order, and a worker's memory does not
 * grow with them.  What is not finite is refused before it is summed or
 * stored. */
#include "expert_tokens.h"

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
    for (int kind = 0; kind < QMI_N_KINDS; kind++)
        QMI_TRY(qmi_checkpoint_fetch(p->model->checkpoint,
            qmi_weight_dense(p->stacks[kind], expert),
            qmi_expert_source_bytes(p->stacks[kind]), err));
    return QMOE_OK;
}

/* A hint: it cannot fail, and nothing depends on it. */
void qmi_expert_announce(const qmi_expert_pass *p, int64_t expert)
{
    for (int kind = 0; kind < QMI_N_KINDS; kind++)
        qmi_map_will_need(qmi_weight_dense(p->stacks[kind], expert),
            qmi_expert_source_bytes(p->stacks[kind]));
}

/* Called after the last use of an expert: the rest of the run does not need it,
 * and the source may be larger than the memory. */
void qmi_expert_release(const qmi_expert_pass *p, int64_t expert)
{
    for (int kind = 0; kind < QMI_N_KINDS; kind++)
        qmi_checkpoint_release(p->model->checkpoint,
            qmi_weight_dense(p->stacks[kind], expert),
            qmi_expert_source_bytes(p->stacks[kind]));
}

qmoe_status qmi_expert_weights(float **out, const qmi_expert_pass *p,
    qmi_expert_worker *w, int kind, int64_t expert)
{
    const qmi_weight *stack = p->stacks[kind];
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
        qmi_checkpoint_directory(p->model->checkpoint), p->stacks[kind]->name,
        (long long)expert);
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
    const qmi_weight *stack = p->stacks[kind];
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
    else
        qmi_expert_count(p, &(qmi_expert_tally){.n_experts = 1});
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

/* Rows of the residual stream of tokens[n] into the residual buffer, and their
 * norm, the experts' input, into the normed buffer.  The norm is recomputed
 * here: storing it would take a second array of states. */
static qmoe_status gather(const qmi_expert_pass *p, qmi_expert_worker *w,
    const int64_t *tokens, int64_t n)
{
    int64_t d_model = p->model->shape.d_model;
    const qmi_states *states = &p->forward->states[p->program];
    /* Row by row: the tokens of an expert lie scattered in the states. */
    for (int64_t i = 0; i < n; i++)
        QMI_TRY(qmi_states_read(
            states, w->host + i * d_model, tokens[i], 1, &w->error));
    QMI_TRY(p->backend->buffer_write(w->device, at(w->residual), w->host,
        (uint64_t)(n * d_model) * sizeof(float), &w->error));
    const qmi_op norm = {.kind = QMI_OP_RMSNORM,
        .u.rmsnorm = {.dst = at(w->normed),
            .src = at(w->residual),
            .weight = &p->bound_norm,
            .n_tokens = n,
            .epsilon = p->norm->u.rmsnorm.epsilon}};
    return qmi_run(p->backend, w->device, &norm, &w->error);
}

/* Hidden activations of the uncompressed expert: relu(wi x), the inputs that wo
 * is calibrated on (as in the paper's code). */
static qmoe_status hidden(
    const qmi_expert_pass *p, qmi_expert_worker *w, int64_t expert, int64_t n)
{
    const qmi_op op = {.kind = QMI_OP_LINEAR,
        .u.linear = {.dst = at(w->hidden),
            .src = at(w->normed),
            .weight = &p->bound_wi,
            .mat = expert,
            .n_tokens = n,
            .alpha = 1.0f,
            .act = QMI_ACT_RELU}};
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

/* Inputs of wi or wo for a chunk of tokens, in w->host. */
static qmoe_status inputs(const qmi_expert_pass *p, qmi_expert_worker *w,
    int kind, int64_t expert, const int64_t *tokens, int64_t n)
{
    int64_t width = p->stacks[kind]->n_cols;
    QMI_TRY(gather(p, w, tokens, n));
    if (kind == QMI_WO)
        QMI_TRY(hidden(p, w, expert, n));
    QMI_TRY(p->backend->buffer_read(w->device, w->host,
        at(kind == QMI_WO ? w->hidden : w->normed),
        (uint64_t)(n * width) * sizeof(float), &w->error));
    return check_host(p, w, kind, expert, n * width, "inputs");
}

/* A token that is not counted, or past the cap, still moves on through the
 * expert; it only leaves no trace in the moments. */
qmoe_status qmi_expert_moments(const qmi_expert_pass *p, qmi_expert_worker *w,
    int kind, int64_t expert, qmi_hessian *hessian)
{
    const uint8_t *counted = p->forward->calibration->sets[p->program].counted;
    int64_t chunk[QMI_CHUNK_TOKENS];
    int64_t n = 0, n_used = 0;
    for (int64_t i = p->begin[expert]; i < p->begin[expert + 1]; i++) {
        if (n_used < p->cap && counted[p->order[i]]) {
            chunk[n++] = p->order[i];
            n_used++;
        }
        /* A full chunk, or the rest behind the last token.  The last token
         * itself need not be counted. */
        if (n == QMI_CHUNK_TOKENS ||
            (n != 0 && i + 1 == p->begin[expert + 1])) {
            QMI_TRY(inputs(p, w, kind, expert, chunk, n));
            QMI_TRY(qmi_hessian_add(hessian, w->host, n, &w->error));
            n = 0;
        }
    }
    return qmi_hessian_finish(hessian, &w->error);
}

/* residual += weight * expert(normed), in place, for one chunk. */
static qmoe_status apply_chunk(const qmi_expert_pass *p, qmi_expert_worker *w,
    const qmi_bound_weight *wi, const qmi_bound_weight *wo, int64_t mat,
    int64_t expert, const int64_t *tokens, int64_t n)
{
    int64_t d_model = p->model->shape.d_model;
    const qmi_states *states = &p->forward->states[p->program];
    int32_t experts[QMI_CHUNK_TOKENS];
    float weights[QMI_CHUNK_TOKENS];
    /* All items of this operation are of one expert: matrix `mat` of the stacks
     * given, which hold one expert or a group. */
    for (int64_t i = 0; i < n; i++) {
        experts[i] = (int32_t)mat;
        weights[i] = p->forward->weight[tokens[i]];
    }
    QMI_TRY(gather(p, w, tokens, n));
    QMI_TRY(p->backend->buffer_write(w->device, at(w->expert), experts,
        (uint64_t)n * sizeof *experts, &w->error));
    QMI_TRY(p->backend->buffer_write(w->device, at(w->weight), weights,
        (uint64_t)n * sizeof *weights, &w->error));
    const qmi_op op = {.kind = QMI_OP_EXPERT_FFN,
        .u.expert_ffn = {.dst = at(w->residual),
            .src = at(w->normed),
            .residual = at(w->residual),
            .expert = at(w->expert),
            .weight = at(w->weight),
            .act = QMI_ACT_RELU,
            .up = wi,
            .down = wo,
            .n_tokens = n,
            .top_k = 1}};
    QMI_TRY(qmi_run(p->backend, w->device, &op, &w->error));
    QMI_TRY(p->backend->buffer_read(w->device, w->host, at(w->residual),
        (uint64_t)(n * d_model) * sizeof(float), &w->error));
    /* Before anything is stored: rows are changed in place, so a bad one could
     * not be taken back. */
    QMI_TRY(check_host(p, w, QMI_WO, expert, n * d_model, "results"));
    /* No other worker touches these rows: with one expert per token each token
     * is in one expert's list. */
    for (int64_t i = 0; i < n; i++)
        QMI_TRY(qmi_states_write(
            states, w->host + i * d_model, tokens[i], 1, &w->error));
    return QMOE_OK;
}

qmoe_status qmi_expert_apply(qmi_expert_pass *p, qmi_expert_worker *w,
    const qmi_weight *wi, const qmi_weight *wo, int64_t mat, int64_t expert)
{
    /* The encoded weights are host memory, which host backends bind by
     * reference: a failure between the two leaves nothing behind. */
    qmi_bound_weight bound_wi, bound_wo;
    QMI_TRY(p->backend->weight_bind(&bound_wi, w->device, wi, &w->error));
    QMI_TRY(p->backend->weight_bind(&bound_wo, w->device, wo, &w->error));
    qmoe_status status = QMOE_OK;
    /* begin and order come from sort_tokens, so the last chunk ends at the
     * expert's border. */
    int64_t end = p->begin[expert + 1];
    for (int64_t i = p->begin[expert]; status == QMOE_OK && i < end;
         i += QMI_CHUNK_TOKENS) {
        int64_t n = end - i < QMI_CHUNK_TOKENS ? end - i : QMI_CHUNK_TOKENS;
        status = apply_chunk(
            p, w, &bound_wi, &bound_wo, mat, expert, p->order + i, n);
        qmi_expert_count(p, &(qmi_expert_tally){.n_tokens = n});
    }
    p->backend->weight_unbind(w->device, &bound_wi);
    p->backend->weight_unbind(w->device, &bound_wo);
    return status;
}
