/* SPDX-License-Identifier: Apache-2.0
 * In: a matrix that is no expert's, while the first shard is written.  Out: its
 * parts in that shard, its entry of the manifest, and what became of it for the
 * report.  Memory holds one piece of rows, or the matrix when its rows are not
 * quantised each by itself. */
#include "compress_dense.h"

#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "dense_moments.h"

/* Weights of a piece of rows. */
enum { PIECE_WEIGHTS = 1 << 18 };

static const qmi_quantiser *quantiser_of(
    const qmi_job *job, const qmi_weight *w)
{
    return qmi_dense_quantiser(&job->dense_choice, w);
}

const qmi_weight *qmi_job_dense_weight(const qmi_job *job, const qmi_tensor *t)
{
    const qmi_weight *same = NULL;
    if (!qmi_dense_any(&job->dense_choice))
        return NULL;
    for (size_t i = 0; i < job->model->n_weights; i++) {
        const qmi_weight *w = &job->model->weights[i];
        if (quantiser_of(job, w) == NULL || w->parts[0].data != t->data)
            continue;
        if (strcmp(w->name, t->name) == 0)
            return w;
        same = w;
    }
    return same;
}

/* ---- sizes ---- */

/* Of a piece, or of the matrix. */
static int64_t piece_rows(const qmi_quantiser *quantiser, const qmi_weight *w)
{
    const int64_t rows = PIECE_WEIGHTS / w->n_cols;
    if (!quantiser->by_rows || rows >= w->n_rows)
        return w->n_rows;
    return rows > 1 ? rows : 1;
}

static uint64_t weights_of(const qmi_weight *w)
{
    return (uint64_t)w->n_rows * (uint64_t)w->n_cols;
}

/* What the matrices take now, and will take. */
void qmi_job_plan_dense(
    qmi_job *job, uint64_t *source_bytes, uint64_t *target_bytes)
{
    qmoe_compress_report *r = job->report;
    *source_bytes = *target_bytes = 0;
    for (size_t i = 0; i < job->model->n_weights; i++) {
        const qmi_weight *w = &job->model->weights[i];
        const qmi_quantiser *quantiser = quantiser_of(job, w);
        if (quantiser == NULL)
            continue;
        r->n_dense_matrices++;
        r->dense_weights += weights_of(w);
        *source_bytes += qmi_weight_bytes(w);
        *target_bytes += qmi_job_stack_bytes(quantiser->format, w);
    }
}

uint64_t qmi_job_calibrated_weights(const qmi_job *job)
{
    uint64_t n = 0;
    for (size_t i = 0; i < job->model->n_weights; i++) {
        const qmi_weight *w = &job->model->weights[i];
        const qmi_quantiser *quantiser = quantiser_of(job, w);
        if (quantiser != NULL && quantiser->needs_hessian)
            n += weights_of(w);
    }
    return n;
}

static uint64_t worker_bytes(const qmi_job *job, const qmi_weight *w)
{
    const qmi_stack_recipe recipe = qmi_job_dense_recipe(job, w);
    const int64_t rows = piece_rows(recipe.quantiser, w);
    return (uint64_t)rows * (uint64_t)w->n_cols * sizeof(float) +
           recipe.quantiser->work_bytes(
               rows, w->n_cols, recipe.quantiser->needs_hessian, &recipe.quant);
}

uint64_t qmi_job_dense_bytes(const qmi_job *job)
{
    uint64_t most = 0;
    for (size_t i = 0; i < job->model->n_weights; i++) {
        const qmi_weight *w = &job->model->weights[i];
        if (quantiser_of(job, w) != NULL && worker_bytes(job, w) > most)
            most = worker_bytes(job, w);
    }
    if (!qmi_dense_any_moments(&job->dense_choice))
        return most;
    return (uint64_t)job->n_dense_workers * most +
           qmi_dense_moments_bytes(
               job->model, qmi_dense_with_moments(&job->dense_choice));
}

/* ---- recipes ---- */

/* All are rotated: without it the loss of trained models grows several times as
 * much, at the same output error (docs/compress.md). */
