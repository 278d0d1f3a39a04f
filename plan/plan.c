/* SPDX-License-Identifier: Apache-2.0
 * In: a model, or only its configuration, and what there is of memory, GPUs and
 * rates.  Out: sizes by role, where they fit, the speed that follows, and the
 * time of a compression.  Everything but the sizes of a compressed model's own
 * stacks comes from shapes, by the functions that compression uses, so plan and
 * run cannot disagree.  No weight is read. */
#include "qmoe/plan.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "available_memory.h"
#include "blas.h"
#include "cancel.h"
#include "compress_job.h"
#include "compress_time.h"
#include "dictionary_rate.h"
#include "machine.h"
#include "plan_source.h"
#include "rotation.h"
#include "synth.h"

/* Left free for activations, caches, code: of each GPU and of the host.  Round
 * numbers. */
static const uint64_t gpu_reserve = UINT64_C(512) << 20;
static const uint64_t memory_reserve = UINT64_C(1) << 30;

/* Share of zeros that a plan of a format of variable size assumes: the
 * paper's. */
static const double zeros = 0.885;

typedef struct planner {
    qmoe_context *context;
    qmoe_plan_options options;
    qmoe_model *model;
    const qmi_format *format;  /* of the experts to be */
    qmi_dense_choice dense;    /* of other matrices */
    bool as_it_is;             /* the model's own sizes */
    bool generated;            /* the weights, when they are used */
    bool budget;               /* formats chosen to keep to options.bits */
    qmi_dictionary_rate *rate; /* of a format of variable size, else NULL */
    qmoe_plan_report *report;
    qmi_error *err;
} planner;

/* ---- sizes ---- */

static double weights_in(const qmi_weight *w)
{
    return (double)w->n_mats * (double)w->n_rows * (double)w->n_cols;
}

static uint64_t planned_bytes(const planner *p, const qmi_weight *w)
{
    const qmi_quantiser *dense = qmi_dense_quantiser(&p->dense, w);
    if (dense != NULL)
        return qmi_job_stack_bytes(dense->format, w);
    if (w->role != QMOE_ROLE_EXPERTS || p->as_it_is)
        return qmi_weight_bytes(w);
    /* A budget is what the experts are to take, however formats are mixed. */
    if (p->options.bits > 0)
        return (uint64_t)(weights_in(w) * p->options.bits / 8);
    double code_bits = 0;
    if (p->rate != NULL)
        /* 16 bits per codeword of ternary-dict. */
        code_bits = 16 * qmi_dictionary_codewords(p->rate, w->n_cols) /
                    (double)w->n_cols;
    return qmi_stack_size(
        p->format, w->n_mats, w->n_rows, w->n_cols, code_bits);
}

/* What one token of the decoder reads of a weight, per step that uses it: one
 * row of the embedding, the chosen experts of a stack. */
static uint64_t token_bytes(
    const qmi_step *s, const qmi_weight *w, uint64_t n_bytes)
{
    if (s->role == QMOE_ROLE_EMBEDDING)
        return n_bytes / (uint64_t)w->n_rows;
    if (s->kind == QMI_OP_EXPERT_FFN)
        n_bytes *= (uint64_t)s->u.expert_ffn.top_k;
    return n_bytes / (uint64_t)w->n_mats;
}

static void count_token(planner *p)
{
    const qmoe_model *m = p->model;
    qmoe_plan_role *roles = p->report->roles;
    const qmi_steps *steps = &m->graph.programs[QMI_DECODE];
    for (size_t i = 0; i < steps->n; i++) {
        const qmi_step *s = &steps->items[i];
        for (int j = 0; j < s->n_weights; j++) {
            const qmi_weight *w = &m->weights[s->weights[j]];
            roles[w->role].token_bytes +=
                token_bytes(s, w, planned_bytes(p, w));
        }
    }
    for (int i = 0; i < QMOE_ROLE_COUNT; i++)
        p->report->token_bytes += roles[i].token_bytes;
}

/* A bit budget outside what its formats take is refused as qmoe_compress
 * does. */
