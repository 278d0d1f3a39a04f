/* SPDX-License-Identifier: Apache-2.0
 * What a job will take, and whether this machine can do it. */
#include "compress_job.h"

#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "blas.h"
#include "clock.h"
#include "machine.h"
#include "measure_work.h"

/* ---- sizes ---- */

/* Bits of codewords per weight that are assumed before the work: the
 * dictionary's rate at the paper's sparsity is about 0.75, and up to 1 on narrow
 * or less sparse matrices. */
static const double assumed_bits = 1;

uint64_t qmi_job_stack_bytes(const qmi_format *format, const qmi_weight *w)
{
    return qmi_stack_size(
        format, w->n_mats, w->n_rows, w->n_cols, assumed_bits);
}

/* Of all tensors: more than the files have where names share data. */
static uint64_t tensor_bytes(const qmi_checkpoint *source)
{
    uint64_t n_bytes = 0;
    for (size_t f = 0; f < qmi_checkpoint_file_count(source); f++) {
        const qmi_tensor_file *file = qmi_checkpoint_file(source, f);
        for (size_t i = 0; i < qmi_tensor_file_count(file); i++)
            n_bytes += qmi_tensor_file_at(file, i)->n_bytes;
    }
    return n_bytes;
}

void qmi_job_plan_sizes(qmi_job *job)
{
    qmoe_compress_report *r = job->report;
    const qmoe_model *m = job->model;
    const qmi_format *format = qmi_format_find(job->recipe.quantiser->format);
    uint64_t source_experts = 0, target_experts = 0;
    for (size_t f = 0; f < qmi_checkpoint_file_count(m->checkpoint); f++)
        r->source_bytes +=
            qmi_tensor_file_bytes(qmi_checkpoint_file(m->checkpoint, f));
    for (size_t i = 0; i < m->n_weights; i++) {
        const qmi_weight *w = &m->weights[i];
        uint64_t n =
            (uint64_t)w->n_mats * (uint64_t)w->n_rows * (uint64_t)w->n_cols;
        r->total_weights += n;
        if (!w->is_expert)
            continue;
        r->expert_weights += n;
        r->n_matrices += (uint64_t)w->n_mats;
        source_experts += qmi_weight_bytes(w);
        target_experts += qmi_job_stack_bytes(format, w);
    }
    r->n_experts = r->n_matrices / QMI_N_KINDS;
    if (job->recipe.bits > 0)
        target_experts =
            (uint64_t)(job->recipe.bits / 8 * (double)r->expert_weights);
    uint64_t copied = tensor_bytes(m->checkpoint);
    if (copied < r->source_bytes)
        copied = r->source_bytes;
    r->planned_output_bytes = copied - source_experts + target_experts;
}

/* ---- disk ---- */

static qmoe_status plan_disk(qmi_job *job, const char *output)
{
    qmoe_compress_report *r = job->report;
    uint64_t space = qmi_free_disk(output);
    r->planned_disk_bytes = r->planned_output_bytes;
    if (job->options.work_dir != NULL)
        r->planned_disk_bytes += qmi_job_state_bytes(job);
    if (space == 0 || job->options.resume || job->options.dry_run ||
        r->planned_output_bytes <= space)
        return QMOE_OK;
    return qmi_fail(job->err, QMOE_E_NO_SPACE,
        "%s: about %llu MB are needed, %llu MB are free", output,
        (unsigned long long)(r->planned_output_bytes >> 20) + 1,
        (unsigned long long)(space >> 20));
}

/* ---- time ---- */

