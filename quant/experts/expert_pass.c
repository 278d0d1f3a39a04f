/* SPDX-License-Identifier: Apache-2.0
 * In: a sparse block whose tokens have been taken up to its experts and routed
 * (forward.h), and the uncompressed experts.  Out: the encoded matrices, and
 * the tokens' states moved on through them.  One worker does all of an expert
 * in a fixed order, with sums over chunks of one size; with one expert per
 * token no two workers write the same row.  So the bytes depend neither on
 * threads nor on groups. */
#include "expert_pass.h"

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
    const qmi_device_options options = {.n_threads = 1};
    const uint64_t row = QMI_CHUNK_TOKENS * sizeof(float);
    w->error = qmi_error_beside(err);
    QMI_TRY(p->backend->device_open(&w->device, 0, &options, err));
    struct {
        qmi_buffer **buffer;
        uint64_t n_bytes;
    } const buffers[] = {
        {&w->residual, row * (uint64_t)m->shape.d_model},
        {&w->normed, row * (uint64_t)m->shape.d_model},
        {&w->hidden, row * (uint64_t)widest_hidden(m)},
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
        w->residual, w->normed, w->hidden, w->expert, w->weight};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        p->backend->buffer_free(w->device, buffers[i]);
    p->backend->device_close(w->device);
    qmi_free(w->host);
}

/* Experts' input is made again from the residual stream, to which each expert
 * adds in place: a token of two experts would have its row changed by both, in
 * an order that depends on threads. */
static qmoe_status check_experts(const qmi_expert_pass *p, qmi_error *err)
{
    const qmoe_model *m = p->model;
    for (int32_t i = 0; p->forward != NULL && i < m->n_blocks; i++) {
        const qmi_block *block = &m->blocks[i];
        if (!qmi_block_is_sparse(block))
            continue;
        if (block->ffn.top_k != 1)
            return qmi_fail(err, QMOE_E_UNSUPPORTED,
                "calibration of models with more than one expert per token");
        if (qmi_expert_norm_step(m, i) == NULL)
            return qmi_fail(err, QMOE_E_UNSUPPORTED,
                "%s: calibration of experts that are not the last part of "
                "their block, or whose input is not the norm of what they add "
                "to (%s block %d)",
                qmi_checkpoint_directory(m->checkpoint),
                qmi_program_name(block->program), (int)block->number);
    }
    return QMOE_OK;
}

static qmoe_status set_up(qmi_expert_pass *p, qmi_error *err)
{
    QMI_TRY(check_experts(p, err));
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
    const qmi_stack_recipe *recipe, bool calibrated, bool trials)
{
    const uint64_t n_cols = (uint64_t)stack->n_cols;
    uint64_t bytes = (uint64_t)stack->n_rows * n_cols * sizeof(float);
    bytes += recipe->quantiser->work_bytes(
        stack->n_rows, stack->n_cols, calibrated, &recipe->quant);
    if (calibrated)
        bytes += qmi_hessian_bytes(stack->n_cols);
    /* Two formats are tried: the first may not use up the moments. */
    if (calibrated && trials)
        bytes += n_cols * n_cols * sizeof(double);
    return bytes;
}

/* One matrix is worked on after the other, so a worker needs room for the
 * larger one.  The originals of both matrices are in memory for as long as the
 * expert is worked on. */
uint64_t qmi_expert_pass_worker_bytes(const qmoe_model *model,
    const qmi_weight *const stacks[QMI_N_KINDS],
    const qmi_stack_recipe recipes[QMI_N_KINDS], bool calibrated, bool trials)
{
    const uint64_t wide = (uint64_t)widest(model);
    uint64_t most = 0, originals = 0;
    for (int kind = 0; kind < QMI_N_KINDS; kind++) {
        const uint64_t n =
            matrix_bytes(stacks[kind], &recipes[kind], calibrated, trials);
        most = n > most ? n : most;
        originals += qmi_expert_source_bytes(stacks[kind]);
    }
    if (calibrated) /* two rows of each width for the buffers, work space */
        most += QMI_CHUNK_TOKENS * wide * 6 * sizeof(float);
    return most + originals;
}

/* ---- one block ---- */

/* Counting sort of the block's tokens by expert.  It is stable: within an
 * expert tokens keep their order, so that its sums have one order, too. */
static qmoe_status sort_tokens(qmi_expert_pass *p, qmi_error *err)
{
    int64_t n_experts = p->stacks[QMI_WI]->n_mats;
    qmi_free(p->order);
    qmi_free(p->begin);
    p->order = NULL;
    p->begin = qmi_calloc(
        (size_t)n_experts + 1, sizeof *p->begin, "tokens by expert", err);
    if (p->begin == NULL)
        return QMOE_E_NOMEM;
    if (p->forward == NULL)
        return QMOE_OK;
    int64_t n_tokens = p->forward->calibration->sets[p->program].n_tokens;
    p->order =
        qmi_calloc((size_t)n_tokens, sizeof *p->order, "tokens by expert", err);
    if (p->order == NULL)
        return QMOE_E_NOMEM;
    const int32_t *expert = p->forward->expert;
    for (int64_t t = 0; t < n_tokens; t++)
        p->begin[expert[t] + 1]++;
    for (int64_t e = 0; e < n_experts; e++)
        p->begin[e + 1] += p->begin[e];
    /* begin[e] runs to the end of expert e here, which is where e + 1 begins;
     * the loop below moves the borders back. */
    for (int64_t t = 0; t < n_tokens; t++)
        p->order[p->begin[expert[t]]++] = t;
    for (int64_t e = n_experts; e > 0; e--)
        p->begin[e] = p->begin[e - 1];
    p->begin[0] = 0;
    /* The same number for all experts of the block: a multiple of the mean, but
     * with few tokens each expert keeps one that it has. */
    p->cap = TOKEN_CAP * n_tokens / n_experts;
    if (p->cap == 0)
        p->cap = 1;
    return QMOE_OK;
}

