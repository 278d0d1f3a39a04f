/* SPDX-License-Identifier: Apache-2.0
 * Comes in: ids of sequences of different lengths.  Goes out: lists that say
 * which row of a pass belongs to which sequence and where its keys are, on the
 * device, and after the pass its result in a slot.  Rows of a sequence lie
 * together, without padding, in the order of the sequences. */
#include "pass.h"

#include <string.h>

#include "alloc.h"
#include "position_bias.h"
#include "steps.h"

/* Embedding reads a row per id: an id outside would read outside of the
 * table. */
static qmoe_status check_ids(
    const qmoe_session *s, const int32_t *ids, int64_t n, qmi_error *err)
{
    int64_t vocab_size = s->model->shape.vocab_size;
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= vocab_size)
            return qmi_fail(err, QMOE_E_INVALID,
                "token id %d at position %lld is outside the vocabulary of "
                "%lld",
                (int)ids[i], (long long)i, (long long)vocab_size);
    return QMOE_OK;
}

/* ---- caches ---- */

static uint64_t row_bytes(const qmoe_session *s, size_t cache)
{
    return qmi_kv_row_bytes(s->kv_type, s->model->graph.caches[cache].width);
}

/* Whether the stage runs the block of a cache that has this rule. */
static bool has_cache(const qmoe_session *s, size_t cache, qmi_cache_rule rule)
{
    const qmi_cache_spec *spec = &s->model->graph.caches[cache];
    return spec->rule == rule && qmi_stage_has_block(&s->stage, spec->block);
}

static qmoe_status grow_encoded_caches(qmoe_session *s, qmi_error *err)
{
    const qmi_graph *graph = &s->model->graph;
    /* Numbers begin with 1 (graph.h).  ENCODED caches are written anew for
     * every batch. */
    for (size_t i = 1; i <= graph->n_caches; i++)
        if (has_cache(s, i, QMI_CACHE_ENCODED))
            QMI_TRY(
                qmi_grow(s->stage.backend, s->stage.device, &s->stage.caches[i],
                    row_bytes(s, i) * (uint64_t)s->n_encoded, err));
    return QMOE_OK;
}

/* Gives each sequence n_rows rows of one growing cache and takes along what it
 * has there. */
static qmoe_status grow_cache(
    qmoe_session *s, size_t number, int64_t n_rows, qmi_error *err)
{
    qmi_growing *cache = &s->stage.caches[number], grown = {0};
    const uint64_t row = row_bytes(s, number);
    const uint64_t before = row * (uint64_t)s->n_rows;
    const uint64_t after = row * (uint64_t)n_rows;
    if (s->n_rows == 0) /* of this batch nothing is there */
        return qmi_grow(s->stage.backend, s->stage.device, cache,
            after * s->n_sequences, err);
    /* A new buffer: old rows are closer together than new ones. */
    QMI_TRY(qmi_grow(s->stage.backend, s->stage.device, &grown,
        after * s->n_sequences, err));
    qmoe_status status = QMOE_OK;
    for (size_t i = 0; status == QMOE_OK && i < s->n_sequences; i++) {
        const qmi_view from = {.buffer = cache->buffer, .offset = before * i};
        const qmi_view to = {.buffer = grown.buffer, .offset = after * i};
        /* Only the tokens so far; the rest has not been written. */
        const uint64_t used = row * (uint64_t)s->sequences[i].position;
        if (used != 0)
            status = s->stage.backend->buffer_copy(
                s->stage.device, to, from, used, err);
    }
    /* One of both goes: the old one when all was copied, else the new one. */
    qmi_shrink(
        s->stage.backend, s->stage.device, status == QMOE_OK ? cache : &grown);
    if (status == QMOE_OK)
        *cache = grown;
    return status;
}

static qmoe_status grow_caches(qmoe_session *s, int64_t n_rows, qmi_error *err)
{
    const qmi_graph *graph = &s->model->graph;
    for (size_t i = 1; i <= graph->n_caches; i++)
        if (has_cache(s, i, QMI_CACHE_GROWING))
            QMI_TRY(grow_cache(s, i, n_rows, err));
    return QMOE_OK;
}

/* Rows for `needed` tokens of each sequence. */
static qmoe_status reserve_rows(qmoe_session *s, int64_t needed, qmi_error *err)
{
    enum { LEAST = 64 };
    /* Doubling: a sequence that grows token by token copies its rows seldom. */
    int64_t n_rows = 2 * s->n_rows > LEAST ? 2 * s->n_rows : LEAST;
    if (needed <= s->n_rows)
        return QMOE_OK;
    if (n_rows < needed)
        n_rows = needed;
    /* Rows of the cache are numbered in 32 bits. */
    if (n_rows > INT32_MAX / (int64_t)s->n_sequences)
        return qmi_fail(err, QMOE_E_INVALID, "the batch is too long");
    /* What fails in between leaves caches of both sizes: no batch is left. */
    qmoe_status status = grow_caches(s, n_rows, err);
    if (status != QMOE_OK)
        s->n_sequences = 0;
    s->n_rows = n_rows;
    return status;
}

