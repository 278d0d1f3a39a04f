/* SPDX-License-Identifier: Apache-2.0
 * In: the calibration's ids, and the states after the block before.  Out: the
 * states after a dense block, or in front of a block's experts together with
 * their input and each token's choice of them.  Chunks hold whole sequences, the
 * same ones for encoder and decoder, so a decoder chunk finds its encoder
 * output; their cut depends on lengths alone, so results depend neither on
 * memory nor on threads.  States are stored only when a whole chunk is
 * sound. */
#include "forward.h"

#include <string.h>

#include "alloc.h"
#include "expert_steps.h"
#include "step_check.h"
#include "steps.h"

/* Sequences [first, first + n) of the batch being run. */
typedef struct chunk {
    size_t first, n;
    int32_t *encoder_lengths, *decoder_lengths, *active; /* [n] */
} chunk;

/* ---- chunks ---- */

size_t qmi_forward_chunk(const qmi_calibration *c, size_t first)
{
    const qmi_token_set *encoder = &c->sets[QMI_ENCODE];
    const qmi_token_set *decoder = &c->sets[QMI_DECODE];
    size_t n = 0;
    int64_t tokens = 0;
    /* Of a model without an encoder its set is empty.  A sequence counts with its longer side, so neither side of a chunk
     * exceeds the limit.  The first one is always taken: a single sequence may
     * be longer. */
    while (first + n < c->n_samples) {
        int64_t more = qmi_sequence_length(encoder, first + n);
        if (qmi_sequence_length(decoder, first + n) > more)
            more = qmi_sequence_length(decoder, first + n);
        if (n != 0 && tokens + more > QMI_FORWARD_TOKENS)
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
    size_t n = qmi_forward_chunk(c, first);
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
            (int32_t)qmi_sequence_length(&c->sets[QMI_ENCODE], first + i);
        out->decoder_lengths[i] =
            (int32_t)qmi_sequence_length(&c->sets[QMI_DECODE], first + i);
        /* All sequences are active: nothing ends early, as it does in
         * generation. */
        out->active[i] = (int32_t)i;
    }
    return QMOE_OK;
}

/* ---- moving states ---- */

static int64_t first_token(
    const qmi_forward *f, qmi_program program, const chunk *c)
{
    return f->calibration->sets[program].begin[c->first];
}

/* Piece `i` of n_tokens: how many, and where on the device.  Pieces keep the
 * host's buffer small whatever the chunk. */
static int64_t piece_of(const qmi_forward *f, qmi_view *view, qmi_slot slot,
    int64_t i, int64_t n_tokens)
{
    const int64_t width = f->session->model->shape.d_model;
    *view = (qmi_view){.buffer = f->session->stage.slots[slot].buffer,
        .offset = (uint64_t)(i * width) * sizeof(float)};
    return n_tokens - i < QMI_PIECE_TOKENS ? n_tokens - i : QMI_PIECE_TOKENS;
}

static uint64_t row_bytes(const qmi_forward *f, int64_t n)
{
    return (uint64_t)(n * f->session->model->shape.d_model) * sizeof(float);
}

/* Rows from `first` on.  The slot grows to the chunk's tokens and is kept: later
 * chunks reuse it. */
static qmoe_status load_slot(qmi_forward *f, qmi_slot slot,
    const qmi_states *states, int64_t first, int64_t n_tokens, qmi_error *err)
{
    qmoe_session *s = f->session;
    QMI_TRY(qmi_grow(s->stage.backend, s->stage.device, &s->stage.slots[slot],
        row_bytes(f, n_tokens), err));
    for (int64_t i = 0; i < n_tokens; i += QMI_PIECE_TOKENS) {
        qmi_view view;
        const int64_t n = piece_of(f, &view, slot, i, n_tokens);
        QMI_TRY(qmi_states_read(states, f->piece, first + i, n, err));
        QMI_TRY(s->stage.backend->buffer_write(
            s->stage.device, view, f->piece, row_bytes(f, n), err));
    }
    return QMOE_OK;
}