static qmoe_status check_budget(const planner *p)
{
    uint64_t bytes[QMI_N_SIZES] = {0};
    double weights = 0;
    for (size_t i = 0; p->budget && i < p->model->n_weights; i++) {
        const qmi_weight *w = &p->model->weights[i];
        if (w->role != QMOE_ROLE_EXPERTS)
            continue;
        weights += weights_in(w);
        for (int size = 0; size < QMI_N_SIZES; size++)
            bytes[size] += qmi_stack_size(
                qmi_budget_formats[size], w->n_mats, w->n_rows, w->n_cols, 0);
    }
    if (weights == 0)
        return QMOE_OK;
    return qmi_check_bits(
        p->options.bits, bytes[QMI_SMALL], bytes[QMI_LARGE], weights, p->err);
}

/* A plan does not see the weights that a variable size depends on: the expected
 * length of random ternary rows stands for them. */
static qmoe_status find_rate(planner *p)
{
    if (!p->format->variable || p->as_it_is || p->options.bits > 0)
        return QMOE_OK;
    const qmi_dict *dict = qmi_dict_generic();
    p->rate = qmi_calloc(1, sizeof *p->rate, "the dictionary's rate", p->err);
    if (p->rate == NULL)
        return QMOE_E_NOMEM;
    if (dict == NULL)
        return qmi_fail(p->err, QMOE_E_NOMEM, "out of memory: the dictionary");
    return qmi_dictionary_rate_init(p->rate, dict, zeros, p->err);
}

static qmoe_status count_sizes(planner *p)
{
    const qmoe_model *m = p->model;
    qmoe_plan_report *r = p->report;
    double weights = 0;
    for (size_t i = 0; i < m->n_weights; i++)
        weights += weights_in(&m->weights[i]);
    /* In double first: the integer products below would overflow on a
     * configuration with absurd numbers. 2^58 weights of 4 bytes are 2^60
     * bytes. */
    if (weights > 0x1p58)
        return qmi_fail(p->err, QMOE_E_UNSUPPORTED,
            "a model of %.3g weights is beyond what can be addressed", weights);
    QMI_TRY(check_budget(p));
    for (size_t i = 0; i < m->n_weights; i++) {
        const qmi_weight *w = &m->weights[i];
        qmoe_plan_role *role = &r->roles[w->role];
        uint64_t n =
            (uint64_t)w->n_mats * (uint64_t)w->n_rows * (uint64_t)w->n_cols;
        role->n_weights += n;
        role->n_bytes += planned_bytes(p, w);
        r->total_weights += n;
        r->source_bytes += qmi_weight_bytes(w);
        r->n_matrices += w->role == QMOE_ROLE_EXPERTS ? (uint64_t)w->n_mats : 0;
    }
    for (int i = 0; i < QMOE_ROLE_COUNT; i++)
        r->total_bytes += r->roles[i].n_bytes;
    r->expert_bytes = r->roles[QMOE_ROLE_EXPERTS].n_bytes;
    r->expert_weights = r->roles[QMOE_ROLE_EXPERTS].n_weights;
    r->other_bytes = r->total_bytes - r->expert_bytes;
    /* What is exact can be compared with a file, byte by byte; the rest is an
     * expectation. */
    r->exact = p->as_it_is || (p->options.bits == 0 && !p->format->variable);
    r->at_most = p->budget;
    count_token(p);
    return QMOE_OK;
}

/* ---- places ---- */

static uint64_t less(uint64_t n, uint64_t reserve)
{
    return n > reserve ? n - reserve : 0;
}

static uint64_t take(uint64_t *left, uint64_t *wanted)
{
    uint64_t n = *left < *wanted ? *left : *wanted;
    *left -= n;
    *wanted -= n;
    return n;
}

/* The fastest place first, and before the experts what every token reads.  What
 * is left over is on the disk. */
