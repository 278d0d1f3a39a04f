/* SPDX-License-Identifier: Apache-2.0
 * In: the calibration's ids, and the states after the block before.  Out: the
 * states after a dense block, or in front of a block's experts together with
 * each token's expert and its probability.  Chunks hold whole sequences, the
 * same ones for encoder and decoder, so a decoder chunk finds its encoder
 * output; their cut depends on lengths alone, so results depend neither on
 * memory nor on threads.  States are stored only when a whole chunk is
 * sound. */
#include "forward.h"

#include <string.h>

#include "alloc.h"
#include "step_check.h"
#include "steps.h"

/* Tokens of a chunk, unless one sequence alone is longer.  Fixed, so that
 * results do not depend on memory or threads. */
enum { CHUNK_TOKENS = 4096 };

/* Sequences [first, first + n) of the batch being run. */
typedef struct chunk {
    size_t first, n;
    int32_t *encoder_lengths, *decoder_lengths, *active; /* [n] */
} chunk;

static const qmi_steps *steps_of(const qmoe_model *model, int stack)
{
    return stack == QMI_ENCODER ? &model->encoder : &model->decoder;
}

/* Steps [*first, *last) that belong to a block.  They are neighbours: the
 * architecture lists a block's steps one after the other. */
static void block_range(
    const qmi_steps *steps, int64_t block, size_t *first, size_t *last)
{
    *first = 0;
    while (*first < steps->n && steps->items[*first].block != block)
        ++*first;
    *last = *first;
    while (*last < steps->n && steps->items[*last].block == block)
        ++*last;
}

const qmi_step *qmi_expert_step(
    const qmoe_model *model, int stack, int64_t block)
{
    const qmi_steps *steps = steps_of(model, stack);
    size_t first, last;
    block_range(steps, block, &first, &last);
    for (size_t i = first; i < last; i++)
        if (steps->items[i].kind == QMI_OP_EXPERT_FFN)
            return &steps->items[i];
    return NULL;
}

/* The last norm before the experts; every sparse block has one. */
const qmi_step *qmi_expert_norm_step(
    const qmoe_model *model, int stack, int64_t block)
{
    const qmi_step *step = qmi_expert_step(model, stack, block);
    while (step != NULL && step->kind != QMI_OP_RMSNORM)
        step--;
    return step;
}

/* ---- chunks ---- */

/* Number of sequences from `first` that make one chunk of both stacks. */
static size_t chunk_size(const qmi_calibration *c, size_t first)
{
    const qmi_token_set *encoder = &c->sets[QMI_ENCODER];
    const qmi_token_set *decoder = &c->sets[QMI_DECODER];
    size_t n = 0;
    int64_t tokens = 0;
    /* A sequence counts with its longer side, so neither side of a chunk
     * exceeds the limit.  The first one is always taken: a single sequence may
     * be longer. */
    while (first + n < encoder->n_sequences) {
        int64_t more = qmi_sequence_length(encoder, first + n);
        if (qmi_sequence_length(decoder, first + n) > more)
            more = qmi_sequence_length(decoder, first + n);
        if (n != 0 && tokens + more > CHUNK_TOKENS)
            break;
        tokens += more;
        n++;
    }
    return n;
}

static void chunk_free(chunk *c)
{
    qmi_free(c->encoder_lengths);
    qmi_free(c->decoder_lengths);
    qmi_free(c->active);
}

static qmoe_status chunk_make(
    chunk *out, const qmi_calibration *c, size_t first, qmi_error *err)
{
    size_t n = chunk_size(c, first);
    /* All three are asked for before the check: chunk_free takes NULL. */
    *out = (chunk){
        .first = first,
        .n = n,
        .encoder_lengths = qmi_calloc(n, sizeof(int32_t), "a chunk", err),
        .decoder_lengths = qmi_calloc(n, sizeof(int32_t), "a chunk", err),
        .active = qmi_calloc(n, sizeof(int32_t), "a chunk", err),
    };
    if (out->encoder_lengths == NULL || out->decoder_lengths == NULL ||
        out->active == NULL) {
        chunk_free(out);
        return QMOE_E_NOMEM;
    }
    for (size_t i = 0; i < n; i++) {
        out->encoder_lengths[i] =
            (int32_t)qmi_sequence_length(&c->sets[QMI_ENCODER], first + i);
        out->decoder_lengths[i] =
            (int32_t)qmi_sequence_length(&c->sets[QMI_DECODER], first + i);
        /* All sequences are active: nothing ends early, as it does in
         * generation. */
        out->active[i] = (int32_t)i;
    }
    return QMOE_OK;
}

/* ---- moving states ---- */

static int64_t first_token(const qmi_forward *f, int stack, const chunk *c)
{
    return f->calibration->sets[stack].begin[c->first];
}

