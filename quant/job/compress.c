/* SPDX-License-Identifier: Apache-2.0
 * The compressor's flow (docs/compress.md).  In: a checkpoint, options,
 * calibration text.  Out: a compressed directory and the report.  `run` lists
 * the steps in order; the files compress_*.c hold them.  What can be known
 * beforehand is refused before the first byte is written; afterwards a failure
 * leaves a directory that --resume continues, once a group of experts is in the
 * journal. */
#include "compress_job.h"

#include <math.h>
#include <string.h>

#include "alloc.h"
#include "clock.h"
#include "compress_time.h"
#include "rotation.h"
#include "span_corruption.h"

/* A group's results wait in memory until they are stored: the bound keeps that
 * memory small, and a batch of lost work, too. */
enum { DEFAULT_GROUP = 16, MAX_GROUP = 4096 };

/* Windows of calibration: with more tokens attention would need too much
 * memory. */
enum { MAX_WINDOW = 65536 };
static const double default_frame_weight = 0.1;

/* Of the mean diagonal (gptq_frame.h). */
static const double default_damping = 0.1;

/* ---- options ---- */

static qmoe_status choose_quantiser(qmi_job *job)
{
    const qmoe_compress_options *o = &job->options;
    const char *format = o->format != NULL ? o->format : qmi_formats[0]->name;
    const char *method = o->method != NULL ? o->method : "gptq";
    job->recipe.quantiser = qmi_quantiser_find(method, format);
    if (job->recipe.quantiser != NULL)
        return QMOE_OK;
    char names[256];
    return qmi_fail(job->err, QMOE_E_UNSUPPORTED,
        "unknown method and format '%s', '%s' (methods: gptq, rtn; "
        "formats: %s)",
        method, format, qmi_format_names(names, sizeof names, "gptq", NULL));
}

/* Without a method in the options, "gptq" was our default and not the user's
 * wish: the error then explains what the text is for. */
static qmoe_status check_calibration(const qmi_job *job)
{
    const qmoe_compress_options *o = &job->options;
    if (!job->recipe.quantiser->needs_hessian || o->n_calibration != 0)
        return QMOE_OK;
    if (o->method != NULL)
        return qmi_fail(job->err, QMOE_E_INVALID,
            "method %s needs calibration text (--calib FILE)", o->method);
    return qmi_fail(job->err, QMOE_E_INVALID,
        "accurate compression needs calibration text (--calib FILE); "
        "--method rtn rounds without it, at a larger loss");
}

/* Options that mean nothing to the format chosen are refused, rather than
 * left aside. */