static void fill_places(planner *p)
{
    qmoe_plan_report *r = p->report;
    const qmoe_plan_options *o = &p->options;
    for (size_t i = 0; i < o->n_gpus; i++)
        r->gpu_usable_bytes += less(o->gpu_bytes[i], gpu_reserve);
    r->memory_bytes =
        o->memory_bytes != 0 ? o->memory_bytes : qmi_available_memory();
    r->memory_usable_bytes = less(r->memory_bytes, memory_reserve);
    uint64_t gpu = r->gpu_usable_bytes, memory = r->memory_usable_bytes;
    uint64_t others = r->other_bytes, experts = r->expert_bytes;
    r->others.gpu_bytes = take(&gpu, &others);
    r->others.memory_bytes = take(&memory, &others);
    r->others.disk_bytes = others;
    r->experts.gpu_bytes = take(&gpu, &experts);
    r->experts.memory_bytes = take(&memory, &experts);
    r->experts.disk_bytes = experts;
}

static uint64_t in_all(const qmoe_plan_place *place)
{
    return place->gpu_bytes + place->memory_bytes + place->disk_bytes;
}

/* Seconds to read n_bytes spread as `place` is; NaN when a rate is unknown. */
static double seconds_for(
    const qmoe_plan_report *r, const qmoe_plan_place *place, uint64_t n_bytes)
{
    const uint64_t bytes[] = {
        place->gpu_bytes, place->memory_bytes, place->disk_bytes};
    const double rates[] = {r->gpu_rate, r->memory_rate, r->disk_rate};
    /* Each place gives the share of the bytes that it holds: which expert a
     * token takes is not known. */
    double share =
        in_all(place) != 0 ? (double)n_bytes / (double)in_all(place) : 0;
    double seconds = 0;
    for (int i = 0; i < 3; i++)
        if (bytes[i] != 0)
            /* Only places that hold something need a rate. */
            seconds += rates[i] > 0 ? (double)bytes[i] * share / rates[i] : NAN;
    return seconds;
}

static void plan_speed(planner *p)
{
    qmoe_plan_report *r = p->report;
    const qmoe_plan_options *o = &p->options;
    uint64_t experts = r->roles[QMOE_ROLE_EXPERTS].token_bytes;
    r->gpu_rate = o->gpu_rate;
    r->disk_rate = o->disk_rate;
    r->memory_rate = o->memory_rate;
    /* Measured only when something is in memory: it takes a moment. */
    if (r->memory_rate == 0 && r->others.memory_bytes + r->experts.memory_bytes)
        r->memory_rate = qmi_measure_memory(p->context->hooks.n_threads);
    double seconds = seconds_for(r, &r->experts, experts) +
                     seconds_for(r, &r->others, r->token_bytes - experts);
    /* 0 stands for unknown in the report. */
    r->seconds_per_token = isnan(seconds) ? 0 : seconds;
}

/* ---- compression ---- */

/* Experts of a token. */
static int64_t most_choices(const qmoe_model *m)
{
    int64_t most = 1;
    for (int32_t i = 0; i < m->n_blocks; i++)
        if (m->blocks[i].ffn.top_k > most)
            most = m->blocks[i].ffn.top_k;
    return most;
}

/* The paper's number for 128 experts (10,000 samples), in proportion; of models
 * that predict the next token so many that an expert gets 4 times as many tokens
 * as it has inputs. */
static uint64_t default_samples(const qmoe_model *m)
{
    /* A model without experts needs as many as one expert. */
    const double n_experts = fmax((double)qmi_model_n_experts(m), 1);
    if (m->shape.objective == QMI_SPAN_CORRUPTION)
        return (uint64_t)(10000.0 * n_experts / 128 + 0.5);
    qmi_workload one = {0};
    qmi_workload_add_samples(&one, m, 1);
    return (uint64_t)ceil(4.0 * (double)m->shape.d_model * n_experts /
                          (double)most_choices(m) / one.tokens[QMI_DECODE]);
}

/* Of text enough to fill every sample.  Which experts tokens choose is not
 * known: all are taken as equally likely. */
static qmi_workload workload(const planner *p)
{
    const int64_t n_experts = qmi_model_n_experts(p->model);
    qmi_workload work = {0};
    if (p->budget)
        work.trials = (double)qmi_n_trials(n_experts) / (double)n_experts;
    const double top_k = (double)most_choices(p->model);
    qmi_workload_add_samples(&work, p->model, (double)p->report->n_samples);
    for (int i = 0; n_experts != 0 && i < QMI_N_PROGRAMS; i++)
        work.used_share[i] =
            qmi_used_experts((double)n_experts, work.tokens[i] * top_k) /
            (double)n_experts;
    return work;
}

