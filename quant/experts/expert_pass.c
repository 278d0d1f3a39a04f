/* SPDX-License-Identifier: Apache-2.0
 * In: a sparse block whose tokens have been taken up to its experts and routed
 * (forward.h), and the uncompressed experts.  Out: the encoded matrices, and
 * the tokens' states moved on through them.  One worker compresses an expert in
 * a fixed order, with sums over chunks of one size.  Then the experts of the
 * group add to their tokens one after the other; within one, no two workers
 * write the same row.  So the bytes depend neither on threads nor on groups. */
#include "expert_pass.h"

#include <math.h>
#include <string.h>

#include "alloc.h"
#include "context.h"
#include "expert_tokens.h"
#include "hessian.h"

/* Calibration tokens per expert are cut at this multiple of the mean (paper
 * section 3.2). */
enum { TOKEN_CAP = 4 };

/* ---- creation ---- */

/* Of the experts of all blocks. */
static int64_t widest_hidden(const qmoe_model *m)
{
    int64_t most = 0;
    for (int32_t i = 0; i < m->n_blocks; i++)
        if (qmi_block_is_sparse(&m->blocks[i]) && m->blocks[i].ffn.d_ff > most)
            most = m->blocks[i].ffn.d_ff;
    return most;
}

static int64_t widest(const qmoe_model *m)
{
    const int64_t hidden = widest_hidden(m);
    return m->shape.d_model > hidden ? m->shape.d_model : hidden;
}

/* A worker is a device of one thread with buffers for one chunk: experts are
 * the unit of parallelism, so nothing inside one is cut further.  Its own error
 * keeps workers from writing into each other's text. */
static qmoe_status worker_open(
    const qmi_expert_pass *p, qmi_expert_worker *w, qmi_error *err)
{
    const qmoe_model *m = p->model;
    const qmi_device_options options = {.n_threads = 1, .exact_inputs = true};
    const uint64_t row = QMI_CHUNK_TOKENS * sizeof(float);
    w->error = qmi_error_beside(err);
    QMI_TRY(p->backend->device_open(&w->device, 0, &options, err));
    struct {
        qmi_buffer **buffer;
        uint64_t n_bytes;
    } const buffers[] = {
        {&w->residual, row * (uint64_t)m->shape.d_model},
        {&w->input, row * (uint64_t)m->shape.d_model},
        {&w->hidden, row * (uint64_t)widest_hidden(m)},
        {&w->gate, row * (uint64_t)widest_hidden(m)},
        {&w->expert, row},
        {&w->weight, row},
    };
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        QMI_TRY(p->backend->buffer_alloc(
            buffers[i].buffer, w->device, buffers[i].n_bytes, err));
    w->host = qmi_calloc((size_t)(QMI_CHUNK_TOKENS * widest(m)),
        sizeof *w->host, "gathered tokens", err);
    return w->host != NULL ? QMOE_OK : QMOE_E_NOMEM;
}

/* Freeing NULL buffers is allowed, so a worker that was opened halfway is
 * closed here, too. */
static void worker_close(const qmi_expert_pass *p, qmi_expert_worker *w)
{
    if (w->device == NULL)
        return;
    qmi_buffer *const buffers[] = {
        w->residual, w->input, w->hidden, w->gate, w->expert, w->weight};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        p->backend->buffer_free(w->device, buffers[i]);
    p->backend->device_close(w->device);
    qmi_free(w->host);
}

static qmoe_status set_up(qmi_expert_pass *p, qmi_error *err)
{
    QMI_TRY(qmi_registry_find(qmi_context_of(p->model->hooks)->registry,
        &p->backend, QMI_HOST_BACKEND, err));
    p->workers = qmi_calloc(
        (size_t)p->options.n_workers, sizeof *p->workers, "workers", err);
    if (p->workers == NULL)
        return QMOE_E_NOMEM;
    /* n_workers counts those that are complete; qmi_expert_pass_destroy visits
     * the others, too, since the array begins as zeros. */
    for (; p->n_workers < p->options.n_workers; p->n_workers++)
        QMI_TRY(worker_open(p, &p->workers[p->n_workers], err));
    return QMOE_OK;
}

qmoe_status qmi_expert_pass_create(qmi_expert_pass **out, qmoe_model *model,
    qmi_forward *forward, const qmi_expert_pass_options *options,
    qmi_error *err)
{
    *out = NULL;
    qmi_expert_pass *p = qmi_calloc(1, sizeof *p, "the expert pass", err);
    if (p == NULL)
        return QMOE_E_NOMEM;
    p->model = model;
    p->forward = forward;
    p->options = *options;
    pthread_mutex_init(&p->lock, NULL);
    qmoe_status status = set_up(p, err);
    if (status != QMOE_OK) {
        qmi_expert_pass_destroy(p);
        return status;
    }
    *out = p;
    return QMOE_OK;
}