/* Runs after the checks: from here on the chunk's old states are gone. */
static qmoe_status save_slot(qmi_forward *f, qmi_slot slot,
    const qmi_states *states, int64_t first, int64_t n_tokens, qmi_error *err)
{
    qmoe_session *s = f->session;
    for (int64_t i = 0; i < n_tokens; i += QMI_PIECE_TOKENS) {
        qmi_view view;
        const int64_t n = piece_of(f, &view, slot, i, n_tokens);
        QMI_TRY(s->stage.backend->buffer_read(
            s->stage.device, f->piece, view, row_bytes(f, n), err));
        QMI_TRY(qmi_states_write(states, f->piece, first + i, n, err));
    }
    return QMOE_OK;
}

static qmoe_status read_back(qmi_forward *f, const qmi_growing *from, void *to,
    uint64_t n_bytes, qmi_error *err)
{
    return f->session->stage.backend->buffer_read(f->session->stage.device, to,
        (qmi_view){.buffer = from->buffer}, n_bytes, err);
}

/* What the experts of a block are applied with: their input and the routes. */
static qmoe_status save_for_experts(qmi_forward *f, const qmi_step *experts,
    int64_t first, int64_t n_tokens, qmi_error *err)
{
    const qmi_growing *slots = f->session->stage.slots;
    const int64_t top_k = experts->u.expert_ffn.top_k;
    const uint64_t n_bytes = (uint64_t)(n_tokens * top_k) * sizeof(int32_t);
    QMI_TRY(save_slot(f, experts->src, &f->inputs, first, n_tokens, err));
    QMI_TRY(read_back(f, &slots[experts->u.expert_ffn.chosen],
        f->expert + first * top_k, n_bytes, err));
    return read_back(f, &slots[experts->u.expert_ffn.scale],
        f->weight + first * top_k, n_bytes, err);
}

/* ---- runs ---- */

/* Prepares a pass over a chunk.  For a decoder block the cross caches of that
 * block are filled from the encoder's output first. */
static qmoe_status prepare(qmi_forward *f, qmi_pass *pass, qmi_program program,
    int32_t block, const chunk *c, const int32_t *ids, qmi_error *err)
{
    qmoe_session *s = f->session;
    const qmi_graph *graph = &s->model->graph;
    const qmi_steps *cross = &graph->programs[QMI_CROSS];
    const bool encodes = qmi_graph_encodes(graph);
    QMI_TRY(
        qmi_session_start(s, encodes ? c->encoder_lengths : NULL, c->n, err));
    if (encodes)
        QMI_TRY(qmi_session_prepare_encoder(
            s, pass, program == QMI_ENCODE ? ids : NULL, err));
    if (program == QMI_ENCODE)
        return QMOE_OK;
    size_t first, last;
    qmi_steps_of_block(cross, block, &first, &last);
    if (first != last) {
        QMI_TRY(load_slot(f, graph->programs[QMI_ENCODE].output,
            &f->states[QMI_ENCODE], first_token(f, QMI_ENCODE, c),
            pass->n_tokens, err));
        QMI_TRY(qmi_session_run(s, cross, first, last, pass, err));
    }
    const qmi_batch batch = {.ids = ids,
        .sequences = c->active,
        .lengths = c->decoder_lengths,
        .n = c->n};
    return qmi_session_prepare_decoder(s, pass, &batch, err);
}

/* Before anything is saved: the chunk may have to be run again.  NaN and
 * infinity come from broken weights, and would spread to all that follows. */
static qmoe_status check_results(qmi_forward *f, qmi_slot slot,
    const qmi_step *experts, int64_t n_tokens, qmi_error *err)
{
    qmoe_session *s = f->session;
    const int64_t n = n_tokens * s->model->shape.d_model;
    const int64_t n_routes =
        experts != NULL ? n_tokens * experts->u.expert_ffn.top_k : 0;
    int64_t at = 0, at_route = n_routes;
    QMI_TRY(qmi_buffer_non_finite(
        s->stage.backend, s->stage.device, &at, &s->stage.slots[slot], n, err));
    if (experts != NULL)
        QMI_TRY(
            qmi_buffer_non_finite(s->stage.backend, s->stage.device, &at_route,
                &s->stage.slots[experts->u.expert_ffn.scale], n_routes, err));
    if (at == n && at_route == n_routes)
        return QMOE_OK;
    return qmi_fail(err, QMOE_E_FORMAT, "%s: token states are not finite",
        qmi_checkpoint_directory(s->model->checkpoint));
}

