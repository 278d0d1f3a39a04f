/* SPDX-License-Identifier: Apache-2.0
 * Next-token loss of texts.  In: a session and texts.  Out: the mean over all
 * scored predictions.  A window goes through in portions, so that few rows of
 * logits are on the host; sums are double and in order, so a loss depends
 * neither on threads nor on what was evaluated before. */
#include <math.h>

#include "alloc.h"
#include "clock.h"
#include "logits.h"
#include "probe.h"
#include "windows.h"

typedef struct evaluation {
    qmoe_session *session;
    qmi_windows windows;
    size_t n_done;
    int32_t *ids;
    float *logits;
    double sum;
    uint64_t n_scored;
    qmi_error *err;
} evaluation;

/* After every step: a window of a large model takes a while, and a hook may
 * want to end it. */
static qmoe_status after_step(void *user, qmoe_session *session,
    const qmi_step *step, const qmi_pass *pass, qmi_error *err)
{
    const evaluation *e = user;
    (void)step, (void)pass, (void)err;
    return qmi_progress(
        session->model->hooks, "evaluate", NULL, e->n_done, e->windows.n);
}

static void score(evaluation *e, int32_t first, int32_t n)
{
    const int64_t width = e->session->model->shape.vocab_size;
    const int32_t begin = qmi_window_first_scored(&e->windows);
    double log_sum;
    for (int32_t i = 0; i < n; i++) {
        if (first + i < begin || first + i + 1 == e->windows.length)
            continue;
        e->sum += qmi_cross_entropy(
            e->logits + i * width, width, e->ids[first + i + 1], &log_sum);
        e->n_scored++;
    }
}

static qmoe_status run_window(evaluation *e)
{
    const int32_t sequence = 0, length = e->windows.length;
    qmi_window_ids(e->ids, &e->windows, e->n_done);
    QMI_TRY(qmi_session_start(e->session, NULL, 1, e->err));
    for (int32_t at = 0, n; at < length; at += n) {
        n = length - at < QMI_WINDOW_PORTION ? length - at : QMI_WINDOW_PORTION;
        const qmi_batch batch = {
            .ids = e->ids + at, .sequences = &sequence, .lengths = &n, .n = 1};
        QMI_TRY(qmi_session_decode(e->session, e->logits, &batch, e->err));
        QMI_TRY(qmi_session_check(e->session, e->err));
        score(e, at, n);
    }
    return QMOE_OK;
}

static qmoe_status run_all(evaluation *e)
{
    const size_t width = (size_t)e->session->model->shape.vocab_size;
    e->ids = qmi_calloc(
        (size_t)e->windows.length, sizeof *e->ids, "a window", e->err);
    e->logits = qmi_calloc(
        QMI_WINDOW_PORTION * width, sizeof *e->logits, "logits", e->err);
    if (e->ids == NULL || e->logits == NULL)
        return QMOE_E_NOMEM;
    for (; e->n_done < e->windows.n; e->n_done++)
        QMI_TRY(run_window(e));
    return qmi_progress(
        e->session->model->hooks, "evaluate", NULL, e->n_done, e->windows.n);
}

static qmoe_status evaluate(
    evaluation *e, qmoe_perplexity *out, const qmoe_text_options *options)
{
    QMI_TRY(qmi_windows_read(&e->windows, e->session->model, options, e->err));
    /* The clock starts when the texts have been read. */
    const double begin = qmi_seconds();
    QMI_TRY(run_all(e));
    *out = (qmoe_perplexity){.loss = e->sum / (double)e->n_scored,
        .n_windows = e->windows.n,
        .n_context = e->windows.length,
        .n_tokens = e->n_scored,
        .seconds = qmi_seconds() - begin};
    out->perplexity = exp(out->loss);
    return QMOE_OK;
}

qmoe_status qmoe_session_perplexity(qmoe_session *session, qmoe_perplexity *out,
    const qmoe_text_options *options)
{
    if (out != NULL)
        *out = (qmoe_perplexity){0};
    QMI_TRY(qmi_session_call_begin(session, __func__, out == NULL));
    evaluation e = {.session = session, .err = &session->model->hooks->error};
    qmoe_text_options known = {0};
    qmi_copy_options(&known, sizeof known, options);
    qmi_probe probe = {.after = after_step, .user = &e};
    qmi_probe_attach(session, &probe);
    qmoe_status status = evaluate(&e, out, &known);
    qmi_probe_detach(session, &probe);
    qmi_windows_free(&e.windows);
    qmi_free(e.logits);
    qmi_free(e.ids);
    return qmi_session_call_end(session, status);
}
