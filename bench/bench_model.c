/* SPDX-License-Identifier: Apache-2.0
 * qmoe_bench_model: a model against its ideal uncompressed run.  In: a model,
 * sizes of a batch, how experts are chosen.  Out: tokens per second of both, by
 * phase, and their ratio.  Both get the same ids and, by one recorded routing,
 * the same experts; they run in turn; times with a clock between roles are
 * taken in runs of their own, so that the clock costs the speeds nothing. */
#include "qmoe/bench.h"

#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "bench_ideal.h"
#include "bench_made_up.h"
#include "bench_stats.h"
#include "mt19937.h"
#include "place.h"
#include "prefill.h"
#include "routing.h"
#include "top_pass.h"

/* Bounds that keep products of them within 64 bits. */
enum { MAX_REPEATS = 101, MAX_TOKENS = 1 << 16, MAX_SEQUENCES = 1024 };

/* As qmoe_role_times has them. */
enum { ENCODE, DECODE, N_PHASES };

/* One of the two that are compared. */
typedef struct side {
    qmoe_session *session;
    double seconds[N_PHASES][MAX_REPEATS];
    double roles[N_PHASES][QMOE_ROLE_COUNT][MAX_REPEATS];
} side;

typedef struct bench {
    qmoe_bench_model_options options; /* defaults filled in */
    qmi_error *err;
    int32_t *ids; /* [n_sequences * the longer phase] for both phases */
    int32_t *prompt_lengths, *ones, *active; /* [n_sequences] */
    int32_t *prompt; /* of a run: ids, then lengths; used up */
    qmi_routing routing;
    size_t n_prompt_calls; /* of routers, of those noted */
    qmi_bench_made_up made_up;
    qmi_bench_ideal ideal;
    qmoe_model *compressed;
    qmi_place place;
    side sides[2]; /* compressed, ideal */
} bench;

/* ---- one run ---- */

/* Of a model without an encoder: all prompts into the caches, and the logits of
 * their last tokens. */
static qmoe_status prefill(bench *b, side *s)
{
    const qmoe_bench_model_options *o = &b->options;
    const size_t n = (size_t)o->n_sequences,
                 n_ids = n * (size_t)o->n_prompt_tokens;
    int32_t *ids = b->prompt, *lengths = b->prompt + n_ids;
    qmi_top top;
    const qmi_batch last = {.ids = ids,
        .sequences = b->active,
        .lengths = lengths,
        .n = n,
        .rows = QMI_LAST_ROWS};
    memcpy(ids, b->ids, n_ids * sizeof *ids);
    memcpy(lengths, b->prompt_lengths, n * sizeof *lengths);
    QMI_TRY(qmi_session_start(s->session, NULL, n, b->err));
    QMI_TRY(qmi_session_prefill(s->session, ids, lengths, n, b->err));
    return qmi_session_decode_top(s->session, &top, 1, &last, b->err);
}

static qmoe_status encode(bench *b, side *s, double *seconds)
{
    const qmoe_bench_model_options *o = &b->options;
    const double begin = qmi_bench_now(false);
    if (qmi_graph_encodes(&s->session->model->graph))
        QMI_TRY(qmi_session_encode(s->session, b->ids, b->prompt_lengths,
            (size_t)o->n_sequences, b->err));
    else
        QMI_TRY(prefill(b, s));
    /* It ends when the device has, not when all is launched. */
    QMI_TRY(s->session->stage.backend->sync(s->session->stage.device, b->err));
    *seconds = qmi_bench_now(false) - begin;
    return QMOE_OK;
}

static qmoe_status decode(bench *b, side *s, double *seconds)
{
    const qmoe_bench_model_options *o = &b->options;
    const double begin = qmi_bench_now(false);
    qmi_top top; /* chosen as a greedy generation does, and left at that */
    qmi_batch batch = {.ids = b->ids,
        .sequences = b->active,
        .lengths = b->ones,
        .n = (size_t)o->n_sequences};
    /* Each step takes the next ids: what the model would say is not fed back,
     * so both sides decode the same tokens. */
    for (int t = 0; t < o->n_tokens; t++, batch.ids += o->n_sequences)
        QMI_TRY(qmi_session_decode_top(s->session, &top, 1, &batch, b->err));
    *seconds = qmi_bench_now(false) - begin;
    return QMOE_OK;
}

