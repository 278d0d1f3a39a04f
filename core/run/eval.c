/* SPDX-License-Identifier: Apache-2.0
 * Span-corruption loss of a text file: docs/evaluation.md.  In: a session and
 * texts, or a seed for random ids, which models of any objective take.  Out: the loss over all samples and over
 * each text.  Samples run one by one in the order of the texts, with sums in
 * double, so that a loss depends neither on threads nor on what was evaluated
 * before. */
#include "logits.h"

#include <string.h>

#include "alloc.h"
#include "clock.h"
#include "probe.h"
#include "samples.h"
#include "windows.h"

/* Sums over the samples of one text, or of all. */
typedef struct sums {
    double weighted, weight; /* of sample means by decoder length */
    double tokens;
    uint64_t n_samples, n_tokens;
} sums;

typedef struct evaluation {
    qmoe_session *session;
    qmi_samples *samples; /* NULL: random ids from `rng` */
    qmi_mt19937 rng;
    float *logits;
    size_t logits_rows;
    sums all;
    sums *texts;          /* [n_text_paths] */
    uint64_t max_samples; /* 0: all */
    qmi_error *err;
} evaluation;

static qmoe_status show(const evaluation *e)
{
    return qmi_progress(e->session->model->hooks, "evaluate", NULL,
        e->all.n_samples, e->max_samples);
}

/* After every step: a sample of a large model takes a while, and a hook may
 * want to end it. */
static qmoe_status after_step(void *user, qmoe_session *session,
    const qmi_step *step, const qmi_pass *pass, qmi_error *err)
{
    (void)session, (void)step, (void)pass, (void)err;
    return show(user);
}

