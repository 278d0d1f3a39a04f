/* SPDX-License-Identifier: Apache-2.0
 * In: a bit budget and the open job.  Out: a format for each stack and the
 * recipe's main format.  One sweep with the uncompressed experts measures what
 * both formats would cost, then each stack gets one (docs/compress.md, "A bit
 * budget").  Trials are in the journal before they are used, so a resumed run
 * chooses the same. */
#include <math.h>
#include <stdio.h>

#include "alloc.h"
#include "compress_job.h"
#include "expert_trial.h"

/* Experts of a block that are measured: enough for a mean, and a small part
 * of the work where there are many. */
enum { MOST_TRIALS = 64 };

const qmi_quantiser *qmi_job_candidate(const qmi_job *job, int size)
{
    return qmi_quantiser_find(
        job->recipe.quantiser->method, qmi_budget_formats[size]->name);
}

int64_t qmi_n_trials(int64_t n_experts)
{
    return n_experts < MOST_TRIALS ? n_experts : MOST_TRIALS;
}

int64_t qmi_job_n_trials(const qmi_job *job, const qmi_sparse_block *block)
{
    return job->choices != NULL ? qmi_n_trials(block->block->ffn.n_experts) : 0;
}

/* Evenly spread over the experts, from number 0 on.  With no more experts than
 * MOST_TRIALS each is tried. */
static int64_t trial_expert(
    const qmi_job *job, const qmi_sparse_block *block, int64_t trial)
{
    return trial * block->block->ffn.n_experts / qmi_job_n_trials(job, block);
}

/* Weights of n experts of a block. */
static uint64_t weights_of(const qmi_sparse_block *b, int64_t n)
{
    uint64_t each = 0;
    for (int kind = 0; kind < b->stacks.n; kind++)
        each += (uint64_t)b->stacks.of[kind]->n_rows *
                (uint64_t)b->stacks.of[kind]->n_cols;
    return (uint64_t)n * each;
}

/* ---- the range ---- */

/* Rounded down: the budget is an upper limit. */
static uint64_t bytes_within(double bits, double expert_weights)
{
    return (uint64_t)floor(bits / 8 * expert_weights);
}

/* Four digits that are within the range: rounded up or down. */
qmoe_status qmi_check_bits(double bits, uint64_t least, uint64_t most,
    double expert_weights, qmi_error *err)
{
    if (bytes_within(bits, expert_weights) >= least &&
        bits * expert_weights <= 8 * (double)most)
        return QMOE_OK;
    /* The ends are rounded inwards, so that a number copied from the message is
     * accepted. */
    return qmi_fail(err, QMOE_E_INVALID,
        "%g bits per expert weight are not possible: this model takes %.4f "
        "(all %s) to %.4f (all %s)",
        bits, ceil(1e4 * (8 * (double)least / expert_weights)) / 1e4,
        qmi_budget_formats[QMI_SMALL]->name,
        floor(1e4 * (8 * (double)most / expert_weights)) / 1e4,
        qmi_budget_formats[QMI_LARGE]->name);
}

static int64_t count_stacks(const qmi_job *job)
{
    qmi_sparse_block b;
    int64_t n = 0;
    for (int64_t i = 0; qmi_job_sparse_block(job, i, &b); i++)
        n = b.first_stack + b.stacks.n;
    return n;
}

/* Sizes follow from shapes alone, so a budget out of range is refused before
 * any text is read. */
qmoe_status qmi_job_list_choices(qmi_job *job)
{
    qmoe_compress_report *r = job->report;
    uint64_t bytes[QMI_N_SIZES] = {0};
    qmi_sparse_block b;
    if (job->recipe.bits == 0)
        return QMOE_OK;
    job->choices = qmi_calloc((size_t)count_stacks(job), sizeof *job->choices,
        "the choice of formats", job->err);
    if (job->choices == NULL)
        return QMOE_E_NOMEM;
    for (int64_t i = 0; qmi_job_sparse_block(job, i, &b); i++)
        for (int kind = 0; kind < b.stacks.n; kind++)
            for (int size = 0; size < QMI_N_SIZES; size++) {
                const uint64_t n = qmi_job_stack_bytes(
                    qmi_budget_formats[size], b.stacks.of[kind]);
                job->choices[b.first_stack + kind].bytes[size] = n;
                bytes[size] += n;
            }
    r->least_bits = 8 * (double)bytes[QMI_SMALL] / (double)r->expert_weights;
    r->most_bits = 8 * (double)bytes[QMI_LARGE] / (double)r->expert_weights;
    return qmi_check_bits(job->recipe.bits, bytes[QMI_SMALL], bytes[QMI_LARGE],
        (double)r->expert_weights, job->err);
}

