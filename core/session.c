/* SPDX-License-Identifier: Apache-2.0
 * Places a model on a device and runs passes over it. */
#include "session.h"

#include <string.h>

#include "alloc.h"
#include "place.h"

/* ---- buffers ---- */

qmoe_status qmi_grow(
    qmoe_session *session, qmi_growing *g, uint64_t n_bytes, qmi_error *err)
{
    if (n_bytes <= g->n_bytes && g->buffer != NULL)
        return QMOE_OK;
    session->backend->buffer_free(session->device, g->buffer);
    *g = (qmi_growing){0};
    QMI_TRY(session->backend->buffer_alloc(
        &g->buffer, session->device, n_bytes, err));
    g->n_bytes = n_bytes;
    return QMOE_OK;
}

qmoe_status qmi_upload(qmoe_session *session, qmi_growing *g, const void *data,
    uint64_t n_bytes, qmi_error *err)
{
    QMI_TRY(qmi_grow(session, g, n_bytes, err));
    return session->backend->buffer_write(
        session->device, (qmi_view){.buffer = g->buffer}, data, n_bytes, err);
}

static void release(qmoe_session *session, qmi_growing *g)
{
    session->backend->buffer_free(session->device, g->buffer);
    *g = (qmi_growing){0};
}

/* ---- creation ---- */

/* All that is not an expert's, of a checkpoint that has no data before. */
static qmoe_status fetch_generated(const qmoe_model *m, qmi_error *err)
{
    if (!qmi_checkpoint_is_generated(m->checkpoint))
        return QMOE_OK;
    for (size_t i = 0; i < m->n_weights; i++) {
        const qmi_weight *w = &m->weights[i];
        if (!w->is_expert)
            QMI_TRY(qmi_checkpoint_fetch(
                m->checkpoint, w->parts[0].data, w->parts[0].n_bytes, err));
    }
    return QMOE_OK;
}

/* Progress is reported about this often: small models load unnoticed. */
enum { LOAD_STEP_BYTES = 4 << 20 };

static qmoe_status bind_weights(
    qmoe_session *s, bool with_experts, qmi_error *err)
{
    const qmoe_model *m = s->model;
    QMI_TRY(fetch_generated(m, err));
    s->bound =
        qmi_calloc(m->n_weights, sizeof *s->bound, "weight bindings", err);
    if (s->bound == NULL)
        return QMOE_E_NOMEM;
    QMI_TRY(s->backend->weights_plan(
        s->device, m->weights, m->n_weights, with_experts, err));
    uint64_t done = 0, total = 0, reported = 0;
    for (size_t i = 0; i < m->n_weights; i++)
        if (with_experts || !m->weights[i].is_expert)
            total += qmi_weight_bytes(&m->weights[i]);
    for (; s->n_bound < m->n_weights; s->n_bound++) {
        const qmi_weight *w = &m->weights[s->n_bound];
        if (w->is_expert && !with_experts)
            continue;
        if (done - reported >= LOAD_STEP_BYTES) {
            QMI_TRY(qmi_progress(m->context, "load", w->name, done, total));
            reported = done;
        }
        QMI_TRY(
            s->backend->weight_bind(&s->bound[s->n_bound], s->device, w, err));
        done += qmi_weight_bytes(w);
    }
    return QMOE_OK;
}

static qmoe_status set_up(qmoe_session *s, const qmoe_session_options *options,
    bool with_experts, qmi_error *err)
{
    const qmi_device_options device_options = {
        .n_threads = s->model->context->n_threads,
        .expert_cache_bytes = options->expert_cache_bytes,
        .memory_bytes = options->device_memory_bytes,
        .weights = s->model->weights,
        .n_weights = with_experts ? s->model->n_weights : 0,
    };
    int64_t n_blocks = s->model->config.n_blocks[QMI_DECODER];
    qmi_place place;
    QMI_TRY(qmi_place_choose(&place, s->model->context, options->backend,
        options->device, options->device_name, err));
    if (options->expert_cache_bytes != 0 && !s->model->experts_replaced &&
        qmi_checkpoint_is_generated(s->model->checkpoint))
        return qmi_fail(err, QMOE_E_INVALID,
            "a bound on the expert cache has no effect on made-up experts");
    QMI_TRY(qmi_place_check_bounds(&place, options->expert_cache_bytes,
        options->device_memory_bytes, err));
    s->backend = place.backend;
    s->info = place.info;
    QMI_TRY(s->backend->device_open(
        &s->device, s->info.index, &device_options, err));
    for (int i = 0; i < QMI_CACHE_COUNT; i++) {
        s->caches[i] = qmi_calloc(
            (size_t)n_blocks, sizeof *s->caches[i], "cache list", err);
        if (s->caches[i] == NULL)
            return QMOE_E_NOMEM;
    }
    return bind_weights(s, with_experts, err);
}

