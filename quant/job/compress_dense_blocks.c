/* SPDX-License-Identifier: Apache-2.0
 * In: a part of a block that takes all calibration tokens through, or the head.
 * Out: its matrices beside the experts, quantised with the second moments of
 * their inputs, in the first shard.  The inputs are those that the uncompressed
 * matrices give behind compressed experts.  Matrices are quantised at the same
 * time, each by one thread, and written in the order of the steps. */
#include <stdio.h>

#include "alloc.h"
#include "compress_dense.h"
#include "dense_moments.h"
#include "parallel.h"
#include "probe.h"

/* A matrix on its way, and what became of it. */
typedef struct matrix {
    const qmi_weight *w;
    const qmi_hessian *hessian;
    qmi_encoded encoded;
    qmi_quant_result result;
    qmoe_status status;
    qmi_error error;
} matrix;

typedef struct group {
    qmi_job *job;
    int32_t block;
    int n;
    matrix all[QMI_MAX_DENSE_INPUTS * QMI_MAX_DENSE_SHARED];
    _Atomic(int64_t) n_coded;
} group;

static qmoe_status quantise(const group *g, matrix *m)
{
    const qmi_weight *w = m->w;
    const qmi_checkpoint *source = g->job->model->checkpoint;
    qmi_stack_recipe recipe = qmi_job_dense_recipe(g->job, w);
    recipe.quant.n_coded = (_Atomic(int64_t) *)&g->n_coded;
    recipe.quant.row_weights = recipe.row_weights;
    QMI_TRY(qmi_checkpoint_fetch(
        source, w->parts[0].data, w->parts[0].n_bytes, &m->error));
    QMI_TRY(qmi_weight_check(w, 0, &m->error));
    float *wide = qmi_calloc((size_t)(w->n_rows * w->n_cols), sizeof *wide,
        "a matrix in float32", &m->error);
    if (wide == NULL)
        return QMOE_E_NOMEM;
    qmi_weight_decode(w, 0, 0, w->n_rows, wide);
    const qmoe_status status = recipe.quantiser->run(&m->encoded, &m->result,
        wide, w->n_rows, w->n_cols, m->hessian, &recipe.quant, &m->error);
    qmi_free(wide);
    if (w->fetch == NULL)
        qmi_checkpoint_release(source, w->parts[0].data, w->parts[0].n_bytes);
    return status;
}

static void visit(void *user, int64_t item, int thread)
{
    group *g = user;
    matrix *m = &g->all[item];
    (void)thread;
    m->error = qmi_error_beside(g->job->err);
    m->status = quantise(g, m);
}

static qmoe_status show(void *user)
{
    char item[96];
    const group *g = user;
    const qmi_job *job = g->job;
    if (g->block >= 0) {
        const qmi_block *block = &job->model->blocks[g->block];
        snprintf(item, sizeof item, "%s block %d, %d matrices",
            qmi_program_name(block->program), (int)block->number, g->n);
    } else {
        snprintf(item, sizeof item, "the head");
    }
    return qmi_progress(&job->context->hooks, job->stage, item,
        job->weights_done + (uint64_t)atomic_load(&g->n_coded),
        job->weights_total);
}

static void list_matrices(group *g, qmi_dense_moments *moments)
{
    const qmoe_model *model = g->job->model;
    for (int i = 0; i < moments->n; i++) {
        qmi_dense_input *input = &moments->inputs[i];
        /* The last user of a sum may use it up; several at once may not. */
        input->hessian.expendable = input->n == 1;
        for (int k = 0; k < input->n; k++)
            g->all[g->n++] = (matrix){.w = &model->weights[input->weights[k]],
                .hessian = &input->hessian};
    }
}

static qmoe_status store(group *g, const matrix *m)
{
    qmi_job *job = g->job;
    qmi_dense_matrix *dense = &job->dense[m->w - job->model->weights];
    if (m->status != QMOE_OK)
        return qmi_fail(
            job->err, m->status, "'%s': %s", m->w->name, m->error.text);
    dense->result = m->result;
    dense->is_done = true;
    dense->has_moments = true;
    job->weights_done += (uint64_t)m->w->n_rows * (uint64_t)m->w->n_cols;
    return qmi_job_store_dense(
        job, &m->encoded, qmi_job_first_shard(job), dense->index);
}

/* Quantises all matrices whose inputs were summed. */
static qmoe_status compress(
    qmi_job *job, int32_t block, qmi_dense_moments *moments)
{
    QMI_TRY(qmi_dense_moments_finish(moments, job->err));
    group *g = qmi_calloc(1, sizeof *g, "matrices of a block", job->err);
    if (g == NULL)
        return QMOE_E_NOMEM;
    g->job = job;
    g->block = block;
    list_matrices(g, moments);
    const qmi_loop loop = {.n_threads = job->n_dense_workers,
        .n_items = g->n,
        .work = visit,
        .watch = show,
        .user = g};
    qmoe_status status = qmi_parallel(&loop, job->err);
    atomic_store(&g->n_coded, 0);
    /* In the order of the list: the first failure is told, results behind it are
     * only freed. */
    for (int i = 0; i < g->n; i++) {
        if (status == QMOE_OK)
            status = store(g, &g->all[i]);
        qmi_encoded_free(&g->all[i].encoded);
    }
    qmi_free(g);
    return status;
}

qmoe_status qmi_job_run_dense(
    qmi_job *job, int32_t block, bool is_rest, qmi_run_block_fn *run)
{
    qmi_dense_moments moments;
    qmoe_session *session = job->forward.session;
    qmoe_status status = qmi_dense_moments_create(&moments, &job->forward,
        block, is_rest, qmi_dense_with_moments(&job->dense_choice), job->err);
    if (status == QMOE_OK) {
        qmi_probe_attach(session, &moments.probe);
        status = run(&job->forward, block, job->err);
        qmi_probe_detach(session, &moments.probe);
    }
    if (status == QMOE_OK)
        status = compress(job, block, &moments);
    qmi_dense_moments_destroy(&moments);
    return status;
}

qmoe_status qmi_job_run_head(qmi_job *job)
{
    qmi_dense_moments moments;
    QMI_TRY(qmi_forward_before_head(&job->forward, job->err));
    qmoe_status status = qmi_dense_moments_of_head(&moments, &job->forward,
        qmi_dense_with_moments(&job->dense_choice), job->err);
    if (status == QMOE_OK)
        status = compress(job, QMI_AFTER_BLOCKS, &moments);
    qmi_dense_moments_destroy(&moments);
    return status;
}
