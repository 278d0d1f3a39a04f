/* SPDX-License-Identifier: Apache-2.0
 * What a model does otherwise than another: divergence of their predictions on
 * the same text, and by block the experts they choose and the values they hand
 * on.  In: two sessions and texts.  Out: statistics.  Both go through the text
 * portion by portion, so that memory does not grow with it but for one number
 * per prediction. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "clock.h"
#include "logits.h"
#include "probe.h"
#include "windows.h"

/* What one model did in the portion at hand. */
typedef struct side {
    qmoe_session *session;
    float *logits;     /* [portion, vocab_size] */
    float *residual;   /* [n_blocks, portion, d_model] */
    int32_t *chosen;   /* [n_blocks, portion, most_chosen] */
    int64_t *n_chosen; /* [n_blocks] of a token; 0: no router */
    int64_t most_chosen;
    double sum; /* of cross entropies */
    qmi_probe probe;
} side;

/* Sums over all tokens. */
typedef struct block_sums {
    double n_equal, n_routed, difference, size;
} block_sums;

typedef struct run {
    side sides[2]; /* base, other */
    qmi_windows windows;
    int32_t *ids;
    block_sums *blocks;
    float *divergences; /* [n_scored] */
    uint64_t n_scored, n_top_equal;
    size_t n_done;
    qmi_error *err;
} run;

enum { BASE, OTHER };

/* ---- what the probes note ---- */

static qmoe_status note_step(void *user, qmoe_session *session,
    const qmi_step *step, const qmi_pass *pass, qmi_error *err)
{
    side *s = user;
    const qmi_stage *stage = &session->stage;
    const qmi_graph *graph = &session->model->graph;
    if (step->block < 0)
        return QMOE_OK;
    /* The last one to write it is the block's result. */
    if (step->dst == graph->residual) {
        const int64_t d = session->model->shape.d_model;
        return stage->backend->buffer_read(stage->device,
            s->residual + step->block * QMI_WINDOW_PORTION * d,
            (qmi_view){.buffer = stage->slots[step->dst].buffer},
            (uint64_t)(pass->n_tokens * d) * sizeof(float), err);
    }
    if (step->kind != QMI_OP_ROUTE)
        return QMOE_OK;
    s->n_chosen[step->block] = step->u.route.top_k;
    return stage->backend->buffer_read(stage->device,
        s->chosen + step->block * QMI_WINDOW_PORTION * s->most_chosen,
        (qmi_view){.buffer = stage->slots[step->u.route.chosen].buffer},
        (uint64_t)(pass->n_tokens * step->u.route.top_k) * sizeof(int32_t),
        err);
}