static void release_buffers(qmoe_session *s)
{
    qmi_growing *const single[] = {&s->ids, &s->sequence, &s->rows, &s->spans,
        &s->cross_spans, &s->expert, &s->route_weight, &s->top,
        &s->bias[QMI_ENCODER], &s->bias[QMI_DECODER]};
    for (size_t i = 0; i < sizeof single / sizeof *single; i++)
        release(s, single[i]);
    for (int i = 0; i < QMI_SLOT_COUNT; i++)
        release(s, &s->slots[i]);
    for (int i = 0; i < QMI_CACHE_COUNT; i++)
        for (int64_t b = 0;
             s->caches[i] != NULL && b < s->model->config.n_blocks[QMI_DECODER];
             b++)
            release(s, &s->caches[i][b]);
    for (size_t i = 0; i < s->n_bound; i++)
        s->backend->weight_unbind(s->device, &s->bound[i]);
}

static void destroy(qmoe_session *session)
{
    if (session->device != NULL) {
        release_buffers(session);
        session->backend->device_close(session->device);
    }
    for (int i = 0; i < QMI_CACHE_COUNT; i++)
        qmi_free(session->caches[i]);
    qmi_free(session->bound);
    qmi_free(session->encoder_begin);
    qmi_free(session->encoder_ids);
    qmi_free(session->position);
    qmi_free(session->top_host);
    qmi_model_release(session->model);
    qmi_free(session);
}

qmoe_status qmi_session_create(qmoe_session **out, qmoe_model *model,
    const qmoe_session_options *options, bool with_experts)
{
    *out = NULL;
    qmi_error *err = &model->context->error;
    qmoe_session_options known = {0};
    qmi_copy_options(&known, sizeof known, options);
    if (known.expert_capacity < 0)
        return qmi_fail(err, QMOE_E_INVALID, "expert capacity is negative");
    qmoe_session *s = qmi_calloc(1, sizeof *s, "a session", err);
    if (s == NULL)
        return QMOE_E_NOMEM;
    s->model = model;
    qmi_model_retain(model);
    s->capacity = known.expert_capacity;
    qmoe_status status = set_up(s, &known, with_experts, err);
    if (status != QMOE_OK) {
        destroy(s);
        return status;
    }
    *out = s;
    return QMOE_OK;
}

qmoe_status qmoe_session_create(
    qmoe_session **out, qmoe_model *model, const qmoe_session_options *options)
{
    if (out != NULL)
        *out = NULL;
    QMI_TRY(qmi_model_call_begin(model, __func__, out == NULL));
    return qmi_model_call_end(
        model, qmi_session_create(out, model, options, true));
}

void qmoe_session_destroy(qmoe_session *session)
{
    if (session == NULL)
        return;
    if (session->is_running)
        session->is_destroyed = true;
    else
        destroy(session);
}

qmoe_status qmi_session_check(const qmoe_session *session, qmi_error *err)
{
    if (!session->is_destroyed)
        return QMOE_OK;
    return qmi_fail(err, QMOE_E_INVALID,
        "the session was destroyed by a hook of a call that uses it");
}

qmoe_status qmi_session_call_begin(
    qmoe_session *session, const char *function, bool lacks)
{
    if (session == NULL)
        return QMOE_E_INVALID;
    if (session->is_running)
        return qmi_fail(&session->model->context->error, QMOE_E_INVALID,
            "%s: the session is in use by the call whose hook this is",
            function);
    QMI_TRY(qmi_model_call_begin(session->model, function, lacks));
    session->is_running = true;
    return QMOE_OK;
}

qmoe_status qmi_session_call_end(qmoe_session *session, qmoe_status status)
{
    qmoe_model *model = session->model;
    session->is_running = false;
    if (session->is_destroyed)
        destroy(session);
    return qmi_model_call_end(model, status);
}

void qmoe_session_device(const qmoe_session *session, qmoe_device_info *out)
{
    if (out != NULL)
        *out = session != NULL ? session->info : (qmoe_device_info){0};
}

/* ---- passes ---- */

static qmoe_status check_ids(
    const qmoe_session *s, const int32_t *ids, int64_t n, qmi_error *err)
{
    int64_t vocab_size = s->model->config.vocab_size;
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= vocab_size)
            return qmi_fail(err, QMOE_E_INVALID,
                "token id %d at position %lld is outside the vocabulary of "
                "%lld",
                (int)ids[i], (long long)i, (long long)vocab_size);
    return QMOE_OK;
}

