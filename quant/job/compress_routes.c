/* SPDX-License-Identifier: Apache-2.0
 * How many experts get tokens, seen on the way of some tokens to the first
 * sparse block of the model's first program. */
#include "compress_job.h"

#include <math.h>

#include "alloc.h"
#include "compress_time.h"

/* Where tokens went, each to top_k experts. */
typedef struct routes {
    int64_t n_routes, n_experts;
    int64_t *counts; /* [n_experts] */
} routes;

/* The first samples that make a chunk of the forward pass: no copy.  The arrays
 * stay those of `all`.  The first sample is always taken. */
static qmi_calibration first_samples(
    const qmi_calibration *all, qmi_program program)
{
    qmi_calibration few = *all;
    const int64_t *begin = all->sets[program].begin;
    size_t n = 1;
    while (n < all->n_samples && begin[n + 1] <= QMI_FORWARD_TOKENS)
        n++;
    few.n_samples = n;
    for (int p = 0; p < QMI_N_PROGRAMS; p++) {
        if (few.sets[p].n_sequences == 0)
            continue;
        few.sets[p].n_sequences = n;
        few.sets[p].n_tokens = few.sets[p].begin[n];
    }
    return few;
}

/* Other tokens do not make an expert calibrated: without a counted one it is
 * rounded. */
static double n_counted(const qmi_token_set *set)
{
    int64_t n = 0;
    for (int64_t t = 0; t < set->n_tokens; t++)
        n += set->weight[t] != 0;
    return (double)n;
}

static qmoe_status follow(
    routes *r, qmi_forward *f, int32_t sparse_block, qmi_error *err)
{
    const qmi_program program = f->session->model->blocks[0].program;
    const qmi_token_set *set = &f->calibration->sets[program];
    QMI_TRY(qmi_forward_embed(f, program, err));
    /* No block before the first sparse one has experts, so these dense parts
     * are all there is. */
    for (int32_t block = 0; block <= sparse_block; block++)
        QMI_TRY(qmi_forward_block(f, block, err));
    const int64_t top_k = f->session->model->blocks[sparse_block].ffn.top_k;
    for (int64_t i = 0; i < set->n_tokens * top_k; i++)
        if (set->weight[i / top_k] != 0) {
            r->counts[f->expert[i]]++;
            r->n_routes++;
        }
    return QMOE_OK;
}

/* Of n_routes that are spread alike.  For more than were seen, that the next
 * one takes a new way has the probability of ways taken once (Good and
 * Turing). */
static double used_of(const routes *r, double n_routes)
{
    const double n = (double)r->n_routes;
    double once = 0, seen = 0, fewer = 0;
    for (int64_t e = 0; e < r->n_experts; e++) {
        once += r->counts[e] == 1;
        seen += r->counts[e] != 0;
        /* An expert that was seen with frequency p gets one of N tokens with
         * probability 1 - (1 - p)^N. */
        fewer += 1 - pow(1 - (double)r->counts[e] / n, n_routes);
    }
    const double unseen = (double)r->n_experts - seen;
    if (n_routes < n)
        return fewer;
    if (unseen == 0)
        return seen;
    /* Each new expert leaves fewer: the number approaches `unseen` by an
     * exponential whose first slope is the probability of Good and Turing. */
    return seen + unseen * (1 - exp(-(n_routes - n) * once / n / unseen));
}

static qmoe_status sample_routes(
    routes *r, const qmi_job *job, int32_t sparse_block)
{
    qmi_forward forward;
    const qmi_calibration few =
        first_samples(&job->calibration, job->model->blocks[0].program);
    /* On the CPU, with states in memory: it is one chunk. */
    const qmoe_session_options place = {
        .size = sizeof place, .backend = QMI_HOST_BACKEND};
    QMI_TRY(
        qmi_forward_create(&forward, job->model, &few, NULL, &place, job->err));
    qmoe_status status = follow(r, &forward, sparse_block, job->err);
    qmi_forward_destroy(&forward);
    return status;
}

qmoe_status qmi_job_used_experts(
    double share[QMI_N_PROGRAMS], const qmi_job *job)
{
    const qmi_token_set *sets = job->calibration.sets;
    qmi_sparse_block first;
    qmi_job_sparse_block(job, 0, &first);
    /* A real run would take these tokens twice.  The first sparse block of a
     * decoder needs the whole encoder, which is too much for a plan. */
    routes r = {.n_experts = first.block->ffn.n_experts};
    const bool looks = job->options.dry_run &&
                       first.block->program == job->model->blocks[0].program;
    qmoe_status status = QMOE_OK;
    if (looks) {
        r.counts = qmi_calloc((size_t)r.n_experts, sizeof *r.counts,
            "tokens by expert", job->err);
        if (r.counts == NULL)
            return QMOE_E_NOMEM;
        status = sample_routes(&r, job, first.index);
    }
    for (int p = 0; p < QMI_N_PROGRAMS; p++) {
        const double n = n_counted(&sets[p]) * (double)first.block->ffn.top_k;
        const double used = r.n_routes > 0
                                ? used_of(&r, n)
                                : qmi_used_experts((double)r.n_experts, n);
        share[p] = used / (double)r.n_experts;
    }
    qmi_free(r.counts);
    return status;
}
