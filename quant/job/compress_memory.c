/* SPDX-License-Identifier: Apache-2.0
 * How much memory a job takes: what exists once, and what each worker has.
 * Nothing here grows with the number of experts but the router's logits; where
 * it comes from is in docs/compress.md. */
#include "available_memory.h"
#include "compress_job.h"

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t longest_set(const qmoe_compress_report *r)
{
    return larger(r->n_encoder_tokens, r->n_decoder_tokens);
}

/* The residual stream of all tokens, and the experts' input of one program. */
uint64_t qmi_job_state_bytes(const qmi_job *job)
{
    const qmoe_compress_report *r = job->report;
    uint64_t n = r->n_encoder_tokens + r->n_decoder_tokens + longest_set(r);
    return job->calibrated
               ? n * (uint64_t)job->model->shape.d_model * sizeof(float)
               : 0;
}

/* ---- once ---- */

/* Values of a token in all slots but that of the logits, and in the caches of
 * the block that keeps most. */
static uint64_t token_values(const qmoe_model *m)
{
    const qmi_graph *graph = &m->graph;
    const qmi_slot logits = graph->programs[QMI_DECODE].output;
    uint64_t n = 0, most = 0;
    for (size_t i = 1; i <= graph->n_slots; i++)
        if ((qmi_slot)i != logits)
            n += (uint64_t)graph->slots[i].width;
    for (int32_t block = 0; block < m->n_blocks; block++) {
        uint64_t kept = 0;
        for (size_t i = 1; i <= graph->n_caches; i++)
            if (graph->caches[i].block == block)
                kept += (uint64_t)graph->caches[i].width;
        most = kept > most ? kept : most;
    }
    return n + most;
}

/* Activations of a chunk of calibration tokens. */
static uint64_t chunk_bytes(const qmi_job *job)
{
    const qmoe_compress_report *r = job->report;
    /* States wait on the host before and after. */
    uint64_t per_token =
        token_values(job->model) + 2 * (uint64_t)job->model->shape.d_model;
    uint64_t n = longest_set(r);
    return (n < QMI_FORWARD_TOKENS ? n : QMI_FORWARD_TOKENS) * per_token *
           sizeof(float);
}

/* Compressed experts wait for the rest of their group.  With a budget any stack
 * may get the larger format. */
static uint64_t group_bytes(const qmi_job *job, const qmi_sparse_block *block)
{
    const qmi_quantiser *q = job->recipe.bits > 0
                                 ? qmi_job_candidate(job, QMI_LARGE)
                                 : job->recipe.quantiser;
    const qmi_format *format = q->format;
    uint64_t n = 0;
    for (int kind = 0; kind < block->stacks.n; kind++) {
        const qmi_weight *w = block->stacks.of[kind];
        n += qmi_job_stack_bytes(format, w) / (uint64_t)w->n_mats;
    }
    return n * (uint64_t)job->options.group_size;
}

/* Beside the group at work. */
static uint64_t fixed_bytes(const qmi_job *job)
{
    enum { BASE = 32 << 20 }; /* programs, libraries, lists */
    uint64_t bytes =
        BASE + qmi_forward_dense_bytes(job->model) + qmi_job_dense_bytes(job);
    if (!job->calibrated)
        return bytes;
    bytes += chunk_bytes(job);
    /* At most: id 4, weight 4; of each route expert 4, weight 4, order 8 bytes. */
    bytes += (8 + 16 * (uint64_t)qmi_forward_top_k(job->model)) *
             (job->report->n_encoder_tokens + job->report->n_decoder_tokens);
    /* Otherwise states are in a file. */
    if (job->options.work_dir == NULL)
        bytes += qmi_job_state_bytes(job);
    return bytes;
}

/* ---- each worker ---- */