/* Host-side lists of one pass, uploaded together. */
typedef struct pass_lists {
    int32_t *sequence, *rows;                /* [n_tokens] */
    qmi_attention_span *spans, *cross_spans; /* [n_spans] */
} pass_lists;

static void lists_free(pass_lists *lists)
{
    qmi_free(lists->sequence);
    qmi_free(lists->rows);
    qmi_free(lists->spans);
    qmi_free(lists->cross_spans);
}

static qmoe_status lists_alloc(
    pass_lists *lists, int64_t n_tokens, int64_t n_spans, qmi_error *err)
{
    size_t t = (size_t)n_tokens, n = (size_t)n_spans;
    *lists = (pass_lists){
        .sequence = qmi_calloc(t, sizeof *lists->sequence, "a pass", err),
        .rows = qmi_calloc(t, sizeof *lists->rows, "a pass", err),
        .spans = qmi_calloc(n, sizeof *lists->spans, "a pass", err),
        .cross_spans = qmi_calloc(n, sizeof *lists->spans, "a pass", err),
    };
    if (lists->sequence != NULL && lists->rows != NULL &&
        lists->spans != NULL && lists->cross_spans != NULL)
        return QMOE_OK;
    lists_free(lists);
    return QMOE_E_NOMEM;
}

static qmoe_status upload_lists(qmoe_session *s, const pass_lists *lists,
    const int32_t *ids, const qmi_pass *pass, qmi_error *err)
{
    uint64_t n_tokens = (uint64_t)pass->n_tokens;
    uint64_t span_bytes = (uint64_t)pass->n_spans * sizeof(qmi_attention_span);
    if (ids != NULL)
        QMI_TRY(qmi_upload(s, &s->ids, ids, n_tokens * sizeof *ids, err));
    QMI_TRY(qmi_upload(s, &s->sequence, lists->sequence, n_tokens * 4, err));
    QMI_TRY(qmi_upload(s, &s->rows, lists->rows, n_tokens * 4, err));
    QMI_TRY(qmi_upload(s, &s->spans, lists->spans, span_bytes, err));
    return qmi_upload(s, &s->cross_spans, lists->cross_spans, span_bytes, err);
}

/* Rows of the caches for `max_decoder` tokens and the encoder's. */
static qmoe_status grow_caches(
    qmoe_session *s, int64_t n_encoder, qmi_error *err)
{
    const qmi_config *c = &s->model->config;
    uint64_t row_bytes = (uint64_t)(c->n_heads * c->d_kv) * sizeof(float);
    uint64_t self_bytes = row_bytes * (uint64_t)s->max_decoder * s->n_sequences;
    uint64_t cross_bytes = row_bytes * (uint64_t)n_encoder;
    for (int64_t b = 0; b < c->n_blocks[QMI_DECODER]; b++) {
        QMI_TRY(qmi_grow(s, &s->caches[QMI_CACHE_SELF_K][b], self_bytes, err));
        QMI_TRY(qmi_grow(s, &s->caches[QMI_CACHE_SELF_V][b], self_bytes, err));
        QMI_TRY(
            qmi_grow(s, &s->caches[QMI_CACHE_CROSS_K][b], cross_bytes, err));
        QMI_TRY(
            qmi_grow(s, &s->caches[QMI_CACHE_CROSS_V][b], cross_bytes, err));
    }
    return QMOE_OK;
}

/* Remembers the batch: where its sequences begin, nothing decoded yet. */
qmoe_status qmi_session_start(qmoe_session *s, const int32_t *lengths,
    size_t n_sequences, int64_t max_decoder, qmi_error *err)
{
    if (n_sequences == 0 || max_decoder < 1)
        return qmi_fail(err, QMOE_E_INVALID, "nothing to encode");
    qmi_free(s->encoder_begin);
    qmi_free(s->position);
    s->n_sequences = 0;
    s->position = NULL;
    s->encoder_begin =
        qmi_calloc(n_sequences + 1, sizeof(int32_t), "a batch", err);
    s->position = qmi_calloc(n_sequences, sizeof(int32_t), "a batch", err);
    if (s->encoder_begin == NULL || s->position == NULL)
        return QMOE_E_NOMEM;
    int64_t n = 0;
    s->longest_encoder = 0;
    for (size_t i = 0; i < n_sequences; i++) {
        if (lengths[i] < 1 || n + lengths[i] > INT32_MAX)
            return qmi_fail(err, QMOE_E_INVALID,
                "sequence %zu of the batch is empty or the batch is too long",
                i);
        n += lengths[i];
        s->encoder_begin[i + 1] = (int32_t)n;
        if (lengths[i] > s->longest_encoder)
            s->longest_encoder = lengths[i];
    }
    if (max_decoder > INT32_MAX / (int64_t)n_sequences)
        return qmi_fail(err, QMOE_E_INVALID, "the batch is too long");
    s->n_sequences = n_sequences;
    s->max_decoder = max_decoder;
    QMI_TRY(qmi_session_reach(s, QMI_ENCODER, s->longest_encoder - 1, err));
    QMI_TRY(qmi_session_reach(s, QMI_DECODER, max_decoder - 1, err));
    return grow_caches(s, n, err);
}

