/* SPDX-License-Identifier: Apache-2.0
 * In: a model and a text.  Out: a weight for each row of the matrices that are
 * wanted.  Squares are added up chunk by chunk, in double within a chunk;
 * sections of the text consist of whole chunks, so that their number has no
 * effect. */
#include "row_weights.h"

#include <math.h>
#include <string.h>

#include "alloc.h"
#include "expert_steps.h"
#include "registry.h"

/* A matrix of few tokens is drawn towards equal weights: as if it had so many
 * more, of equal gradients. */
static const double n_equal_tokens = 32;
/* What squared gradients are raised to.  Experts' rows have less to trade, and
 * more of it is chance (bench/results/decoders.md). */
static const double dense_exponent = 1, expert_exponent = 0.5;
/* Outliers must not make rows worthless. */
static const double least = 0.01, most = 100;

/* ---- sums ---- */

static qmoe_status add_rows(void *user, const qmi_weight *weight, int64_t mat,
    const float *d_y, int64_t n, qmi_error *err)
{
    qmi_row_weights *w = user;
    const size_t number = (size_t)(weight - w->model->weights);
    const int64_t n_rows = weight->n_rows;
    if (w->rows[number] == NULL)
        return QMOE_OK;
    double *sums = qmi_calloc((size_t)n_rows, sizeof *sums, "row weights", err);
    if (sums == NULL)
        return QMOE_E_NOMEM;
    for (int64_t t = 0; t < n; t++)
        for (int64_t r = 0; r < n_rows; r++)
            sums[r] += (double)d_y[t * n_rows + r] * d_y[t * n_rows + r];
    for (int64_t r = 0; r < n_rows; r++)
        w->rows[number][mat * n_rows + r] += (float)sums[r];
    w->n_tokens[number][mat] += n;
    qmi_free(sums);
    return QMOE_OK;
}

/* Sums of n_tokens squares become weights of mean 1. */
static void finish(
    float *rows, int64_t n_rows, int64_t n_tokens, double exponent)
{
    double mean = 0;
    for (int64_t r = 0; r < n_rows; r++) {
        rows[r] = (float)pow((double)rows[r], exponent);
        mean += (double)rows[r] / (double)n_rows;
    }
    const double n = mean > 0 && isfinite(mean) ? (double)n_tokens : 0;
    for (int64_t r = 0; r < n_rows; r++) {
        const double own = n > 0 ? (double)rows[r] / mean : 1;
        const double w = (n * own + n_equal_tokens) / (n + n_equal_tokens);
        rows[r] = (float)fmin(fmax(w, least), most);
    }
}

static void finish_all(qmi_row_weights *w)
{
    for (size_t i = 0; i < w->model->n_weights; i++) {
        const qmi_weight *weight = &w->model->weights[i];
        for (int64_t mat = 0; w->rows[i] != NULL && mat < weight->n_mats; mat++)
            finish(w->rows[i] + mat * weight->n_rows, weight->n_rows,
                w->n_tokens[i][mat],
                weight->role == QMOE_ROLE_EXPERTS ? expert_exponent
                                                  : dense_exponent);
    }
}

const float *qmi_row_weights_of(
    const qmi_row_weights *weights, const qmi_weight *weight)
{
    return weights->rows != NULL
               ? weights->rows[weight - weights->model->weights]
               : NULL;
}

/* ---- memory ---- */

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Of the experts of a block that have most. */
static uint64_t expert_bytes(const qmoe_model *m)
{
    uint64_t most_bytes = 0;
    for (int32_t b = 0; b < m->n_blocks; b++) {
        const qmi_expert_stacks stacks = qmi_expert_stacks_of(m, b);
        uint64_t n = 0;
        for (int kind = 0; kind < stacks.n; kind++)
            n += qmi_weight_bytes(stacks.of[kind]);
        most_bytes = larger(most_bytes, n);
    }
    return most_bytes;
}

/* Values of a token in work: in slots and caches of the session, on the tape, as
 * gradients; and the rows of an expert that all tokens chose. */
static uint64_t token_values(const qmoe_model *m)
{
    const qmi_graph *graph = &m->graph;
    const qmi_slot logits = graph->programs[QMI_DECODE].output;
    uint64_t n = 0, of_experts = 0;
    for (size_t i = 1; i <= graph->n_slots; i++)
        if ((qmi_slot)i != logits)
            n += 3 * (uint64_t)graph->slots[i].width;
    for (size_t i = 1; i <= graph->n_caches; i++)
        n += (uint64_t)graph->caches[i].width;
    for (int32_t b = 0; b < m->n_blocks; b++)
        if (qmi_block_is_sparse(&m->blocks[b]))
            of_experts =
                larger(of_experts, 5 * (uint64_t)m->blocks[b].ffn.d_ff +
                                       3 * (uint64_t)m->shape.d_model);
    return n + of_experts;
}

