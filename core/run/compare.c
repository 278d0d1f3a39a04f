/* SPDX-License-Identifier: Apache-2.0
 * What a model does otherwise than another: divergence of their predictions on
 * the same text, and by block the experts they choose and the values they hand
 * on.  In: two sessions and texts.  Out: statistics.  Both go through the text
 * portion by portion, so that memory does not grow with it but for one number
 * per prediction.
 *
 * Where depths are asked for, `base` runs one sequence more for each: the same
 * tokens, but its residual behind a block is overwritten with that of `other`,
 * which has run the portion before. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "clock.h"
#include "logits.h"
#include "passages.h"
#include "probe.h"

/* What one model did in the portion at hand. */
typedef struct side {
    qmoe_session *session;
    float *logits;     /* [QMI_WINDOW_PORTION, vocab_size] */
    float *residual;   /* [n_blocks, n_rows, d_model] */
    int64_t n_rows;    /* the most tokens of a pass */
    int64_t *n_tokens; /* [n_blocks] in the pass at hand; 0: not run in it */
    int32_t *chosen;   /* [n_blocks, n_rows, most_chosen] */
    int64_t *n_chosen; /* [n_blocks] of a token; 0: no router */
    int64_t most_chosen;
    int32_t n_sequences;
    double sum; /* of cross entropies */
    qmi_probe probe;
} side;

/* Sums over the predictions of one depth. */
typedef struct depth {
    int32_t block;
    double kl;
    uint64_t n_top_equal;
} depth;

/* Sums over all tokens. */
typedef struct block_sums {
    double n_equal, n_routed, difference, size;
} block_sums;

typedef struct run {
    side sides[2]; /* base, other */
    qmi_passages passages;
    qmi_passage passage; /* at hand */
    block_sums *blocks;
    float *divergences; /* [n_scored], room for `capacity` */
    size_t capacity;
    uint64_t n_scored, n_top_equal;
    depth depths[QMOE_MAX_DEPTHS];
    int n_depths;
    int32_t last_encoder_block; /* -1: none */
    qmi_error *err;
} run;

enum { BASE, OTHER };

/* ---- what the probes note ---- */

/* Of the first sequence, whose rows are the first. */
static qmoe_status note_step(void *user, qmoe_session *session,
    const qmi_step *step, const qmi_pass *pass, qmi_error *err)
{
    side *s = user;
    const int64_t n_tokens = pass->n_tokens / s->n_sequences;
    const qmi_stage *stage = &session->stage;
    const qmi_graph *graph = &session->model->graph;
    if (step->block < 0)
        return QMOE_OK;
    /* The last one to write it is the block's result. */
    if (step->dst == graph->residual) {
        const int64_t d = session->model->shape.d_model;
        s->n_tokens[step->block] = n_tokens;
        return stage->backend->buffer_read(stage->device,
            s->residual + step->block * s->n_rows * d,
            (qmi_view){.buffer = stage->slots[step->dst].buffer},
            (uint64_t)(n_tokens * d) * sizeof(float), err);
    }
    if (step->kind != QMI_OP_ROUTE)
        return QMOE_OK;
    s->n_chosen[step->block] = step->u.route.top_k;
    return stage->backend->buffer_read(stage->device,
        s->chosen + step->block * s->n_rows * s->most_chosen,
        (qmi_view){.buffer = stage->slots[step->u.route.chosen].buffer},
        (uint64_t)(n_tokens * step->u.route.top_k) * sizeof(int32_t), err);
}

/* Whether a sequence that follows `other` down to `block` takes its residual
 * behind `at`: there, and where the encoder hands over to the decoder. */
static bool is_replaced(const run *c, int32_t block, int32_t at)
{
    return at == block ||
           (at == c->last_encoder_block && block > c->last_encoder_block);
}

