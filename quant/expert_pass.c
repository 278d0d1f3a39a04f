/* SPDX-License-Identifier: Apache-2.0
 * Group compression of experts. */
#include "expert_pass.h"

#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "hessian.h"
#include "parallel.h"

/* Tokens gathered at a time; fixed, so that sums have one order. */
enum { CHUNK_TOKENS = 256 };

/* Calibration tokens per expert are cut at this multiple of the mean (paper
 * section 3.2). */
enum { TOKEN_CAP = 4 };

/* One thread's device and device buffers. */
typedef struct worker {
    qmi_device *device;
    qmi_buffer *residual, *normed, *hidden, *expert, *weight;
    float *host; /* [CHUNK_TOKENS, max(d_model, d_ff)] */
    qmi_error error;
} worker;

struct qmi_expert_pass {
    qmoe_model *model;
    qmi_forward *forward;
    qmi_expert_pass_options options;
    const qmi_backend *backend;
    worker *workers;
    int n_workers;
    /* The current block. */
    int stack;
    const qmi_weight *stacks[QMI_N_KINDS];
    qmi_bound_weight bound_wi, bound_norm;
    int64_t *order; /* tokens sorted by expert */
    int64_t *begin; /* [n_experts + 1] */
    int64_t cap;
};

/* ---- creation ---- */

static int64_t widest(const qmi_config *c)
{
    return c->d_model > c->d_ff ? c->d_model : c->d_ff;
}

static qmoe_status worker_open(
    const qmi_expert_pass *p, worker *w, qmi_error *err)
{
    const qmi_config *c = &p->model->config;
    const qmi_device_options options = {.n_threads = 1};
    const uint64_t row = CHUNK_TOKENS * sizeof(float);
    QMI_TRY(p->backend->device_open(&w->device, 0, &options, err));
    struct {
        qmi_buffer **buffer;
        uint64_t n_bytes;
    } const buffers[] = {
        {&w->residual, row * (uint64_t)c->d_model},
        {&w->normed, row * (uint64_t)c->d_model},
        {&w->hidden, row * (uint64_t)c->d_ff},
        {&w->expert, row},
        {&w->weight, row},
    };
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        QMI_TRY(p->backend->buffer_alloc(
            buffers[i].buffer, w->device, buffers[i].n_bytes, err));
    w->host = qmi_calloc((size_t)(CHUNK_TOKENS * widest(c)), sizeof *w->host,
        "gathered tokens", err);
    return w->host != NULL ? QMOE_OK : QMOE_E_NOMEM;
}

static void worker_close(const qmi_expert_pass *p, worker *w)
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

static qmoe_status set_up(qmi_expert_pass *p, qmi_error *err)
{
    if (p->model->config.top_k != 1)
        return qmi_fail(err, QMOE_E_UNSUPPORTED,
            "calibration of models with more than one expert per token");
    QMI_TRY(qmi_registry_find(
        p->model->context->registry, &p->backend, "cpu", err));
    p->workers = qmi_calloc(
        (size_t)p->options.n_workers, sizeof *p->workers, "workers", err);
    if (p->workers == NULL)
        return QMOE_E_NOMEM;
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
    qmi_free(pass->workers);
    qmi_free(pass->order);
    qmi_free(pass->begin);
    qmi_free(pass);
}

uint64_t qmi_expert_pass_worker_bytes(const qmoe_model *model, bool calibrated)
{
    const qmi_config *c = &model->config;
    uint64_t n = (uint64_t)c->d_model * (uint64_t)c->d_ff;
    uint64_t wide = (uint64_t)widest(c);
    /* Weights in f32, their working copies and the encoded result. */
    uint64_t bytes = n * (3 * sizeof(float) + 1);
    if (calibrated)
        bytes += wide * wide * (2 * sizeof(double) + sizeof(float)) +
                 CHUNK_TOKENS * wide * 4 * sizeof(float);
    return bytes;
}

/* ---- one block ---- */

/* Counting sort of the block's tokens by expert. */
static qmoe_status sort_tokens(qmi_expert_pass *p, qmi_error *err)
{
    int64_t n_experts = p->model->config.n_experts;
    qmi_free(p->order);
    qmi_free(p->begin);
    p->order = NULL;
    p->begin = qmi_calloc(
        (size_t)n_experts + 1, sizeof *p->begin, "tokens by expert", err);
    if (p->begin == NULL)
        return QMOE_E_NOMEM;
    if (p->forward == NULL)
        return QMOE_OK;
    int64_t n_tokens = p->forward->calibration->sets[p->stack].n_tokens;
    p->order =
        qmi_calloc((size_t)n_tokens, sizeof *p->order, "tokens by expert", err);
    if (p->order == NULL)
        return QMOE_E_NOMEM;
    const int32_t *expert = p->forward->expert;
    for (int64_t t = 0; t < n_tokens; t++)
        p->begin[expert[t] + 1]++;
    for (int64_t e = 0; e < n_experts; e++)
        p->begin[e + 1] += p->begin[e];
    for (int64_t t = 0; t < n_tokens; t++)
        p->order[p->begin[expert[t]]++] = t;
    for (int64_t e = n_experts; e > 0; e--)
        p->begin[e] = p->begin[e - 1];
    p->begin[0] = 0;
    p->cap = TOKEN_CAP * n_tokens / n_experts;
    return QMOE_OK;
}

