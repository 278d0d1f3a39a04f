/* SPDX-License-Identifier: Apache-2.0
 * The sweep over the model.  In: an open journal, and states and experts as the
 * pass holds them.  Out: one finished shard per stack.  For each block the
 * dense part runs first, then the experts in groups.  A group is on disk before
 * it enters the journal, so the journal never names bytes that a crash could
 * have lost; what the shards hold beyond the journal is written over by the
 * next run. */
#include "compress_dense.h"

#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "probe.h"

typedef struct block_run {
    qmi_job *job;
    qmi_sparse_block block;
    int64_t number;     /* in execution order */
    int64_t first, end; /* experts of the group at hand */
    bool again;         /* its tokens are counted already */
    int n_kinds;        /* of its stacks; of each: */
    qmi_stack_recipe recipes[QMI_MAX_EXPERT_MATRICES];
    qmi_stack_writer *writers[QMI_MAX_EXPERT_MATRICES];
    char files[QMI_MAX_EXPERT_MATRICES][64];
} block_run;

/* Blocks are few, so a search from the start needs no table. */
bool qmi_job_sparse_block(
    const qmi_job *job, int64_t number, qmi_sparse_block *out)
{
    const qmoe_model *m = job->model;
    int64_t n = 0, n_stacks = 0;
    for (int32_t i = 0; i < m->n_blocks; i++) {
        if (!qmi_block_is_sparse(&m->blocks[i]))
            continue;
        *out = (qmi_sparse_block){.index = i,
            .block = &m->blocks[i],
            .stacks = qmi_expert_stacks_of(m, i),
            .first_stack = n_stacks};
        if (n++ == number)
            return true;
        n_stacks += out->stacks.n;
    }
    return false;
}

/* What is recorded of the block, and of the group at hand what is done. */
static qmoe_status report_progress(void *user)
{
    char item[160];
    const block_run *r = user;
    const qmi_job *job = r->job;
    qmi_expert_tally now;
    int64_t n = 0;
    qmi_expert_pass_tally(job->pass, &now);
    const qmi_journal_expert *done =
        qmi_journal_block(job->journal, r->number, &n);
    double error = now.error;
    /* Tokens of experts that are replayed are in the journal's numbers
     * already. */
    int64_t tokens = r->again ? 0 : now.n_tokens;
    for (int64_t e = 0; e < n; e++) {
        for (int kind = 0; kind < r->n_kinds; kind++)
            if (done[e].quality[kind].energy > 0)
                error +=
                    done[e].quality[kind].error / done[e].quality[kind].energy;
        tokens += done[e].n_tokens;
    }
    /* The last one counts when the group is stored. */
    int64_t expert = r->first + now.n_experts;
    expert = expert < r->end ? expert : r->end - 1;
    int length = snprintf(item, sizeof item, "%s block %d, expert %lld/%lld",
        qmi_program_name(r->block.block->program), (int)r->block.block->number,
        (long long)expert, (long long)r->block.block->ffn.n_experts);
    const int64_t n_matrices = r->n_kinds * n + now.n_matrices;
    length += snprintf(item + length, sizeof item - (size_t)length,
        ", %lld tokens", (long long)tokens);
    if (n_matrices > 0)
        snprintf(item + length, sizeof item - (size_t)length, ", error %.4f",
            error / (double)n_matrices);
    return qmi_progress(&job->context->hooks, job->stage, item,
        job->weights_done + (uint64_t)now.n_weights, job->weights_total);
}

/* Weights of stored experts.  Those of the group at hand are in the pass's
 * tally, which begin_group resets. */
static void count_weights(block_run *r, int64_t n_experts)
{
    for (int kind = 0; kind < r->n_kinds; kind++)
        r->job->weights_done += (uint64_t)n_experts *
                                (uint64_t)r->block.stacks.of[kind]->n_rows *
                                (uint64_t)r->block.stacks.of[kind]->n_cols;
}

/* ---- writers ---- */

/* Opens the shard of one stack; `existing`: an earlier process began it. */
static qmoe_status open_writer(block_run *r, int kind, bool existing)
{
    qmi_job *job = r->job;
    const qmi_weight *stack = r->block.stacks.of[kind];
    qmi_job_next_file(job, r->files[kind]);
    qmi_new_file file;
    const qmi_stack_plan plan = {
        .name = stack->name,
        .format = r->recipes[kind].quantiser->format,
        .n_mats = stack->n_mats,
        .n_rows = stack->n_rows,
        .n_cols = stack->n_cols,
    };
    /* The shard may be missing although the journal knows its experts, after
     * somebody removed it: it is begun again, and the check of each expert
     * notices. */
    qmoe_status status = QMOE_E_NOT_FOUND;
    if (existing)
        status =
            qmi_output_reopen(&job->output, &file, r->files[kind], job->err);
    if (status == QMOE_E_NOT_FOUND)
        status =
            qmi_output_create(&job->output, &file, r->files[kind], job->err);
    QMI_TRY(status);
    return qmi_stack_writer_create(&r->writers[kind], &file, &plan, job->err);
}