/* Without a forward pass the borders stay zero: no expert has tokens. */
qmoe_status qmi_expert_pass_block(
    qmi_expert_pass *pass, int32_t block, qmi_error *err)
{
    qmoe_model *m = pass->model;
    /* Both exist: the caller visits sparse blocks only. */
    const qmi_step *step = qmi_expert_step(m, block);
    pass->program = m->blocks[block].program;
    for (int kind = 0; kind < QMI_N_KINDS; kind++)
        pass->stacks[kind] = &m->weights[step->weights[kind]];
    if (pass->forward == NULL)
        return sort_tokens(pass, err);
    pass->norm = qmi_expert_norm_step(m, block);
    /* Host backends bind by reference; nothing to release.  For the same reason
     * the devices of all workers share these bindings. */
    QMI_TRY(pass->backend->weight_bind(
        &pass->bound_wi, pass->workers[0].device, pass->stacks[QMI_WI], err));
    QMI_TRY(pass->backend->weight_bind(&pass->bound_norm,
        pass->workers[0].device, &m->weights[pass->norm->weights[0]], err));
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
    const qmi_weight *stack = p->stacks[kind];
    const qmi_stack_recipe *recipe = &p->recipes[kind];
    /* A copy, since only this worker counts here. */
    qmi_quant_options options = recipe->quant;
    float *wide = NULL;
    options.n_coded = &w->n_coded;
    QMI_TRY(qmi_expert_weights(&wide, p, w, kind, expert));
    qmoe_status status =
        recipe->quantiser->run(&result->encoded[kind], &result->quality[kind],
            wide, stack->n_rows, stack->n_cols, hessian, &options, &w->error);
    qmi_free(wide);
    if (status == QMOE_OK)
        qmi_expert_count_matrix(p, w, kind, &result->quality[kind]);
    return qmi_expert_blame(p, w, kind, expert, status);
}

/* An expert that got no token has moments of no token, which no quantiser can
 * use: it is rounded, and the report says so. */
static qmoe_status compress_matrix(qmi_expert_pass *p, qmi_expert_worker *w,
    int kind, int64_t expert, qmi_expert_result *result)
{
    if (p->forward == NULL)
        return quantise(p, w, kind, expert, NULL, result);
    qmi_hessian hessian;
    QMI_TRY(qmi_hessian_create(&hessian, p->stacks[kind]->n_cols, &w->error));
    qmoe_status status = qmi_expert_moments(p, w, kind, expert, &hessian);
    /* Equal for both kinds: the same tokens are counted. */
    result->n_counted = hessian.n_tokens;
    /* Nobody reads the moments after this, so the quantiser may factor them in
     * place. */
    hessian.expendable = true;
    if (status == QMOE_OK)
        status = quantise(p, w, kind, expert, &hessian, result);
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

/* Both matrices are encoded before any token moves on, because moving on
 * changes the residual rows in place, from which the moments of both are made.
 * Tokens go through what was stored, not through the original: later blocks are
 * calibrated with the errors of earlier ones. */
static qmoe_status compress_expert(qmi_expert_pass *p, qmi_expert_worker *w,
    int64_t expert, qmi_expert_result *result)
{
    for (int kind = 0; kind < QMI_N_KINDS; kind++)
        QMI_TRY(compress_matrix(p, w, kind, expert, result));
    if (p->forward == NULL)
        return QMOE_OK;
    result->n_tokens = p->begin[expert + 1] - p->begin[expert];
    uint64_t offsets[QMI_N_KINDS][2];
    const qmi_weight wi = qmi_encoded_weight(
        &result->encoded[QMI_WI], offsets[QMI_WI], &p->recipes[QMI_WI].quant);
    const qmi_weight wo = qmi_encoded_weight(
        &result->encoded[QMI_WO], offsets[QMI_WO], &p->recipes[QMI_WO].quant);
    return qmi_expert_apply(p, w, &wi, &wo, 0, expert);
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
    if (expert + p->n_workers < p->stacks[QMI_WI]->n_mats)
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
    return take_expert(r->pass, w, r->first + item, &r->results[item]);
}

qmoe_status qmi_expert_pass_run(qmi_expert_pass *pass,
    qmi_expert_result *results, int64_t first, int64_t n, qmi_error *err)
{
    request r = {.pass = pass, .results = results, .first = first};
    const qmi_expert_loop loop = {
        .pass = pass, .n = n, .visit = take_item, .user = &r};
    memset(results, 0, (size_t)n * sizeof *results);
    return qmi_expert_loop_run(&loop, err);
}

qmoe_status qmi_expert_pass_replay(qmi_expert_pass *pass, const qmi_weight *wi,
    const qmi_weight *wo, int64_t first, int64_t n, qmi_error *err)
{
    if (pass->forward == NULL)
        return QMOE_OK;
    qmi_expert_worker *w = &pass->workers[0];
    /* By the calling thread alone, so `watch` is asked between two experts. */
    for (int64_t i = 0; i < n; i++) {
        if (pass->watch != NULL)
            QMI_TRY(pass->watch(pass->watcher));
        qmoe_status status = qmi_expert_apply(pass, w, wi, wo, i, first + i);
        if (status != QMOE_OK)
            return qmi_fail(err, status, "%s", w->error.text);
        qmi_expert_count(pass, &(qmi_expert_tally){.n_experts = 1});
    }
    return QMOE_OK;
}