/* Tokens of sequences [first, first + n), of encoder and decoder. */
static int64_t tokens_of(const qmi_calibration *text, size_t first, size_t n)
{
    int64_t sum = 0;
    for (int p = 0; p < QMI_N_PROGRAMS; p++)
        if (text->sets[p].n_sequences != 0)
            sum += text->sets[p].begin[first + n] - text->sets[p].begin[first];
    return sum;
}

static int64_t all_tokens(const qmi_calibration *text)
{
    return tokens_of(text, 0, text->n_samples);
}

/* Of a chunk, at most. */
static int64_t chunk_tokens(const qmi_calibration *text)
{
    int64_t n = 0;
    for (int p = 0; p < QMI_N_PROGRAMS; p++) {
        const int64_t longest = text->sets[p].longest;
        if (text->sets[p].n_sequences != 0)
            n += longest > QMI_FORWARD_TOKENS ? longest : QMI_FORWARD_TOKENS;
    }
    return n < all_tokens(text) ? n : all_tokens(text);
}

/* Beside the states. */
static uint64_t fixed_bytes(const qmoe_model *model,
    const qmi_calibration *text, const qmi_row_weights_options *o)
{
    /* Programs and lists; a slab of a matrix, logits. */
    enum { BASE = (32 + 16 + 64) << 20 };
    uint64_t n_bytes =
        BASE + qmi_forward_dense_bytes(model) + expert_bytes(model) +
        (uint64_t)all_tokens(text) * sizeof(int32_t) +
        (uint64_t)chunk_tokens(text) * token_values(model) * sizeof(float);
    for (size_t i = 0; i < model->n_weights; i++)
        if (o->takes(o->user, &model->weights[i]))
            n_bytes += (uint64_t)model->weights[i].n_mats *
                       (uint64_t)model->weights[i].n_rows * sizeof(float);
    return n_bytes;
}

/* Sequences of `text` that are used. */
static size_t n_used(const qmi_calibration *text, int64_t max_tokens)
{
    const int64_t n_tokens = all_tokens(text);
    if (max_tokens == 0 || n_tokens <= max_tokens)
        return text->n_samples;
    const double share = (double)max_tokens / (double)n_tokens;
    const size_t n = (size_t)(share * (double)text->n_samples);
    return n > 0 ? n : 1;
}

uint64_t qmi_row_weights_bytes(const qmoe_model *model,
    const qmi_calibration *text, const qmi_row_weights_options *options)
{
    const uint64_t fixed = fixed_bytes(model, text, options);
    const int64_t per_sequence =
        all_tokens(text) / (int64_t)text->n_samples + 1;
    const int64_t n_all =
        (int64_t)n_used(text, options->max_tokens) * per_sequence;
    const int64_t n_chunk = chunk_tokens(text);
    if (options->work_dir != NULL)
        return fixed;
    const uint64_t all = fixed + qmi_gradient_state_bytes(model, n_all);
    const uint64_t chunk = fixed + qmi_gradient_state_bytes(model,
                                       n_chunk < n_all ? n_chunk : n_all);
    if (options->memory_bytes == 0 || all <= options->memory_bytes)
        return all;
    return larger(chunk, options->memory_bytes);
}

/* ---- sections ---- */

/* Sequences from `first` on that make a section. */
static size_t section_size(const qmoe_model *model, const qmi_calibration *text,
    const qmi_row_weights_options *o, size_t first)
{
    const uint64_t fixed = fixed_bytes(model, text, o);
    size_t n = 0;
    while (first + n < text->n_samples) {
        const size_t more = qmi_forward_chunk(text, first + n);
        const int64_t n_tokens = tokens_of(text, first, n + more);
        if (n != 0 && o->memory_bytes != 0 && o->work_dir == NULL &&
            fixed + qmi_gradient_state_bytes(model, n_tokens) > o->memory_bytes)
            break;
        n += more;
    }
    return n;
}

typedef struct section {
    const qmi_row_weights_options *options;
    int64_t n_before, n_tokens, n_all; /* tokens */
} section;

static qmoe_status show(void *user, int64_t n_done, int64_t n_parts)
{
    const section *s = user;
    const double share =
        ((double)s->n_before +
            (double)s->n_tokens * (double)n_done / (double)n_parts) /
        (double)s->n_all;
    return s->options->progress(s->options->user, (int64_t)(1000 * share));
}

/* Sequences of a set from `first` on, every so many-th: number i is that at
 * first + i * step. */