/* After every write to the residual; the last one counts. */
static qmoe_status replace_rows(void *user, qmoe_session *session,
    const qmi_step *step, const qmi_pass *pass, qmi_error *err)
{
    const run *c = user;
    const side *other = &c->sides[OTHER];
    const qmi_stage *stage = &session->stage;
    const qmi_graph *graph = &session->model->graph;
    const int64_t d = session->model->shape.d_model;
    const uint64_t n_bytes =
        (uint64_t)(pass->n_tokens / (1 + c->n_depths) * d) * sizeof(float);
    if (step->block < 0 || step->dst != graph->residual)
        return QMOE_OK;
    for (int i = 0; i < c->n_depths; i++) {
        const qmi_view rows = {
            .buffer = stage->slots[step->dst].buffer,
            .offset = (uint64_t)(i + 1) * n_bytes,
        };
        if (is_replaced(c, c->depths[i].block, step->block))
            QMI_TRY(stage->backend->buffer_write(stage->device, rows,
                other->residual + step->block * other->n_rows * d, n_bytes,
                err));
    }
    return QMOE_OK;
}

/* A wish to stop is heard between steps, and whoever waits sees progress. */
static qmoe_status after_step(void *user, qmoe_session *session,
    const qmi_step *step, const qmi_pass *pass, qmi_error *err)
{
    const run *c = user;
    (void)session, (void)step, (void)pass, (void)err;
    return qmi_progress(c->sides[BASE].session->model->hooks, "compare", NULL,
        c->passages.n_read, c->passages.n);
}

/* ---- blocks ---- */

static bool is_among(const int32_t *list, int64_t n, int32_t id)
{
    for (int64_t i = 0; i < n; i++)
        if (list[i] == id)
            return true;
    return false;
}

/* As sets: the order of the chosen depends on rounding. */
static bool same_experts(const int32_t *a, const int32_t *b, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!is_among(b, n, a[i]))
            return false;
    return true;
}

/* After a pass; a block that took no part in it has no tokens. */
static void compare_block(run *c, int32_t block)
{
    const side *a = &c->sides[BASE], *b = &c->sides[OTHER];
    const int64_t d = a->session->model->shape.d_model;
    const int64_t at = block * a->n_rows, k = a->n_chosen[block];
    const int64_t n_tokens = a->n_tokens[block];
    block_sums *sums = &c->blocks[block];
    for (int64_t i = 0; i < n_tokens * d; i++) {
        const double x = a->residual[at * d + i];
        const double y = b->residual[at * d + i];
        sums->difference += (x - y) * (x - y);
        sums->size += x * x;
    }
    for (int64_t t = 0; k != 0 && t < n_tokens; t++) {
        const int64_t row = (at * a->most_chosen) + t * k;
        sums->n_equal += same_experts(a->chosen + row, b->chosen + row, k);
        sums->n_routed++;
    }
    a->n_tokens[block] = 0;
}

static void compare_blocks(run *c)
{
    const int32_t n_blocks = c->sides[BASE].session->model->n_blocks;
    for (int32_t block = 0; block < n_blocks; block++)
        compare_block(c, block);
}

/* ---- predictions ---- */

static int64_t likeliest(const float *logits, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

/* sum p (log p - log q). */
static double divergence(const float *p, double p_log_sum, const float *q,
    double q_log_sum, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        const double log_p = p[i] - p_log_sum;
        sum += exp(log_p) * (log_p - (q[i] - q_log_sum));
    }
    /* Rounding alone makes it negative. */
    return fmax(sum, 0);
}

/* How many predictions there will be is known at the end only. */
static qmoe_status reserve(run *c, size_t n)
{
    if (n <= c->capacity)
        return QMOE_OK;
    const size_t capacity = 2 * n;
    float *grown = qmi_regrow(c->divergences, c->capacity, capacity,
        sizeof *grown, "divergences", c->err);
    if (grown == NULL)
        return QMOE_E_NOMEM;
    c->divergences = grown;
    c->capacity = capacity;
    return QMOE_OK;
}

/* Row `row` of a portion of n tokens. */
static void score_one(run *c, int32_t row, int32_t n, int32_t id)
{
    side *a = &c->sides[BASE], *b = &c->sides[OTHER];
    const int64_t width = a->session->model->shape.vocab_size;
    const float *p = a->logits + row * width, *q = b->logits + row * width;
    double p_log_sum, q_log_sum;
    a->sum += qmi_cross_entropy(p, width, id, &p_log_sum);
    b->sum += qmi_cross_entropy(q, width, id, &q_log_sum);
    c->divergences[c->n_scored++] =
        (float)divergence(p, p_log_sum, q, q_log_sum, width);
    const int64_t best = likeliest(p, width);
    c->n_top_equal += best == likeliest(q, width);
    for (int i = 0; i < c->n_depths; i++) {
        /* Sequence i + 1 of n tokens each. */
        const float *r = a->logits + ((i + 1) * (int64_t)n + row) * width;
        double r_log_sum;
        (void)qmi_cross_entropy(r, width, id, &r_log_sum);
        c->depths[i].kl += divergence(p, p_log_sum, r, r_log_sum, width);
        c->depths[i].n_top_equal += best == likeliest(r, width);
    }
}