void qmi_expert_pass_destroy(qmi_expert_pass *pass)
{
    if (pass == NULL)
        return;
    /* A worker that failed to open halfway is closed too. */
    for (int i = 0; pass->workers != NULL && i < pass->options.n_workers; i++)
        worker_close(pass, &pass->workers[i]);
    pthread_mutex_destroy(&pass->lock);
    qmi_free(pass->workers);
    qmi_free(pass->order);
    qmi_free(pass->begin);
    qmi_free(pass);
}

/* A matrix in f32, its moments, and the quantiser: all that lives at the same
 * time. */
static uint64_t matrix_bytes(const qmi_weight *stack,
    const qmi_stack_recipe *recipe, bool calibrated, bool keeps)
{
    const uint64_t n_cols = (uint64_t)stack->n_cols;
    uint64_t bytes = (uint64_t)stack->n_rows * n_cols * sizeof(float);
    bytes += recipe->quantiser->work_bytes(
        stack->n_rows, stack->n_cols, calibrated, &recipe->quant);
    if (calibrated)
        bytes += qmi_hessian_bytes(stack->n_cols);
    /* The first of several that take them may not use up the moments. */
    if (calibrated && keeps)
        bytes += n_cols * n_cols * sizeof(double);
    return bytes;
}

/* One matrix is worked on after the other, so a worker needs room for the
 * largest one.  The originals of all matrices are in memory for as long as the
 * expert is worked on. */
uint64_t qmi_expert_pass_worker_bytes(const qmoe_model *model,
    const qmi_expert_stacks *stacks, const qmi_stack_recipe *recipes,
    bool calibrated, bool trials)
{
    const uint64_t wide = (uint64_t)widest(model);
    uint64_t most = 0, originals = 0;
    for (int kind = 0; kind < stacks->n; kind++) {
        const bool shared =
            qmi_expert_last_kind(stacks, qmi_expert_input_of(kind)) != kind;
        const uint64_t n = matrix_bytes(
            stacks->of[kind], &recipes[kind], calibrated, trials || shared);
        most = n > most ? n : most;
        originals += qmi_expert_source_bytes(stacks->of[kind]);
    }
    if (calibrated) /* rows of each width for the buffers, and work space */
        most += QMI_CHUNK_TOKENS * wide * 8 * sizeof(float);
    return most + originals;
}

/* ---- one block ---- */

/* Counting sort of the block's routes by expert.  It is stable: within an
 * expert tokens keep their order, so that its sums have one order, too. */
static qmoe_status sort_tokens(qmi_expert_pass *p, qmi_error *err)
{
    const int64_t n_experts = p->stacks.of[0]->n_mats;
    qmi_free(p->order);
    qmi_free(p->begin);
    p->order = NULL;
    p->begin = qmi_calloc(
        (size_t)n_experts + 1, sizeof *p->begin, "tokens by expert", err);
    if (p->begin == NULL)
        return QMOE_E_NOMEM;
    if (p->forward == NULL)
        return QMOE_OK;
    const int64_t n_routes =
        p->forward->calibration->sets[p->program].n_tokens *
        p->step->u.expert_ffn.top_k;
    p->order =
        qmi_calloc((size_t)n_routes, sizeof *p->order, "tokens by expert", err);
    if (p->order == NULL)
        return QMOE_E_NOMEM;
    const int32_t *expert = p->forward->expert;
    for (int64_t r = 0; r < n_routes; r++)
        p->begin[expert[r] + 1]++;
    for (int64_t e = 0; e < n_experts; e++)
        p->begin[e + 1] += p->begin[e];
    /* begin[e] runs to the end of expert e here, which is where e + 1 begins;
     * the loop below moves the borders back. */
    for (int64_t r = 0; r < n_routes; r++)
        p->order[p->begin[expert[r]]++] = r;
    for (int64_t e = n_experts; e > 0; e--)
        p->begin[e] = p->begin[e - 1];
    p->begin[0] = 0;
    double squares = 0;
    for (int64_t r = 0; r < n_routes; r++)
        squares += (double)p->forward->weight[r] * p->forward->weight[r];
    p->mean_route = (float)sqrt(squares / (double)n_routes);
    /* The same number for all experts of the block: a multiple of the mean, but
     * with few tokens each expert keeps one that it has. */
    p->cap = TOKEN_CAP * n_routes / n_experts;
    if (p->cap == 0)
        p->cap = 1;
    return QMOE_OK;
}

