/* SPDX-License-Identifier: Apache-2.0
 * In: the job with its calibration, before anything is written.  Out: the plan
 * part of the report: sizes, workers, memory, disk, time.  A job that this
 * machine cannot do ends here.  Estimates may be wrong without harm: no result
 * depends on them. */
#include "compress_dense.h"

#include "blas.h"
#include "clock.h"
#include "compress_time.h"
#include "machine.h"
#include "measure_work.h"

/* ---- sizes ---- */

/* Bits of codewords per weight that are assumed before the work: the
 * dictionary's rate at the paper's sparsity is about 0.75, and up to 1 on
 * narrow or less sparse matrices. */
static const double assumed_bits = 1;

/* Exact for formats of fixed size. */
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
    const qmi_format *format = job->recipe.quantiser->format;
    uint64_t source_experts = 0, target_experts = 0;
    uint64_t source_dense, target_dense;
    for (size_t f = 0; f < qmi_checkpoint_file_count(m->checkpoint); f++)
        r->source_bytes +=
            qmi_tensor_file_bytes(qmi_checkpoint_file(m->checkpoint, f));
    for (size_t i = 0; i < m->n_weights; i++) {
        const qmi_weight *w = &m->weights[i];
        uint64_t n =
            (uint64_t)w->n_mats * (uint64_t)w->n_rows * (uint64_t)w->n_cols;
        r->total_weights += n;
        if (w->role != QMOE_ROLE_EXPERTS)
            continue;
        r->expert_weights += n;
        r->n_matrices += (uint64_t)w->n_mats;
        source_experts += qmi_weight_bytes(w);
        target_experts += qmi_job_stack_bytes(format, w);
    }
    for (int32_t i = 0; i < m->n_blocks; i++)
        r->n_experts += (uint64_t)m->blocks[i].ffn.n_experts;
    /* The budget itself is the size, whatever formats are chosen. */
    if (job->recipe.bits > 0)
        target_experts =
            (uint64_t)(job->recipe.bits / 8 * (double)r->expert_weights);
    /* Files may hold less than their tensors (shared data) or more (headers,
     * gaps): the larger one is the safe plan. */
    uint64_t copied = tensor_bytes(m->checkpoint);
    if (copied < r->source_bytes)
        copied = r->source_bytes;
    qmi_job_plan_dense(job, &source_dense, &target_dense);
    r->planned_output_bytes =
        copied - source_experts + target_experts - source_dense + target_dense;
}

/* ---- disk ---- */

static qmoe_status plan_disk(qmi_job *job, const char *output)
{
    qmoe_compress_report *r = job->report;
    uint64_t space = qmi_free_disk(output);
    r->planned_disk_bytes = r->planned_output_bytes;
    if (job->options.work_dir != NULL)
        r->planned_disk_bytes += qmi_job_state_bytes(job);
    /* A resumed run has part of its output on the disk already, and a dry run
     * writes nothing.  Zero is a file system that does not say. */
    if (space == 0 || job->options.resume || job->options.dry_run ||
        r->planned_output_bytes <= space)
        return QMOE_OK;
    return qmi_fail(job->err, QMOE_E_NO_SPACE,
        "%s: about %llu MB are needed, %llu MB are free", output,
        (unsigned long long)(r->planned_output_bytes >> 20) + 1,
        (unsigned long long)(space >> 20));
}

/* ---- time ---- */

/* Counts come from the real lengths: attention grows with their squares. */
static qmoe_status count_work(qmi_workload *work, const qmi_job *job)
{
    const qmi_token_set *sets = job->calibration.sets;
    qmi_sparse_block block;
    *work = (qmi_workload){0};
    for (int64_t i = 0; qmi_job_sparse_block(job, i, &block); i++)
        work->trials += (double)qmi_job_n_trials(job, &block) /
                        (double)job->report->n_experts;
    for (size_t i = 0; i < job->calibration.n_samples; i++)
        qmi_workload_add(work,
            (double)qmi_sequence_length(&sets[QMI_ENCODE], i),
            (double)qmi_sequence_length(&sets[QMI_DECODE], i), 1);
    return qmi_job_used_experts(work->used_share, job);
}