qmoe_status qmi_expert_pass_block(
    qmi_expert_pass *pass, int stack, int64_t block, qmi_error *err)
{
    qmoe_model *m = pass->model;
    const qmi_step *step = qmi_expert_step(m, stack, block);
    const qmi_step *norm = qmi_expert_norm_step(m, stack, block);
    pass->stack = stack;
    pass->stacks[QMI_WI] = &m->weights[step->weight];
    pass->stacks[QMI_WO] = &m->weights[step->weight2];
    /* Host backends bind by reference; nothing to release. */
    QMI_TRY(pass->backend->weight_bind(
        &pass->bound_wi, pass->workers[0].device, pass->stacks[QMI_WI], err));
    QMI_TRY(pass->backend->weight_bind(&pass->bound_norm,
        pass->workers[0].device, &m->weights[norm->weight], err));
    return sort_tokens(pass, err);
}

/* ---- gathering ---- */

static qmi_view at(qmi_buffer *buffer)
{
    return (qmi_view){.buffer = buffer};
}

/* Rows of the residual stream of tokens[n] into the residual buffer, and
 * their norm, the experts' input, into the normed buffer. */
static qmoe_status gather(
    const qmi_expert_pass *p, worker *w, const int64_t *tokens, int64_t n)
{
    int64_t d_model = p->model->config.d_model;
    const qmi_states *states = &p->forward->states[p->stack];
    for (int64_t i = 0; i < n; i++)
        memcpy(w->host + i * d_model, qmi_states_row(states, tokens[i]),
            (size_t)d_model * sizeof(float));
    QMI_TRY(p->backend->buffer_write(w->device, at(w->residual), w->host,
        (uint64_t)(n * d_model) * sizeof(float), &w->error));
    const qmi_op norm = {.kind = QMI_OP_RMSNORM,
        .u.rmsnorm = {.dst = at(w->normed),
            .src = at(w->residual),
            .weight = &p->bound_norm,
            .n_tokens = n,
            .epsilon = (float)p->model->config.norm_epsilon}};
    return qmi_run(p->backend, w->device, &norm, &w->error);
}

/* Hidden activations of the uncompressed expert: relu(wi x). */
static qmoe_status hidden(
    const qmi_expert_pass *p, worker *w, int64_t expert, int64_t n)
{
    const qmi_op op = {.kind = QMI_OP_LINEAR,
        .u.linear = {.dst = at(w->hidden),
            .src = at(w->normed),
            .weight = &p->bound_wi,
            .mat = expert,
            .n_tokens = n,
            .alpha = 1.0f,
            .relu = true}};
    return qmi_run(p->backend, w->device, &op, &w->error);
}

/* Inputs of wi or wo for a chunk of tokens, in w->host. */
static qmoe_status inputs(const qmi_expert_pass *p, worker *w, int kind,
    int64_t expert, const int64_t *tokens, int64_t n)
{
    int64_t width = p->stacks[kind]->n_cols;
    QMI_TRY(gather(p, w, tokens, n));
    if (kind == QMI_WO)
        QMI_TRY(hidden(p, w, expert, n));
    return p->backend->buffer_read(w->device, w->host,
        at(kind == QMI_WO ? w->hidden : w->normed),
        (uint64_t)(n * width) * sizeof(float), &w->error);
}

/* Second moments of the counted tokens (at most `cap`) of an expert. */
static qmoe_status accumulate(const qmi_expert_pass *p, worker *w, int kind,
    int64_t expert, qmi_hessian *hessian)
{
    const uint8_t *counted = p->forward->calibration->sets[p->stack].counted;
    int64_t chunk[CHUNK_TOKENS];
    int64_t n = 0, n_used = 0;
    for (int64_t i = p->begin[expert]; i < p->begin[expert + 1]; i++) {
        if (n_used < p->cap && counted[p->order[i]]) {
            chunk[n++] = p->order[i];
            n_used++;
        }
        if (n == CHUNK_TOKENS || (n != 0 && i + 1 == p->begin[expert + 1])) {
            QMI_TRY(inputs(p, w, kind, expert, chunk, n));
            QMI_TRY(qmi_hessian_add(hessian, w->host, n, &w->error));
            n = 0;
        }
    }
    return qmi_hessian_finish(hessian, &w->error);
}

