/* SPDX-License-Identifier: Apache-2.0
 * Span-corruption loss of a text file: docs/evaluation.md. */
#include "session.h"

#include <math.h>
#include <string.h>

#include "alloc.h"
#include "clock.h"
#include "samples.h"

typedef struct evaluation {
    qmoe_session *session;
    qmi_samples *samples;
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

static qmoe_status evaluate(evaluation *e, uint64_t max_samples)
{
    while (max_samples == 0 || e->result->n_samples < max_samples) {
        qmi_sample sample;
        QMI_TRY(qmi_samples_next(e->samples, &sample, e->err));
        if (sample.encoder_ids == NULL)
            break;
        qmoe_status status = add_sample(e, &sample);
        qmi_sample_free(&sample);
        QMI_TRY(status);
        QMI_TRY(qmi_progress(e->session->model->context, "evaluate", NULL,
            e->result->n_samples, max_samples));
    }
    return QMOE_OK;
}

qmoe_status qmoe_session_eval(qmoe_session *session, qmoe_eval_result *out,
    const qmoe_eval_options *options)
{
    *out = (qmoe_eval_result){0};
    evaluation e = {.session = session,
        .result = out,
        .err = &session->model->context->error};
    qmoe_eval_options known = {0};
    qmi_copy_options(&known, sizeof known, options);
    if (known.text_path == NULL)
        return qmi_fail(e.err, QMOE_E_INVALID, "no text to evaluate");
    QMI_TRY(qmi_model_need_tokenizer(session->model, e.err));
    const qmi_samples_options stream = {
        .paths = &known.text_path,
        .n_paths = 1,
        .seed = known.seed,
        .start_id = session->model->config.start_id,
        .end_id = session->model->config.end_id,
    };
    QMI_TRY(qmi_samples_open(
        &e.samples, session->model->tokenizer, &stream, e.err));
    const double begin = qmi_seconds();
    qmoe_status status = evaluate(&e, known.max_samples);
    const double seconds = qmi_seconds() - begin;
    out->n_skipped = qmi_samples_skipped(e.samples);
    qmi_samples_close(e.samples);
    qmi_free(e.logits);
    QMI_TRY(status);
    if (out->n_samples == 0)
        return qmi_fail(e.err, QMOE_E_FORMAT,
            "%s: no document of 2 to %d tokens", known.text_path,
            QMI_MAX_DOCUMENT_TOKENS);
    out->loss = e.weighted_sum / e.weight_sum;
    out->token_loss = e.token_sum / (double)out->n_tokens;
    out->seconds = seconds;
    return QMOE_OK;
}