/* ---- the encoder's pass ---- */

qmoe_status qmi_session_start(
    qmoe_session *s, const int32_t *lengths, size_t n_sequences, qmi_error *err)
{
    if (n_sequences == 0)
        return qmi_fail(err, QMOE_E_INVALID, "nothing to encode");
    if ((lengths != NULL) != qmi_graph_encodes(&s->model->graph))
        return qmi_fail(err, QMOE_E_INVALID, "the model has %s encoder",
            lengths != NULL ? "no" : "an");
    /* The old batch is gone from here on, also when this one fails. */
    qmi_free(s->sequences);
    s->n_sequences = 0;
    s->sequences =
        qmi_calloc(n_sequences, sizeof *s->sequences, "a batch", err);
    if (s->sequences == NULL)
        return QMOE_E_NOMEM;
    s->n_encoded = s->longest_encoder = s->n_rows = 0;
    s->n_cached_ids = 0;
    /* Sequences lie back to back, without padding. */
    for (size_t i = 0; lengths != NULL && i < n_sequences; i++) {
        if (lengths[i] < 1 || s->n_encoded + lengths[i] > INT32_MAX)
            return qmi_fail(err, QMOE_E_INVALID,
                "sequence %zu of the batch is empty or the batch is too long",
                i);
        s->sequences[i] = (qmi_sequence){
            .begin = (int32_t)s->n_encoded, .n_encoded = lengths[i]};
        s->n_encoded += lengths[i];
        if (lengths[i] > s->longest_encoder)
            s->longest_encoder = lengths[i];
    }
    s->n_sequences = n_sequences;
    if (lengths == NULL)
        return QMOE_OK;
    /* The bias for distances of this batch, before its first pass. */
    QMI_TRY(qmi_session_reach(s, QMI_ENCODE, s->longest_encoder - 1, err));
    return grow_encoded_caches(s, err);
}

static void fill_encoder_lists(qmoe_session *s)
{
    int32_t *sequence = qmi_lists_host(&s->stage.lists, QMI_LIST_SEQUENCE);
    int32_t *rows = qmi_lists_host(&s->stage.lists, QMI_LIST_ROWS);
    qmi_attention_span *spans = qmi_lists_host(&s->stage.lists, QMI_LIST_SPANS);
    for (size_t i = 0; i < s->n_sequences; i++) {
        const qmi_sequence *q = &s->sequences[i];
        /* Queries and keys are the same rows; q_pos 0: every query sees all
         * keys. */
        spans[i] = (qmi_attention_span){
            .q_begin = q->begin,
            .q_len = q->n_encoded,
            .k_begin = q->begin,
            .k_len = q->n_encoded,
        };
        for (int32_t t = q->begin; t < q->begin + q->n_encoded; t++) {
            sequence[t] = (int32_t)i;
            rows[t] = t;
        }
    }
}

/* Lays out the lists of a pass, with the ids it embeds, if any. */
static qmoe_status begin_lists(
    qmoe_session *s, const qmi_pass *pass, const int32_t *ids, qmi_error *err)
{
    QMI_TRY(qmi_lists_begin(&s->stage.lists, pass->n_tokens, pass->n_spans,
        qmi_turns_width(&s->model->graph, s->model->graph.n_rotaries), err));
    if (ids == NULL)
        return QMOE_OK;
    QMI_TRY(check_ids(s, ids, pass->n_tokens, err));
    memcpy(qmi_lists_host(&s->stage.lists, QMI_LIST_IDS), ids,
        (size_t)pass->n_tokens * sizeof *ids);
    return QMOE_OK;
}

qmoe_status qmi_session_prepare_encoder(
    qmoe_session *session, qmi_pass *pass, const int32_t *ids, qmi_error *err)
{
    *pass = (qmi_pass){
        .program = QMI_ENCODE,
        .n_tokens = session->n_encoded,
        .n_spans = (int64_t)session->n_sequences,
        .max_keys = session->longest_encoder,
        .n_cache_rows = session->n_encoded,
    };
    QMI_TRY(begin_lists(session, pass, ids, err));
    fill_encoder_lists(session);
    return qmi_lists_upload(&session->stage.lists, session->stage.backend,
        session->stage.device, err);
}

