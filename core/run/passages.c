/* SPDX-License-Identifier: Apache-2.0
 * In: texts and the model's objective.  Out: passages, in the order of the
 * texts, the same ones that qmoe_session_perplexity and qmoe_session_eval take.
 * Exactly one of `window` and `samples` is in use. */
#include "passages.h"

#include "alloc.h"

static qmoe_status open_windows(qmi_passages *p, const qmoe_model *model,
    const qmoe_text_options *options, qmi_error *err)
{
    QMI_TRY(qmi_windows_read(&p->windows, model, options, err));
    p->n = p->windows.n;
    p->window = qmi_calloc(
        (size_t)p->windows.length, sizeof *p->window, "a window", err);
    return p->window != NULL ? QMOE_OK : QMOE_E_NOMEM;
}

/* A document is its own window, and all of its predictions count. */
static qmoe_status open_samples(qmi_passages *p, const qmoe_model *model,
    const qmoe_text_options *options, qmi_error *err)
{
    const qmi_samples_options stream = {
        .paths = options->text_paths,
        .n_paths = options->n_text_paths,
        .seed = options->seed,
        .start_id = model->shape.start_id,
        .end_id = model->shape.end_ids[0],
    };
    if (options->n_context != 0 || options->documents || options->second_half)
        return qmi_fail(err, QMOE_E_INVALID,
            "windows of a text are for models that predict the next token");
    p->n = p->most = options->max_windows;
    return qmi_samples_open(&p->samples, model->tokenizer, &stream, err);
}

static qmoe_status next_sample(
    qmi_passages *p, qmi_passage *out, qmi_error *err)
{
    qmi_sample_free(&p->sample);
    if (p->most != 0 && p->n_read == p->most)
        return QMOE_OK;
    QMI_TRY(qmi_samples_next(p->samples, &p->sample, err));
    /* Statistics of nothing would read as those of a perfect model. */
    if (p->sample.encoder_ids == NULL && p->n_read == 0)
        return qmi_fail(err, QMOE_E_FORMAT, "%s: no document of 2 to %d tokens",
            p->first_path, QMI_MAX_DOCUMENT_TOKENS);
    if (p->sample.encoder_ids == NULL)
        return QMOE_OK;
    p->n_read++;
    *out = (qmi_passage){.encoder_ids = p->sample.encoder_ids,
        .n_encoder = (int32_t)p->sample.n_encoder,
        .ids = p->sample.decoder_ids,
        .n = (int32_t)p->sample.n_decoder};
    return QMOE_OK;
}

static void next_window(qmi_passages *p, qmi_passage *out)
{
    const qmi_windows *w = &p->windows;
    if (p->n_read == w->n)
        return;
    qmi_window_ids(p->window, w, (size_t)p->n_read++);
    *out = (qmi_passage){.ids = p->window,
        .n = w->length,
        .first_scored = qmi_window_first_scored(w)};
}

qmoe_status qmi_passages_open(qmi_passages *out, const qmoe_model *model,
    const qmoe_text_options *options, qmi_error *err)
{
    *out = (qmi_passages){0};
    QMI_TRY(qmi_windows_check_texts(model, options, err));
    out->first_path = options->text_paths[0];
    return model->shape.objective == QMI_NEXT_TOKEN
               ? open_windows(out, model, options, err)
               : open_samples(out, model, options, err);
}

qmoe_status qmi_passages_next(
    qmi_passages *passages, qmi_passage *out, qmi_error *err)
{
    *out = (qmi_passage){0};
    if (passages->samples != NULL)
        return next_sample(passages, out, err);
    next_window(passages, out);
    return QMOE_OK;
}

void qmi_passages_close(qmi_passages *passages)
{
    qmi_windows_free(&passages->windows);
    qmi_free(passages->window);
    qmi_sample_free(&passages->sample);
    qmi_samples_close(passages->samples);
}