static qmoe_status reserve_logits(evaluation *e, size_t n_rows)
{
    size_t width = (size_t)e->session->model->shape.vocab_size;
    /* Grows and stays: samples have similar lengths. */
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

static void count(sums *s, double sum, int32_t n_predicted, double weight)
{
    /* The loss is the mean of sample means, weighted by the length of their
     * decoder list (docs/evaluation.md). */
    s->weighted += sum / n_predicted * weight;
    s->weight += weight;
    s->tokens += sum;
    s->n_tokens += (uint64_t)n_predicted;
    s->n_samples++;
}

/* Each decoder position predicts the next token of the decoder list. */
static qmoe_status add_sample(evaluation *e, const qmi_sample *sample)
{
    int64_t vocab_size = e->session->model->shape.vocab_size;
    const int32_t n_encoder = (int32_t)sample->n_encoder;
    /* The last token predicts nothing. */
    const int32_t n_predicted = (int32_t)sample->n_decoder - 1;
    const int32_t first = 0;
    const qmi_batch batch = {.ids = sample->decoder_ids,
        .sequences = &first,
        .lengths = &n_predicted,
        .n = 1};
    QMI_TRY(reserve_logits(e, (size_t)n_predicted));
    /* A batch of one: padding-free, and the same bits however many samples
     * there are. */
    if (n_encoder == 0)
        QMI_TRY(qmi_session_start(e->session, NULL, 1, e->err));
    else
        QMI_TRY(qmi_session_encode(
            e->session, sample->encoder_ids, &n_encoder, 1, e->err));
    QMI_TRY(qmi_session_decode(e->session, e->logits, &batch, e->err));
    double sum = 0, log_sum;
    for (int32_t i = 0; i < n_predicted; i++)
        sum += qmi_cross_entropy(e->logits + i * vocab_size, vocab_size,
            sample->decoder_ids[i + 1], &log_sum);
    /* By the text that the sample's document came from, and in the sum of
     * all. */
    count(&e->all, sum, n_predicted, (double)sample->n_decoder);
    if (e->samples != NULL)
        count(&e->texts[qmi_samples_path(e->samples)], sum, n_predicted,
            (double)sample->n_decoder);
    return QMOE_OK;
}

/* As long as the sample of a document of QMI_MAX_DOCUMENT_TOKENS; for a model
 * without an encoder as many tokens as one portion of a window. */
static qmoe_status random_sample(evaluation *e, qmi_sample *out)
{
    const qmi_shape *c = &e->session->model->shape;
    *out = (qmi_sample){.n_encoder = 512, .n_decoder = 115};
    if (c->objective == QMI_NEXT_TOKEN)
        *out = (qmi_sample){.n_decoder = QMI_WINDOW_PORTION + 1};
    /* One more than none: a sample without ids is the end. */
    out->encoder_ids = qmi_calloc(
        out->n_encoder + 1, sizeof *out->encoder_ids, "random ids", e->err);
    out->decoder_ids = qmi_calloc(
        out->n_decoder, sizeof *out->decoder_ids, "random ids", e->err);
    if (out->encoder_ids == NULL || out->decoder_ids == NULL) {
        qmi_sample_free(out);
        return QMOE_E_NOMEM;
    }
    /* mt19937 by the seed: the same ids on every machine. */
    const uint32_t last = (uint32_t)(c->vocab_size - 1);
    for (size_t i = 0; i < out->n_encoder; i++)
        out->encoder_ids[i] = (int32_t)qmi_mt19937_interval(&e->rng, last);
    /* As real samples begin. */
    out->decoder_ids[0] = c->start_id;
    for (size_t i = 1; i < out->n_decoder; i++)
        out->decoder_ids[i] = (int32_t)qmi_mt19937_interval(&e->rng, last);
    return QMOE_OK;
}

static qmoe_status next_sample(evaluation *e, qmi_sample *out)
{
    if (e->samples == NULL)
        return random_sample(e, out);
    return qmi_samples_next(e->samples, out, e->err);
}

static qmoe_status evaluate(evaluation *e)
{
    /* Without a bound until the texts end, which is a sample without ids. */
    while (e->max_samples == 0 || e->all.n_samples < e->max_samples) {
        qmi_sample sample;
        QMI_TRY(next_sample(e, &sample));
        if (sample.encoder_ids == NULL)
            break;
        qmoe_status status = add_sample(e, &sample);
        qmi_sample_free(&sample);
        QMI_TRY(status);
        QMI_TRY(show(e));
        /* A hook may have closed the session. */
        QMI_TRY(qmi_session_check(e->session, e->err));
    }
    return QMOE_OK;
}

static void report(qmoe_eval_result *out, const sums *s)
{
    *out = (qmoe_eval_result){.n_samples = s->n_samples,
        .n_tokens = s->n_tokens,
        .loss = s->n_samples != 0 ? s->weighted / s->weight : 0,
        .token_loss = s->n_samples != 0 ? s->tokens / (double)s->n_tokens : 0};
}

/* One text may be given by itself. */
static qmoe_status check_texts(qmoe_eval_options *o, qmi_error *err)
{
    if (o->random_ids && o->text_path == NULL && o->n_text_paths == 0)
        return QMOE_OK;
    /* Random ids and texts together would leave open which is meant. */
    if ((o->text_path != NULL && o->n_text_paths != 0) || o->random_ids)
        return qmi_fail(
            err, QMOE_E_INVALID, "texts to evaluate are given in two ways");
    if (o->text_path != NULL) {
        o->text_paths = &o->text_path;
        o->n_text_paths = 1;
    }
    if (o->n_text_paths == 0 || o->text_paths == NULL)
        return qmi_fail(err, QMOE_E_INVALID, "no text to evaluate");
    for (size_t i = 0; i < o->n_text_paths; i++)
        if (o->text_paths[i] == NULL)
            return qmi_fail(err, QMOE_E_INVALID, "text %zu is NULL", i);
    return QMOE_OK;
}

static qmoe_status open_texts(evaluation *e, const qmoe_eval_options *o)
{
    const qmoe_model *model = e->session->model;
    const qmi_samples_options stream = {
        .paths = o->text_paths,
        .n_paths = o->n_text_paths,
        .seed = o->seed,
        .start_id = model->shape.start_id,
        .end_id = model->shape.end_ids[0],
    };
    QMI_TRY(qmi_model_need_tokenizer(model, e->err));
    QMI_TRY(qmi_samples_open(&e->samples, model->tokenizer, &stream, e->err));
    e->texts = qmi_calloc(o->n_text_paths, sizeof *e->texts, "sums", e->err);
    return e->texts != NULL ? QMOE_OK : QMOE_E_NOMEM;
}

static qmoe_status evaluate_all(
    evaluation *e, qmoe_eval_result *out, const qmoe_eval_options *o)
{
    /* Enough to see a speed; the loss of random ids means nothing. */
    const uint64_t n_random = o->max_samples != 0 ? o->max_samples : 8;
    if (o->random_ids) {
        qmi_mt19937_seed(&e->rng, o->seed);
    } else {
        QMI_TRY(qmi_model_need_objective(
            e->session->model, QMI_SPAN_CORRUPTION, e->err));
        QMI_TRY(open_texts(e, o));
    }
    /* The clock starts when the texts are open. */
    const double begin = qmi_seconds();
    e->max_samples = o->random_ids ? n_random : o->max_samples;
    QMI_TRY(evaluate(e));
    const double seconds = qmi_seconds() - begin;
    /* A loss of nothing would read as a perfect one. */
    if (e->all.n_samples == 0)
        return qmi_fail(e->err, QMOE_E_FORMAT,
            "%s: no document of 2 to %d tokens", o->text_paths[0],
            QMI_MAX_DOCUMENT_TOKENS);
    report(out, &e->all);
    if (e->samples != NULL)
        out->n_skipped = qmi_samples_skipped(e->samples);
    out->seconds = seconds;
    for (size_t i = 0; o->per_text != NULL && i < o->n_text_paths; i++)
        report(&o->per_text[i], &e->texts[i]);
    return QMOE_OK;
}

qmoe_status qmoe_session_eval(qmoe_session *session, qmoe_eval_result *out,
    const qmoe_eval_options *options)
{
    if (out != NULL)
        *out = (qmoe_eval_result){0};
    QMI_TRY(qmi_session_call_begin(session, __func__, out == NULL));
    evaluation e = {.session = session, .err = &session->model->hooks->error};
    qmoe_eval_options known = {0};
    qmi_copy_options(&known, sizeof known, options);
    /* Progress and a wish to stop are looked at within a sample, too. */
    qmi_probe probe = {.after = after_step, .user = &e};
    qmi_probe_attach(session, &probe);
    qmoe_status status = check_texts(&known, e.err);
    if (status == QMOE_OK)
        status = evaluate_all(&e, out, &known);
    qmi_probe_detach(session, &probe);
    qmi_samples_close(e.samples);
    qmi_free(e.texts);
    qmi_free(e.logits);
    return qmi_session_call_end(session, status);
}
