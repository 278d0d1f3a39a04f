/* SPDX-License-Identifier: Apache-2.0
 * Counts of the work, as compress_blocks.c, forward.c and expert_pass.c do it.
 * In: a workload and a model's shapes.  Out: seconds of one thread: each count
 * times its measured rate (measure_work.h).  What those files come to do
 * differently has to change here, too. */
#include "compress_time.h"

#include <math.h>

#include "allocate_bits.h"
#include "expert_steps.h"
#include "measure_work.h"

void qmi_workload_add(
    qmi_workload *w, double n_encoder, double n_decoder, double n)
{
    /* Attention of the encoder sees all pairs, that of the decoder only earlier
     * positions and itself. */
    w->tokens[QMI_ENCODE] += n * n_encoder;
    w->tokens[QMI_DECODE] += n * n_decoder;
    w->own_pairs[QMI_ENCODE] += n * n_encoder * n_encoder;
    w->own_pairs[QMI_DECODE] += n * n_decoder * (n_decoder + 1) / 2;
    w->cross_pairs += n * n_decoder * n_encoder;
}

void qmi_workload_add_samples(
    qmi_workload *w, const qmoe_model *model, double n)
{
    /* Of span corruption: docs/evaluation.md. */
    if (model->shape.objective == QMI_SPAN_CORRUPTION)
        qmi_workload_add(w, 512, 115, n);
    else
        qmi_workload_add(w, 0, QMI_DEFAULT_WINDOW, n);
}

/* Expected number of experts hit by n_routes independent draws.  With few of
 * them and many experts it is far below both. */
double qmi_used_experts(double n_experts, double n_routes)
{
    return n_experts * (1 - pow(1 - 1 / n_experts, n_routes));
}

/* ---- dense parts ---- */

/* Pairs that a step of attention has to do with. */
static double pairs_of(const qmi_graph *graph, qmi_program program,
    const qmi_step *s, const qmi_workload *work)
{
    const qmi_cache_spec *keys = &graph->caches[s->u.attention.k_cache];
    if (s->u.attention.k_cache != QMI_NONE && keys->rule == QMI_CACHE_ENCODED)
        return work->cross_pairs;
    return work->own_pairs[program];
}

/* One sweep through a program.  The head is left out: states are all that
 * calibration needs. */
static double program_seconds(const qmoe_model *m, qmi_program program,
    const qmi_workload *work, const qmi_work_rates *r)
{
    const qmi_graph *graph = &m->graph;
    const qmi_steps *steps = &graph->programs[program];
    const double n_tokens =
        work->tokens[program == QMI_CROSS ? QMI_ENCODE : program];
    double seconds = 0;
    for (size_t i = 0; i < steps->n; i++) {
        const qmi_step *s = &steps->items[i];
        if (s->kind == QMI_OP_ATTENTION)
            seconds += pairs_of(graph, program, s, work) *
                       (double)s->u.attention.n_heads * r->pair;
        if (s->kind != QMI_OP_LINEAR || s->role == QMOE_ROLE_HEAD)
            continue;
        const qmi_weight *w = &m->weights[s->weights[0]];
        seconds +=
            n_tokens * (double)w->n_rows * (double)w->n_cols * r->product;
    }
    return seconds;
}

/* ---- experts ---- */

/* The factorisation grows with the cube of the width; the sweep with its square
 * for each row (feedback to later columns) and with the width itself (the
 * choice of codes). */
static double quantiser_seconds(
    const qmi_work_rates *r, double n_rows, double n_cols)
{
    return r->cube * n_cols * n_cols * n_cols +
           n_rows * n_cols * (r->square * n_cols + r->line);
}

/* One sparse block. */
static double experts_seconds(const qmoe_model *m, int32_t number,
    const qmi_workload *work, const qmi_work_rates *r)
{
    const qmi_block *block = &m->blocks[number];
    const qmi_expert_stacks stacks = qmi_expert_stacks_of(m, number);
    const double used =
        work->used_share[block->program] * (double)block->ffn.n_experts;
    /* Experts without tokens are rounded. */
    const double unused = (double)block->ffn.n_experts - used;
    double inputs = 0, all = 0, quantised = 0;
    for (int kind = 0; kind < stacks.n; kind++) {
        const double rows = (double)stacks.of[kind]->n_rows;
        const double cols = (double)stacks.of[kind]->n_cols;
        const qmi_expert_input input = qmi_expert_input_of(kind);
        /* What makes the hidden input is one product with each original. */
        if (input == QMI_INPUT_BLOCK)
            inputs += rows * cols * r->product;
        /* Each input sums moments once. */
        if (kind == qmi_expert_last_kind(&stacks, input))
            inputs += cols * cols * r->moment;
        all += rows * cols;
        quantised += quantiser_seconds(r, rows, cols);
    }
    /* A sweep that measures takes the tokens through the uncompressed experts
     * as well. */
    const double again = work->trials > 0 ? all * r->product : 0;
    const double routes =
        work->tokens[block->program] * (double)block->ffn.top_k *
        (inputs * (1 + work->trials) + all * r->expert + again);
    const double experts = used * quantised + unused * all * r->rounding;
    return routes + experts * (1 + QMI_N_SIZES * work->trials);
}