/* Steps that run at a time: those of a block, or before or after all blocks. */
typedef struct part {
    qmi_program program;
    int32_t block;
    const qmi_step *experts; /* it stops before them; NULL: it has none */
    bool is_rest;            /* behind the experts, whose input is there */
    size_t first, last;
    qmi_slot result;
} part;

/* After the blocks comes the final norm, whose result is in another slot. */
static part part_of(const qmi_forward *f, qmi_program program, int32_t block)
{
    const qmoe_model *m = f->session->model;
    const qmi_steps *steps = &m->graph.programs[program];
    part p = {.program = program,
        .block = block,
        .experts =
            block >= 0 && !f->is_whole ? qmi_expert_step(m, block) : NULL,
        .result =
            block == QMI_AFTER_BLOCKS ? steps->output : m->graph.residual};
    qmi_steps_of_block(steps, block, &p.first, &p.last);
    if (p.experts != NULL)
        p.last = (size_t)(p.experts - steps->items);
    return p;
}

static qmoe_status load(qmi_forward *f, const part *p, int64_t first,
    int64_t n_tokens, qmi_error *err)
{
    const qmoe_model *m = f->session->model;
    QMI_TRY(load_slot(
        f, m->graph.residual, &f->states[p->program], first, n_tokens, err));
    if (!p->is_rest)
        return QMOE_OK;
    return load_slot(
        f, qmi_expert_step(m, p->block)->src, &f->inputs, first, n_tokens, err);
}

static qmoe_status try_chunk(
    qmi_forward *f, const part *p, const chunk *c, qmi_error *err)
{
    const qmi_steps *steps = &f->session->model->graph.programs[p->program];
    const qmi_token_set *set = &f->calibration->sets[p->program];
    const bool begins = p->block == QMI_BEFORE_BLOCKS;
    const int64_t first = first_token(f, p->program, c);
    const int32_t *ids = begins ? set->ids + first : NULL;
    qmi_pass pass;
    QMI_TRY(prepare(f, &pass, p->program, p->block, c, ids, err));
    if (!begins)
        QMI_TRY(load(f, p, first, pass.n_tokens, err));
    QMI_TRY(qmi_session_run(f->session, steps, p->first, p->last, &pass, err));
    if (f->revisit != NULL) {
        const qmi_revisit at = {.program = p->program,
            .first = p->first,
            .last = p->last,
            .first_token = first,
            .first_encoder_token = qmi_graph_encodes(&f->session->model->graph)
                                       ? first_token(f, QMI_ENCODE, c)
                                       : 0,
            .pass = &pass};
        return f->revisit(f->user, &at, err);
    }
    QMI_TRY(check_results(f, p->result, p->experts, pass.n_tokens, err));
    QMI_TRY(save_slot(
        f, p->result, &f->states[p->program], first, pass.n_tokens, err));
    if (p->experts != NULL)
        return save_for_experts(f, p->experts, first, pass.n_tokens, err);
    return QMOE_OK;
}

/* A second look names the step after which states are not finite.  It is not
 * the rule, since reading every step's result back is slow; it starts from the
 * same states, because nothing has been saved. */
static qmoe_status run_chunk(
    qmi_forward *f, const part *p, const chunk *c, qmi_error *err)
{
    qmoe_status status = try_chunk(f, p, c, err);
    if (status != QMOE_E_FORMAT)
        return status;
    qmi_probe probe = qmi_step_check();
    qmi_probe_attach(f->session, &probe);
    status = try_chunk(f, p, c, err);
    qmi_probe_detach(f->session, &probe);
    return status;
}

static qmoe_status run_all(qmi_forward *f, const part *p, qmi_error *err)
{
    const qmi_calibration *calibration = f->calibration;
    const qmi_token_set *set = &calibration->sets[p->program];
    size_t n_sequences = set->n_sequences;
    f->n_passed = 0;
    /* Chunk by chunk in order; n_passed is what progress shows. */
    for (size_t first = 0; first < n_sequences;) {
        chunk c;
        QMI_TRY(chunk_make(&c, calibration, first, err));
        f->first_sequence = first;
        first += c.n;
        qmoe_status status = run_chunk(f, p, &c, err);
        chunk_free(&c);
        QMI_TRY(status);
        f->n_passed = set->begin[first];
    }
    return QMOE_OK;
}

/* ---- dense weights ---- */