static qmoe_status check_for_format(const qmi_job *job)
{
    const qmoe_compress_options *o = &job->options;
    const qmi_format *format = job->recipe.quantiser->format;
    char names[256];
    const struct rule {
        bool asked;
        bool (*has)(const qmi_format *format);
        const char *what;
    } rules[] = {
        {o->fit_levels, qmi_format_has_levels, "fitted levels are"},
        {o->fit_dictionary, qmi_format_has_dictionary,
            "a fitted dictionary is"},
        {o->rotation > 0, qmi_format_rotates, "a rotation is"},
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (rules[i].asked && !rules[i].has(format))
            return qmi_fail(job->err, QMOE_E_INVALID,
                "%s for formats with it only (%s), not for %s", rules[i].what,
                qmi_format_names(names, sizeof names, "gptq", rules[i].has),
                format->name);
    return QMOE_OK;
}

/* 0 asks for the default of each matrix, -1 for none; negatives below are no
 * choice.  A Hadamard block needs a power of two. */
static qmoe_status check_rotation(const qmi_job *job)
{
    const int block = job->options.rotation;
    if (block >= -1 && block <= QMI_ROTATION_MAX_BLOCK &&
        (block < 0 || (block & (block - 1)) == 0))
        return QMOE_OK;
    return qmi_fail(job->err, QMOE_E_INVALID,
        "rotation %d is not a power of two up to %d", block,
        QMI_ROTATION_MAX_BLOCK);
}

static qmoe_status check_bits(const qmi_job *job)
{
    const double bits = job->options.bits;
    /* Written with ! so that NaN is refused, too. */
    if (!(bits >= 0 && bits <= 16))
        return qmi_fail(
            job->err, QMOE_E_INVALID, "%g bits are not in 0..16", bits);
    if (bits > 0 && job->options.format != NULL)
        return qmi_fail(job->err, QMOE_E_INVALID,
            "a number of bits chooses between %s and %s by itself; leave "
            "the format '%s' out",
            qmi_budget_formats[QMI_SMALL]->name,
            qmi_budget_formats[QMI_LARGE]->name, job->options.format);
    return QMOE_OK;
}

/* The caller's array comes from outside the library: every pointer is looked at
 * before the first file is opened. */
static qmoe_status check_texts(const qmi_job *job)
{
    const qmoe_compress_options *o = &job->options;
    for (size_t i = 0; i < o->n_calibration; i++)
        if (o->calibration == NULL || o->calibration[i] == NULL)
            return qmi_fail(
                job->err, QMOE_E_INVALID, "calibration text %zu is NULL", i);
    return QMOE_OK;
}

/* Checks the options and turns each 0 into its default.  Cheap checks come
 * first, devices and formats behind them, so that a wrong option costs no
 * time. */
static qmoe_status fill_defaults(qmi_job *job)
{
    qmoe_compress_options *o = &job->options;
    QMI_TRY(check_texts(job));
    if (o->group_size == 0)
        o->group_size = DEFAULT_GROUP;
    if (o->group_size < 1 || o->group_size > MAX_GROUP)
        return qmi_fail(job->err, QMOE_E_INVALID,
            "group size %d is not in 1..%d", o->group_size, MAX_GROUP);
    if (!(o->damping >= 0) || o->damping > 100)
        return qmi_fail(job->err, QMOE_E_INVALID, "damping is not in 0..100");
    QMI_TRY(check_rotation(job));
    QMI_TRY(check_bits(job));
    QMI_TRY(qmi_dense_choose(&job->dense_choice, o->dense_bits,
        o->method == NULL || strcmp(o->method, "rtn") != 0, job->err));
    if (o->backend == NULL)
        o->backend = QMI_HOST_BACKEND;
    QMI_TRY(qmi_place_find(
        &job->place, job->context, o->backend, o->device_name, job->err));
    QMI_TRY(qmi_place_check_bounds(
        &job->place, 0, o->device_memory_bytes, job->err));
    QMI_TRY(choose_quantiser(job));
    QMI_TRY(check_for_format(job));
    job->recipe.quant = (qmi_quant_options){
        .damping = o->damping > 0 ? o->damping : default_damping,
        .fit_levels = o->fit_levels,
        .passes =
            o->passes == 0 ? job->recipe.quantiser->default_passes : o->passes,
    };
    /* -1 asks for none; 0 is taken, it means the default. */
    if (job->recipe.quant.passes < 0)
        job->recipe.quant.passes = 0;
    job->rotation = o->rotation > 0 ? o->rotation : 0;
    if (o->rotation == 0)
        job->rotation = QMI_ROTATION_AUTO;
    job->recipe.bits = o->bits;
    job->recipe.seed = o->seed;
    return QMOE_OK;
}

/* The rotation depends on the stack's width, so each stack has a recipe of its
 * own; everything else is the job's. */
qmi_stack_recipe qmi_job_recipe(
    const qmi_job *job, const qmi_quantiser *quantiser, const qmi_weight *stack)
{
    qmi_stack_recipe r = {.quantiser = quantiser, .quant = job->recipe.quant};
    if (quantiser->format->rotates)
        r.quant.rotation = job->rotation == QMI_ROTATION_AUTO
                               ? qmi_rotation_for(stack->n_cols)
                               : job->rotation;
    if (quantiser->weighs_rows)
        r.row_weights = qmi_row_weights_of(&job->row_weights, stack);
    return r;
}

qmi_stack_recipe qmi_job_stack_recipe(
    const qmi_job *job, const qmi_sparse_block *block, int kind)
{
    const qmi_quantiser *quantiser = job->recipe.quantiser;
    if (job->choices != NULL)
        quantiser = qmi_job_candidate(
            job, job->choices[block->first_stack + kind].size);
    return qmi_job_recipe(job, quantiser, block->stacks.of[kind]);
}

/* How tokens enter the moments, which depends on what the model was trained to
 * predict: span corruption has whole documents, and its marks are left out. */
static qmoe_status weigh_tokens(qmi_job *job)
{
    const qmoe_compress_options *o = &job->options;
    const bool spans = job->model->shape.objective == QMI_SPAN_CORRUPTION;
    if (spans && (o->context != 0 || o->frame_weight != 0))
        return qmi_fail(job->err, QMOE_E_INVALID,
            "windows and the weight of their frame are for models that predict "
            "the next token; %s has span corruption",
            qmi_checkpoint_directory(job->model->checkpoint));
    if (!spans && o->seed != 0)
        return qmi_fail(job->err, QMOE_E_INVALID,
            "the seed is of span masks; %s predicts the next token",
            qmi_checkpoint_directory(job->model->checkpoint));
    if (o->context < 0 || o->context == 1 || o->context > MAX_WINDOW)
        return qmi_fail(job->err, QMOE_E_INVALID,
            "a window of %d tokens is not in 2..%d", o->context, MAX_WINDOW);
    /* Written with ! so that NaN is refused, too. */
    if (!(o->frame_weight >= -1 && o->frame_weight <= 1))
        return qmi_fail(
            job->err, QMOE_E_INVALID, "a frame weight is not in 0..1");
    job->window = o->context != 0 ? o->context : QMI_DEFAULT_WINDOW;
    job->frame_weight = default_frame_weight;
    if (o->frame_weight != 0)
        job->frame_weight = fmax(o->frame_weight, 0);
    job->by_route = o->route_weights > 0 || (o->route_weights == 0 && !spans);
    job->borrows = o->borrow > 0 || (o->borrow == 0 && !spans);
    return qmi_job_choose_row_weights(job);
}

/* A model without experts is compressed like the rest of one with experts. */
static qmoe_status check_dense(qmi_job *job, const char *source)
{
    const qmoe_compress_options *o = &job->options;
    if (!qmi_dense_any(&job->dense_choice))
        return qmi_fail(job->err, QMOE_E_UNSUPPORTED,
            "%s: has no sparse block, so no experts to compress; a number of "
            "bits for the other matrices (--dense-bits) compresses those",
            source);
    const bool idle =
        o->n_calibration != 0 && !qmi_dense_any_moments(&job->dense_choice);
    if (o->format != NULL || o->bits > 0 || idle)
        return qmi_fail(job->err, QMOE_E_INVALID, "%s: has no experts, and %s",
            source,
            o->format != NULL ? "a format is for experts only"
            : o->bits > 0     ? "a number of bits is for experts only"
                              : "these bits need no calibration text");
    /* The record names one format: that of most. */
    job->recipe.quantiser = qmi_dense_main(&job->dense_choice, job->model);
    return QMOE_OK;
}

/* After this the model has matrices to compress in a plain format, and a
 * tokenizer unless the caller does without. */
static qmoe_status check_source(qmi_job *job)
{
    const qmoe_model *model = job->model;
    const char *source = qmi_checkpoint_directory(model->checkpoint);
    if (model->quantization != NULL)
        return qmi_fail(job->err, QMOE_E_UNSUPPORTED,
            "%s: is already compressed ('qmoe export --dequantize' makes a "
            "plain checkpoint of it)",
            source);
    if (qmi_model_sparse_count(model) == 0)
        QMI_TRY(check_dense(job, source));
    if (!job->options.without_tokenizer)
        QMI_TRY(qmi_model_need_tokenizer(model, job->err));
    /* One shard of copied tensors and one per stack: names count them all, so
     * their number must be known before the first is written. */
    job->n_files = 1;
    for (size_t i = 0; i < model->n_weights; i++)
        job->n_files += model->weights[i].role == QMOE_ROLE_EXPERTS;
    return QMOE_OK;
}

/* ---- the dictionary ---- */

/* What rounding some experts of each stack gives, without data. */
typedef struct sample {
    double n_zeros, n_weights, n_codewords;
} sample;

/* Rounds one matrix with the dictionary of the recipe at hand and adds up what
 * came out; the codes are dropped. */
static qmoe_status sample_expert(
    qmi_job *job, sample *s, const qmi_weight *w, int64_t expert)
{
    const qmi_quantiser *rtn =
        qmi_quantiser_find("rtn", job->recipe.quantiser->format->name);
    qmi_encoded encoded = {0};
    qmi_quant_result result;
    size_t n = (size_t)(w->n_rows * w->n_cols);
    QMI_TRY(qmi_weight_check(w, expert, job->err));
    float *wide = qmi_calloc(n, sizeof *wide, "a matrix", job->err);
    if (wide == NULL)
        return QMOE_E_NOMEM;
    qmi_weight_decode(w, expert, 0, w->n_rows, wide);
    qmoe_status status = rtn->run(&encoded, &result, wide, w->n_rows, w->n_cols,
        NULL, &job->recipe.quant, job->err);
    qmi_free(wide);
    QMI_TRY(status);
    s->n_zeros += (double)result.n_zeros;
    s->n_weights += (double)n;
    s->n_codewords += (double)qmi_encoded_length(&encoded);
    qmi_encoded_free(&encoded);
    return QMOE_OK;
}

/* The first experts of every stack: a fixed choice, so that the result does not
 * depend on chance, and cheap beside the job. */
static qmoe_status sample_experts(qmi_job *job, sample *s)
{
    enum { SAMPLED = 4 };
    *s = (sample){0};
    for (size_t i = 0; i < job->model->n_weights; i++) {
        const qmi_weight *w = &job->model->weights[i];
        for (int64_t e = 0;
             w->role == QMOE_ROLE_EXPERTS && e < SAMPLED && e < w->n_mats; e++)
            QMI_TRY(sample_expert(job, s, w, e));
    }
    return QMOE_OK;
}

/* A dictionary for the model's share of zeros, if it is worth it: its pieces
 * hold at most three non-zero weights, like the paper's, so that it does not
 * always beat that one. */
static qmoe_status choose_dictionary(qmi_job *job)
{
    sample generic, fitted;
    if (!job->options.fit_dictionary)
        return QMOE_OK;
    QMI_TRY(sample_experts(job, &generic));
    /* Three decimals: what the file stores is exact.  From 0.34 on zero is the
     * likeliest of the three levels. */
    double zeros = generic.n_zeros / generic.n_weights;
    double p0 = fmin(fmax(round(zeros * 1000) / 1000, 0.34), 0.99);
    const qmi_format *format = job->recipe.quantiser->format;
    QMI_TRY(format->make_codebook(&job->codebook, p0, job->err));
    job->recipe.quant.codebook = job->codebook;
    QMI_TRY(sample_experts(job, &fitted));
    if (fitted.n_codewords < generic.n_codewords)
        return QMOE_OK;
    qmi_message(&job->context->hooks,
        "keeping the paper's dictionary: it codes this model's experts "
        "better than one for p0 = %.3f",
        p0);
    job->recipe.quant.codebook = NULL;
    return QMOE_OK;
}

/* ---- the flow ---- */

/* Tells the user when the text has fewer usable documents than asked for: the
 * result is calibrated less well than it looks. */
static qmoe_status load_calibration(qmi_job *job)
{
    const qmoe_compress_options *o = &job->options;
    const qmi_calibration_options options = {
        .paths = o->calibration,
        .n_paths = o->n_calibration,
        .max_samples = o->max_samples,
        .seed = o->seed,
        .window = job->window,
        .frame_weight = job->frame_weight,
    };
    if (o->n_calibration == 0)
        return QMOE_OK;
    QMI_TRY(qmi_progress(&job->context->hooks, "calibration text", NULL, 0, 0));
    QMI_TRY(qmi_calibration_load(
        &job->calibration, job->model, &options, job->err));
    job->calibrated = true;
    const uint64_t used = job->calibration.n_samples;
    const bool spans = job->model->shape.objective == QMI_SPAN_CORRUPTION;
    if (used < o->max_samples && spans)
        qmi_message(&job->context->hooks,
            "only %llu of %llu documents used for calibration: the text has no "
            "more (%llu are empty or longer than %d tokens)",
            (unsigned long long)used, (unsigned long long)o->max_samples,
            (unsigned long long)job->calibration.n_skipped,
            QMI_MAX_DOCUMENT_TOKENS);
    else if (used < o->max_samples)
        qmi_message(&job->context->hooks,
            "only %llu of %llu windows used for calibration: the text has no "
            "more",
            (unsigned long long)used, (unsigned long long)o->max_samples);
    return QMOE_OK;
}

/* What the journal holds of each sparse block: [*n], qmi_free. */
static qmoe_status list_blocks(
    const qmi_job *job, qmi_journal_block_size **out, int64_t *n)
{
    qmi_sparse_block b;
    *n = qmi_model_sparse_count(job->model);
    *out = qmi_calloc((size_t)*n, sizeof **out, "the list of blocks", job->err);
    if (*out == NULL)
        return QMOE_E_NOMEM;
    for (int64_t i = 0; qmi_job_sparse_block(job, i, &b); i++)
        (*out)[i] =
            (qmi_journal_block_size){.n_trials = qmi_job_n_trials(job, &b),
                .n_experts = b.block->ffn.n_experts,
                .n_kinds = b.stacks.n};
    return QMOE_OK;
}

/* Provenance comes first: the inputs record parts of it.  Hashing them reads
 * all weights, which is the price for a resumed run that gives the same
 * bytes. */
static qmoe_status open_journal(qmi_job *job)
{
    qmi_journal_input *inputs = NULL;
    qmi_journal_block_size *blocks = NULL;
    qmi_journal_job journal = {0};
    QMI_TRY(qmi_job_provenance(job, &job->provenance));
    QMI_TRY(qmi_job_inputs(job, &inputs, &journal.n_inputs));
    qmoe_status status = list_blocks(job, &blocks, &journal.n_blocks);
    journal.inputs = inputs;
    journal.blocks = blocks;
    if (status == QMOE_OK)
        status = qmi_journal_open(&job->journal, &job->output, &journal,
            job->output.resumed, job->err);
    /* The journal has written or compared them. */
    qmi_free(blocks);
    qmi_free(inputs);
    return status;
}

/* Opens the output, which must not lie in or over what the job reads. */
static qmoe_status open_beside(
    qmi_job *job, const char *source, const char *output)
{
    const qmoe_compress_options *o = &job->options;
    /* The source, its tokenizer, the work directory: three beside the texts. */
    qmi_output_source *sources = qmi_calloc(
        o->n_calibration + 3, sizeof *sources, "the sources", job->err);
    if (sources == NULL)
        return QMOE_E_NOMEM;
    size_t n = 0;
    sources[n++] = (qmi_output_source){source, false};
    /* Of a synthetic checkpoint the tokenizer lies elsewhere. */
    sources[n++] = (qmi_output_source){
        qmi_checkpoint_side_directory(job->model->checkpoint), true};
    for (size_t i = 0; i < o->n_calibration; i++)
        sources[n++] = (qmi_output_source){o->calibration[i], false};
    if (o->work_dir != NULL)
        sources[n++] = (qmi_output_source){o->work_dir, true};
    const qmi_output_options options = {
        .overwrite = o->overwrite,
        .resume = o->resume,
        .sources = sources,
        .n_sources = n,
    };
    qmoe_status status =
        qmi_output_open(&job->output, output, &options, job->err);
    qmi_free(sources);
    return status;
}

static qmoe_status open_output(
    qmi_job *job, const char *source, const char *output)
{
    QMI_TRY(open_beside(job, source, output));
    /* What an interrupted run did must survive any failure from here on. */
    job->output.keep = job->output.resumed;
    if (job->options.resume && !job->output.resumed)
        qmi_message(&job->context->hooks,
            "nothing to resume: starting from the beginning");
    return open_journal(job);
}

/* The forward pass runs on the device that was asked for; experts always run on
 * the CPU, by n_workers threads. */
static qmoe_status start_pass(qmi_job *job)
{
    const qmi_expert_pass_options options = {
        .n_workers = job->n_workers,
        .by_route = job->by_route,
        .borrows = job->borrows,
    };
    const qmoe_session_options place = {
        .size = sizeof place,
        .backend = job->place.info.backend,
        .device = job->place.info.index,
        .device_memory_bytes = job->options.device_memory_bytes,
    };
    if (job->calibrated)
        QMI_TRY(qmi_forward_create(&job->forward, job->model, &job->calibration,
            job->options.work_dir, &place, job->err));
    return qmi_expert_pass_create(&job->pass, job->model,
        job->calibrated ? &job->forward : NULL, &options, job->err);
}

static qmoe_status create_manifest(qmi_job *job)
{
    const qmi_manifest_source from = qmi_manifest_source_of(job->model);
    return qmi_manifest_create(
        &job->manifest, &from, &job->recipe, job->provenance, job->err);
}

/* Steps up to the dry run write nothing.  The order behind them matters: the
 * output is locked before work starts, formats are chosen before the first
 * stack is written, and the manifest, which makes the directory a model, comes
 * last, when all that it lists is there. */
static qmoe_status run(qmi_job *job, const char *source, const char *output)
{
    QMI_TRY(qmoe_model_open(&job->model, job->context, source));
    QMI_TRY(check_source(job));
    /* Of no use for a source that cannot be compressed. */
    QMI_TRY(check_calibration(job));
    QMI_TRY(weigh_tokens(job));
    qmi_job_plan_sizes(job);
    QMI_TRY(qmi_job_list_choices(job));
    QMI_TRY(load_calibration(job));
    QMI_TRY(choose_dictionary(job));
    QMI_TRY(qmi_job_plan(job, output));
    if (job->options.dry_run)
        return QMOE_OK;
    QMI_TRY(open_output(job, source, output));
    QMI_TRY(qmi_job_weigh_rows(job));
    QMI_TRY(start_pass(job));
    QMI_TRY(qmi_job_choose_formats(job));
    QMI_TRY(create_manifest(job));
    QMI_TRY(qmi_job_copy_tensors(job));
    QMI_TRY(qmi_job_compress_blocks(job));
    QMI_TRY(qmi_job_finish_tensors(job));
    QMI_TRY(qmi_copy_side_files(
        &job->output, job->manifest, job->model->checkpoint, NULL, job->err));
    QMI_TRY(qmi_job_write_report(job));
    QMI_TRY(qmi_manifest_write(job->manifest, &job->output, job->err));
    return qmi_output_commit(&job->output, job->err);
}

/* Users go before what they use: the pass before the forward pass and the
 * model, the journal before its directory.  Every member accepts zero, so a job
 * may be cleaned up from any point. */
static void clean_up(qmi_job *job)
{
    qmi_expert_pass_destroy(job->pass);
    qmi_forward_destroy(&job->forward);
    qmi_journal_close(job->journal);
    qmi_job_close_tensors(job);
    qmi_output_close(&job->output);
    qmi_manifest_destroy(job->manifest);
    cJSON_Delete(job->provenance);
    qmi_calibration_free(&job->calibration);
    qmi_row_weights_free(&job->row_weights);
    qmi_free(job->codebook);
    qmi_free(job->choices);
    qmi_free(job->dense);
    qmoe_model_close(job->model);
}

qmoe_status qmoe_compress(qmoe_context *context, qmoe_compress_report *report,
    const char *source, const char *output,
    const qmoe_compress_options *options)
{
    if (report != NULL)
        *report = (qmoe_compress_report){0};
    QMI_TRY(qmi_call_begin(qmi_hooks_of(context), __func__,
        report == NULL || source == NULL || output == NULL));
    qmi_job job = {
        .context = context, .report = report, .err = &context->hooks.error};
    qmi_copy_options(&job.options, sizeof job.options, options);
    const double begin = qmi_seconds();
    job.begin_busy = qmi_thread_seconds();
    qmoe_status status = fill_defaults(&job);
    if (status == QMOE_OK)
        status = run(&job, source, output);
    clean_up(&job);
    report->seconds = qmi_seconds() - begin;
    return qmi_call_end(&context->hooks, status);
}
