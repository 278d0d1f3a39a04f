/* SPDX-License-Identifier: Apache-2.0
 * Span-corruption loss of a text file: docs/evaluation.md. */
#include "session.h"

#include <math.h>
#include <string.h>
#include <time.h>

#include "alloc.h"
#include "documents.h"
#include "span_corruption.h"

typedef struct evaluation {
    qmoe_session *session;
    qmi_documents *documents;
    qmi_mt19937 rng;
    float *logits;
    size_t logits_rows;
    double weighted_sum, weight_sum; /* of sample means by decoder length */
    double token_sum;
    qmoe_eval_result *result;
    qmi_error *err;
} evaluation;

/* -log softmax(logits)[id] of one position. */
static double cross_entropy(const float *logits, int64_t n, int32_t id)
{
    double largest = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++)
        largest = fmax(largest, logits[i]);
    for (int64_t i = 0; i < n; i++)
        sum += exp(logits[i] - largest);
    return log(sum) + largest - logits[id];
}

static qmoe_status reserve_logits(evaluation *e, size_t n_rows)
{
    size_t width = (size_t)e->session->model->config.vocab_size;
    if (n_rows <= e->logits_rows)
        return QMOE_OK;
    qmi_free(e->logits);
    e->logits_rows = 0;
    e->logits = qmi_calloc(n_rows * width, sizeof *e->logits, "logits", e->err);
    if (e->logits == NULL)
        return QMOE_E_NOMEM;
    e->logits_rows = n_rows;
    return QMOE_OK;
}

/* Each decoder position predicts the next token of the decoder list. */
static qmoe_status add_sample(evaluation *e, const qmi_sample *sample)
{
    int64_t vocab_size = e->session->model->config.vocab_size;
    const int32_t n_encoder = (int32_t)sample->n_encoder;
    const int32_t n_predicted = (int32_t)sample->n_decoder - 1;
    const int32_t first = 0;
    QMI_TRY(reserve_logits(e, (size_t)n_predicted));
    QMI_TRY(qmi_session_encode(
        e->session, sample->encoder_ids, &n_encoder, 1, n_predicted, e->err));
    QMI_TRY(qmi_session_decode(e->session, e->logits, sample->decoder_ids,
        &first, &n_predicted, 1, e->err));
    double sum = 0;
    for (int32_t i = 0; i < n_predicted; i++)
        sum += cross_entropy(
            e->logits + i * vocab_size, vocab_size, sample->decoder_ids[i + 1]);
    e->weighted_sum += sum / n_predicted * (double)sample->n_decoder;
    e->weight_sum += (double)sample->n_decoder;
    e->token_sum += sum;
    e->result->n_tokens += (uint64_t)n_predicted;
    e->result->n_samples++;
    return QMOE_OK;
}

/* Tokens of a document with the end token; NULL ids when it is skipped. */
static qmoe_status tokenize(
    evaluation *e, int32_t **ids, size_t *n, const char *text, size_t n_bytes)
{
    const qmoe_model *model = e->session->model;
    int32_t *plain = NULL;
    *ids = NULL;
    QMI_TRY(qmi_tokenizer_encode(
        model->tokenizer, &plain, n, text, n_bytes, e->err));
    if (*n < 1 || *n + 1 > QMI_MAX_DOCUMENT_TOKENS) {
        qmi_free(plain);
        e->result->n_skipped++;
        return QMOE_OK;
    }
    *ids = qmi_regrow(plain, *n, *n + 1, sizeof **ids, "a document", e->err);
    if (*ids == NULL) {
        qmi_free(plain);
        return QMOE_E_NOMEM;
    }
    (*ids)[(*n)++] = model->config.end_id;
    return QMOE_OK;
}

static qmoe_status add_document(evaluation *e, const char *text, size_t n_bytes)
{
    const qmi_config *c = &e->session->model->config;
    int32_t *ids = NULL;
    size_t n = 0;
    QMI_TRY(tokenize(e, &ids, &n, text, n_bytes));
    if (ids == NULL)
        return QMOE_OK;
    qmi_sample sample = {0};
    qmoe_status status = qmi_sample_make(&sample, &e->rng,
        e->session->model->tokenizer, ids, n, c->start_id, c->end_id, e->err);
    qmi_free(ids);
    if (status == QMOE_OK)
        status = add_sample(e, &sample);
    qmi_sample_free(&sample);
    return status;
}

static qmoe_status evaluate(evaluation *e, uint64_t max_samples)
{
    for (;;) {
        const char *text = NULL;
        size_t n_bytes = 0;
        if (max_samples != 0 && e->result->n_samples == max_samples)
            return QMOE_OK;
        QMI_TRY(qmi_documents_next(e->documents, &text, &n_bytes, e->err));
        if (text == NULL)
            return QMOE_OK;
        QMI_TRY(add_document(e, text, n_bytes));
        QMI_TRY(qmi_progress(e->session->model->context, "evaluate", NULL,
            e->result->n_samples, max_samples));
    }
}

qmoe_status qmoe_session_eval(qmoe_session *session, qmoe_eval_result *out,
    const qmoe_eval_options *options)
{
    *out = (qmoe_eval_result){0};
    evaluation e = {.session = session,
        .result = out,
        .err = &session->model->context->error};
    qmoe_eval_options known = {0};
    memcpy(&known, options,
        options->size < sizeof known ? options->size : sizeof known);
    if (known.text_path == NULL)
        return qmi_fail(e.err, QMOE_E_INVALID, "no text to evaluate");
    QMI_TRY(qmi_model_need_tokenizer(session->model, e.err));
    QMI_TRY(qmi_documents_open(&e.documents, known.text_path, e.err));
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    qmi_mt19937_seed(&e.rng, known.seed);
    qmoe_status status = evaluate(&e, known.max_samples);
    clock_gettime(CLOCK_MONOTONIC, &end);
    qmi_documents_close(e.documents);
    qmi_free(e.logits);
    QMI_TRY(status);
    if (out->n_samples == 0)
        return qmi_fail(e.err, QMOE_E_FORMAT,
            "%s: no document of 2 to %d tokens", known.text_path,
            QMI_MAX_DOCUMENT_TOKENS);
    out->loss = e.weighted_sum / e.weight_sum;
    out->token_loss = e.token_sum / (double)out->n_tokens;
    out->seconds = (double)(end.tv_sec - begin.tv_sec) +
                   1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
    return QMOE_OK;
}