/* ---- one expert ---- */

static qmoe_status quantise(const qmi_expert_pass *p, worker *w, int kind,
    int64_t expert, const qmi_hessian *hessian, qmi_expert_result *result)
{
    const qmi_weight *stack = p->stacks[kind];
    size_t n = (size_t)(stack->n_rows * stack->n_cols);
    float *wide = qmi_calloc(n, sizeof *wide, "a matrix", &w->error);
    if (wide == NULL)
        return QMOE_E_NOMEM;
    qmi_weight_decode(stack, expert, 0, stack->n_rows, wide);
    qmoe_status status = p->options.quantiser->run(&result->encoded[kind],
        &result->quality[kind], wide, stack->n_rows, stack->n_cols, hessian,
        &p->options.quant, &w->error);
    qmi_free(wide);
    if (status == QMOE_E_FORMAT)
        return qmi_error_prefix(&w->error, status, "%s: '%s', expert %lld",
            qmi_checkpoint_directory(p->model->checkpoint), stack->name,
            (long long)expert);
    return status;
}

static qmoe_status compress_matrix(const qmi_expert_pass *p, worker *w,
    int kind, int64_t expert, qmi_expert_result *result)
{
    if (p->forward == NULL)
        return quantise(p, w, kind, expert, NULL, result);
    qmi_hessian hessian;
    QMI_TRY(qmi_hessian_create(&hessian, p->stacks[kind]->n_cols, &w->error));
    qmoe_status status = accumulate(p, w, kind, expert, &hessian);
    result->n_counted = hessian.n_tokens;
    if (status == QMOE_OK)
        status = quantise(p, w, kind, expert, &hessian, result);
    qmi_hessian_destroy(&hessian);
    return status;
}

/* residual += weight * expert(normed), in place, for one chunk. */
static qmoe_status apply_chunk(const qmi_expert_pass *p, worker *w,
    const qmi_bound_weight *wi, const qmi_bound_weight *wo, int64_t mat,
    const int64_t *tokens, int64_t n)
{
    int64_t d_model = p->model->config.d_model;
    const qmi_states *states = &p->forward->states[p->stack];
    int32_t experts[CHUNK_TOKENS];
    float weights[CHUNK_TOKENS];
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
            .wi = wi,
            .wo = wo,
            .n_tokens = n,
            .top_k = 1}};
    QMI_TRY(qmi_run(p->backend, w->device, &op, &w->error));
    QMI_TRY(p->backend->buffer_read(w->device, w->host, at(w->residual),
        (uint64_t)(n * d_model) * sizeof(float), &w->error));
    for (int64_t i = 0; i < n; i++)
        memcpy(qmi_states_row(states, tokens[i]), w->host + i * d_model,
            (size_t)d_model * sizeof(float));
    return QMOE_OK;
}

/* Takes all tokens of an expert through matrix `mat` of wi and wo. */
static qmoe_status apply(const qmi_expert_pass *p, worker *w,
    const qmi_weight *wi, const qmi_weight *wo, int64_t mat, int64_t expert)
{
    qmi_bound_weight bound_wi, bound_wo;
    QMI_TRY(p->backend->weight_bind(&bound_wi, w->device, wi, &w->error));
    QMI_TRY(p->backend->weight_bind(&bound_wo, w->device, wo, &w->error));
    qmoe_status status = QMOE_OK;
    int64_t end = p->begin[expert + 1];
    for (int64_t i = p->begin[expert]; status == QMOE_OK && i < end;
         i += CHUNK_TOKENS) {
        int64_t n = end - i < CHUNK_TOKENS ? end - i : CHUNK_TOKENS;
        status = apply_chunk(p, w, &bound_wi, &bound_wo, mat, p->order + i, n);
    }
    p->backend->weight_unbind(w->device, &bound_wi);
    p->backend->weight_unbind(w->device, &bound_wo);
    return status;
}