static qmoe_status run_once(bench *b, side *s, double seconds[N_PHASES])
{
    /* The recorded choices are taken from the front again. */
    b->routing.next = 0;
    qmi_probe probe = qmi_routing_probe(&b->routing);
    qmi_probe_attach(s->session, &probe);
    qmoe_status status = encode(b, s, &seconds[ENCODE]);
    if (!b->routing.imposes)
        b->n_prompt_calls = b->routing.n_calls;
    if (status == QMOE_OK)
        status = decode(b, s, &seconds[DECODE]);
    /* Also after a failure: the probe lives on this stack. */
    qmi_probe_detach(s->session, &probe);
    return status;
}

/* ---- repetitions ---- */

static qmoe_status run_timed(bench *b, side *s, int repeat)
{
    double seconds[N_PHASES];
    QMI_TRY(run_once(b, s, seconds));
    for (int phase = 0; phase < N_PHASES; phase++)
        s->seconds[phase][repeat] = seconds[phase];
    return QMOE_OK;
}

static qmoe_status run_measured(bench *b, side *s, int repeat)
{
    double seconds[N_PHASES];
    qmoe_role_times times;
    /* Only between these two calls does the session read the clock per role. */
    qmoe_session_measure_roles(s->session, true);
    qmoe_status status = run_once(b, s, seconds);
    qmoe_session_measure_roles(s->session, false);
    qmoe_session_role_times(s->session, &times);
    for (int role = 0; role < QMOE_ROLE_COUNT; role++) {
        s->roles[ENCODE][role][repeat] = times.encode[role];
        s->roles[DECODE][role][repeat] = times.decode[role];
    }
    return status;
}

static qmoe_status run_repeats(bench *b, qmi_hooks *hooks)
{
    const int n = b->options.n_repeats;
    for (int i = 0; i < n; i++) {
        QMI_TRY(qmi_progress(
            hooks, "bench", "tokens", (uint64_t)i + 1, (uint64_t)n + 1));
        /* Neither always follows the other. */
        side *first = &b->sides[i % 2], *second = &b->sides[(i + 1) % 2];
        QMI_TRY(run_timed(b, first, i));
        QMI_TRY(run_timed(b, second, i));
        QMI_TRY(run_measured(b, first, i));
        QMI_TRY(run_measured(b, second, i));
    }
    return qmi_progress(hooks, "bench", NULL, (uint64_t)n + 1, (uint64_t)n + 1);
}

/* ---- routing ---- */

/* Every expert is equally likely, whatever the router says. */
static void make_uniform(bench *b, int64_t n_experts)
{
    qmi_mt19937 rng;
    qmi_mt19937_seed(&rng, b->options.seed + 1);
    for (size_t i = 0; i < b->routing.n; i++)
        b->routing.expert[i] =
            (int32_t)qmi_mt19937_interval(&rng, (uint32_t)(n_experts - 1));
}

/* Different experts of one sparse block, whose router made every n_blocks-th of
 * the calls [first, end). */
static int64_t count_experts(const qmi_routing *r, size_t first, size_t end,
    size_t n_blocks, uint8_t *seen, int64_t n_experts)
{
    int64_t n = 0;
    memset(seen, 0, (size_t)n_experts);
    for (size_t call = first; call < end; call += n_blocks)
        for (size_t i = call != 0 ? r->end[call - 1] : 0; i < r->end[call];
             i++) {
            const int32_t e = r->expert[i];
            /* Distinct ones: what a cache would have to hold. */
            if (e >= 0 && !seen[e]) /* -1: beyond the capacity */
                n += seen[e] = 1;
        }
    return n;
}

static size_t sparse_blocks(const qmoe_model *m, qmi_program program)
{
    size_t n = 0;
    for (int32_t i = 0; i < m->n_blocks; i++)
        n += m->blocks[i].program == program &&
             qmi_block_is_sparse(&m->blocks[i]);
    return n;
}