/* Piece `i` of n_tokens: how many, and where on the device.  Pieces keep the
 * host's buffer small whatever the chunk. */
static int64_t piece_of(const qmi_forward *f, qmi_view *view, qmi_slot slot,
    int64_t i, int64_t n_tokens)
{
    const int64_t width = f->session->model->config.d_model;
    *view = (qmi_view){.buffer = f->session->slots[slot].buffer,
        .offset = (uint64_t)(i * width) * sizeof(float)};
    return n_tokens - i < QMI_PIECE_TOKENS ? n_tokens - i : QMI_PIECE_TOKENS;
}

static uint64_t row_bytes(const qmi_forward *f, int64_t n)
{
    return (uint64_t)(n * f->session->model->config.d_model) * sizeof(float);
}

/* The slot grows to the chunk's tokens and is kept: later chunks reuse it. */
static qmoe_status load_slot(qmi_forward *f, qmi_slot slot, int stack,
    const chunk *c, int64_t n_tokens, qmi_error *err)
{
    qmoe_session *s = f->session;
    const int64_t first = first_token(f, stack, c);
    QMI_TRY(qmi_grow(
        s->backend, s->device, &s->slots[slot], row_bytes(f, n_tokens), err));
    for (int64_t i = 0; i < n_tokens; i += QMI_PIECE_TOKENS) {
        qmi_view view;
        const int64_t n = piece_of(f, &view, slot, i, n_tokens);
        QMI_TRY(
            qmi_states_read(&f->states[stack], f->piece, first + i, n, err));
        QMI_TRY(s->backend->buffer_write(
            s->device, view, f->piece, row_bytes(f, n), err));
    }
    return QMOE_OK;
}

/* Runs after the checks: from here on the chunk's old states are gone. */
static qmoe_status save_slot(qmi_forward *f, qmi_slot slot, int stack,
    const chunk *c, int64_t n_tokens, qmi_error *err)
{
    qmoe_session *s = f->session;
    const int64_t first = first_token(f, stack, c);
    for (int64_t i = 0; i < n_tokens; i += QMI_PIECE_TOKENS) {
        qmi_view view;
        const int64_t n = piece_of(f, &view, slot, i, n_tokens);
        QMI_TRY(s->backend->buffer_read(
            s->device, f->piece, view, row_bytes(f, n), err));
        QMI_TRY(
            qmi_states_write(&f->states[stack], f->piece, first + i, n, err));
    }
    return QMOE_OK;
}

static qmoe_status read_back(qmi_forward *f, const qmi_growing *from, void *to,
    uint64_t n_bytes, qmi_error *err)
{
    return f->session->backend->buffer_read(f->session->device, to,
        (qmi_view){.buffer = from->buffer}, n_bytes, err);
}

/* One expert per token (expert_pass.c refuses more), so a route is one number
 * and one probability. */
static qmoe_status save_routes(
    qmi_forward *f, int stack, const chunk *c, int64_t n_tokens, qmi_error *err)
{
    int64_t first = first_token(f, stack, c);
    uint64_t n_bytes = (uint64_t)n_tokens * sizeof(int32_t);
    QMI_TRY(read_back(f, &f->session->expert, f->expert + first, n_bytes, err));
    return read_back(
        f, &f->session->route_weight, f->weight + first, n_bytes, err);
}

/* ---- runs ---- */

/* Prepares a pass over a chunk.  For a decoder block the cross caches of that
 * block are filled from the encoder's output first: the NORMED slot is where
 * the cross steps expect it.  The other blocks' caches stay empty, since none
 * of their steps run. */
static qmoe_status prepare(qmi_forward *f, qmi_pass *pass, int stack,
    int64_t block, const chunk *c, const int32_t *ids, qmi_error *err)
{
    qmoe_session *s = f->session;
    const qmi_steps *cross = &s->model->cross;
    QMI_TRY(qmi_session_start(s, c->encoder_lengths, c->n, err));
    QMI_TRY(qmi_session_prepare_encoder(
        s, pass, stack == QMI_ENCODER ? ids : NULL, err));
    if (stack == QMI_ENCODER)
        return QMOE_OK;
    size_t first, last;
    block_range(cross, block, &first, &last);
    if (block >= 0) {
        QMI_TRY(
            load_slot(f, QMI_SLOT_NORMED, QMI_ENCODER, c, pass->n_tokens, err));
        QMI_TRY(qmi_session_run(s, cross, first, last, pass, err));
    }
    return qmi_session_prepare_decoder(
        s, pass, ids, c->active, c->decoder_lengths, c->n, err);
}

/* Before anything is saved: the chunk may have to be run again.  NaN and
 * infinity come from broken weights, and would spread to all that follows. */