/* The same tokens in every sequence of a side. */
static qmoe_status decode(const run *c, side *s, int32_t at, int32_t n)
{
    int32_t ids[QMI_WINDOW_PORTION], numbers[1 + QMOE_MAX_DEPTHS];
    int32_t lengths[1 + QMOE_MAX_DEPTHS];
    for (int32_t i = 0; i < s->n_sequences; i++) {
        memcpy(ids + i * n, c->passage.ids + at, (size_t)n * sizeof *ids);
        numbers[i] = i;
        lengths[i] = n;
    }
    const qmi_batch batch = {.ids = ids,
        .sequences = numbers,
        .lengths = lengths,
        .n = (size_t)s->n_sequences};
    QMI_TRY(qmi_session_decode(s->session, s->logits, &batch, c->err));
    return qmi_session_check(s->session, c->err);
}

static qmoe_status run_portion(run *c, int32_t at, int32_t n)
{
    const qmi_passage *p = &c->passage;
    QMI_TRY(decode(c, &c->sides[OTHER], at, n));
    QMI_TRY(decode(c, &c->sides[BASE], at, n));
    compare_blocks(c);
    QMI_TRY(reserve(c, (size_t)c->n_scored + (size_t)n));
    /* The last token predicts nothing in its passage. */
    for (int32_t i = 0; i < n; i++)
        if (at + i >= p->first_scored && at + i + 1 < p->n)
            score_one(c, i, n, p->ids[at + i + 1]);
    return QMOE_OK;
}

static qmoe_status start(const run *c, side *s)
{
    const qmi_passage *p = &c->passage;
    const size_t n = (size_t)s->n_sequences, length = (size_t)p->n_encoder;
    int32_t lengths[1 + QMOE_MAX_DEPTHS];
    if (p->encoder_ids == NULL)
        return qmi_session_start(s->session, NULL, n, c->err);
    int32_t *ids = qmi_calloc(n * length, sizeof *ids, "ids", c->err);
    if (ids == NULL)
        return QMOE_E_NOMEM;
    for (size_t i = 0; i < n; i++) {
        memcpy(ids + i * length, p->encoder_ids, length * sizeof *ids);
        lengths[i] = p->n_encoder;
    }
    qmoe_status status =
        qmi_session_encode(s->session, ids, lengths, n, c->err);
    qmi_free(ids);
    return status;
}

static qmoe_status run_passage(run *c)
{
    const int32_t length = c->passage.n;
    /* Rows of logits of all sequences together. */
    const int32_t portion = QMI_WINDOW_PORTION / (1 + c->n_depths);
    QMI_TRY(start(c, &c->sides[OTHER]));
    QMI_TRY(start(c, &c->sides[BASE]));
    compare_blocks(c);
    for (int32_t at = 0, n; at < length; at += n) {
        n = length - at < portion ? length - at : portion;
        QMI_TRY(run_portion(c, at, n));
    }
    return QMOE_OK;
}

/* ---- the whole ---- */

/* Block by block and logit by logit there must be something to compare. */
static qmoe_status check_alike(
    const qmoe_model *a, const qmoe_model *b, qmi_error *err)
{
    bool alike = a->shape.vocab_size == b->shape.vocab_size &&
                 a->shape.d_model == b->shape.d_model &&
                 a->n_blocks == b->n_blocks;
    for (int32_t i = 0; alike && i < a->n_blocks; i++)
        alike = a->blocks[i].ffn.n_experts == b->blocks[i].ffn.n_experts &&
                a->blocks[i].ffn.top_k == b->blocks[i].ffn.top_k;
    if (alike)
        return QMOE_OK;
    return qmi_fail(err, QMOE_E_INVALID,
        "%s and %s are not the same model: their shapes differ",
        qmi_checkpoint_directory(a->checkpoint),
        qmi_checkpoint_directory(b->checkpoint));
}