static void fill_encoder_lists(const qmoe_session *s, pass_lists *lists)
{
    for (size_t i = 0; i < s->n_sequences; i++) {
        int32_t begin = s->encoder_begin[i];
        int32_t length = s->encoder_begin[i + 1] - begin;
        lists->spans[i] = (qmi_attention_span){
            .q_begin = begin,
            .q_len = length,
            .k_begin = begin,
            .k_len = length,
        };
        for (int32_t t = begin; t < begin + length; t++) {
            lists->sequence[t] = (int32_t)i;
            lists->rows[t] = t;
        }
    }
}

qmoe_status qmi_session_prepare_encoder(
    qmoe_session *session, qmi_pass *pass, const int32_t *ids, qmi_error *err)
{
    pass_lists lists;
    *pass = (qmi_pass){
        .stack = QMI_ENCODER,
        .n_tokens = session->encoder_begin[session->n_sequences],
        .n_spans = (int64_t)session->n_sequences,
        .max_keys = session->longest_encoder,
        .n_cache_rows = session->encoder_begin[session->n_sequences],
    };
    if (ids != NULL)
        QMI_TRY(check_ids(session, ids, pass->n_tokens, err));
    QMI_TRY(lists_alloc(&lists, pass->n_tokens, pass->n_spans, err));
    fill_encoder_lists(session, &lists);
    qmoe_status status = upload_lists(session, &lists, ids, pass, err);
    lists_free(&lists);
    return status;
}

qmoe_status qmi_session_encode(qmoe_session *session, const int32_t *ids,
    const int32_t *lengths, size_t n_sequences, int64_t max_decoder,
    qmi_error *err)
{
    QMI_TRY(qmi_session_start(session, lengths, n_sequences, max_decoder, err));
    const size_t n = (size_t)session->encoder_begin[n_sequences];
    qmi_free(session->encoder_ids);
    session->encoder_ids = qmi_calloc(n, sizeof *ids, "a batch", err);
    if (session->encoder_ids == NULL)
        return QMOE_E_NOMEM;
    memcpy(session->encoder_ids, ids, n * sizeof *ids);
    return qmi_session_encode_pass(session, err);
}

qmoe_status qmi_session_encode_pass(qmoe_session *session, qmi_error *err)
{
    const qmoe_model *m = session->model;
    qmi_pass pass;
    QMI_TRY(
        qmi_session_prepare_encoder(session, &pass, session->encoder_ids, err));
    QMI_TRY(qmi_session_run(session, &m->encoder, 0, m->encoder.n, &pass, err));
    return qmi_session_run(session, &m->cross, 0, m->cross.n, &pass, err);
}

/* Spans, cache rows and sequence numbers of a decoder pass. */
static void fill_decoder_lists(const qmoe_session *s, pass_lists *lists,
    qmi_pass *pass, const int32_t *active, const int32_t *lengths)
{
    int32_t row = 0;
    for (int64_t i = 0; i < pass->n_spans; i++) {
        int32_t sequence = active[i];
        int32_t position = s->position[sequence];
        int32_t cache = (int32_t)(sequence * s->max_decoder);
        int32_t begin = s->encoder_begin[sequence];
        lists->spans[i] = (qmi_attention_span){
            .q_begin = row,
            .q_len = lengths[i],
            .k_begin = cache,
            .k_len = position + lengths[i],
            .q_pos = position,
        };
        lists->cross_spans[i] = (qmi_attention_span){
            .q_begin = row,
            .q_len = lengths[i],
            .k_begin = begin,
            .k_len = s->encoder_begin[sequence + 1] - begin,
        };
        if (position + lengths[i] > pass->max_keys)
            pass->max_keys = position + lengths[i];
        for (int32_t t = 0; t < lengths[i]; t++, row++) {
            lists->sequence[row] = sequence;
            lists->rows[row] = cache + position + t;
        }
    }
}