qmi_stack_recipe qmi_job_dense_recipe(const qmi_job *job, const qmi_weight *w)
{
    const qmi_quantiser *quantiser = quantiser_of(job, w);
    qmi_stack_recipe r = qmi_job_recipe(job, quantiser, w);
    if (job->options.passes == 0)
        r.quant.passes = quantiser->default_passes;
    return r;
}

/* ---- the work ---- */

qmoe_status qmi_job_begin_dense(qmi_job *job)
{
    if (!qmi_dense_any(&job->dense_choice))
        return QMOE_OK;
    job->dense = qmi_calloc(job->model->n_weights, sizeof *job->dense,
        "results of matrices", job->err);
    return job->dense != NULL ? QMOE_OK : QMOE_E_NOMEM;
}

static qmi_stack_plan plan_of(const qmi_job *job, const qmi_weight *w)
{
    return (qmi_stack_plan){
        .name = w->name,
        .format = quantiser_of(job, w)->format,
        .n_mats = 1,
        .n_rows = w->n_rows,
        .n_cols = w->n_cols,
    };
}

qmoe_status qmi_job_declare_dense(
    qmi_job *job, const qmi_weight *w, qmi_st_writer *writer, const char *file)
{
    const qmi_stack_plan plan = plan_of(job, w);
    const qmi_stack_recipe recipe = qmi_job_dense_recipe(job, w);
    QMI_TRY(qmi_stack_declare(writer, &plan, job->err));
    QMI_TRY(qmi_manifest_add_parts(
        job->manifest, w->name, plan.format, file, job->err));
    return qmi_manifest_add_stack(job->manifest, w, &recipe, job->err);
}

static void add_result(qmi_quant_result *sum, const qmi_quant_result *piece)
{
    sum->weight_error += piece->weight_error;
    sum->weight_energy += piece->weight_energy;
    sum->n_zeros += piece->n_zeros;
}

qmoe_status qmi_job_store_dense(qmi_job *job, const qmi_encoded *encoded,
    qmi_st_writer *writer, size_t index)
{
    for (int i = 0; i < encoded->format->n_parts; i++)
        QMI_TRY(qmi_st_writer_write(writer, index + (size_t)i,
            encoded->parts[i], encoded->part_bytes[i], job->err));
    return QMOE_OK;
}

/* Rows [row, row + n) to the end of each part. */
static qmoe_status write_piece(qmi_job *job, const qmi_weight *w, int64_t row,
    int64_t n, float *wide, qmi_st_writer *writer)
{
    const qmi_stack_recipe recipe = qmi_job_dense_recipe(job, w);
    const qmi_quantiser *rounding =
        qmi_quantiser_find("rtn", recipe.quantiser->format->name);
    qmi_dense_matrix *dense = &job->dense[w - job->model->weights];
    qmi_encoded encoded;
    qmi_quant_result result;
    qmi_weight_decode(w, 0, row, n, wide);
    QMI_TRY(rounding->run(
        &encoded, &result, wide, n, w->n_cols, NULL, &recipe.quant, job->err));
    qmoe_status status =
        qmi_job_store_dense(job, &encoded, writer, dense->index);
    qmi_encoded_free(&encoded);
    add_result(&dense->result, &result);
    return status;
}

qmoe_status qmi_job_write_dense(
    qmi_job *job, const qmi_weight *w, qmi_st_writer *writer)
{
    const int64_t step = piece_rows(quantiser_of(job, w), w);
    QMI_TRY(qmi_weight_check(w, 0, job->err));
    float *wide = qmi_calloc((size_t)(step * w->n_cols), sizeof *wide,
        "a matrix in float32", job->err);
    if (wide == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status = QMOE_OK;
    for (int64_t row = 0; status == QMOE_OK && row < w->n_rows; row += step) {
        const int64_t left = w->n_rows - row;
        status = qmi_progress(&job->context->hooks, "quantize", w->name,
            (uint64_t)(row * w->n_cols), weights_of(w));
        if (status == QMOE_OK)
            status = write_piece(
                job, w, row, left < step ? left : step, wide, writer);
    }
    qmi_free(wide);
    job->dense[w - job->model->weights].is_done = true;
    return status;
}