/* Without a forward pass the borders stay zero: no expert has tokens. */
qmoe_status qmi_expert_pass_block(
    qmi_expert_pass *pass, int32_t block, qmi_error *err)
{
    const qmoe_model *m = pass->model;
    /* Both exist: the caller visits sparse blocks only. */
    pass->step = qmi_expert_step(m, block);
    pass->stacks = qmi_expert_stacks_of(m, block);
    pass->program = m->blocks[block].program;
    /* Host backends bind by reference; nothing to release.  For the same reason
     * the devices of all workers share these bindings. */
    for (int kind = 0; pass->forward != NULL && kind < pass->stacks.n; kind++)
        QMI_TRY(pass->backend->weight_bind(&pass->bound[kind],
            pass->workers[0].device, pass->stacks.of[kind], err));
    return sort_tokens(pass, err);
}

void qmi_expert_pass_recipe(
    qmi_expert_pass *pass, int kind, const qmi_stack_recipe *recipe)
{
    pass->recipes[kind] = *recipe;
}

void qmi_expert_pass_watch(
    qmi_expert_pass *pass, qmoe_status (*watch)(void *user), void *user)
{
    pass->watch = watch;
    pass->watcher = user;
    pass->tally = (qmi_expert_tally){0};
}

/* What is finished and what the workers have coded of the matrices at hand.
 * The lock makes sure that a matrix is in one of the two:
 * qmi_expert_count_matrix moves it under the same lock. */
void qmi_expert_pass_tally(qmi_expert_pass *pass, qmi_expert_tally *out)
{
    pthread_mutex_lock(&pass->lock);
    *out = pass->tally;
    for (int i = 0; i < pass->n_workers; i++)
        out->n_weights += atomic_load(&pass->workers[i].n_coded);
    pthread_mutex_unlock(&pass->lock);
}

/* ---- one expert ---- */

/* From the original to the bytes of the format.  `hessian` NULL: rounded to
 * nearest. */
static qmoe_status quantise(qmi_expert_pass *p, qmi_expert_worker *w, int kind,
    int64_t expert, const qmi_hessian *hessian, qmi_expert_result *result)
{
    const qmi_weight *stack = p->stacks.of[kind];
    const qmi_stack_recipe *recipe = &p->recipes[kind];
    /* A copy, since only this worker counts here. */
    qmi_quant_options options = recipe->quant;
    float *wide = NULL;
    options.n_coded = &w->n_coded;
    if (recipe->row_weights != NULL)
        options.row_weights = recipe->row_weights + expert * stack->n_rows;
    QMI_TRY(qmi_expert_weights(&wide, p, w, kind, expert));
    qmoe_status status =
        recipe->quantiser->run(&result->encoded[kind], &result->quality[kind],
            wide, stack->n_rows, stack->n_cols, hessian, &options, &w->error);
    qmi_free(wide);
    if (status == QMOE_OK)
        qmi_expert_count_matrix(p, w, kind, &result->quality[kind]);
    return qmi_expert_blame(p, w, kind, expert, status);
}

/* The matrices of one input, which share its moments.  An expert that got no
 * token has moments of no token, which no quantiser can use: it is rounded, and
 * the report says so. */
static qmoe_status compress_input(qmi_expert_pass *p, qmi_expert_worker *w,
    qmi_expert_input input, int64_t expert, qmi_expert_result *result)
{
    const int last = qmi_expert_last_kind(&p->stacks, input);
    qmi_hessian hessian;
    QMI_TRY(
        qmi_hessian_create(&hessian, p->stacks.of[last]->n_cols, &w->error));
    /* Equal for all inputs: the same tokens are counted. */
    qmoe_status status =
        qmi_expert_moments(p, w, input, expert, &hessian, &result->n_counted);
    for (int kind = 0; status == QMOE_OK && kind <= last; kind++) {
        if (qmi_expert_input_of(kind) != input)
            continue;
        /* Nobody reads the moments after the last one, which may factor them in
         * place. */
        hessian.expendable = kind == last;
        result->n_borrowed[kind] = hessian.n_tokens - result->n_counted;
        status = quantise(p, w, kind, expert, &hessian, result);
    }
    qmi_hessian_destroy(&hessian);
    return status;
}