qmoe_status qmi_session_encode(qmoe_session *session, const int32_t *ids,
    const int32_t *lengths, size_t n_sequences, qmi_error *err)
{
    QMI_TRY(qmi_session_start(session, lengths, n_sequences, err));
    /* Without an encoder there is nothing to run. */
    const size_t n = (size_t)session->n_encoded;
    if (n == 0)
        return QMOE_OK;
    qmi_free(session->encoder_ids);
    session->encoder_ids = qmi_calloc(n, sizeof *ids, "a batch", err);
    if (session->encoder_ids == NULL)
        return QMOE_E_NOMEM;
    /* Kept: the pass may have to be run again (second_look.h). */
    memcpy(session->encoder_ids, ids, n * sizeof *ids);
    return qmi_session_encode_pass(session, err);
}

qmoe_status qmi_session_encode_pass(qmoe_session *session, qmi_error *err)
{
    qmi_pass pass;
    if (!qmi_graph_encodes(&session->model->graph))
        return QMOE_OK;
    QMI_TRY(
        qmi_session_prepare_encoder(session, &pass, session->encoder_ids, err));
    QMI_TRY(qmi_session_run_program(session, &pass, err));
    /* Keys and values of the encoder's output: the same rows, another
     * program. */
    pass.program = QMI_CROSS;
    return qmi_session_run_program(session, &pass, err);
}

/* ---- the decoder's passes ---- */

/* Spans, cache rows and sequence numbers of a decoder pass. */
static void fill_decoder_lists(qmoe_session *s, const qmi_batch *batch)
{
    const int32_t *lengths = batch->lengths;
    int32_t *sequence = qmi_lists_host(&s->stage.lists, QMI_LIST_SEQUENCE);
    int32_t *rows = qmi_lists_host(&s->stage.lists, QMI_LIST_ROWS);
    qmi_attention_span *spans = qmi_lists_host(&s->stage.lists, QMI_LIST_SPANS);
    qmi_attention_span *cross =
        qmi_lists_host(&s->stage.lists, QMI_LIST_CROSS_SPANS);
    int32_t row = 0;
    for (size_t i = 0; i < batch->n; i++) {
        const int32_t number = batch->sequences[i];
        const qmi_sequence *q = &s->sequences[number];
        /* Each sequence has n_rows rows of the growing caches for itself. */
        const int32_t cache = (int32_t)(number * s->n_rows);
        /* Keys: the tokens so far and those of this pass, which are stored
         * before attention reads them. */
        spans[i] = (qmi_attention_span){
            .q_begin = row,
            .q_len = lengths[i],
            .k_begin = cache,
            .k_len = q->position + lengths[i],
            .q_pos = q->position,
        };
        /* All of the encoder's rows, whatever has been decoded. */
        cross[i] = (qmi_attention_span){
            .q_begin = row,
            .q_len = lengths[i],
            .k_begin = q->begin,
            .k_len = q->n_encoded,
        };
        for (int32_t t = 0; t < lengths[i]; t++, row++) {
            sequence[row] = number;
            rows[row] = cache + q->position + t;
        }
    }
}

/* Cosines and sines of each row's position, for every rotary embedding. */
static void fill_turns(
    qmoe_session *s, const qmi_pass *pass, const qmi_batch *batch)
{
    const qmi_graph *graph = &s->model->graph;
    float *turns = qmi_lists_host(&s->stage.lists, QMI_LIST_TURNS);
    for (size_t r = 1; r <= graph->n_rotaries; r++) {
        const qmi_rotary_spec *rotary = &graph->rotaries[r];
        float *row = turns + pass->n_tokens * qmi_turns_width(graph, r - 1);
        for (size_t i = 0; i < batch->n; i++) {
            const int32_t position = s->sequences[batch->sequences[i]].position;
            const int32_t n = batch->lengths[i];
            for (int32_t t = 0; t < n; t++, row += rotary->width)
                qmi_rotary_turn(row, rotary, position + t, position + n);
        }
    }
}

/* Tokens of a pass and keys of its longest sequence. */
static qmoe_status measure(const qmoe_session *s, qmi_pass *pass,
    const qmi_batch *batch, qmi_error *err)
{
    for (size_t i = 0; i < batch->n; i++) {
        const int32_t number = batch->sequences[i];
        /* Rising numbers: no sequence twice, and the order of the batch. */
        const bool known = number >= 0 && (size_t)number < s->n_sequences &&
                           (i == 0 || number > batch->sequences[i - 1]);
        if (!known || batch->lengths[i] < 1)
            return qmi_fail(err, QMOE_E_INVALID,
                "decoder pass does not fit the encoded batch");
        /* 64 bits: a sum of two lengths. */
        const int64_t n_keys =
            (int64_t)s->sequences[number].position + batch->lengths[i];
        pass->n_tokens += batch->lengths[i];
        if (n_keys > pass->max_keys)
            pass->max_keys = n_keys;
    }
    if (pass->n_tokens == 0)
        return qmi_fail(err, QMOE_E_INVALID, "nothing to decode");
    return QMOE_OK;
}