static qmoe_status pick_set(qmi_token_set *out, const qmi_token_set *from,
    size_t first, double step, size_t n, qmi_error *err)
{
    int64_t n_tokens = 0;
    out->begin = qmi_calloc(n + 1, sizeof *out->begin, "a section", err);
    if (out->begin == NULL)
        return QMOE_E_NOMEM;
    for (size_t i = 0; i < n; i++) {
        const size_t at = first + (size_t)((double)i * step);
        const int64_t length = qmi_sequence_length(from, at);
        n_tokens += length;
        out->longest = length > out->longest ? length : out->longest;
        out->begin[i + 1] = n_tokens;
    }
    out->n_sequences = n;
    out->n_tokens = n_tokens;
    out->ids = qmi_calloc((size_t)n_tokens, sizeof *out->ids, "ids", err);
    for (size_t i = 0; out->ids != NULL && i < n; i++) {
        const size_t at = first + (size_t)((double)i * step);
        memcpy(out->ids + out->begin[i], from->ids + from->begin[at],
            (size_t)qmi_sequence_length(from, at) * sizeof *out->ids);
    }
    return out->ids != NULL ? QMOE_OK : QMOE_E_NOMEM;
}

/* As a text of its own, to be freed after failure, too. */
static qmoe_status pick(qmi_calibration *out, const qmi_calibration *text,
    size_t first, double step, size_t n, qmi_error *err)
{
    *out = (qmi_calibration){.n_samples = n};
    for (int p = 0; p < QMI_N_PROGRAMS; p++)
        if (text->sets[p].n_sequences != 0)
            QMI_TRY(
                pick_set(&out->sets[p], &text->sets[p], first, step, n, err));
    return QMOE_OK;
}

static qmoe_status run_section(qmi_row_weights *w, qmoe_model *model,
    const qmi_calibration *text, section *s, size_t first, size_t n,
    qmi_error *err)
{
    qmi_calibration part;
    qmi_gradient_loss loss;
    qmoe_status status = pick(&part, text, first, 1, n, err);
    if (status != QMOE_OK) {
        qmi_calibration_free(&part);
        return status;
    }
    s->n_tokens = all_tokens(&part);
    const qmoe_session_options place = {
        .size = sizeof place, .backend = QMI_HOST_BACKEND};
    const qmi_gradient_options options = {.n_threads = s->options->n_threads,
        .place = &place,
        .work_dir = s->options->work_dir,
        .sink = {.rows = add_rows, .user = w},
        .progress = s->options->progress != NULL ? show : NULL,
        .user = s};
    status = qmi_gradient_run(&loss, model, &part, &options, err);
    qmi_calibration_free(&part);
    s->n_before += s->n_tokens;
    return status;
}

static qmoe_status create(qmi_row_weights *w, qmoe_model *model,
    const qmi_row_weights_options *o, qmi_error *err)
{
    static const char what[] = "row weights";
    *w = (qmi_row_weights){.model = model,
        .rows = qmi_calloc(model->n_weights, sizeof *w->rows, what, err),
        .n_tokens =
            qmi_calloc(model->n_weights, sizeof *w->n_tokens, what, err)};
    if (w->rows == NULL || w->n_tokens == NULL)
        return QMOE_E_NOMEM;
    for (size_t i = 0; i < model->n_weights; i++) {
        const qmi_weight *weight = &model->weights[i];
        if (!o->takes(o->user, weight))
            continue;
        const size_t n = (size_t)(weight->n_mats * weight->n_rows);
        w->rows[i] = qmi_calloc(n, sizeof **w->rows, what, err);
        w->n_tokens[i] =
            qmi_calloc((size_t)weight->n_mats, sizeof **w->n_tokens, what, err);
        if (w->rows[i] == NULL || w->n_tokens[i] == NULL)
            return QMOE_E_NOMEM;
    }
    return QMOE_OK;
}

static qmoe_status run_sections(qmi_row_weights *w, qmoe_model *model,
    const qmi_calibration *text, const qmi_row_weights_options *options,
    qmi_error *err)
{
    section s = {.options = options, .n_all = all_tokens(text)};
    for (size_t i = 0; i < text->n_samples;) {
        const size_t n = section_size(model, text, options, i);
        QMI_TRY(run_section(w, model, text, &s, i, n, err));
        i += n;
    }
    return QMOE_OK;
}

qmoe_status qmi_row_weights_measure(qmi_row_weights *out, qmoe_model *model,
    const qmi_calibration *text, const qmi_row_weights_options *options,
    qmi_error *err)
{
    qmi_calibration sample = {0};
    const size_t n = n_used(text, options->max_tokens);
    qmoe_status status = create(out, model, options, err);
    if (status == QMOE_OK)
        status =
            pick(&sample, text, 0, (double)text->n_samples / (double)n, n, err);
    if (status == QMOE_OK)
        status = run_sections(out, model, &sample, options, err);
    qmi_calibration_free(&sample);
    if (status == QMOE_OK)
        finish_all(out);
    else
        qmi_row_weights_free(out);
    return status;
}

void qmi_row_weights_free(qmi_row_weights *weights)
{
    const size_t n = weights->model != NULL ? weights->model->n_weights : 0;
    for (size_t i = 0; i < n; i++) {
        if (weights->rows != NULL)
            qmi_free(weights->rows[i]);
        if (weights->n_tokens != NULL)
            qmi_free(weights->n_tokens[i]);
    }
    qmi_free(weights->rows);
    qmi_free(weights->n_tokens);
    *weights = (qmi_row_weights){0};
}