qmi_weight qmi_encoded_weight(
    const qmi_encoded *encoded, uint64_t offsets[2], const qmi_quant_options *o)
{
    const qmi_format *format = encoded->format;
    qmi_weight w = {
        .format = format,
        .name = "a compressed expert",
        .n_mats = 1,
        .n_rows = encoded->n_rows,
        .n_cols = encoded->n_cols,
        .codebook = o->codebook,
        .rotation = o->rotation,
        .rotation_seed = o->rotation_seed,
    };
    /* The parts are not copied: the weight is valid as long as `encoded`. */
    for (int i = 0; i < format->n_parts; i++)
        w.parts[i] = (qmi_part){encoded->parts[i], encoded->part_bytes[i]};
    /* A stack has the borders of its matrices as a part.  The one matrix of an
     * encoded expert has none yet: they are made here. */
    if (format->variable) {
        unsigned bits =
            qmi_dtype_bits(format->parts[format->variable_part].dtype);
        offsets[0] = 0;
        offsets[1] = encoded->part_bytes[format->variable_part] * 8 / bits;
        w.parts[format->offsets_part] =
            (qmi_part){offsets, 2 * sizeof *offsets};
    }
    return w;
}

static qmoe_status compress_expert(qmi_expert_pass *p, qmi_expert_worker *w,
    int64_t expert, qmi_expert_result *result)
{
    result->n_tokens = p->begin[expert + 1] - p->begin[expert];
    if (p->forward != NULL) {
        for (int input = 0; input < QMI_N_EXPERT_INPUTS; input++)
            QMI_TRY(
                compress_input(p, w, (qmi_expert_input)input, expert, result));
        return QMOE_OK;
    }
    for (int kind = 0; kind < p->stacks.n; kind++)
        QMI_TRY(quantise(p, w, kind, expert, NULL, result));
    return QMOE_OK;
}

/* Originals are in memory only while their expert is worked on; the one that
 * the worker will probably take next is asked for. */
static qmoe_status take_expert(qmi_expert_pass *p, qmi_expert_worker *w,
    int64_t expert, qmi_expert_result *result)
{
    QMI_TRY(qmi_expert_fetch(p, expert, &w->error));
    /* Workers take items in order, so the expert n_workers ahead is likely this
     * worker's next.  Past the end of the group it is still needed: by the next
     * group. */
    if (expert + p->n_workers < p->stacks.of[0]->n_mats)
        qmi_expert_announce(p, expert + p->n_workers);
    qmoe_status status = compress_expert(p, w, expert, result);
    qmi_expert_release(p, expert);
    return status;
}

typedef struct request {
    qmi_expert_pass *pass;
    qmi_expert_result *results;
    int64_t first;
} request;

static qmoe_status take_item(void *user, qmi_expert_worker *w, int64_t item)
{
    const request *r = user;
    QMI_TRY(take_expert(r->pass, w, r->first + item, &r->results[item]));
    qmi_expert_count(r->pass, &(qmi_expert_tally){.n_experts = 1});
    return QMOE_OK;
}

/* By the calling thread, which hears of a wish to end between two experts. */
static qmoe_status apply_next(qmi_expert_pass *p, const qmi_weight *stacks,
    int64_t mat, int64_t expert, qmi_error *err)
{
    if (p->watch != NULL)
        QMI_TRY(p->watch(p->watcher));
    return qmi_expert_apply(p, stacks, mat, expert, err);
}

/* Tokens go through what was stored, not through the original: later blocks are
 * calibrated with the errors of earlier ones. */
static qmoe_status apply_result(qmi_expert_pass *p,
    const qmi_expert_result *result, int64_t expert, qmi_error *err)
{
    uint64_t offsets[QMI_MAX_EXPERT_MATRICES][2];
    qmi_weight stacks[QMI_MAX_EXPERT_MATRICES];
    for (int kind = 0; kind < p->stacks.n; kind++)
        stacks[kind] = qmi_encoded_weight(
            &result->encoded[kind], offsets[kind], &p->recipes[kind].quant);
    return apply_next(p, stacks, 0, expert, err);
}

/* All experts are compressed before the first one is applied: where a token has
 * several, they add to it in one order. */
qmoe_status qmi_expert_pass_run(qmi_expert_pass *pass,
    qmi_expert_result *results, int64_t first, int64_t n, qmi_error *err)
{
    request r = {.pass = pass, .results = results, .first = first};
    const qmi_expert_loop loop = {
        .pass = pass, .n = n, .visit = take_item, .user = &r};
    memset(results, 0, (size_t)n * sizeof *results);
    QMI_TRY(qmi_expert_loop_run(&loop, err));
    for (int64_t i = 0; pass->forward != NULL && i < n; i++)
        QMI_TRY(apply_result(pass, &results[i], first + i, err));
    return QMOE_OK;
}

qmoe_status qmi_expert_pass_replay(qmi_expert_pass *pass,
    const qmi_weight *stacks, int64_t first, int64_t n, qmi_error *err)
{
    for (int64_t i = 0; pass->forward != NULL && i < n; i++) {
        QMI_TRY(apply_next(pass, stacks, i, first + i, err));
        qmi_expert_count(pass, &(qmi_expert_tally){.n_experts = 1});
    }
    return QMOE_OK;
}