static qmoe_status check_results(qmi_forward *f, qmi_slot slot, bool routes,
    int64_t n_tokens, qmi_error *err)
{
    qmoe_session *s = f->session;
    const int64_t n = n_tokens * s->model->config.d_model;
    int64_t at = 0, at_route = n_tokens;
    QMI_TRY(qmi_buffer_non_finite(
        s->backend, s->device, &at, &s->slots[slot], n, err));
    if (routes)
        QMI_TRY(qmi_buffer_non_finite(
            s->backend, s->device, &at_route, &s->route_weight, n_tokens, err));
    if (at == n && at_route == n_tokens)
        return QMOE_OK;
    return qmi_fail(err, QMOE_E_FORMAT, "%s: token states are not finite",
        qmi_checkpoint_directory(s->model->checkpoint));
}

/* Runs the steps of `block` (-1: the embedding) on one chunk.  The number of
 * blocks stands for what follows the last one: the final norm, whose result is
 * in another slot. */
static qmoe_status try_chunk(
    qmi_forward *f, int stack, int64_t block, const chunk *c, qmi_error *err)
{
    const qmoe_model *model = f->session->model;
    const qmi_steps *steps = steps_of(model, stack);
    const qmi_token_set *set = &f->calibration->sets[stack];
    const int32_t *ids = block < 0 ? set->ids + set->begin[c->first] : NULL;
    bool finish = block == model->config.n_blocks[stack];
    size_t first, last;
    qmi_pass pass;
    block_range(steps, block, &first, &last);
    const qmi_step *experts = qmi_expert_step(model, stack, block);
    /* The experts are left to expert_pass.c, and with them what a block has
     * behind them. */
    if (experts != NULL)
        last = (size_t)(experts - steps->items);
    QMI_TRY(prepare(f, &pass, stack, block, c, ids, err));
    if (block >= 0)
        QMI_TRY(load_slot(f, QMI_SLOT_RESIDUAL, stack, c, pass.n_tokens, err));
    QMI_TRY(qmi_session_run(f->session, steps, first, last, &pass, err));
    const qmi_slot slot = finish ? QMI_SLOT_NORMED : QMI_SLOT_RESIDUAL;
    QMI_TRY(check_results(f, slot, experts != NULL, pass.n_tokens, err));
    QMI_TRY(save_slot(f, slot, stack, c, pass.n_tokens, err));
    if (experts != NULL)
        return save_routes(f, stack, c, pass.n_tokens, err);
    return QMOE_OK;
}

/* A second look names the step after which states are not finite.  It is not
 * the rule, since reading every step's result back is slow; it starts from the
 * same states, because nothing has been saved. */
static qmoe_status run_chunk(
    qmi_forward *f, int stack, int64_t block, const chunk *c, qmi_error *err)
{
    qmoe_status status = try_chunk(f, stack, block, c, err);
    if (status != QMOE_E_FORMAT)
        return status;
    qmi_probe probe = qmi_step_check();
    qmi_probe_attach(f->session, &probe);
    status = try_chunk(f, stack, block, c, err);
    qmi_probe_detach(f->session, &probe);
    return status;
}

static qmoe_status run_all(
    qmi_forward *f, int stack, int64_t block, qmi_error *err)
{
    const qmi_calibration *calibration = f->calibration;
    const qmi_token_set *set = &calibration->sets[stack];
    size_t n_sequences = set->n_sequences;
    f->n_passed = 0;
    /* Chunk by chunk in order; n_passed is what progress shows. */
    for (size_t first = 0; first < n_sequences;) {
        chunk c;
        QMI_TRY(chunk_make(&c, calibration, first, err));
        first += c.n;
        qmoe_status status = run_chunk(f, stack, block, &c, err);
        chunk_free(&c);
        QMI_TRY(status);
        f->n_passed = set->begin[first];
    }
    return QMOE_OK;
}

/* ---- dense weights ---- */

typedef void (*visit_weight_fn)(
    void *user, const qmoe_model *model, const qmi_weight *w);

/* Every dense weight that the steps of a block use.  These three operations are
 * the ones with one; experts are not dense. */
static void each_dense_weight(const qmoe_model *model, const qmi_steps *steps,
    int64_t block, visit_weight_fn visit, void *user)
{
    size_t first, last;
    block_range(steps, block, &first, &last);
    for (size_t i = first; i < last; i++) {
        const qmi_step *s = &steps->items[i];
        if (s->kind == QMI_OP_EMBED || s->kind == QMI_OP_RMSNORM ||
            s->kind == QMI_OP_LINEAR)
            visit(user, model, &model->weights[s->weight]);
    }
}

static void add_bytes(void *user, const qmoe_model *model, const qmi_weight *w)
{
    (void)model;
    *(uint64_t *)user += qmi_weight_bytes(w);
}