double qmi_compression_work(const qmi_config *c, double expert_weights,
    double dense_weights, const double tokens[QMI_N_STACKS],
    const qmi_recipe *recipe, double trials)
{
    const double d = (double)c->d_model, f = (double)c->d_ff;
    const qmi_quantiser *q = recipe->quantiser;
    const bool has_passes =
        recipe->quant.fit_levels || strcmp(q->format, "ternary-dict") != 0;
    const double passes = has_passes ? recipe->quant.passes : 0;
    double forward = 0, moments = 0;
    for (int stack = 0; stack < QMI_N_STACKS; stack++) {
        double n_sparse = 0;
        for (int64_t block = 0; block < c->n_blocks[stack]; block++)
            n_sparse += qmi_config_is_sparse(c, stack, block);
        forward += tokens[stack] *
                   (dense_weights / QMI_N_STACKS + n_sparse * 4 * d * f);
        moments += tokens[stack] * n_sparse * (d * d + f * f);
    }
    double work = forward * (trials > 0 ? 2 : 1) + moments * (1 + trials) +
                  32 * expert_weights;
    if (!q->needs_hessian)
        return work;
    const double n_experts =
        (double)qmi_config_sparse_count(c) * (double)c->n_experts;
    return work + n_experts * (1 + QMI_N_SIZES * trials) *
                      (f * d * d + d * f * f + 2 * (d * d * d + f * f * f)) *
                      q->effort * (1 + q->pass_time * passes);
}

/* ---- of a calibrated run: counts times measured rates ---- */

/* Weights of dense products that one token of a list of steps meets. */
static double dense_weights(const qmoe_model *m, const qmi_steps *steps)
{
    double n = 0;
    for (size_t i = 0; i < steps->n; i++) {
        const qmi_step *s = &steps->items[i];
        const qmi_weight *w = &m->weights[s->weight];
        if (s->kind == QMI_OP_LINEAR && s->dst != QMI_SLOT_LOGITS)
            n += (double)w->n_rows * (double)w->n_cols;
    }
    return n;
}

/* Pairs of a query and a key, over all blocks. */
static double attention_pairs(const qmi_job *job)
{
    const qmi_token_set *encoder = &job->calibration.sets[QMI_ENCODER];
    const qmi_token_set *decoder = &job->calibration.sets[QMI_DECODER];
    const qmi_config *c = &job->model->config;
    double own = 0, causal = 0, cross = 0;
    for (size_t i = 0; i < encoder->n_sequences; i++) {
        const double e = (double)(encoder->begin[i + 1] - encoder->begin[i]);
        const double d = (double)(decoder->begin[i + 1] - decoder->begin[i]);
        own += e * e;
        causal += d * (d + 1) / 2;
        cross += d * e;
    }
    return own * (double)c->n_blocks[QMI_ENCODER] +
           (causal + cross) * (double)c->n_blocks[QMI_DECODER];
}

static double quantiser_seconds(
    const qmi_work_rates *r, double n_rows, double n_cols)
{
    return r->cube * n_cols * n_cols * n_cols +
           n_rows * n_cols * (r->square * n_cols + r->line);
}

/* One sweep through the dense parts. */
static double dense_seconds(const qmi_job *job, const qmi_work_rates *r)
{
    const qmoe_model *m = job->model;
    const qmoe_compress_report *report = job->report;
    const double encoder = (double)report->n_encoder_tokens;
    const double decoder = (double)report->n_decoder_tokens;
    const double weights = encoder * (dense_weights(m, &m->encoder) +
                                         dense_weights(m, &m->cross)) +
                           decoder * dense_weights(m, &m->decoder);
    return weights * r->product +
           attention_pairs(job) * (double)m->config.n_heads * r->pair;
}

static double calibrated_seconds(const qmi_job *job, const qmi_work_rates *r)
{
    const qmi_config *c = &job->model->config;
    const double d = (double)c->d_model, f = (double)c->d_ff;
    const double trials = (double)qmi_job_n_trials(job) / (double)c->n_experts;
    const double n_experts =
        (double)qmi_config_sparse_count(c) * (double)c->n_experts;
    double seconds = dense_seconds(job, r) * (trials > 0 ? 2 : 1);
    for (int stack = 0; stack < QMI_N_STACKS; stack++) {
        double n = 0; /* tokens times sparse blocks */
        for (int64_t block = 0; block < c->n_blocks[stack]; block++)
            if (qmi_config_is_sparse(c, stack, block))
                n += (double)job->calibration.sets[stack].n_tokens;
        const double inputs = d * f * r->product + (d * d + f * f) * r->moment;
        seconds += n * (inputs * (1 + trials) + 2 * d * f * r->expert);
        if (trials > 0)
            seconds += n * 2 * d * f * r->product;
    }
    return seconds +
           n_experts * (1 + QMI_N_SIZES * trials) *
               (quantiser_seconds(r, f, d) + quantiser_seconds(r, d, f));
}