/* Mean over the n_blocks blocks that took turns in the calls [first, end). */
static double mean_experts(const bench *b, size_t first, size_t end,
    size_t n_blocks, uint8_t *seen, int64_t n_experts)
{
    int64_t n = 0;
    for (size_t i = 0; i < n_blocks; i++)
        n += count_experts(
            &b->routing, first + i, end, n_blocks, seen, n_experts);
    return n_blocks != 0 ? (double)n / (double)n_blocks : 0;
}

static qmoe_status describe_routing(
    bench *b, const qmoe_model *m, qmoe_bench_model_report *out)
{
    const int64_t n_experts = qmi_model_n_experts(m);
    const qmi_program prompts =
        qmi_graph_encodes(&m->graph) ? QMI_ENCODE : QMI_DECODE;
    if (n_experts == 0)
        return QMOE_OK;
    uint8_t *seen = qmi_calloc((size_t)n_experts, 1, "experts", b->err);
    if (seen == NULL)
        return QMOE_E_NOMEM;
    out->experts_encode = mean_experts(
        b, 0, b->n_prompt_calls, sparse_blocks(m, prompts), seen, n_experts);
    out->experts_decode = mean_experts(b, b->n_prompt_calls, b->routing.n_calls,
        sparse_blocks(m, QMI_DECODE), seen, n_experts);
    qmi_free(seen);
    return QMOE_OK;
}

/* ---- results ---- */

static qmoe_bench_phase phase_of(side *s, int phase, int n, double n_tokens)
{
    const qmi_bench_spread seconds =
        qmi_bench_spread_of(s->seconds[phase], (size_t)n);
    qmoe_bench_phase out = {
        .tokens_per_s = n_tokens / seconds.median,
        .p10 = n_tokens / seconds.p90,
        .p90 = n_tokens / seconds.p10,
    };
    for (int role = 0; role < QMOE_ROLE_COUNT; role++)
        out.roles[role] =
            qmi_bench_spread_of(s->roles[phase][role], (size_t)n).median /
            n_tokens;
    return out;
}

/* Before the samples are sorted: of runs that followed each other, since what
 * slows the machine down slows both. */
static double ratio_of(const bench *b, int phase)
{
    double ratios[MAX_REPEATS];
    for (int i = 0; i < b->options.n_repeats; i++)
        ratios[i] =
            b->sides[1].seconds[phase][i] / b->sides[0].seconds[phase][i];
    return qmi_bench_spread_of(ratios, (size_t)b->options.n_repeats).median;
}

/* Ratios first, since the spreads below sort the samples. */
static void fill_report(bench *b, qmoe_bench_model_report *out)
{
    const qmoe_bench_model_options *o = &b->options;
    const double n_encoded = (double)o->n_sequences * o->n_prompt_tokens;
    const double n_decoded = (double)o->n_sequences * o->n_tokens;
    qmoe_bench_run *const runs[] = {&out->compressed, &out->ideal};
    out->encode_ratio = ratio_of(b, ENCODE);
    out->decode_ratio = ratio_of(b, DECODE);
    for (int i = 0; i < 2; i++) {
        runs[i]->encode =
            phase_of(&b->sides[i], ENCODE, o->n_repeats, n_encoded);
        runs[i]->decode =
            phase_of(&b->sides[i], DECODE, o->n_repeats, n_decoded);
    }
    out->n_prompt_tokens = o->n_prompt_tokens;
    out->n_tokens = o->n_tokens;
    out->n_sequences = o->n_sequences;
    out->n_repeats = o->n_repeats;
}

/* ---- set-up ---- */

static qmoe_status fill_defaults(bench *b)
{
    qmoe_bench_model_options *o = &b->options;
    o->n_prompt_tokens = o->n_prompt_tokens != 0 ? o->n_prompt_tokens : 128;
    o->n_tokens = o->n_tokens != 0 ? o->n_tokens : 64;
    o->n_sequences = o->n_sequences != 0 ? o->n_sequences : 1;
    o->n_repeats = o->n_repeats != 0 ? o->n_repeats : 5;
    o->session.size = sizeof o->session;
    if (o->n_prompt_tokens < 1 || o->n_prompt_tokens > MAX_TOKENS ||
        o->n_tokens < 1 || o->n_tokens > MAX_TOKENS || o->n_sequences < 1 ||
        o->n_sequences > MAX_SEQUENCES || o->n_repeats < 1 ||
        o->n_repeats > MAX_REPEATS)
        return qmi_fail(b->err, QMOE_E_INVALID,
            "tokens must be 1 to %d, sequences 1 to %d, repetitions 1 to %d",
            MAX_TOKENS, MAX_SEQUENCES, MAX_REPEATS);
    return QMOE_OK;
}