/* Views would have to be made again: a fetch arranges their values, they are
 * not pages of the file. */
static void release(void *user, const qmoe_model *model, const qmi_weight *w)
{
    (void)user;
    if (w->fetch == NULL)
        qmi_checkpoint_release(
            model->checkpoint, qmi_weight_dense(w, 0), qmi_weight_bytes(w));
}

static void release_block(const qmi_forward *f, int stack, int64_t block)
{
    const qmoe_model *model = f->session->model;
    each_dense_weight(model, steps_of(model, stack), block, release, NULL);
    if (stack == QMI_DECODER && block >= 0)
        each_dense_weight(model, &model->cross, block, release, NULL);
}

/* Generated values stay once they are made, so all of them count; pages of a
 * file are given back after each block, so the largest block does.  Blocks run
 * from -1, the embedding, to n_blocks, the final norm. */
uint64_t qmi_forward_dense_bytes(const qmoe_model *model)
{
    uint64_t most = 0, all = 0;
    for (size_t i = 0; i < model->n_weights; i++)
        all += model->weights[i].is_expert
                   ? 0
                   : qmi_weight_bytes(&model->weights[i]);
    if (qmi_checkpoint_is_generated(model->checkpoint))
        return all;
    for (int stack = 0; stack < QMI_N_STACKS; stack++)
        for (int64_t b = -1; b <= model->config.n_blocks[stack]; b++) {
            uint64_t n = 0;
            each_dense_weight(model, steps_of(model, stack), b, add_bytes, &n);
            if (stack == QMI_DECODER && b >= 0)
                each_dense_weight(model, &model->cross, b, add_bytes, &n);
            most = n > most ? n : most;
        }
    return most;
}

/* ---- passes ---- */

/* Pages of a block's weights are given back when all tokens are through, also
 * after a failure.  No later block reads them. */
static qmoe_status pass_block(
    qmi_forward *f, int stack, int64_t block, qmi_error *err)
{
    qmoe_status status = run_all(f, stack, block, err);
    if (!qmi_checkpoint_is_generated(f->session->model->checkpoint))
        release_block(f, stack, block);
    return status;
}

qmoe_status qmi_forward_embed(qmi_forward *forward, int stack, qmi_error *err)
{
    return pass_block(forward, stack, -1, err);
}

qmoe_status qmi_forward_block(
    qmi_forward *forward, int stack, int64_t block, qmi_error *err)
{
    return pass_block(forward, stack, block, err);
}

qmoe_status qmi_forward_finish_encoder(qmi_forward *forward, qmi_error *err)
{
    const qmi_config *c = &forward->session->model->config;
    return run_all(forward, QMI_ENCODER, c->n_blocks[QMI_ENCODER], err);
}

/* ---- creation ---- */

static qmoe_status fill(qmi_forward *f, qmoe_model *model, const char *work_dir,
    const qmoe_session_options *place, qmi_error *err)
{
    int64_t most = 0;
    /* false: the session binds dense weights alone, experts are bound one by
     * one. */
    QMI_TRY(qmi_session_create(&f->session, model, place, false));
    for (int stack = 0; stack < QMI_N_STACKS; stack++) {
        int64_t n_tokens = f->calibration->sets[stack].n_tokens;
        /* Routes are of one stack at a time, so the arrays are as long as the
         * longer one. */
        most = n_tokens > most ? n_tokens : most;
        QMI_TRY(qmi_states_create(
            &f->states[stack], n_tokens, model->config.d_model, work_dir, err));
    }
    f->piece = qmi_calloc((size_t)(QMI_PIECE_TOKENS * model->config.d_model),
        sizeof *f->piece, "token states", err);
    f->expert = qmi_calloc((size_t)most, sizeof *f->expert, "routes", err);
    f->weight = qmi_calloc((size_t)most, sizeof *f->weight, "routes", err);
    return f->piece != NULL && f->expert != NULL && f->weight != NULL
               ? QMOE_OK
               : QMOE_E_NOMEM;
}

qmoe_status qmi_forward_create(qmi_forward *out, qmoe_model *model,
    const qmi_calibration *calibration, const char *work_dir,
    const qmoe_session_options *place, qmi_error *err)
{
    *out = (qmi_forward){.calibration = calibration};
    qmoe_status status = fill(out, model, work_dir, place, err);
    if (status != QMOE_OK)
        qmi_forward_destroy(out);
    return status;
}

void qmi_forward_destroy(qmi_forward *forward)
{
    qmoe_session_destroy(forward->session);
    for (int stack = 0; stack < QMI_N_STACKS; stack++)
        qmi_states_destroy(&forward->states[stack]);
    qmi_free(forward->piece);
    qmi_free(forward->expert);
    qmi_free(forward->weight);
    *forward = (qmi_forward){0};
}
