/* SPDX-License-Identifier: Apache-2.0
 * In: all tensors of the checkpoint.  Out: the first shard, with each tensor
 * that is no expert's, bit for bit, or compressed where that was asked for.
 * Tensors are visited twice in the same order: a safetensors header lists all
 * of them before the first byte of data. */
#include "compress_dense.h"

#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "expert_names.h"

/* True for a name that the tensors of any stack may have.  By name and
 * not by the model's weights: a checkpoint may hold tensors that the model does
 * not use, and they are copied, too. */
static bool is_expert_tensor(const qmoe_model *model, const char *name)
{
    for (size_t i = 0; i < model->n_weights; i++) {
        const qmi_weight *w = &model->weights[i];
        if (w->source != NULL && qmi_expert_tensor_fits(w, name))
            return true;
    }
    return false;
}

/* Not the same tensor, but of the same numbers. */
static qmoe_status compare(
    const qmi_job *job, bool *equal, const qmi_tensor *a, const qmi_weight *b)
{
    const qmi_checkpoint *source = job->model->checkpoint;
    *equal = false;
    if (b->source != NULL || b->fetch != NULL || a->rank != 2 ||
        b->format->dtype != a->dtype || !b->format->dense ||
        a->shape[0] != b->n_rows || a->shape[1] != b->n_cols ||
        a->n_bytes != b->parts[0].n_bytes)
        return QMOE_OK;
    QMI_TRY(qmi_checkpoint_fetch(source, a->data, a->n_bytes, job->err));
    QMI_TRY(
        qmi_checkpoint_fetch(source, b->parts[0].data, a->n_bytes, job->err));
    *equal = memcmp(a->data, b->parts[0].data, (size_t)a->n_bytes) == 0;
    return QMOE_OK;
}

/* True for a matrix that the model does not use because it has another of the
 * same numbers: a head that is the embedding, stored nevertheless. */
static qmoe_status is_second_copy(
    const qmi_job *job, bool *second, const qmi_tensor *t)
{
    const qmoe_model *model = job->model;
    *second = false;
    if (t->is_view)
        return QMOE_OK;
    for (size_t i = 0; i < model->n_weights; i++)
        if (strcmp(model->weights[i].name, t->name) == 0 ||
            model->weights[i].parts[0].data == t->data)
            return QMOE_OK;
    for (size_t i = 0; i < model->n_weights && !*second; i++)
        if (model->weights[i].role == QMOE_ROLE_EMBEDDING)
            QMI_TRY(compare(job, second, t, &model->weights[i]));
    return QMOE_OK;
}

void qmi_job_next_file(qmi_job *job, char name[64])
{
    snprintf(name, 64, "model-%05d-of-%05d.safetensors", ++job->n_files_done,
        job->n_files);
}

/* The shard while it is declared or written; `index` is that of the next
 * tensor in it. */
typedef struct shard {
    qmi_job *job;
    qmi_st_writer *writer;
    size_t index;
    const char *file;
} shard;

/* The shard from the first tensor to the last. */
struct qmi_first_shard {
    qmi_st_writer *writer;
    char name[64];
};

/* `w`: what is made of the tensor; NULL: it is copied. */
typedef qmoe_status (*visit_fn)(
    const shard *s, const qmi_tensor *t, const qmi_weight *w);

static qmoe_status declare_tensor(
    const shard *s, const qmi_tensor *t, const qmi_weight *w)
{
    qmi_job *job = s->job;
    if (w != NULL)
        return qmi_job_declare_dense(job, w, s->writer, s->file);
    QMI_TRY(qmi_st_writer_declare(
        s->writer, t->name, t->dtype, t->shape, t->rank, job->err));
    return qmi_manifest_add_tensor(job->manifest, t->name, s->file, job->err);
}

/* What the model computes with is finite; other tensors are copied as they
 * are. */
static qmoe_status check_tensor(const qmi_job *job, const qmi_tensor *t)
{
    /* A linear search: dense weights are some hundreds, and each tensor is read
     * from disk besides. */
    for (size_t i = 0; i < job->model->n_weights; i++) {
        const qmi_weight *w = &job->model->weights[i];
        if (w->role != QMOE_ROLE_EXPERTS && w->parts[0].data == t->data)
            return qmi_weight_check(w, 0, job->err);
    }
    return QMOE_OK;
}

static qmoe_status copy_tensor(const shard *s, const qmi_tensor *t)
{
    qmi_job *job = s->job;
    QMI_TRY(check_tensor(job, t));
    return qmi_st_writer_write(
        s->writer, s->index, t->data, t->n_bytes, job->err);
}

/* Reads by system calls, so that a bad disk is an error with a name and no
 * signal. */
static qmoe_status fetch(const qmi_job *job, const void *data, uint64_t n_bytes)
{
    return qmi_checkpoint_fetch(
        job->model->checkpoint, data, n_bytes, job->err);
}

/* A view stays: the model reads it, too. */
static qmoe_status write_dense(
    qmi_job *job, const qmi_weight *w, qmi_st_writer *writer)
{
    const qmi_part data = w->parts[0];
    QMI_TRY(fetch(job, data.data, data.n_bytes));
    QMI_TRY(qmi_job_write_dense(job, w, writer));
    if (w->fetch == NULL)
        qmi_checkpoint_release(job->model->checkpoint, data.data, data.n_bytes);
    return QMOE_OK;
}