/* An encoded matrix as a stack of one. */
static qmi_weight weight_of(
    const qmi_encoded *encoded, uint64_t offsets[2], const qmi_expert_pass *p)
{
    const qmi_format *format = encoded->format;
    qmi_weight w = {
        .format = format,
        .name = "a compressed expert",
        .n_mats = 1,
        .n_rows = encoded->n_rows,
        .n_cols = encoded->n_cols,
        .codebook = p->options.quant.codebook,
        .rotation = p->options.quant.rotation,
        .rotation_seed = p->options.quant.rotation_seed,
    };
    for (int i = 0; i < format->n_parts; i++)
        w.parts[i] = (qmi_part){encoded->parts[i], encoded->part_bytes[i]};
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

static qmoe_status compress_expert(const qmi_expert_pass *p, worker *w,
    int64_t expert, qmi_expert_result *result)
{
    for (int kind = 0; kind < QMI_N_KINDS; kind++)
        QMI_TRY(compress_matrix(p, w, kind, expert, result));
    if (p->forward == NULL)
        return QMOE_OK;
    result->n_tokens = p->begin[expert + 1] - p->begin[expert];
    uint64_t offsets[QMI_N_KINDS][2];
    const qmi_weight wi =
        weight_of(&result->encoded[QMI_WI], offsets[QMI_WI], p);
    const qmi_weight wo =
        weight_of(&result->encoded[QMI_WO], offsets[QMI_WO], p);
    return apply(p, w, &wi, &wo, 0, expert);
}

static uint64_t source_bytes(const qmi_weight *stack)
{
    return (uint64_t)stack->n_rows * (uint64_t)stack->n_cols *
           (qmi_dtype_bits(stack->format->dtype) / 8);
}

/* Reads the originals of a group, with an error where the disk fails, and asks
 * for those of the next group while this one is worked on. */
static qmoe_status fetch_sources(
    const qmi_expert_pass *p, int64_t first, int64_t n, qmi_error *err)
{
    int64_t n_experts = p->model->config.n_experts;
    for (int kind = 0; kind < QMI_N_KINDS; kind++) {
        const qmi_weight *stack = p->stacks[kind];
        uint64_t bytes = source_bytes(stack);
        for (int64_t e = first; e < first + n; e++)
            QMI_TRY(qmi_checkpoint_fetch(
                p->model->checkpoint, qmi_weight_dense(stack, e), bytes, err));
        for (int64_t e = first + n; e < first + 2 * n && e < n_experts; e++)
            qmi_map_will_need(qmi_weight_dense(stack, e), bytes);
    }
    return QMOE_OK;
}

/* Drops the originals of a group from memory: they are read once. */
static void release_sources(const qmi_expert_pass *p, int64_t first, int64_t n)
{
    for (int kind = 0; kind < QMI_N_KINDS; kind++) {
        const qmi_weight *stack = p->stacks[kind];
        uint64_t bytes = source_bytes(stack);
        for (int64_t e = first; e < first + n; e++)
            qmi_checkpoint_release(
                p->model->checkpoint, qmi_weight_dense(stack, e), bytes);
    }
}

/* First failure of a group in expert order, so that the message does not
 * depend on the threads. */
static qmoe_status first_failure(const qmoe_status *status,
    const qmi_error *errors, int64_t n, qmi_error *err)
{
    for (int64_t i = 0; i < n; i++)
        if (status[i] != QMOE_OK)
            return qmi_fail(err, status[i], "%s", errors[i].text);
    return QMOE_OK;
}

qmoe_status qmi_expert_pass_run(qmi_expert_pass *pass,
    qmi_expert_result *results, int64_t first, int64_t n, qmi_error *err)
{
    QMI_TRY(fetch_sources(pass, first, n, err));
    qmoe_status *status = qmi_calloc((size_t)n, sizeof *status, "group", err);
    qmi_error *errors = qmi_calloc((size_t)n, sizeof *errors, "group", err);
    if (status == NULL || errors == NULL) {
        qmi_free(status);
        qmi_free(errors);
        return QMOE_E_NOMEM;
    }
    memset(results, 0, (size_t)n * sizeof *results);
    QMI_PARALLEL_FOR(pass->n_workers)
    for (int64_t i = 0; i < n; i++) {
        worker *w = &pass->workers[qmi_thread()];
        status[i] = compress_expert(pass, w, first + i, &results[i]);
        if (status[i] != QMOE_OK)
            errors[i] = w->error;
    }
    release_sources(pass, first, n);
    qmoe_status overall = first_failure(status, errors, n, err);
    qmi_free(status);
    qmi_free(errors);
    return overall;
}

qmoe_status qmi_expert_pass_replay(qmi_expert_pass *pass, const qmi_weight *wi,
    const qmi_weight *wo, int64_t first, int64_t n, qmi_error *err)
{
    if (pass->forward == NULL)
        return QMOE_OK;
    worker *w = &pass->workers[0];
    for (int64_t i = 0; i < n; i++) {
        qmoe_status status = apply(pass, w, wi, wo, i, first + i);
        if (status != QMOE_OK)
            return qmi_fail(err, status, "%s", w->error.text);
    }
    return QMOE_OK;
}