/* Only after the last matrix: a shard enters the manifest complete or not at
 * all. */
static qmoe_status finish_writer(block_run *r, int kind)
{
    qmi_job *job = r->job;
    const qmi_weight *stack = r->block.stacks.of[kind];
    const qmi_format *format = r->recipes[kind].quantiser->format;
    uint64_t header_hash = 0, file_bytes = 0;
    QMI_TRY(qmi_stack_writer_finish(
        r->writers[kind], &header_hash, &file_bytes, job->err));
    job->report->output_bytes += file_bytes;
    job->report->expert_bytes += qmi_stack_writer_bytes(r->writers[kind]);
    QMI_TRY(qmi_manifest_add_file(
        job->manifest, r->files[kind], header_hash, file_bytes, job->err));
    QMI_TRY(qmi_manifest_add_parts(
        job->manifest, stack->name, format, r->files[kind], job->err));
    return qmi_manifest_add_stack(
        job->manifest, stack, &r->recipes[kind], job->err);
}

/* ---- what an earlier process did ---- */

/* Reads the next expert from the shards.  *damaged: the kind whose shard does
 * not hold what was written; n_kinds: none. */
static qmoe_status load_expert(block_run *r, const qmi_journal_expert *done,
    qmi_encoded *loaded, int *damaged)
{
    /* Stops at the first kind that is damaged; all are loaded before one is
     * kept. */
    for (*damaged = 0; *damaged < r->n_kinds; ++*damaged) {
        const int kind = *damaged;
        bool found = false;
        QMI_TRY(qmi_stack_writer_load(r->writers[kind], &loaded[kind],
            done->length[kind], &found, r->job->err));
        if (!found || qmi_encoded_digest(&loaded[kind]) != done->digest[kind])
            break;
    }
    return QMOE_OK;
}

/* All shards keep the expert or none does: they must stay at the same
 * matrix. */
static qmoe_status keep_expert(
    block_run *r, const qmi_journal_expert *done, int *damaged)
{
    qmi_encoded loaded[QMI_MAX_EXPERT_MATRICES] = {{0}};
    qmoe_status status = load_expert(r, done, loaded, damaged);
    for (int kind = 0; kind < r->n_kinds; kind++) {
        if (status == QMOE_OK && *damaged == r->n_kinds)
            status = qmi_stack_writer_keep(
                r->writers[kind], &loaded[kind], r->job->err);
        qmi_encoded_free(&loaded[kind]);
    }
    return status;
}

/* The journal is cut before anything is compressed again: a crash between
 * leaves lines of sound experts alone. */
static qmoe_status redo_from(block_run *r, int64_t expert, int damaged)
{
    qmi_job *job = r->job;
    int64_t n_dropped = 0;
    QMI_TRY(qmi_journal_forget(
        job->journal, r->number, expert, &n_dropped, job->err));
    qmi_message(&job->context->hooks,
        "%s/%s: expert %lld is not what was written; %lld finished expert(s) "
        "are compressed again",
        job->output.partial, r->files[damaged], (long long)expert,
        (long long)n_dropped);
    return QMOE_OK;
}

/* Takes over the experts that are in the shards as they were written: n_kept.
 * From the first one that is not, all is done again, since the inputs of later
 * blocks followed from it. */
static qmoe_status keep_experts(block_run *r, int64_t *n_kept)
{
    int64_t n_done = 0;
    const qmi_journal_expert *done =
        qmi_journal_block(r->job->journal, r->number, &n_done);
    int damaged = r->n_kinds;
    for (*n_kept = 0; *n_kept < n_done; ++*n_kept) {
        QMI_TRY(keep_expert(r, &done[*n_kept], &damaged));
        if (damaged != r->n_kinds)
            return redo_from(r, *n_kept, damaged);
    }
    return QMOE_OK;
}

/* ---- groups ---- */

/* Experts [first, first + n) are at hand. */
static qmoe_status begin_group(block_run *r, int64_t first, int64_t n)
{
    r->first = first;
    r->end = first + n;
    qmi_expert_pass_watch(r->job->pass, report_progress, r);
    return report_progress(r);
}