static int passes_of(const planner *p, const qmi_quantiser *quantiser)
{
    const int wanted = p->options.passes;
    return wanted == 0 ? quantiser->default_passes : wanted > 0 ? wanted : 0;
}

static qmi_stack_recipe recipe_of(
    const planner *p, const qmi_quantiser *quantiser, int64_t n_cols)
{
    qmi_stack_recipe recipe = {
        .quantiser = quantiser, .quant.passes = passes_of(p, quantiser)};
    /* The rotation costs time, too. */
    if (quantiser->format->rotates)
        recipe.quant.rotation = qmi_rotation_for(n_cols);
    return recipe;
}

static qmi_stack_recipe dense_recipe(const void *user, const qmi_weight *w)
{
    const planner *p = user;
    return recipe_of(p, qmi_dense_quantiser(&p->dense, w), w->n_cols);
}

/* Seconds of one thread for the experts, and for the rest. */
static qmoe_status measure_parts(double *experts, qmi_dense_time *dense,
    const planner *p, const qmi_quantiser *quantiser, qmi_error *err)
{
    const qmi_workload work = workload(p);
    const qmi_dense_work beside = {.choice = &p->dense,
        .n_tokens = work.tokens[QMI_ENCODE] + work.tokens[QMI_DECODE],
        .recipe = dense_recipe,
        .user = p};
    *experts = 0;
    QMI_TRY(qmi_blas_load(p->context->hooks.n_threads, err));
    if (quantiser != NULL) {
        const qmi_stack_recipe recipe =
            recipe_of(p, quantiser, p->model->shape.d_model);
        QMI_TRY(
            qmi_compression_seconds(experts, p->model, &work, &recipe, err));
    }
    return qmi_dense_seconds(dense, p->model, &beside, err);
}

/* What a run computes, on all threads.  False: unknown. */
static bool measure_work(
    planner *p, const qmi_quantiser *quantiser, double *seconds)
{
    /* An error of its own: without OpenBLAS the plan goes on without this
     * time. */
    qmi_error unknown = qmi_error_beside(p->err);
    qmoe_plan_report *r = p->report;
    double experts = 0;
    qmi_dense_time dense;
    const qmoe_status status =
        measure_parts(&experts, &dense, p, quantiser, &unknown);
    if (status != QMOE_OK) {
        if (status != QMOE_E_CANCELLED)
            qmi_message(&p->context->hooks, "time of compression unknown: %s",
                unknown.text);
        return false;
    }
    if (quantiser != NULL)
        r->weight_rate =
            (double)r->expert_weights * r->n_threads / fmax(experts, 1e-9);
    *seconds = (experts + dense.with_moments) / r->n_threads + dense.rounded;
    return true;
}

/* NULL: the experts stay as they are, or there are none. */
static const qmi_quantiser *expert_quantiser(const planner *p)
{
    if (p->format->dense || p->report->expert_weights == 0)
        return NULL;
    return qmi_quantiser_find("gptq", p->format->name);
}

static void plan_compression(planner *p)
{
    qmoe_plan_report *r = p->report;
    const qmoe_plan_options *o = &p->options;
    const qmi_quantiser *quantiser = expert_quantiser(p);
    double seconds = 0;
    if (p->model->quantization != NULL ||
        (quantiser == NULL && !qmi_dense_any(&p->dense)))
        return;
    r->passes = passes_of(
        p, quantiser != NULL ? quantiser : qmi_dense_main(&p->dense, p->model));
    r->n_threads = p->context->hooks.n_threads;
    r->n_samples = o->n_samples;
    if (r->n_samples == 0)
        r->n_samples = default_samples(p->model);
    /* A rate that the user gives is that of the whole. */
    r->weight_rate = o->weight_rate;
    if (o->weight_rate > 0)
        seconds = (double)r->expert_weights / o->weight_rate;
    else if (!measure_work(p, quantiser, &seconds))
        return;
    r->compress_seconds = seconds;
    /* It includes reading and writing, too, unless the disk's is given as
     * well. */
    if (o->disk_rate > 0 || o->weight_rate == 0)
        r->compress_seconds += qmi_copy_seconds(
            r->source_bytes, r->total_bytes, p->generated, o->disk_rate);
}