/* ---- measuring ---- */

/* A group of trials, or of experts that tokens go through.  Only trials count
 * as work done: they are most of the time. */
typedef struct group {
    qmi_job *job;
    const qmi_sparse_block *block;
    int64_t first;
    bool counts; /* as weights done */
    const char *what;
} group;

static qmoe_status show(void *user)
{
    char item[160];
    const group *g = user;
    const qmi_job *job = g->job;
    qmi_expert_tally now;
    qmi_expert_pass_tally(job->pass, &now);
    /* Each matrix is tried once for both formats. */
    const uint64_t more = g->counts ? (uint64_t)now.n_weights : 0;
    snprintf(item, sizeof item, "%s block %d, %s %lld",
        qmi_program_name(g->block->block->program),
        (int)g->block->block->number, g->what,
        (long long)(g->first + now.n_experts));
    return qmi_progress(&job->context->hooks, job->stage, item,
        job->weights_done + more, job->weights_total);
}

static qmoe_status begin_group(group *g, int64_t first)
{
    g->first = first;
    qmi_expert_pass_watch(g->job->pass, show, g);
    return show(g);
}

static qmoe_status try_group(qmi_job *job, int64_t number,
    const qmi_sparse_block *b, int64_t first, int64_t n)
{
    qmi_stack_recipe recipes[QMI_MAX_EXPERT_MATRICES][QMI_N_SIZES];
    for (int kind = 0; kind < b->stacks.n; kind++)
        for (int size = 0; size < QMI_N_SIZES; size++)
            recipes[kind][size] = qmi_job_recipe(
                job, qmi_job_candidate(job, size), b->stacks.of[kind]);
    /* n is at most group_size and at most MOST_TRIALS (measure_block). */
    qmi_expert_trial trials[MOST_TRIALS];
    int64_t experts[MOST_TRIALS];
    for (int64_t i = 0; i < n; i++)
        experts[i] = trial_expert(job, b, first + i);
    QMI_TRY(
        qmi_expert_pass_try(job->pass, trials, experts, n, recipes, job->err));
    QMI_TRY(qmi_journal_add_trials(job->journal, number, trials, n, job->err));
    /* A crash from here on costs one group of trials. */
    job->output.keep = true;
    return QMOE_OK;
}

/* All tokens through the experts as they are. */
static qmoe_status pass_through(qmi_job *job, const qmi_sparse_block *b)
{
    group g = {.job = job, .block = b, .what = "through expert"};
    int64_t n_experts = b->block->ffn.n_experts;
    int64_t step = job->options.group_size;
    for (int64_t e = 0; e < n_experts; e += step) {
        int64_t n = n_experts - e < step ? n_experts - e : step;
        qmoe_status status = begin_group(&g, e);
        if (status == QMOE_OK)
            status = qmi_expert_pass_through(job->pass, e, n, job->err);
        /* The watch points to `g`, which is about to go. */
        qmi_expert_pass_watch(job->pass, NULL, NULL);
        QMI_TRY(status);
    }
    return QMOE_OK;
}

