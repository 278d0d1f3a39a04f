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
        QMI_TRY(qmi_upload(
            s->backend, s->device, &s->ids, ids, n_tokens * sizeof *ids, err));
    QMI_TRY(qmi_upload(s->backend, s->device, &s->sequence, lists->sequence,
        n_tokens * 4, err));
    QMI_TRY(qmi_upload(
        s->backend, s->device, &s->rows, lists->rows, n_tokens * 4, err));
    QMI_TRY(qmi_upload(
        s->backend, s->device, &s->spans, lists->spans, span_bytes, err));
    return qmi_upload(s->backend, s->device, &s->cross_spans,
        lists->cross_spans, span_bytes, err);
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
        QMI_TRY(qmi_grow(s->backend, s->device, &s->caches[QMI_CACHE_SELF_K][b],
            self_bytes, err));
        QMI_TRY(qmi_grow(s->backend, s->device, &s->caches[QMI_CACHE_SELF_V][b],
            self_bytes, err));
        QMI_TRY(qmi_grow(s->backend, s->device,
            &s->caches[QMI_CACHE_CROSS_K][b], cross_bytes, err));
        QMI_TRY(qmi_grow(s->backend, s->device,
            &s->caches[QMI_CACHE_CROSS_V][b], cross_bytes, err));
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