static qmoe_status check_active(const qmoe_session *s, int64_t *n_tokens,
    const int32_t *active, const int32_t *lengths, size_t n_active,
    qmi_error *err)
{
    *n_tokens = 0;
    for (size_t i = 0; i < n_active; i++) {
        bool known = active[i] >= 0 && (size_t)active[i] < s->n_sequences &&
                     (i == 0 || active[i] > active[i - 1]);
        if (!known || lengths[i] < 1 ||
            s->position[active[i]] + lengths[i] > s->max_decoder)
            return qmi_fail(err, QMOE_E_INVALID,
                "decoder pass does not fit the encoded batch");
        *n_tokens += lengths[i];
    }
    if (*n_tokens == 0)
        return qmi_fail(err, QMOE_E_INVALID, "nothing to decode");
    return QMOE_OK;
}

qmoe_status qmi_session_prepare_decoder(qmoe_session *session, qmi_pass *pass,
    const int32_t *ids, const int32_t *active, const int32_t *lengths,
    size_t n_active, qmi_error *err)
{
    pass_lists lists;
    *pass = (qmi_pass){
        .stack = QMI_DECODER,
        .n_spans = (int64_t)n_active,
        .max_cross_keys = session->longest_encoder,
        .n_cache_rows = (int64_t)session->n_sequences * session->max_decoder,
    };
    QMI_TRY(
        check_active(session, &pass->n_tokens, active, lengths, n_active, err));
    if (ids != NULL)
        QMI_TRY(check_ids(session, ids, pass->n_tokens, err));
    QMI_TRY(lists_alloc(&lists, pass->n_tokens, pass->n_spans, err));
    fill_decoder_lists(session, &lists, pass, active, lengths);
    qmoe_status status = upload_lists(session, &lists, ids, pass, err);
    lists_free(&lists);
    return status;
}

qmoe_status qmi_session_decode_pass(qmoe_session *session, int64_t *n_tokens,
    const int32_t *ids, const int32_t *active, const int32_t *lengths,
    size_t n_active, qmi_error *err)
{
    const qmi_steps *steps = &session->model->decoder;
    qmi_pass pass;
    QMI_TRY(qmi_session_prepare_decoder(
        session, &pass, ids, active, lengths, n_active, err));
    QMI_TRY(qmi_session_run(session, steps, 0, steps->n, &pass, err));
    for (size_t i = 0; i < n_active; i++)
        session->position[active[i]] += lengths[i];
    *n_tokens = pass.n_tokens;
    return QMOE_OK;
}

qmoe_status qmi_session_decode(qmoe_session *session, float *logits,
    const int32_t *ids, const int32_t *active, const int32_t *lengths,
    size_t n_active, qmi_error *err)
{
    int64_t n_tokens;
    QMI_TRY(qmi_session_decode_pass(
        session, &n_tokens, ids, active, lengths, n_active, err));
    const size_t n =
        (size_t)n_tokens * (size_t)session->model->config.vocab_size;
    QMI_TRY(session->backend->buffer_read(session->device, logits,
        (qmi_view){.buffer = session->slots[QMI_SLOT_LOGITS].buffer},
        n * sizeof *logits, err));
    if (qmi_first_non_finite(logits, QMI_F32, n) == n)
        return QMOE_OK;
    return qmi_session_find_fault(session, ids, active, lengths, n_active, err);
}

static qmoe_status compute_logits(qmoe_session *session, float *logits,
    const int32_t *encoder_ids, size_t n_encoder, const int32_t *decoder_ids,
    size_t n_decoder)
{
    qmi_error *err = &session->model->context->error;
    if (n_encoder == 0 || n_decoder == 0 || n_encoder > INT32_MAX ||
        n_decoder > INT32_MAX)
        return qmi_fail(err, QMOE_E_INVALID, "empty or too long sequence");
    const int32_t encoder_length = (int32_t)n_encoder;
    const int32_t decoder_length = (int32_t)n_decoder;
    const int32_t first = 0;
    QMI_TRY(qmi_session_encode(
        session, encoder_ids, &encoder_length, 1, decoder_length, err));
    return qmi_session_decode(
        session, logits, decoder_ids, &first, &decoder_length, 1, err);
}

qmoe_status qmoe_session_logits(qmoe_session *session, float *logits,
    const int32_t *encoder_ids, size_t n_encoder, const int32_t *decoder_ids,
    size_t n_decoder)
{
    QMI_TRY(qmi_session_call_begin(session, __func__,
        logits == NULL || encoder_ids == NULL || decoder_ids == NULL));
    return qmi_session_call_end(
        session, compute_logits(session, logits, encoder_ids, n_encoder,
                     decoder_ids, n_decoder));
}