/* ---- the plan ---- */

static bool is_variable(const qmi_format *format)
{
    return format->variable;
}

static qmoe_status choose_format(planner *p)
{
    char names[256];
    const qmoe_model *m = p->model;
    const char *name = p->options.format;
    bool compressed = m->quantization != NULL;
    p->as_it_is = compressed && p->options.bits == 0 &&
                  (name == NULL || strcmp(name, m->expert_format) == 0);
    if (name == NULL)
        name = compressed && p->options.bits == 0 ? m->expert_format
                                                  : qmi_formats[0]->name;
    p->format = qmi_format_find(name);
    /* A mixed model names no format of the table. */
    if (p->format == NULL && p->as_it_is)
        p->format = qmi_formats[0]; /* not used */
    if (p->format == NULL)
        return qmi_fail(p->err, QMOE_E_UNSUPPORTED, "unknown format '%s' (%s)",
            name, qmi_format_names(names, sizeof names, NULL, NULL));
    if (p->options.bits > 0 && p->options.format == NULL)
        p->budget = true;
    else if (p->options.bits > 0 && !p->format->variable)
        return qmi_fail(p->err, QMOE_E_INVALID,
            "format %s has a fixed size; a number of bits is for %s, or "
            "without a format for %s and %s together",
            name, qmi_format_names(names, sizeof names, NULL, is_variable),
            qmi_budget_formats[QMI_SMALL]->name,
            qmi_budget_formats[QMI_LARGE]->name);
    qmoe_model_describe(m, &p->report->model);
    const char *shown = p->budget ? "mixed" : p->format->name;
    snprintf(p->report->model.format, sizeof p->report->model.format, "%s",
        p->as_it_is ? m->expert_format : shown);
    return QMOE_OK;
}

static qmoe_status check_options(const planner *p)
{
    const qmoe_plan_options *o = &p->options;
    const double rates[] = {
        o->gpu_rate, o->memory_rate, o->disk_rate, o->weight_rate};
    /* Written with ! so that NaN is refused, too. */
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++)
        if (!(rates[i] >= 0) || isinf(rates[i]))
            return qmi_fail(p->err, QMOE_E_INVALID, "a rate is negative");
    if (o->gpu_bytes == NULL && o->n_gpus != 0)
        return qmi_fail(p->err, QMOE_E_INVALID, "the list of GPUs is NULL");
    if (!(o->bits >= 0 && o->bits <= 16))
        return qmi_fail(
            p->err, QMOE_E_INVALID, "%g bits are not in 0..16", o->bits);
    return QMOE_OK;
}

static qmoe_status run(planner *p, const char *source)
{
    QMI_TRY(check_options(p));
    QMI_TRY(qmi_dense_choose(&p->dense, p->options.dense_bits, true, p->err));
    QMI_TRY(
        qmi_plan_open(&p->model, &p->report->from_config, p->context, source));
    QMI_TRY(choose_format(p));
    QMI_TRY(find_rate(p));
    /* Later steps use the sums of earlier ones. */
    QMI_TRY(count_sizes(p));
    fill_places(p);
    plan_speed(p);
    plan_compression(p);
    /* Both measure, and a plan that lacks what was not measured is none. */
    return qmi_check_cancel(p->err);
}

qmoe_status qmoe_plan(qmoe_context *context, qmoe_plan_report *report,
    const char *source, const qmoe_plan_options *options)
{
    if (report != NULL)
        *report = (qmoe_plan_report){0};
    QMI_TRY(qmi_call_begin(
        qmi_hooks_of(context), __func__, report == NULL || source == NULL));
    planner p = {
        .context = context, .report = report, .err = &context->hooks.error};
    /* Generated weights are not read from a disk. */
    p.generated = qmi_is_synth(source);
    qmi_copy_options(&p.options, sizeof p.options, options);
    qmoe_status status = run(&p, source);
    qmi_free(p.rate);
    qmoe_model_close(p.model);
    return qmi_call_end(&context->hooks, status);
}