static qmoe_status open_side(side *s, qmi_error *err)
{
    const qmoe_model *m = s->session->model;
    const size_t n_blocks = (size_t)m->n_blocks;
    /* An encoder takes all tokens of a document at once. */
    const size_t n_rows = m->shape.objective == QMI_NEXT_TOKEN
                              ? QMI_WINDOW_PORTION
                              : QMI_MAX_DOCUMENT_TOKENS;
    s->n_rows = (int64_t)n_rows;
    for (int32_t i = 0; i < m->n_blocks; i++)
        if (m->blocks[i].ffn.top_k > s->most_chosen)
            s->most_chosen = m->blocks[i].ffn.top_k;
    s->logits = qmi_calloc(QMI_WINDOW_PORTION * (size_t)m->shape.vocab_size,
        sizeof *s->logits, "logits", err);
    s->residual = qmi_calloc(n_blocks * n_rows * (size_t)m->shape.d_model,
        sizeof *s->residual, "results of blocks", err);
    s->chosen = qmi_calloc(n_blocks * n_rows * (size_t)(s->most_chosen + 1),
        sizeof *s->chosen, "chosen experts", err);
    s->n_chosen =
        qmi_calloc(n_blocks, sizeof *s->n_chosen, "chosen experts", err);
    s->n_tokens =
        qmi_calloc(n_blocks, sizeof *s->n_tokens, "tokens of blocks", err);
    if (s->logits == NULL || s->residual == NULL || s->chosen == NULL ||
        s->n_chosen == NULL || s->n_tokens == NULL)
        return QMOE_E_NOMEM;
    s->n_sequences = 1;
    s->probe = (qmi_probe){.after = note_step, .user = s};
    return QMOE_OK;
}

static qmoe_status open_depths(run *c, int n)
{
    const qmoe_model *m = c->sides[BASE].session->model;
    if (n < 0 || n > QMOE_MAX_DEPTHS)
        return qmi_fail(c->err, QMOE_E_INVALID,
            "%d depths: 0 to %d are possible", n, QMOE_MAX_DEPTHS);
    c->n_depths = n < m->n_blocks ? n : m->n_blocks;
    for (int i = 0; i < c->n_depths; i++)
        c->depths[i].block = (i + 1) * m->n_blocks / c->n_depths - 1;
    c->last_encoder_block = (int32_t)qmi_model_block_count(m, QMI_ENCODE) - 1;
    c->sides[BASE].n_sequences = 1 + c->n_depths;
    return QMOE_OK;
}

static qmoe_status open_all(run *c)
{
    const qmoe_model *m = c->sides[BASE].session->model;
    c->blocks =
        qmi_calloc((size_t)m->n_blocks, sizeof *c->blocks, "sums", c->err);
    if (c->blocks == NULL)
        return QMOE_E_NOMEM;
    for (int i = 0; i < 2; i++)
        QMI_TRY(open_side(&c->sides[i], c->err));
    return QMOE_OK;
}

static qmoe_status run_all(run *c)
{
    side *sides = c->sides;
    qmi_probe progress = {.after = after_step, .user = c};
    qmi_probe replacing = {.after = replace_rows, .user = c};
    qmi_probe_attach(sides[BASE].session, &replacing);
    for (int i = 0; i < 2; i++)
        qmi_probe_attach(sides[i].session, &sides[i].probe);
    qmi_probe_attach(sides[OTHER].session, &progress);
    qmoe_status status;
    do {
        status = qmi_passages_next(&c->passages, &c->passage, c->err);
        if (status == QMOE_OK && c->passage.n != 0)
            status = run_passage(c);
    } while (status == QMOE_OK && c->passage.n != 0);
    qmi_probe_detach(sides[OTHER].session, &progress);
    for (int i = 0; i < 2; i++)
        qmi_probe_detach(sides[i].session, &sides[i].probe);
    qmi_probe_detach(sides[BASE].session, &replacing);
    return status;
}