static qmoe_status make_inputs(bench *b, int64_t vocab_size)
{
    const qmoe_bench_model_options *o = &b->options;
    const size_t n = (size_t)o->n_sequences;
    /* One list of ids serves both phases. */
    const int longer =
        o->n_prompt_tokens > o->n_tokens ? o->n_prompt_tokens : o->n_tokens;
    const size_t n_ids = n * (size_t)longer;
    qmi_mt19937 rng;
    b->ids = qmi_calloc(n_ids, sizeof *b->ids, "token ids", b->err);
    b->prompt_lengths = qmi_calloc(n, sizeof(int32_t), "a batch", b->err);
    b->ones = qmi_calloc(n, sizeof(int32_t), "a batch", b->err);
    b->active = qmi_calloc(n, sizeof(int32_t), "a batch", b->err);
    b->prompt = qmi_calloc(n * ((size_t)o->n_prompt_tokens + 1),
        sizeof(int32_t), "prompts", b->err);
    if (b->ids == NULL || b->prompt == NULL || b->prompt_lengths == NULL ||
        b->ones == NULL || b->active == NULL)
        return QMOE_E_NOMEM;
    qmi_mt19937_seed(&rng, o->seed);
    for (size_t i = 0; i < n_ids; i++)
        b->ids[i] =
            (int32_t)qmi_mt19937_interval(&rng, (uint32_t)vocab_size - 1);
    for (size_t i = 0; i < n; i++) {
        b->prompt_lengths[i] = o->n_prompt_tokens;
        b->ones[i] = 1;
        b->active[i] = (int32_t)i;
    }
    return QMOE_OK;
}

/* Untimed runs: pages come in, payloads are checked, the routing is noted. */
static qmoe_status warm_up(
    bench *b, const qmoe_model *model, qmoe_bench_model_report *out)
{
    double seconds[N_PHASES];
    QMI_TRY(qmi_progress(model->hooks, "bench", "warming up", 0,
        (uint64_t)b->options.n_repeats + 1));
    QMI_TRY(run_once(b, &b->sides[0], seconds));
    /* The first run has shown how many choices there are; their values are
     * replaced. */
    if (b->options.routing == QMOE_BENCH_ROUTING_UNIFORM && b->routing.n != 0)
        make_uniform(b, qmi_model_n_experts(model));
    QMI_TRY(describe_routing(b, model, out));
    /* From here on both sides take the recorded choices. */
    b->routing.imposes = true;
    QMI_TRY(run_once(b, &b->sides[0], seconds));
    return run_once(b, &b->sides[1], seconds);
}

static uint64_t expert_bytes(const qmoe_model *model)
{
    uint64_t n_bytes = 0;
    for (size_t i = 0; i < model->n_weights; i++)
        if (model->weights[i].role == QMOE_ROLE_EXPERTS)
            n_bytes += qmi_weight_bytes(&model->weights[i]);
    return n_bytes;
}

static bool is_compressed(const qmoe_model *model)
{
    for (size_t i = 0; i < model->n_weights; i++)
        if (!model->weights[i].format->dense)
            return true;
    return false;
}

static qmoe_status make_up(bench *b, qmoe_model *given)
{
    const qmoe_bench_model_options *o = &b->options;
    qmi_bench_formats formats;
    QMI_TRY(qmi_bench_format_find(&formats.experts,
        o->format != NULL ? o->format : qmi_formats[0]->name, b->err));
    QMI_TRY(qmi_bench_format_find(&formats.others, o->dense_format, b->err));
    QMI_TRY(qmi_bench_made_up_make(&b->made_up, given, &formats,
        b->place.info.is_gpu ? QMI_BENCH_ALIASED : QMI_BENCH_IN_MEMORY,
        b->err));
    b->compressed = &b->made_up.model;
    return QMOE_OK;
}