qmoe_status qmi_session_prepare_decoder(qmoe_session *session, qmi_pass *pass,
    const qmi_batch *batch, qmi_error *err)
{
    qmoe_session *s = session;
    *pass = (qmi_pass){
        .program = QMI_DECODE,
        .n_spans = (int64_t)batch->n,
        .max_cross_keys = s->longest_encoder,
    };
    QMI_TRY(measure(s, pass, batch, err));
    pass->reads_prompt =
        !qmi_graph_encodes(&s->model->graph) && pass->n_tokens > pass->n_spans;
    QMI_TRY(begin_lists(s, pass, batch->ids, err));
    /* Before the lists are filled: they name rows of the caches. */
    QMI_TRY(reserve_rows(s, pass->max_keys, err));
    QMI_TRY(qmi_session_reach(s, QMI_DECODE, pass->max_keys - 1, err));
    pass->n_cache_rows = (int64_t)s->n_sequences * s->n_rows;
    fill_decoder_lists(s, batch);
    fill_turns(s, pass, batch);
    return qmi_lists_upload(
        &s->stage.lists, s->stage.backend, s->stage.device, err);
}

/* Moves the row of each sequence's last token to the front of a slot.  Rows
 * only move forward, so none is overwritten before it was moved. */
static qmoe_status gather_last(
    qmoe_session *s, qmi_slot slot, const qmi_batch *batch, qmi_error *err)
{
    const uint64_t n_bytes =
        (uint64_t)s->model->graph.slots[slot].width * sizeof(float);
    uint64_t end = 0;
    for (size_t i = 0; i < batch->n; i++) {
        end += (uint64_t)batch->lengths[i];
        if (end - 1 == i)
            continue;
        qmi_view from = {.buffer = s->stage.slots[slot].buffer}, to = from;
        from.offset = (end - 1) * n_bytes;
        to.offset = i * n_bytes;
        QMI_TRY(s->stage.backend->buffer_copy(
            s->stage.device, to, from, n_bytes, err));
    }
    return QMOE_OK;
}

qmoe_status qmi_session_rewind(qmoe_session *s, size_t n_tokens, qmi_error *err)
{
    if (s->n_sequences != 1 || s->sequences[0].position < (int64_t)n_tokens)
        return qmi_fail(err, QMOE_E_INVALID, "nothing to go on from");
    /* The rows behind are overwritten before they are read. */
    s->sequences[0].position = (int32_t)n_tokens;
    return QMOE_OK;
}

/* Runs DECODE; the head, its last step, for the rows that are wanted. */
static qmoe_status run_decode(
    qmoe_session *s, qmi_pass *pass, const qmi_batch *batch, qmi_error *err)
{
    const qmi_steps *steps = &s->model->graph.programs[QMI_DECODE];
    const size_t head = steps->n - 1;
    /* Every sequence has one token: all rows are last ones. */
    if (batch->rows == QMI_ALL_ROWS ||
        (batch->rows == QMI_LAST_ROWS && pass->n_tokens == pass->n_spans))
        return qmi_session_run_program(s, pass, err);
    QMI_TRY(qmi_session_run(s, steps, 0, head, pass, err));
    if (batch->rows == QMI_NO_ROWS) {
        pass->n_tokens = 0;
        return QMOE_OK;
    }
    QMI_TRY(gather_last(s, steps->items[head].src, batch, err));
    /* A row per sequence from here on. */
    pass->n_tokens = pass->n_spans;
    return qmi_session_run(s, steps, head, steps->n, pass, err);
}

qmoe_status qmi_session_decode_pass(qmoe_session *session, int64_t *n_rows,
    const qmi_batch *batch, qmi_error *err)
{
    qmi_pass pass;
    QMI_TRY(qmi_session_prepare_decoder(session, &pass, batch, err));
    QMI_TRY(run_decode(session, &pass, batch, err));
    /* Only after success: a pass that failed has added no token. */
    for (size_t i = 0; i < batch->n; i++)
        session->sequences[batch->sequences[i]].position += batch->lengths[i];
    *n_rows = pass.n_tokens;
    return QMOE_OK;
}
