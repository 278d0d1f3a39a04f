/* SPDX-License-Identifier: Apache-2.0
 * In: the open job with its calibration.  Out: weights of the rows of the
 * matrices whose quantiser takes them, from one backward pass over some of the
 * calibration through the uncompressed model, on the CPU.  A resumed run makes
 * the same ones again. */
#include "available_memory.h"
#include "compress_job.h"
#include "measure_work.h"

/* More say little more, and take as long as many passes. */
enum { MAX_TOKENS = 16384 };

static const qmi_quantiser *quantiser_of(
    const qmi_job *job, const qmi_weight *w)
{
    return w->role == QMOE_ROLE_EXPERTS
               ? job->recipe.quantiser
               : qmi_dense_quantiser(&job->dense_choice, w);
}

/* Rows of an embedding and of the head are words of the vocabulary: most of
 * them do not occur in the calibration. */
static bool takes(void *user, const qmi_weight *w)
{
    const qmi_job *job = user;
    const qmi_quantiser *quantiser = quantiser_of(job, w);
    return quantiser != NULL && quantiser->weighs_rows &&
           w->role != QMOE_ROLE_EMBEDDING && w->role != QMOE_ROLE_HEAD;
}

static bool takes_any(const qmi_job *job)
{
    for (size_t i = 0; i < job->model->n_weights; i++)
        if (takes((void *)job, &job->model->weights[i]))
            return true;
    return false;
}

qmoe_status qmi_job_choose_row_weights(qmi_job *job)
{
    const int wish = job->options.row_weights;
    char names[256];
    const bool can = job->options.n_calibration != 0 && takes_any(job);
    const bool spans = job->model->shape.objective == QMI_SPAN_CORRUPTION;
    job->weighs_rows = can && (wish > 0 || (wish == 0 && !spans));
    if (wish <= 0 || can)
        return QMOE_OK;
    return qmi_fail(job->err, QMOE_E_UNSUPPORTED,
        "%s: gradients weigh the rows of calibrated matrices in %s",
        qmi_checkpoint_directory(job->model->checkpoint),
        qmi_format_names(names, sizeof names, "gptq", qmi_format_weighs_rows));
}

static qmoe_status show(void *user, int64_t thousandths)
{
    qmi_job *job = user;
    return qmi_progress(
        &job->context->hooks, "weigh rows", NULL, (uint64_t)thousandths, 1000);
}

static qmi_row_weights_options options_of(const qmi_job *job)
{
    const uint64_t limit = job->options.memory_limit;
    return (qmi_row_weights_options){.max_tokens = MAX_TOKENS,
        .n_threads = job->context->hooks.n_threads,
        .work_dir = job->options.work_dir,
        .memory_bytes = limit != 0 ? limit : qmi_available_memory(),
        .takes = takes,
        .progress = show,
        .user = (void *)job};
}

uint64_t qmi_job_row_weights_bytes(const qmi_job *job)
{
    const qmi_row_weights_options options = options_of(job);
    return job->weighs_rows
               ? qmi_row_weights_bytes(job->model, &job->calibration, &options)
               : 0;
}

/* Forward, forward again, back: experts make what lies between their products
 * once more. */
qmoe_status qmi_job_row_weights_seconds(double *seconds, const qmi_job *job)
{
    const double n_tokens =
        (double)(job->report->n_encoder_tokens + job->report->n_decoder_tokens);
    const qmoe_model *m = job->model;
    const qmi_weight *first = NULL;
    qmi_work_rates rates;
    double per_token = 0;
    *seconds = 0;
    /* Measuring takes a second, which only who asks for the time should pay. */
    const bool asked = job->weighs_rows && job->options.dry_run;
    for (size_t i = 0; asked && i < m->n_weights; i++) {
        const qmi_weight *w = &m->weights[i];
        const double n = (double)w->n_rows * (double)w->n_cols;
        if (first == NULL && takes((void *)job, w))
            first = w;
        if (w->role == QMOE_ROLE_EXPERTS)
            per_token += 4 * (double)qmi_forward_top_k(m) * n;
        else if (w->role != QMOE_ROLE_EMBEDDING)
            per_token += 3 * n;
    }
    if (first == NULL)
        return QMOE_OK;
    const qmi_stack_recipe recipe =
        qmi_job_recipe(job, quantiser_of(job, first), first);
    QMI_TRY(qmi_measure_work(&rates, m, &recipe, job->err));
    *seconds = rates.product * per_token *
               (n_tokens < MAX_TOKENS ? n_tokens : MAX_TOKENS);
    return QMOE_OK;
}

qmoe_status qmi_job_weigh_rows(qmi_job *job)
{
    const qmi_row_weights_options options = options_of(job);
    if (!job->weighs_rows)
        return QMOE_OK;
    return qmi_row_weights_measure(
        &job->row_weights, job->model, &job->calibration, &options, job->err);
}