static uint64_t bytes_with(const qmi_job *job, const qmi_sparse_block *block,
    const qmi_quantiser *quantiser)
{
    qmi_stack_recipe recipes[QMI_MAX_EXPERT_MATRICES];
    for (int kind = 0; kind < block->stacks.n; kind++)
        recipes[kind] = qmi_job_recipe(job, quantiser, block->stacks.of[kind]);
    return qmi_expert_pass_worker_bytes(job->model, &block->stacks, recipes,
        job->calibrated, job->choices != NULL);
}

/* With a bit budget both formats are tried, one after the other. */
static uint64_t worker_bytes(const qmi_job *job, const qmi_sparse_block *block)
{
    uint64_t most = 0;
    if (job->choices == NULL)
        return bytes_with(job, block, job->recipe.quantiser);
    for (int size = 0; size < QMI_N_SIZES; size++)
        most =
            larger(most, bytes_with(job, block, qmi_job_candidate(job, size)));
    return most;
}

/* ---- together ---- */

static bool fits(uint64_t limit, uint64_t n_bytes)
{
    /* An unknown memory (0) limits nothing. */
    return limit == 0 || n_bytes <= limit;
}

/* Matrices beside the experts: as many at once as threads and memory allow,
 * while no expert is worked on. */
static uint64_t plan_dense(qmi_job *job, uint64_t fixed, uint64_t limit)
{
    enum { KEPT = 32 << 20 }; /* freed small blocks (qmi_free) */
    uint64_t bytes;
    job->n_dense_workers = job->context->hooks.n_threads;
    do
        bytes = fixed + qmi_job_dense_bytes(job) +
                (uint64_t)job->n_dense_workers * KEPT;
    while (!fits(limit, bytes) && --job->n_dense_workers > 0);
    if (job->n_dense_workers == 0)
        job->n_dense_workers = 1;
    return qmi_dense_any(&job->dense_choice) ? bytes : 0;
}

/* As many experts at once as there are threads and memory for.  More workers
 * than experts of a group would have nothing to do. */
qmoe_status qmi_job_plan_memory(qmi_job *job)
{
    enum { KEPT = 32 << 20 }; /* freed small blocks (qmi_free) */
    qmi_sparse_block block;
    uint64_t group = 0, worker = 0;
    for (int64_t i = 0; qmi_job_sparse_block(job, i, &block); i++) {
        group = larger(group, group_bytes(job, &block));
        worker = larger(worker, worker_bytes(job, &block));
    }
    uint64_t each = worker + KEPT;
    uint64_t limit = job->options.memory_limit != 0 ? job->options.memory_limit
                                                    : qmi_available_memory();
    const uint64_t dense = plan_dense(job, fixed_bytes(job), limit);
    const uint64_t fixed = fixed_bytes(job) + group;
    int n = job->context->hooks.n_threads;
    if (n > job->options.group_size)
        n = job->options.group_size;
    const int64_t n_experts = qmi_model_n_experts(job->model);
    if (n > n_experts)
        n = n_experts != 0 ? (int)n_experts : 1;
    /* Reduced before it is refused: fewer workers give the same bytes later. */
    while (n > 1 && !fits(limit, fixed + (uint64_t)n * each))
        n--;
    job->n_workers = n;
    job->report->planned_memory_bytes =
        larger(dense, fixed + (uint64_t)n * each);
    job->report->planned_memory_bytes = larger(
        job->report->planned_memory_bytes, qmi_job_row_weights_bytes(job));
    if (fits(limit, job->report->planned_memory_bytes))
        return QMOE_OK;
    /* A limit that the user set is a wrong argument; a lack of memory is the
     * machine's. */
    return qmi_fail(job->err,
        job->options.memory_limit != 0 ? QMOE_E_INVALID : QMOE_E_NOMEM,
        "one expert or matrix at a time needs %llu MB of memory, %s is %llu "
        "MB%s",
        (unsigned long long)(job->report->planned_memory_bytes >> 20) + 1,
        job->options.memory_limit != 0 ? "the limit" : "available",
        (unsigned long long)(limit >> 20),
        job->calibrated && job->options.work_dir == NULL
            ? "; a work directory would hold the token states"
            : "");
}
