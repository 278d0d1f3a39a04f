/* SPDX-License-Identifier: Apache-2.0
 * Counts of the work, as compress_blocks.c, forward.c and expert_pass.c do it.
 * In: a workload and a model's shapes.  Out: seconds of one thread: each count
 * times its measured rate (measure_work.h).  What those files come to do
 * differently has to change here, too. */
#include "compress_time.h"

#include <math.h>

#include "allocate_bits.h"
#include "measure_work.h"

void qmi_workload_add(
    qmi_workload *w, double n_encoder, double n_decoder, double n)
{
    /* Attention of the encoder sees all pairs, that of the decoder only earlier
     * positions and itself. */
    w->tokens[QMI_ENCODER] += n * n_encoder;
    w->tokens[QMI_DECODER] += n * n_decoder;
    w->own_pairs[QMI_ENCODER] += n * n_encoder * n_encoder;
    w->own_pairs[QMI_DECODER] += n * n_decoder * (n_decoder + 1) / 2;
    w->cross_pairs += n * n_decoder * n_encoder;
}

/* Expected number of experts hit by n_tokens independent draws.  With few
 * tokens and many experts it is far below both. */
double qmi_used_experts(double n_experts, double n_tokens)
{
    return n_experts * (1 - pow(1 - 1 / n_experts, n_tokens));
}

/* ---- dense parts ---- */

/* Weights of dense products that one token of a list of steps meets. */
static double dense_weights(const qmoe_model *m, const qmi_steps *steps)
{
    double n = 0;
    for (size_t i = 0; i < steps->n; i++) {
        const qmi_step *s = &steps->items[i];
        const qmi_weight *w = &m->weights[s->weight];
        /* The logits are left out: the forward pass ends before the last
         * product. */
        if (s->kind == QMI_OP_LINEAR && s->dst != QMI_SLOT_LOGITS)
            n += (double)w->n_rows * (double)w->n_cols;
    }
    return n;
}

/* One sweep.  Keys and values of `cross` are computed from the encoder's
 * tokens. */
static double dense_seconds(
    const qmoe_model *m, const qmi_workload *work, const qmi_work_rates *r)
{
    const qmi_config *c = &m->config;
    const double weights =
        work->tokens[QMI_ENCODER] *
            (dense_weights(m, &m->encoder) + dense_weights(m, &m->cross)) +
        work->tokens[QMI_DECODER] * dense_weights(m, &m->decoder);
    double pairs = work->cross_pairs * (double)c->n_blocks[QMI_DECODER];
    for (int stack = 0; stack < QMI_N_STACKS; stack++)
        pairs += work->own_pairs[stack] * (double)c->n_blocks[stack];
    return weights * r->product + pairs * (double)c->n_heads * r->pair;
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

static int64_t n_sparse(const qmi_config *c, int stack)
{
    int64_t n = 0;
    for (int64_t block = 0; block < c->n_blocks[stack]; block++)
        n += qmi_config_is_sparse(c, stack, block);
    return n;
}

/* One sparse block of a stack. */
static double experts_seconds(const qmi_config *c, int stack,
    const qmi_workload *work, const qmi_work_rates *r)
{
    const double d = (double)c->d_model, f = (double)c->d_ff;
    const double used = work->used_experts[stack];
    /* Experts without tokens are rounded. */
    const double unused = (double)c->n_experts - used;
    /* The inputs of wo take one product with the original wi; both kinds sum
     * moments. */
    const double inputs = d * f * r->product + (d * d + f * f) * r->moment;
    /* A sweep that measures takes the tokens through the uncompressed experts
     * as well. */
    const double again = work->trials > 0 ? 2 * d * f * r->product : 0;
    const double tokens =
        work->tokens[stack] *
        (inputs * (1 + work->trials) + 2 * d * f * r->expert + again);
    const double experts =
        used * (quantiser_seconds(r, f, d) + quantiser_seconds(r, d, f)) +
        unused * 2 * d * f * r->rounding;
    return tokens + experts * (1 + QMI_N_SIZES * work->trials);
}

qmoe_status qmi_compression_seconds(double *seconds, const qmoe_model *model,
    const qmi_workload *work, const qmi_stack_recipe *recipe, qmi_error *err)
{
    const qmi_config *c = &model->config;
    qmi_work_rates rates;
    *seconds = 0;
    QMI_TRY(qmi_measure_work(&rates, model, recipe, err));
    /* Measuring formats first is a sweep of its own. */
    *seconds = dense_seconds(model, work, &rates) * (work->trials > 0 ? 2 : 1);
    for (int stack = 0; stack < QMI_N_STACKS; stack++)
        *seconds += (double)n_sparse(c, stack) *
                    experts_seconds(c, stack, work, &rates);
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