static qmoe_status measure_block(qmi_job *job, int64_t number)
{
    qmi_sparse_block b, next;
    group g = {.job = job, .block = &b, .counts = true, .what = "trial"};
    int64_t n_done = 0;
    int64_t step = job->options.group_size;
    if (step > MOST_TRIALS)
        step = MOST_TRIALS;
    qmi_job_sparse_block(job, number, &b);
    const int64_t n_trials = qmi_job_n_trials(job, &b);
    /* Continues behind the trials of an earlier process. */
    qmi_journal_trials(job->journal, number, &n_done);
    job->weights_done += weights_of(&b, n_done);
    for (int64_t i = n_done; i < n_trials; i += step) {
        int64_t n = n_trials - i < step ? n_trials - i : step;
        qmoe_status status = begin_group(&g, i);
        if (status == QMOE_OK)
            status = try_group(job, number, &b, i, n);
        qmi_expert_pass_watch(job->pass, NULL, NULL);
        QMI_TRY(status);
        job->weights_done += weights_of(&b, n);
    }
    /* Behind the last sparse block nobody needs the tokens. */
    return qmi_job_sparse_block(job, number + 1, &next) ? pass_through(job, &b)
                                                        : QMOE_OK;
}

/* ---- choosing ---- */

/* Sums of relative errors over the matrices of a stack, from the mean over
 * the measured ones; where none was measured, from the errors of weights. */
static void sum_errors(qmi_bits_choice *c, const qmi_expert_trial *t, int64_t n,
    int kind, int64_t n_experts)
{
    int64_t n_measured = 0;
    for (int64_t i = 0; i < n; i++)
        n_measured += t[i].measured[kind];
    const int64_t n_used = n_measured != 0 ? n_measured : n;
    /* The measured experts stand for all of the stack. */
    const double scale = (double)n_experts / (double)n_used;
    for (int size = 0; size < QMI_N_SIZES; size++) {
        c->error[size] = 0;
        /* In the order of the trials: the sum has one order. */
        for (int64_t i = 0; i < n; i++)
            if (t[i].measured[kind] || n_measured == 0)
                c->error[size] += scale * t[i].error[kind][size];
    }
}

/* The format of most stacks stands for the model. */
static void set_main_format(qmi_job *job, int64_t n)
{
    int64_t n_large = 0;
    for (int64_t i = 0; i < n; i++)
        n_large += job->choices[i].size == QMI_LARGE;
    job->recipe.quantiser =
        qmi_job_candidate(job, 2 * n_large > n ? QMI_LARGE : QMI_SMALL);
}

/* How far the trials are: those of an earlier process, and all. */
static void count_trials(const qmi_job *job, int64_t *n_done, int64_t *n_all)
{
    qmi_sparse_block b;
    *n_done = *n_all = 0;
    for (int64_t i = 0; qmi_job_sparse_block(job, i, &b); i++) {
        int64_t n = 0;
        qmi_journal_trials(job->journal, i, &n);
        *n_done += n;
        *n_all += qmi_job_n_trials(job, &b);
    }
}

qmoe_status qmi_job_choose_formats(qmi_job *job)
{
    qmi_sparse_block b;
    int64_t n_done, n_all;
    if (job->choices == NULL)
        return QMOE_OK;
    job->stage = "measure";
    job->weights_done = job->weights_total = 0;
    for (int64_t i = 0; qmi_job_sparse_block(job, i, &b); i++)
        job->weights_total += weights_of(&b, qmi_job_n_trials(job, &b));
    count_trials(job, &n_done, &n_all);
    job->report->n_trials_resumed = (uint64_t)n_done;
    /* With all trials in the journal the sweep is left out: it would only move
     * tokens, and every sweep begins at the embedding. */
    if (n_done < n_all)
        QMI_TRY(qmi_job_sweep(job, measure_block));
    for (int64_t i = 0; qmi_job_sparse_block(job, i, &b); i++) {
        int64_t n = 0;
        const qmi_expert_trial *t = qmi_journal_trials(job->journal, i, &n);
        for (int kind = 0; kind < b.stacks.n; kind++)
            sum_errors(&job->choices[b.first_stack + kind], t, n, kind,
                b.block->ffn.n_experts);
    }
    const int64_t n = count_stacks(job);
    QMI_TRY(qmi_allocate_bits(job->choices, n,
        bytes_within(job->recipe.bits, (double)job->report->expert_weights),
        job->err));
    set_main_format(job, n);
    return QMOE_OK;
}