/* A wish to stop is heard between steps, and whoever waits sees progress. */
static qmoe_status after_step(void *user, qmoe_session *session,
    const qmi_step *step, const qmi_pass *pass, qmi_error *err)
{
    const run *c = user;
    (void)session, (void)step, (void)pass, (void)err;
    return qmi_progress(c->sides[BASE].session->model->hooks, "compare", NULL,
        c->n_done, c->windows.n);
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

static void compare_block(run *c, int32_t block, int32_t n_tokens)
{
    const side *a = &c->sides[BASE], *b = &c->sides[OTHER];
    const int64_t d = a->session->model->shape.d_model;
    const int64_t at = block * QMI_WINDOW_PORTION, k = a->n_chosen[block];
    block_sums *sums = &c->blocks[block];
    for (int64_t i = 0; i < n_tokens * d; i++) {
        const double x = a->residual[at * d + i];
        const double y = b->residual[at * d + i];
        sums->difference += (x - y) * (x - y);
        sums->size += x * x;
    }
    for (int32_t t = 0; k != 0 && t < n_tokens; t++) {
        const int64_t row = (at * a->most_chosen) + t * k;
        sums->n_equal += same_experts(a->chosen + row, b->chosen + row, k);
        sums->n_routed++;
    }
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

static void score(run *c, int32_t first, int32_t n)
{
    side *a = &c->sides[BASE], *b = &c->sides[OTHER];
    const int64_t width = a->session->model->shape.vocab_size;
    for (int32_t i = 0; i < n; i++) {
        if (!qmi_window_scores(&c->windows, first + i))
            continue;
        const float *p = a->logits + i * width, *q = b->logits + i * width;
        const int32_t id = c->ids[first + i + 1];
        double p_log_sum, q_log_sum;
        a->sum += qmi_cross_entropy(p, width, id, &p_log_sum);
        b->sum += qmi_cross_entropy(q, width, id, &q_log_sum);
        c->divergences[c->n_scored++] =
            (float)divergence(p, p_log_sum, q, q_log_sum, width);
        c->n_top_equal += likeliest(p, width) == likeliest(q, width);
    }
}

static qmoe_status run_portion(run *c, int32_t at, int32_t n)
{
    const int32_t sequence = 0;
    const qmi_batch batch = {
        .ids = c->ids + at, .sequences = &sequence, .lengths = &n, .n = 1};
    for (int i = 0; i < 2; i++) {
        side *s = &c->sides[i];
        QMI_TRY(qmi_session_decode(s->session, s->logits, &batch, c->err));
        QMI_TRY(qmi_session_check(s->session, c->err));
    }
    const int32_t n_blocks = c->sides[BASE].session->model->n_blocks;
    for (int32_t block = 0; block < n_blocks; block++)
        compare_block(c, block, n);
    score(c, at, n);
    return QMOE_OK;
}

static qmoe_status run_window(run *c)
{
    const int32_t length = c->windows.length;
    qmi_window_ids(c->ids, &c->windows, c->n_done);
    for (int i = 0; i < 2; i++)
        QMI_TRY(qmi_session_start(c->sides[i].session, NULL, 1, c->err));
    for (int32_t at = 0; at < length; at += QMI_WINDOW_PORTION)
        QMI_TRY(run_portion(c, at,
            length - at < QMI_WINDOW_PORTION ? length - at
                                             : QMI_WINDOW_PORTION));
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
    const size_t n_blocks = (size_t)m->n_blocks, portion = QMI_WINDOW_PORTION;
    for (int32_t i = 0; i < m->n_blocks; i++)
        if (m->blocks[i].ffn.top_k > s->most_chosen)
            s->most_chosen = m->blocks[i].ffn.top_k;
    s->logits = qmi_calloc(portion * (size_t)m->shape.vocab_size,
        sizeof *s->logits, "logits", err);
    s->residual = qmi_calloc(n_blocks * portion * (size_t)m->shape.d_model,
        sizeof *s->residual, "results of blocks", err);
    s->chosen = qmi_calloc(n_blocks * portion * (size_t)(s->most_chosen + 1),
        sizeof *s->chosen, "chosen experts", err);
    s->n_chosen =
        qmi_calloc(n_blocks, sizeof *s->n_chosen, "chosen experts", err);
    if (s->logits == NULL || s->residual == NULL || s->chosen == NULL ||
        s->n_chosen == NULL)
        return QMOE_E_NOMEM;
    s->probe = (qmi_probe){.after = note_step, .user = s};
    return QMOE_OK;
}

static qmoe_status open_all(run *c)
{
    const qmoe_model *m = c->sides[BASE].session->model;
    const size_t n = c->windows.n * (size_t)c->windows.length;
    c->ids = qmi_calloc(
        (size_t)c->windows.length, sizeof *c->ids, "a window", c->err);
    c->blocks =
        qmi_calloc((size_t)m->n_blocks, sizeof *c->blocks, "sums", c->err);
    c->divergences =
        qmi_calloc(n, sizeof *c->divergences, "divergences", c->err);
    if (c->ids == NULL || c->blocks == NULL || c->divergences == NULL)
        return QMOE_E_NOMEM;
    for (int i = 0; i < 2; i++)
        QMI_TRY(open_side(&c->sides[i], c->err));
    return QMOE_OK;
}

static qmoe_status run_all(run *c)
{
    side *sides = c->sides;
    qmi_probe progress = {.after = after_step, .user = c};
    for (int i = 0; i < 2; i++)
        qmi_probe_attach(sides[i].session, &sides[i].probe);
    qmi_probe_attach(sides[OTHER].session, &progress);
    qmoe_status status = QMOE_OK;
    for (; status == QMOE_OK && c->n_done < c->windows.n; c->n_done++)
        status = run_window(c);
    qmi_probe_detach(sides[OTHER].session, &progress);
    for (int i = 0; i < 2; i++)
        qmi_probe_detach(sides[i].session, &sides[i].probe);
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
        .n_windows = c->windows.n,
        .n_context = c->windows.length,
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
    describe_side(&out->base, c, BASE, seconds);
    describe_side(&out->other, c, OTHER, seconds);
    return QMOE_OK;
}

static qmoe_status compare(
    run *c, qmoe_comparison *out, const qmoe_text_options *options)
{
    const qmoe_model *base = c->sides[BASE].session->model;
    QMI_TRY(check_alike(base, c->sides[OTHER].session->model, c->err));
    QMI_TRY(qmi_windows_read(&c->windows, base, options, c->err));
    QMI_TRY(open_all(c));
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
    }
    qmi_windows_free(&c->windows);
    qmi_free(c->ids);
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