/* Seconds of one thread to round a weight, from a small matrix. */
static qmoe_status measure_rounding(double *seconds, const qmi_job *job)
{
    enum { ROWS = 64, COLS = 512, N = ROWS * COLS };
    qmi_encoded encoded;
    qmi_quant_result result;
    float *w = qmi_calloc(N, sizeof *w, "a measurement", job->err);
    if (w == NULL)
        return QMOE_E_NOMEM;
    for (int i = 0; i < N; i++)
        w[i] = (float)(i * 37 % 101 - 50) / 64;
    const double begin = qmi_thread_seconds();
    qmoe_status status = job->recipe.quantiser->run(
        &encoded, &result, w, ROWS, COLS, NULL, &job->recipe.quant, job->err);
    *seconds = (qmi_thread_seconds() - begin) / N;
    if (status == QMOE_OK)
        qmi_encoded_free(&encoded);
    qmi_free(w);
    return status;
}

/* Seconds of one thread.  Passes over calibration text are products of
 * matrices; without it experts are only rounded. */
static qmoe_status measure_work(double *seconds, const qmi_job *job)
{
    if (job->calibrated) {
        qmi_sparse_block block;
        qmi_work_rates rates;
        qmi_job_sparse_block(job, 0, &block);
        const qmi_stack_recipe recipe =
            qmi_job_recipe(job, job->recipe.quantiser, block.stacks[QMI_WI]);
        QMI_TRY(qmi_measure_work(&rates, job->model, &recipe, job->err));
        *seconds = calibrated_seconds(job, &rates);
        return QMOE_OK;
    }
    QMI_TRY(measure_rounding(seconds, job));
    *seconds *= (double)job->report->expert_weights;
    return QMOE_OK;
}

static qmoe_status plan_time(qmi_job *job)
{
    enum { COPY_RATE = 500000000 }; /* bytes/s of reading and writing */
    qmoe_compress_report *r = job->report;
    double seconds;
    QMI_TRY(measure_work(&seconds, job));
    /* Once for the checksum, too. */
    const uint64_t n_reads =
        qmi_checkpoint_is_generated(job->model->checkpoint) ? 1 : 2;
    /* What a run does until here it has to do as well. */
    r->planned_seconds =
        qmi_thread_seconds() - job->begin_busy + seconds / job->n_workers +
        (double)(n_reads * r->source_bytes + r->planned_output_bytes) /
            COPY_RATE;
    return QMOE_OK;
}

/* Before the work: a process that cannot have OpenBLAS ends here. */
static qmoe_status load_blas(const qmi_job *job)
{
    if (!job->calibrated)
        return QMOE_OK;
    QMI_TRY(qmi_blas_load(job->n_workers, job->err));
    if (qmi_blas_core_wanted() != NULL)
        qmi_message(job->context,
            "OpenBLAS uses its kernels for %s, slow here; "
            "OPENBLAS_CORETYPE=%s would fit",
            qmi_blas_core(), qmi_blas_core_wanted());
    return QMOE_OK;
}

qmoe_status qmi_job_plan(qmi_job *job, const char *output)
{
    qmoe_compress_report *r = job->report;
    const qmi_calibration *c = &job->calibration;
    r->n_samples = c->sets[QMI_ENCODER].n_sequences;
    r->n_encoder_tokens = (uint64_t)c->sets[QMI_ENCODER].n_tokens;
    r->n_decoder_tokens = (uint64_t)c->sets[QMI_DECODER].n_tokens;
    r->n_skipped_documents = c->n_skipped;
    QMI_TRY(qmi_job_plan_memory(job));
    QMI_TRY(plan_disk(job, output));
    QMI_TRY(load_blas(job));
    return plan_time(job);
}