/* Takes the tokens of the experts kept through them: their states are in no
 * file, and everything after this follows from them. */
static qmoe_status replay(block_run *r, int64_t n_kept)
{
    qmi_job *job = r->job;
    int64_t step = job->options.group_size;
    /* In pieces of a group, so that memory holds no more experts than in a run
     * without interruption. */
    for (int64_t e = 0; job->calibrated && e < n_kept; e += step) {
        int64_t n = n_kept - e < step ? n_kept - e : step;
        qmi_weight stacks[QMI_MAX_EXPERT_MATRICES] = {{0}};
        QMI_TRY(begin_group(r, e, n));
        qmoe_status status = QMOE_OK;
        for (int kind = 0; status == QMOE_OK && kind < r->n_kinds; kind++) {
            status = qmi_stack_writer_read(
                r->writers[kind], &stacks[kind], e, n, job->err);
            qmi_stack_recipe_set(&stacks[kind], &r->recipes[kind]);
        }
        if (status == QMOE_OK)
            status = qmi_expert_pass_replay(job->pass, stacks, e, n, job->err);
        /* Also after a failure: all are zeroed, so unread takes what is
         * there. */
        for (int kind = 0; kind < r->n_kinds; kind++)
            qmi_stack_writer_unread(&stacks[kind]);
        QMI_TRY(status);
    }
    return QMOE_OK;
}

static void free_results(qmi_expert_result *results, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        for (int kind = 0; kind < QMI_MAX_EXPERT_MATRICES; kind++)
            qmi_encoded_free(&results[i].encoded[kind]);
}

/* Data first, then the journal: a group counts only when it is on disk.  A
 * crash between the two costs this group. */
static qmoe_status store_group(
    block_run *r, const qmi_expert_result *results, int64_t n)
{
    qmi_job *job = r->job;
    for (int64_t i = 0; i < n; i++)
        for (int kind = 0; kind < r->n_kinds; kind++)
            QMI_TRY(qmi_stack_writer_add(
                r->writers[kind], &results[i].encoded[kind], job->err));
    for (int kind = 0; kind < r->n_kinds; kind++)
        QMI_TRY(qmi_stack_writer_sync(r->writers[kind], job->err));
    QMI_TRY(qmi_journal_add(job->journal, r->number, results, n, job->err));
    /* From now on the directory is worth keeping, however the run ends. */
    job->output.keep = true;
    return QMOE_OK;
}