static qmi_stack_recipe dense_recipe(const void *user, const qmi_weight *w)
{
    return qmi_job_dense_recipe(user, w);
}

/* Seconds of one thread.  Without calibration experts are only rounded. */
static qmoe_status measure_experts(
    double *seconds, const qmi_job *job, const qmi_workload *work)
{
    *seconds = 0;
    if (job->report->expert_weights == 0)
        return QMOE_OK;
    /* Rates are per weight: the first sparse block stands for all. */
    qmi_sparse_block block;
    qmi_job_sparse_block(job, 0, &block);
    const qmi_stack_recipe recipe =
        qmi_job_recipe(job, job->recipe.quantiser, block.stacks.of[0]);
    if (job->calibrated)
        return qmi_compression_seconds(
            seconds, job->model, work, &recipe, job->err);
    QMI_TRY(qmi_measure_rounding(seconds, &recipe, job->err));
    *seconds *= (double)job->report->expert_weights;
    return QMOE_OK;
}

/* What a run does so far it has to do as well, but for the look at some
 * tokens' ways. */
static qmoe_status plan_time(qmi_job *job)
{
    qmoe_compress_report *r = job->report;
    qmi_workload work;
    qmi_dense_time dense;
    const qmi_dense_work beside = {.choice = &job->dense_choice,
        .n_tokens = (double)(r->n_encoder_tokens + r->n_decoder_tokens),
        .recipe = dense_recipe,
        .user = job};
    double seconds, rows, busy = qmi_thread_seconds() - job->begin_busy;
    if (job->calibrated && job->report->expert_weights != 0)
        QMI_TRY(count_work(&work, job));
    const double begin = qmi_thread_seconds();
    QMI_TRY(measure_experts(&seconds, job, &work));
    QMI_TRY(qmi_dense_seconds(&dense, job->model, &beside, job->err));
    QMI_TRY(qmi_job_row_weights_seconds(&rows, job));
    busy += qmi_thread_seconds() - begin;
    /* All of the work is taken to spread evenly over the workers. */
    r->planned_seconds =
        busy + seconds / job->n_workers + dense.rounded +
        (dense.with_moments > 0 ? dense.with_moments / job->n_dense_workers
                                : 0) +
        rows / job->context->hooks.n_threads +
        qmi_copy_seconds(r->source_bytes, r->planned_output_bytes,
            qmi_checkpoint_is_generated(job->model->checkpoint), 0);
    return QMOE_OK;
}

/* Before the work: a process that cannot have OpenBLAS ends here. */
static qmoe_status load_blas(const qmi_job *job)
{
    if (!job->calibrated)
        return QMOE_OK;
    QMI_TRY(qmi_blas_load(job->n_workers, job->err));
    if (qmi_blas_core_wanted() != NULL)
        qmi_message(&job->context->hooks,
            "OpenBLAS uses its kernels for %s, which are slow on this "
            "processor; set OPENBLAS_CORETYPE=%s",
            qmi_blas_core(), qmi_blas_core_wanted());
    return QMOE_OK;
}

qmoe_status qmi_job_plan(qmi_job *job, const char *output)
{
    qmoe_compress_report *r = job->report;
    const qmi_calibration *c = &job->calibration;
    r->n_samples = c->n_samples;
    r->n_encoder_tokens = (uint64_t)c->sets[QMI_ENCODE].n_tokens;
    r->n_decoder_tokens = (uint64_t)c->sets[QMI_DECODE].n_tokens;
    r->n_skipped_documents = c->n_skipped;
    QMI_TRY(qmi_job_plan_memory(job));
    QMI_TRY(plan_disk(job, output));
    QMI_TRY(load_blas(job));
    return plan_time(job);
}