/* The two models; a synthetic one gets its codes. */
static qmoe_status make_models(bench *b, qmoe_model *given)
{
    const qmoe_bench_model_options *o = &b->options;
    /* A real model is used as it is. */
    b->compressed = given;
    if (!is_compressed(given) && qmi_model_sparse_count(given) == 0)
        return qmi_fail(b->err, QMOE_E_UNSUPPORTED,
            "the model has neither experts nor compressed weights to time");
    if (qmi_checkpoint_is_generated(given->checkpoint)) {
        if (o->original != NULL)
            return qmi_fail(
                b->err, QMOE_E_INVALID, "a synthetic model has no original");
        QMI_TRY(make_up(b, given));
    } else if (o->dense_format != NULL ||
               (o->format != NULL &&
                   strcmp(o->format, given->expert_format) != 0)) {
        return qmi_fail(b->err, QMOE_E_INVALID,
            "a real model has the formats it has; only a synthetic model can "
            "be asked for others");
    }
    return qmi_bench_ideal_make(&b->ideal, b->compressed,
        o->original != NULL ? o->original : b->compressed, b->err);
}

static qmoe_status make_sessions(bench *b)
{
    /* One place, found once: both sides must run on the same device. */
    qmoe_session_options options = b->options.session;
    options.size = sizeof options;
    options.backend = b->place.backend->name;
    options.device = b->place.info.index;
    options.device_name = NULL;
    QMI_TRY(qmoe_session_create(&b->sides[0].session, b->compressed, &options));
    /* What is shared by all experts needs no cache. */
    options.expert_cache_bytes = 0;
    return qmoe_session_create(&b->sides[1].session, &b->ideal.model, &options);
}

static qmoe_status run_all(
    bench *b, qmoe_model *model, qmoe_bench_model_report *out)
{
    QMI_TRY(fill_defaults(b));
    QMI_TRY(make_inputs(b, model->shape.vocab_size));
    QMI_TRY(qmi_place_choose(&b->place, qmi_context_of(model->hooks),
        b->options.session.backend, b->options.session.device,
        b->options.session.device_name, b->err));
    QMI_TRY(make_models(b, model));
    QMI_TRY(make_sessions(b));
    QMI_TRY(warm_up(b, model, out));
    QMI_TRY(run_repeats(b, model->hooks));
    fill_report(b, out);
    /* Clocks as they are under this load. */
    if (b->place.backend->facts != NULL)
        QMI_TRY(
            b->place.backend->facts(&out->facts, b->place.info.index, b->err));
    qmoe_session_device(b->sides[0].session, &out->device);
    out->n_threads = model->hooks->n_threads;
    out->expert_bytes = expert_bytes(b->compressed);
    out->ideal_expert_bytes = b->ideal.n_bytes;
    out->format = b->compressed->expert_format;
    return QMOE_OK;
}

qmoe_status qmoe_bench_model(qmoe_model *model, qmoe_bench_model_report *out,
    const qmoe_bench_model_options *options)
{
    if (out != NULL)
        *out = (qmoe_bench_model_report){0};
    QMI_TRY(qmi_model_call_begin(model, __func__, out == NULL));
    qmi_error *err = &model->hooks->error;
    bench *b = qmi_calloc(1, sizeof *b, "a bench", err);
    if (b == NULL)
        return qmi_model_call_end(model, QMOE_E_NOMEM);
    b->err = err;
    qmi_copy_options(&b->options, sizeof b->options, options);
    qmoe_status status = run_all(b, model, out);
    /* Sessions before the models they use. */
    for (int i = 0; i < 2; i++)
        qmoe_session_destroy(b->sides[i].session);
    qmi_bench_ideal_free(&b->ideal);
    qmi_bench_made_up_free(&b->made_up);
    qmi_routing_free(&b->routing);
    qmi_free(b->ids);
    qmi_free(b->prompt_lengths);
    qmi_free(b->ones);
    qmi_free(b->active);
    qmi_free(b->prompt);
    qmi_free(b);
    if (status != QMOE_OK)
        *out = (qmoe_bench_model_report){0};
    return qmi_model_call_end(model, status);
}