static int by_size(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void describe_side(
    qmoe_perplexity *out, const run *c, int i, double seconds)
{
    *out = (qmoe_perplexity){
        .loss = c->sides[i].sum / (double)c->n_scored,
        .n_tokens = c->n_scored,
        .n_windows = c->passages.n_read,
        .n_context = c->passages.windows.length,
        .seconds = seconds,
    };
    out->perplexity = exp(out->loss);
}

static qmoe_status report(qmoe_comparison *out, run *c, double seconds)
{
    const size_t n_blocks = (size_t)c->sides[BASE].session->model->n_blocks;
    const size_t n = (size_t)c->n_scored;
    out->blocks = qmi_calloc(n_blocks, sizeof *out->blocks, "blocks", c->err);
    if (out->blocks == NULL)
        return QMOE_E_NOMEM;
    out->n_blocks = n_blocks;
    for (size_t i = 0; i < n_blocks; i++)
        out->blocks[i] = (qmoe_block_difference){
            .router_agreement =
                c->blocks[i].n_routed != 0
                    ? c->blocks[i].n_equal / c->blocks[i].n_routed
                    : (double)NAN,
            .residual_error = c->blocks[i].difference / c->blocks[i].size};
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += c->divergences[i];
    qsort(c->divergences, n, sizeof *c->divergences, by_size);
    out->mean_kl = sum / (double)n;
    out->median_kl = c->divergences[n / 2];
    out->kl_99 = c->divergences[(size_t)(0.99 * (double)(n - 1))];
    out->largest_kl = c->divergences[n - 1];
    out->top_agreement = (double)c->n_top_equal / (double)n;
    out->n_depths = (size_t)c->n_depths;
    for (int i = 0; i < c->n_depths; i++)
        out->depths[i] =
            (qmoe_depth_difference){.block = (size_t)c->depths[i].block,
                .mean_kl = c->depths[i].kl / (double)n,
                .top_agreement = (double)c->depths[i].n_top_equal / (double)n};
    describe_side(&out->base, c, BASE, seconds);
    describe_side(&out->other, c, OTHER, seconds);
    return QMOE_OK;
}

static qmoe_status compare(
    run *c, qmoe_comparison *out, const qmoe_text_options *options)
{
    const qmoe_model *base = c->sides[BASE].session->model;
    QMI_TRY(check_alike(base, c->sides[OTHER].session->model, c->err));
    QMI_TRY(qmi_passages_open(&c->passages, base, options, c->err));
    QMI_TRY(open_all(c));
    QMI_TRY(open_depths(c, options->n_depths));
    const double begin = qmi_seconds();
    QMI_TRY(run_all(c));
    return report(out, c, qmi_seconds() - begin);
}

static void release(run *c)
{
    for (int i = 0; i < 2; i++) {
        qmi_free(c->sides[i].logits);
        qmi_free(c->sides[i].residual);
        qmi_free(c->sides[i].chosen);
        qmi_free(c->sides[i].n_chosen);
        qmi_free(c->sides[i].n_tokens);
    }
    qmi_passages_close(&c->passages);
    qmi_free(c->blocks);
    qmi_free(c->divergences);
}

/* Both sessions are in use; errors are told by the context of `other`. */
qmoe_status qmoe_session_compare(qmoe_session *other, qmoe_session *base,
    qmoe_comparison *out, const qmoe_text_options *options)
{
    if (out != NULL)
        *out = (qmoe_comparison){0};
    QMI_TRY(qmi_session_call_begin(
        other, __func__, out == NULL || base == NULL || base == other));
    qmoe_status status = qmi_session_call_begin(base, __func__, false);
    if (status != QMOE_OK)
        return qmi_session_call_end(other, status);
    run c = {.sides = {{.session = base}, {.session = other}},
        .err = &other->model->hooks->error};
    qmoe_text_options known = {0};
    qmi_copy_options(&known, sizeof known, options);
    status = compare(&c, out, &known);
    release(&c);
    (void)qmi_session_call_end(base, status);
    return qmi_session_call_end(other, status);
}

void qmoe_comparison_free(qmoe_comparison *comparison)
{
    if (comparison == NULL)
        return;
    qmi_free(comparison->blocks);
    *comparison = (qmoe_comparison){0};
}