static qmoe_status run_groups(block_run *r, int64_t first)
{
    qmi_job *job = r->job;
    int64_t n_experts = r->block.block->ffn.n_experts;
    int64_t step = job->options.group_size;
    qmi_expert_result *results = qmi_calloc(
        (size_t)step, sizeof *results, "a group of experts", job->err);
    if (results == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status = QMOE_OK;
    /* Groups bound the memory of results and the work that a crash costs.  No
     * result depends on their size. */
    for (int64_t e = first; status == QMOE_OK && e < n_experts; e += step) {
        int64_t n = n_experts - e < step ? n_experts - e : step;
        status = begin_group(r, e, n);
        if (status != QMOE_OK)
            break;
        status = qmi_expert_pass_run(job->pass, results, e, n, job->err);
        if (status == QMOE_OK)
            status = store_group(r, results, n);
        free_results(results, n);
        count_weights(r, n);
    }
    qmi_free(results);
    return status;
}

/* The order is that of a run without interruption: experts kept, then their
 * tokens, then the rest.  Thus the states are the same when the first new
 * expert is compressed. */
static qmoe_status run_block(block_run *r)
{
    qmi_job *job = r->job;
    int64_t n_done = 0, n_kept = 0;
    qmi_journal_block(job->journal, r->number, &n_done);
    for (int kind = 0; kind < r->n_kinds; kind++) {
        r->recipes[kind] = qmi_job_stack_recipe(job, &r->block, kind);
        qmi_expert_pass_recipe(job->pass, kind, &r->recipes[kind]);
        QMI_TRY(open_writer(r, kind, n_done != 0));
    }
    QMI_TRY(keep_experts(r, &n_kept));
    job->report->n_experts_resumed += (uint64_t)n_kept;
    r->again = true;
    QMI_TRY(replay(r, n_kept));
    r->again = false;
    count_weights(r, n_kept);
    QMI_TRY(run_groups(r, n_kept));
    for (int kind = 0; kind < r->n_kinds; kind++)
        QMI_TRY(finish_writer(r, kind));
    return QMOE_OK;
}

static qmoe_status compress_block(qmi_job *job, int64_t number)
{
    block_run r = {.job = job, .number = number};
    qmi_job_sparse_block(job, number, &r.block);
    r.n_kinds = r.block.stacks.n;
    qmoe_status status = run_block(&r);
    /* The watch points into this function's frame. */
    qmi_expert_pass_watch(job->pass, NULL, NULL);
    for (int kind = 0; kind < r.n_kinds; kind++)
        qmi_stack_writer_destroy(r.writers[kind]);
    return status;
}

/* ---- the sweep ---- */

typedef struct dense_part {
    const qmi_job *job;
    const qmi_block *block;
} dense_part;

static qmoe_status report_dense(const dense_part *d)
{
    char item[128];
    const qmi_job *job = d->job;
    snprintf(item, sizeof item, "%s block %d, dense part, %lld of %lld tokens",
        qmi_program_name(d->block->program), (int)d->block->number,
        (long long)job->forward.n_passed,
        (long long)job->calibration.sets[d->block->program].n_tokens);
    return qmi_progress(&job->context->hooks, job->stage, item,
        job->weights_done, job->weights_total);
}

/* n_passed moves once per chunk. */
static qmoe_status after_step(void *user, qmoe_session *session,
    const qmi_step *step, const qmi_pass *pass, qmi_error *err)
{
    (void)session, (void)step, (void)pass, (void)err;
    return report_dense(user);
}

/* A block that `run` takes tokens through, or through a part of it. */
static qmoe_status forward_block(qmi_job *job, int32_t block, bool is_rest)
{
    qmi_run_block_fn *const run =
        is_rest ? qmi_forward_after_experts : qmi_forward_block;
    dense_part part = {job, &job->model->blocks[block]};
    if (!job->calibrated)
        return QMOE_OK;
    qmoe_session *session = job->forward.session;
    job->forward.n_passed = 0;
    QMI_TRY(report_dense(&part));
    /* The session is reused by every block, so the probe is taken off again. */
    qmi_probe probe = {.after = after_step, .user = &part};
    qmi_probe_attach(session, &probe);
    qmoe_status status = job->collects
                             ? qmi_job_run_dense(job, block, is_rest, run)
                             : run(&job->forward, block, job->err);
    qmi_probe_detach(session, &probe);
    return status;
}

/* Before the first block of a program its tokens are embedded, and what it
 * reads of the program before it is finished. */
static qmoe_status begin_program(qmi_job *job, int32_t block)
{
    const qmi_block *at = &job->model->blocks[block];
    if (!job->calibrated || (block != 0 && at[-1].program == at->program))
        return QMOE_OK;
    if (block != 0)
        QMI_TRY(qmi_forward_finish_encoder(&job->forward, job->err));
    return qmi_forward_embed(&job->forward, at->program, job->err);
}

/* Blocks matter only up to the last sparse one, unless matrices behind it are
 * compressed. */
static int32_t end_of_sweep(const qmi_job *job)
{
    const qmoe_model *m = job->model;
    int32_t end = m->n_blocks;
    while (
        !job->collects && end > 0 && !qmi_block_is_sparse(&m->blocks[end - 1]))
        end--;
    return end;
}

qmoe_status qmi_job_sweep(qmi_job *job, qmi_visit_fn visit)
{
    /* The encoder first: its output is an input of every decoder block. */
    const qmoe_model *m = job->model;
    const int32_t end = end_of_sweep(job);
    int64_t number = 0;
    for (int32_t block = 0; block < end; block++) {
        QMI_TRY(begin_program(job, block));
        /* It sees the states that `visit` left at all blocks before it. */
        QMI_TRY(forward_block(job, block, false));
        if (!qmi_block_is_sparse(&m->blocks[block]))
            continue;
        QMI_TRY(qmi_expert_pass_block(job->pass, block, job->err));
        QMI_TRY(visit(job, number++));
        /* Behind the last one nothing reads what comes of it. */
        if (block + 1 < end || job->collects)
            QMI_TRY(forward_block(job, block, true));
    }
    return qmi_progress(&job->context->hooks, job->stage, NULL,
        job->weights_done, job->weights_total);
}

qmoe_status qmi_job_compress_blocks(qmi_job *job)
{
    job->stage = "quantize";
    job->weights_done = 0;
    job->weights_total = job->report->expert_weights;
    job->collects = qmi_dense_any_moments(&job->dense_choice);
    job->weights_total += qmi_job_calibrated_weights(job);
    QMI_TRY(qmi_job_sweep(job, compress_block));
    return job->collects ? qmi_job_run_head(job) : QMOE_OK;
}