qmoe_status qmi_compression_seconds(double *seconds, const qmoe_model *model,
    const qmi_workload *work, const qmi_stack_recipe *recipe, qmi_error *err)
{
    qmi_work_rates rates;
    *seconds = 0;
    QMI_TRY(qmi_measure_work(&rates, model, recipe, err));
    /* Measuring formats first is a sweep of its own. */
    const int n_sweeps = work->trials > 0 ? 2 : 1;
    for (int p = 0; p < QMI_N_PROGRAMS; p++)
        *seconds +=
            n_sweeps * program_seconds(model, (qmi_program)p, work, &rates);
    for (int32_t b = 0; b < model->n_blocks; b++)
        if (qmi_block_is_sparse(&model->blocks[b]))
            *seconds += experts_seconds(model, b, work, &rates);
    return QMOE_OK;
}

/* ---- matrices beside the experts ---- */

/* The rates of one quantiser. */
typedef struct dense_rates {
    qmi_work_rates with_moments; /* when it needs them */
    double rounding;             /* when it does not */
} dense_rates;

/* Rates are per weight: the first matrix stands for all. */
static qmoe_status measure_dense(dense_rates *out, const qmoe_model *model,
    const qmi_dense_work *work, const qmi_quantiser *quantiser, qmi_error *err)
{
    *out = (dense_rates){.rounding = 0};
    for (size_t i = 0; i < model->n_weights; i++) {
        const qmi_weight *w = &model->weights[i];
        if (qmi_dense_quantiser(work->choice, w) != quantiser)
            continue;
        const qmi_stack_recipe recipe = work->recipe(work->user, w);
        return quantiser->needs_hessian
                   ? qmi_measure_work(&out->with_moments, model, &recipe, err)
                   : qmi_measure_rounding(&out->rounding, &recipe, err);
    }
    return QMOE_OK;
}

static void add_dense(qmi_dense_time *out, const qmoe_model *model,
    const qmi_dense_work *work, const qmi_quantiser *quantiser,
    const dense_rates *rates)
{
    const qmi_work_rates *r = &rates->with_moments;
    for (size_t i = 0; i < model->n_weights; i++) {
        const qmi_weight *w = &model->weights[i];
        const double rows = (double)w->n_rows, cols = (double)w->n_cols;
        if (qmi_dense_quantiser(work->choice, w) != quantiser)
            continue;
        if (!quantiser->needs_hessian)
            out->rounded += rates->rounding * rows * cols;
        else /* As if no two matrices had one input. */
            out->with_moments +=
                quantiser_seconds(r, rows, cols) +
                work->n_tokens * cols * (rows * r->product + cols * r->moment);
    }
}

/* Whether an earlier role has it, too. */
static bool is_done(const qmi_dense_choice *choice, int role)
{
    for (int i = 0; i < role; i++)
        if (choice->of[i] == choice->of[role])
            return true;
    return false;
}

qmoe_status qmi_dense_seconds(qmi_dense_time *out, const qmoe_model *model,
    const qmi_dense_work *work, qmi_error *err)
{
    *out = (qmi_dense_time){0};
    for (int role = 0; role < QMOE_ROLE_COUNT; role++) {
        dense_rates rates;
        const qmi_quantiser *quantiser = work->choice->of[role];
        if (quantiser == NULL || is_done(work->choice, role))
            continue;
        QMI_TRY(measure_dense(&rates, model, work, quantiser, err));
        add_dense(out, model, work, quantiser, &rates);
    }
    return QMOE_OK;
}

/* ---- copies ---- */

double qmi_copy_seconds(
    uint64_t source_bytes, uint64_t output_bytes, bool generated, double rate)
{
    const double n_reads = generated ? 1 : 2; /* once for the checksum, too */
    return (n_reads * (double)source_bytes + (double)output_bytes) /
           (rate > 0 ? rate : QMI_COPY_RATE);
}