static qmoe_status write_tensor(
    const shard *s, const qmi_tensor *t, const qmi_weight *w)
{
    qmi_job *job = s->job;
    QMI_TRY(qmi_progress(&job->context->hooks, "copy", t->name, 0, 0));
    if (w != NULL)
        job->dense[w - job->model->weights].index = s->index;
    /* Matrices with second moments wait for them. */
    if (w != NULL)
        return qmi_dense_quantiser(&job->dense_choice, w)->needs_hessian
                   ? QMOE_OK
                   : write_dense(job, w, s->writer);
    QMI_TRY(fetch(job, t->data, t->n_bytes));
    QMI_TRY(copy_tensor(s, t));
    if (!t->is_view)
        qmi_checkpoint_release(job->model->checkpoint, t->data, t->n_bytes);
    return QMOE_OK;
}

/* Tensors that one of the source becomes. */
static size_t n_parts(const qmi_job *job, const qmi_weight *w)
{
    if (w == NULL)
        return 1;
    return (size_t)qmi_dense_quantiser(&job->dense_choice, w)->format->n_parts;
}

/* Calls `visit` for every tensor that is not an expert's, in file order.  Of the
 * names under which a matrix to compress is there, only the model's own stays:
 * others would keep it uncompressed.  A second copy of the embedding is left
 * out. */
static qmoe_status each_plain_tensor(shard *s, visit_fn visit)
{
    qmi_job *job = s->job;
    const qmi_checkpoint *source = job->model->checkpoint;
    s->index = 0;
    for (size_t f = 0; f < qmi_checkpoint_file_count(source); f++) {
        const qmi_tensor_file *from = qmi_checkpoint_file(source, f);
        for (size_t i = 0; i < qmi_tensor_file_count(from); i++) {
            const qmi_tensor *t = qmi_tensor_file_at(from, i);
            const qmi_weight *w = qmi_job_dense_weight(job, t);
            bool second = false;
            if (is_expert_tensor(job->model, t->name) ||
                (w != NULL && strcmp(w->name, t->name) != 0))
                continue;
            QMI_TRY(is_second_copy(job, &second, t));
            if (second)
                continue;
            QMI_TRY(visit(s, t, w));
            s->index += n_parts(job, w);
        }
    }
    return QMOE_OK;
}

static qmoe_status copy_into(qmi_job *job, qmi_st_writer *writer)
{
    shard s = {.job = job, .writer = writer, .file = job->first_shard->name};
    QMI_TRY(qmi_st_writer_metadata(writer, "format", "qmoe", job->err));
    QMI_TRY(each_plain_tensor(&s, declare_tensor));
    return each_plain_tensor(&s, write_tensor);
}

qmi_st_writer *qmi_job_first_shard(const qmi_job *job)
{
    return job->first_shard->writer;
}

qmoe_status qmi_job_copy_tensors(qmi_job *job)
{
    qmi_new_file file;
    job->first_shard =
        qmi_calloc(1, sizeof *job->first_shard, "a shard", job->err);
    if (job->first_shard == NULL)
        return QMOE_E_NOMEM;
    /* The first number belongs to this shard, later ones to the stacks. */
    qmi_job_next_file(job, job->first_shard->name);
    QMI_TRY(qmi_job_begin_dense(job));
    QMI_TRY(qmi_output_create(
        &job->output, &file, job->first_shard->name, job->err));
    QMI_TRY(qmi_st_writer_create(&job->first_shard->writer, &file, job->err));
    QMI_TRY(copy_into(job, job->first_shard->writer));
    return qmi_dense_any_moments(&job->dense_choice)
               ? QMOE_OK
               : qmi_job_finish_tensors(job);
}

/* What the sweep has not come by, such as an embedding that is no head, has no
 * moments. */
static qmoe_status write_others(qmi_job *job)
{
    for (size_t i = 0; job->dense != NULL && i < job->model->n_weights; i++)
        if (qmi_dense_quantiser(&job->dense_choice, &job->model->weights[i]) !=
                NULL &&
            !job->dense[i].is_done)
            QMI_TRY(write_dense(
                job, &job->model->weights[i], job->first_shard->writer));
    return QMOE_OK;
}

qmoe_status qmi_job_finish_tensors(qmi_job *job)
{
    uint64_t header_hash = 0, file_bytes = 0;
    qmi_first_shard *s = job->first_shard;
    /* Without moments it was finished at once. */
    if (s == NULL)
        return QMOE_OK;
    QMI_TRY(write_others(job));
    QMI_TRY(
        qmi_st_writer_finish(s->writer, &header_hash, &file_bytes, job->err));
    job->report->output_bytes += file_bytes;
    QMI_TRY(qmi_manifest_add_file(
        job->manifest, s->name, header_hash, file_bytes, job->err));
    qmi_job_close_tensors(job);
    return QMOE_OK;
}

void qmi_job_close_tensors(qmi_job *job)
{
    if (job->first_shard == NULL)
        return;
    qmi_st_writer_destroy(job->first_shard->writer);
    qmi_free(job->first_shard);
    job->first_shard = NULL;
}