typedef void (*visit_weight_fn)(
    void *user, const qmoe_model *model, const qmi_weight *w);

/* Every dense weight that the steps of a block use in a program. */
static void each_dense_weight(const qmoe_model *model, qmi_program program,
    int32_t block, visit_weight_fn visit, void *user)
{
    const qmi_steps *steps = &model->graph.programs[program];
    size_t first, last;
    qmi_steps_of_block(steps, block, &first, &last);
    for (size_t i = first; i < last; i++) {
        const qmi_step *s = &steps->items[i];
        for (int w = 0; w < s->n_weights && s->role != QMOE_ROLE_EXPERTS; w++)
            visit(user, model, &model->weights[s->weights[w]]);
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

/* What all programs read for a block, or one before or after its blocks. */
static void each_weight_at(const qmoe_model *model, qmi_program program,
    int32_t block, visit_weight_fn visit, void *user)
{
    each_dense_weight(model, program, block, visit, user);
    if (program == QMI_DECODE)
        each_dense_weight(model, QMI_CROSS, block, visit, user);
}

static uint64_t bytes_at(
    const qmoe_model *model, qmi_program program, int32_t block)
{
    uint64_t n = 0;
    each_weight_at(model, program, block, add_bytes, &n);
    return n;
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Generated values stay once they are made, so all of them count; pages of a
 * file are given back after each block, so the largest block does.  What a
 * program does before and after its blocks counts like a block. */
uint64_t qmi_forward_dense_bytes(const qmoe_model *model)
{
    uint64_t most = 0, all = 0;
    for (size_t i = 0; i < model->n_weights; i++)
        all += model->weights[i].role == QMOE_ROLE_EXPERTS
                   ? 0
                   : qmi_weight_bytes(&model->weights[i]);
    if (qmi_checkpoint_is_generated(model->checkpoint))
        return all;
    for (int32_t b = 0; b < model->n_blocks; b++)
        most = larger(most, bytes_at(model, model->blocks[b].program, b));
    for (int p = 0; p < QMI_N_PROGRAMS; p++) {
        most = larger(most, bytes_at(model, (qmi_program)p, QMI_BEFORE_BLOCKS));
        most = larger(most, bytes_at(model, (qmi_program)p, QMI_AFTER_BLOCKS));
    }
    return most;
}

/* ---- passes ---- */

/* Pages of a block's weights are given back when all tokens are through, also
 * after a failure.  No later block reads them. */
static qmoe_status run_part(qmi_forward *f, const part *p, qmi_error *err)
{
    const qmoe_model *model = f->session->model;
    qmoe_status status = run_all(f, p, err);
    if (!qmi_checkpoint_is_generated(model->checkpoint))
        each_weight_at(model, p->program, p->block, release, NULL);
    return status;
}

qmoe_status qmi_forward_embed(
    qmi_forward *forward, qmi_program program, qmi_error *err)
{
    const part p = part_of(forward, program, QMI_BEFORE_BLOCKS);
    return run_part(forward, &p, err);
}

qmoe_status qmi_forward_block(
    qmi_forward *forward, int32_t block, qmi_error *err)
{
    const qmoe_model *model = forward->session->model;
    const part p = part_of(forward, model->blocks[block].program, block);
    return run_part(forward, &p, err);
}

qmoe_status qmi_forward_after_experts(
    qmi_forward *forward, int32_t block, qmi_error *err)
{
    const qmoe_model *model = forward->session->model;
    part p = {.program = model->blocks[block].program,
        .block = block,
        .is_rest = true,
        .result = model->graph.residual};
    qmi_steps_after_experts(model, block, &p.first, &p.last);
    return p.first != p.last ? run_part(forward, &p, err) : QMOE_OK;
}

qmoe_status qmi_forward_finish_encoder(qmi_forward *forward, qmi_error *err)
{
    const part p = part_of(forward, QMI_ENCODE, QMI_AFTER_BLOCKS);
    return run_all(forward, &p, err);
}

const qmi_step *qmi_head_step(const qmoe_model *model)
{
    const qmi_steps *steps = &model->graph.programs[QMI_DECODE];
    return &steps->items[steps->n - 1];
}

qmoe_status qmi_forward_before_head(qmi_forward *forward, qmi_error *err)
{
    const qmoe_model *model = forward->session->model;
    part p = part_of(forward, QMI_DECODE, QMI_AFTER_BLOCKS);
    p.last--;
    p.result = qmi_head_step(model)->src;
    return run_all(forward, &p, err);
}

qmoe_status qmi_forward_revisit(qmi_forward *forward, qmi_program program,
    int32_t block, qmi_revisit_fn *visit, void *user, qmi_error *err)
{
    part p = part_of(forward, program, block);
    /* Its logits would be too many. */
    if (program == QMI_DECODE && block == QMI_AFTER_BLOCKS)
        p.last--;
    forward->revisit = visit;
    forward->user = user;
    const qmoe_status status = run_part(forward, &p, err);
    forward->revisit = NULL;
    return status;
}

/* ---- creation ---- */

int64_t qmi_forward_top_k(const qmoe_model *model)
{
    int64_t most = 0;
    for (int32_t i = 0; i < model->n_blocks; i++)
        if (model->blocks[i].ffn.top_k > most)
            most = model->blocks[i].ffn.top_k;
    return most;
}

static qmoe_status check_blocks(const qmoe_model *model, qmi_error *err)
{
    for (int32_t i = 0; i < model->n_blocks; i++)
        if (qmi_block_is_sparse(&model->blocks[i]))
            QMI_TRY(qmi_expert_steps_check(model, i, err));
    return QMOE_OK;
}

static qmoe_status fill(qmi_forward *f, qmoe_model *model, const char *work_dir,
    const qmoe_session_options *place, qmi_error *err)
{
    int64_t most = 0;
    /* Else the session binds dense weights alone, experts are bound one by
     * one. */
    if (!f->is_whole)
        QMI_TRY(check_blocks(model, err));
    QMI_TRY(qmi_session_create(&f->session, model, place, f->is_whole));
    for (int p = 0; p < QMI_N_PROGRAMS; p++) {
        int64_t n_tokens = f->calibration->sets[p].n_tokens;
        /* Inputs and routes are of one program at a time, so the arrays are as
         * long as the longest set. */
        most = n_tokens > most ? n_tokens : most;
        if (n_tokens == 0)
            continue;
        QMI_TRY(qmi_states_create(
            &f->states[p], n_tokens, model->shape.d_model, work_dir, err));
    }
    f->piece = qmi_calloc((size_t)(QMI_PIECE_TOKENS * model->shape.d_model),
        sizeof *f->piece, "token states", err);
    if (f->is_whole)
        return f->piece != NULL ? QMOE_OK : QMOE_E_NOMEM;
    QMI_TRY(qmi_states_create(
        &f->inputs, most, model->shape.d_model, work_dir, err));
    const size_t n_routes = (size_t)(most * qmi_forward_top_k(model));
    f->expert = qmi_calloc(n_routes, sizeof *f->expert, "routes", err);
    f->weight = qmi_calloc(n_routes, sizeof *f->weight, "routes", err);
    return f->piece != NULL && f->expert != NULL && f->weight != NULL
               ? QMOE_OK
               : QMOE_E_NOMEM;
}

static qmoe_status finish(qmi_forward *f, qmoe_status status)
{
    if (status != QMOE_OK)
        qmi_forward_destroy(f);
    return status;
}

qmoe_status qmi_forward_create(qmi_forward *out, qmoe_model *model,
    const qmi_calibration *calibration, const char *work_dir,
    const qmoe_session_options *place, qmi_error *err)
{
    *out = (qmi_forward){.calibration = calibration};
    return finish(out, fill(out, model, work_dir, place, err));
}

qmoe_status qmi_forward_create_whole(qmi_forward *out, qmoe_model *model,
    const qmi_calibration *calibration, const char *work_dir,
    const qmoe_session_options *place, qmi_error *err)
{
    *out = (qmi_forward){.calibration = calibration, .is_whole = true};
    return finish(out, fill(out, model, work_dir, place, err));
}

void qmi_forward_destroy(qmi_forward *forward)
{
    qmoe_session_destroy(forward->session);
    for (int p = 0; p < QMI_N_PROGRAMS; p++)
        qmi_states_destroy(&forward->states[p]);
    qmi_states_destroy(&forward->inputs);
    qmi_free(forward->piece);
    qmi_free(forward->expert);
    qmi_free(forward->weight);
    *forward = (qmi_forward){0};
}
