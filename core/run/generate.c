/* SPDX-License-Identifier: Apache-2.0
 * Text generation for a batch of prompts.  In: prompts as texts or ids, and how
 * to choose.  Out: ids and texts, token by token through a hook and as a whole
 * at the end.  All sequences that have not ended take part in each pass, in
 * their order; a sequence's choices depend on its own logits and its own random
 * numbers, so they do not depend on the others of the batch but by rounding. */
#include "top_pass.h"

#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "clock.h"
#include "logits.h"
#include "prefill.h"
#include "probe.h"
#include "sampler.h"
#include "token_stream.h"

enum { DEFAULT_NEW_TOKENS = 64 };

/* One sequence being generated. */
typedef struct sequence {
    int32_t *prompt; /* as the model reads it */
    size_t n_prompt;
    int32_t *ids; /* generated so far */
    size_t n_ids;
    qmi_sampler *sampler;
    qmi_token_stream *stream; /* NULL: no text is shown */
    bool ended;
} sequence;

typedef struct run {
    qmoe_session *session;
    qmoe_generate_options options;
    sequence *sequences;
    size_t n;
    size_t max_new;
    int64_t n_top;    /* logits the choice needs; 0: all */
    float *logits;    /* [n, vocab_size] of all */
    bool *seen;       /* [vocab_size], to penalise repetitions */
    qmi_top top;      /* [n, n_top] else */
    int32_t *prompts; /* packed */
    size_t n_prompts;
    int32_t *next, *active, *lengths; /* [n] of the coming pass */
    size_t n_encoding_steps;          /* done */
    size_t n_passes;                  /* of prompts through a decoder */
    size_t n_encoded;                 /* tokens of prompts */
    bool goes_on; /* the caches have the prompt's first tokens */
    qmi_error *err;
} run;

static bool encodes(const run *r)
{
    return qmi_graph_encodes(&r->session->model->graph);
}

/* The ids of prompt number `index` in a new array. */
static qmoe_status read_prompt(
    run *r, int32_t **ids, size_t *n, const char *const *prompts, size_t index)
{
    if (prompts == NULL) {
        *n = r->options.n_prompt_ids[index];
        *ids = qmi_calloc(*n, sizeof **ids, "a prompt", r->err);
        if (*ids == NULL)
            return QMOE_E_NOMEM;
        memcpy(*ids, r->options.prompt_ids[index], *n * sizeof **ids);
        return QMOE_OK;
    }
    /* What is no UTF-8 has no pieces; the error says where it begins. */
    const char *prompt = prompts[index];
    const size_t n_valid = qmi_utf8_prefix(prompt, strlen(prompt));
    if (prompt[n_valid] != '\0')
        return qmi_fail(r->err, QMOE_E_INVALID,
            "prompt %zu is not UTF-8 text from byte %zu on", index, n_valid);
    const qmi_encode_options options = {.frame = !encodes(r)};
    return qmi_tokenizer_encode(r->session->model->tokenizer, ids, n, prompt,
        strlen(prompt), &options, r->err);
}

/* An encoder reads a prompt up to its end.  A decoder reads it as it is: the
 * tokenizer knows whether texts begin with a start; but it needs a token. */
static qmoe_status frame_prompt(run *r, sequence *s, int32_t *ids, size_t n)
{
    const qmi_shape *shape = &r->session->model->shape;
    s->prompt = qmi_regrow(ids, n, n + 1, sizeof *ids, "a prompt", r->err);
    if (s->prompt == NULL) {
        qmi_free(ids);
        return QMOE_E_NOMEM;
    }
    s->n_prompt = n;
    if (encodes(r))
        s->prompt[s->n_prompt++] = shape->end_ids[0];
    else if (n == 0)
        s->prompt[s->n_prompt++] = shape->start_id;
    return QMOE_OK;
}

static qmoe_status start_sequence(
    run *r, sequence *s, const char *const *prompts, size_t index)
{
    const qmoe_model *model = r->session->model;
    int32_t *ids = NULL;
    size_t n = 0;
    QMI_TRY(read_prompt(r, &ids, &n, prompts, index));
    QMI_TRY(frame_prompt(r, s, ids, n));
    s->ids = qmi_calloc(r->max_new, sizeof *s->ids, "generated ids", r->err);
    if (s->ids == NULL)
        return QMOE_E_NOMEM;
    /* Without a hook nobody sees the text before its end. */
    if (r->options.on_token != NULL && model->tokenizer != NULL)
        QMI_TRY(qmi_token_stream_create(&s->stream, model->tokenizer, r->err));
    const qmi_sampler_options options = {
        .temperature = r->options.temperature,
        .top_k = r->options.top_k,
        .top_p = r->options.top_p,
        .min_p = r->options.min_p,
    };
    /* Prompt i has seed + i: sequences draw from numbers of their own. */
    return qmi_sampler_create(&s->sampler, &options, model->shape.vocab_size,
        r->options.seed + index, r->err);
}

static bool penalises(const run *r)
{
    return r->options.repetition_penalty > 0 &&
           r->options.repetition_penalty != 1;
}

static qmoe_status start(run *r, const char *const *prompts)
{
    size_t n = r->n;
    r->sequences = qmi_calloc(n, sizeof *r->sequences, "sequences", r->err);
    r->next = qmi_calloc(n, sizeof *r->next, "a batch", r->err);
    r->active = qmi_calloc(n, sizeof *r->active, "a batch", r->err);
    r->lengths = qmi_calloc(n, sizeof *r->lengths, "a batch", r->err);
    if (r->sequences == NULL || r->next == NULL || r->active == NULL ||
        r->lengths == NULL)
        return QMOE_E_NOMEM;
    for (size_t i = 0; i < n; i++)
        QMI_TRY(start_sequence(r, &r->sequences[i], prompts, i));
    /* All samplers have the same options, so they need as many logits. */
    r->n_top = qmi_sampler_n_top(r->sequences[0].sampler);
    if (r->n_top >= 1 && r->n_top <= QMI_TOP_LOGITS_MAX && !penalises(r))
        return QMOE_OK;
    /* More candidates than a device sorts: all logits come to the host. */
    r->n_top = 0;
    const size_t vocab_size = (size_t)r->session->model->shape.vocab_size;
    r->logits = qmi_calloc(n * vocab_size, sizeof *r->logits, "logits", r->err);
    r->seen = qmi_calloc(vocab_size, sizeof *r->seen, "seen tokens", r->err);
    return r->logits != NULL && r->seen != NULL ? QMOE_OK : QMOE_E_NOMEM;
}

/* Zeroed members are accepted: start may have failed anywhere. */
static void finish(run *r)
{
    for (size_t i = 0; r->sequences != NULL && i < r->n; i++) {
        qmi_free(r->sequences[i].prompt);
        qmi_free(r->sequences[i].ids);
        qmi_sampler_destroy(r->sequences[i].sampler);
        qmi_token_stream_destroy(r->sequences[i].stream);
    }
    qmi_free(r->sequences);
    qmi_free(r->prompts);
    qmi_free(r->logits);
    qmi_free(r->seen);
    qmi_free(r->next);
    qmi_free(r->active);
    qmi_free(r->lengths);
}

static qmoe_status show_encoding(void *user, qmoe_session *session,
    const qmi_step *step, const qmi_pass *pass, qmi_error *err)
{
    run *r = user;
    const qmoe_model *m = session->model;
    const qmi_steps *programs = m->graph.programs;
    /* Progress by block: the number of steps means nothing to a user. */
    const int n_blocks = (int)qmi_model_block_count(m, pass->program);
    const size_t n = encodes(r) ? programs[QMI_ENCODE].n + programs[QMI_CROSS].n
                                : programs[QMI_DECODE].n * r->n_passes;
    (void)err;
    char item[80];
    /* The first choice of tokens belongs to no block. */
    if (step->kind == QMI_OP_TOP_LOGITS)
        return QMOE_OK;
    r->n_encoding_steps++;
    if (pass->program == QMI_CROSS)
        snprintf(item, sizeof item, "keys and values of the decoder");
    else
        snprintf(item, sizeof item, "block %d of %d",
            step->block == QMI_AFTER_BLOCKS ? n_blocks : (int)step->block + 1,
            n_blocks);
    return qmi_progress(m->hooks, "encode", item, r->n_encoding_steps, n);
}

/* All prompts, one after the other: the first batch. */
static qmoe_status pack_prompts(run *r)
{
    /* No padding: sequences lie back to back. */
    size_t n = 0;
    for (size_t i = 0; i < r->n; i++)
        n += r->sequences[i].n_prompt;
    r->prompts = qmi_calloc(n, sizeof *r->prompts, "prompts", r->err);
    if (r->prompts == NULL)
        return QMOE_E_NOMEM;
    for (size_t i = 0; i < r->n; i++) {
        const sequence *s = &r->sequences[i];
        memcpy(r->prompts + r->n_prompts, s->prompt,
            s->n_prompt * sizeof *s->prompt);
        r->n_prompts += s->n_prompt;
        r->lengths[i] = (int32_t)s->n_prompt;
        r->active[i] = (int32_t)i;
    }
    return QMOE_OK;
}

/* The text of a sequence; "" without a tokenizer. */
static qmoe_status read_text(run *r, char **text, const sequence *s)
{
    const qmi_tokenizer *tokenizer = r->session->model->tokenizer;
    if (tokenizer != NULL)
        return qmi_tokenizer_decode(
            tokenizer, text, s->ids, s->n_ids, false, r->err);
    *text = qmi_strdup("", r->err);
    return *text != NULL ? QMOE_OK : QMOE_E_NOMEM;
}

/* Hands the newest token and the text it adds to the caller's hook. */
static qmoe_status show(run *r, size_t index, bool last)
{
    const sequence *s = &r->sequences[index];
    const int32_t id = s->ids[s->n_ids - 1];
    const char *text = "";
    if (r->options.on_token == NULL)
        return QMOE_OK;
    if (s->stream != NULL)
        QMI_TRY(qmi_token_stream_add(s->stream, &text, id, last, r->err));
    const int stop = r->options.on_token(r->options.user, index, id, text);
    /* A hook may have closed the session. */
    QMI_TRY(qmi_session_check(r->session, r->err));
    if (stop == 0)
        return QMOE_OK;
    /* The caller's own wish, told as such. */
    return qmi_fail(r->err, QMOE_E_CANCELLED, "cancelled");
}

/* One pass over tokens of the first n_active sequences of `active`: logits of
 * the last of each, as many as the choice needs. */
static qmoe_status decode_pass(run *r, const int32_t *ids, size_t n_active)
{
    const qmi_batch batch = {.ids = ids,
        .sequences = r->active,
        .lengths = r->lengths,
        .n = n_active,
        .rows = QMI_LAST_ROWS};
    if (r->n_top != 0)
        return qmi_session_decode_top(
            r->session, &r->top, r->n_top, &batch, r->err);
    return qmi_session_decode(r->session, r->logits, &batch, r->err);
}

/* Each token once, however often it has come (CTRL, arXiv 1909.05858). */
static void penalise(const run *r, const sequence *s, float *logits)
{
    const float penalty = r->options.repetition_penalty;
    const size_t vocab_size = (size_t)r->session->model->shape.vocab_size;
    const size_t n = s->n_prompt + s->n_ids;
    memset(r->seen, 0, vocab_size * sizeof *r->seen);
    for (size_t i = 0; i < n; i++) {
        const int32_t id =
            i < s->n_prompt ? s->prompt[i] : s->ids[i - s->n_prompt];
        if (r->seen[id])
            continue;
        r->seen[id] = true;
        logits[id] =
            logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty;
    }
}

/* The choice for sequence number i of the pass. */
static int32_t pick(const run *r, const sequence *s, size_t i)
{
    qmi_sampler *sampler = s->sampler;
    const size_t n_top = (size_t)r->n_top;
    if (n_top != 0)
        return qmi_sampler_pick_top(
            sampler, r->top.logits + i * n_top, r->top.ids + i * n_top);
    float *logits = r->logits + i * (size_t)r->session->model->shape.vocab_size;
    if (penalises(r))
        penalise(r, s, logits);
    return qmi_sampler_pick(sampler, logits);
}

/* Picks the next token of every active sequence; fills the next pass. */
static qmoe_status pick_tokens(run *r, size_t *n_active)
{
    const qmi_shape *shape = &r->session->model->shape;
    size_t n = 0;
    /* Ended sequences leave the lists; the others keep their order. */
    for (size_t i = 0; i < *n_active; i++) {
        sequence *s = &r->sequences[r->active[i]];
        int32_t id = pick(r, s, i);
        s->ids[s->n_ids++] = id;
        s->ended = qmi_shape_is_end(shape, id) && !r->options.ignore_eos;
        const bool last = s->ended || s->n_ids == r->max_new;
        QMI_TRY(show(r, (size_t)r->active[i], last));
        /* Its last token is not decoded: nothing follows. */
        if (last)
            continue;
        /* n never passes i, so nothing is overwritten that is still needed. */
        r->active[n] = r->active[i];
        r->next[n++] = id;
    }
    *n_active = n;
    return QMOE_OK;
}

/* Rows that the caches have of the only prompt's first tokens are used again.
 * Its last token is not among them: a choice needs its logits. */
static qmoe_status skip_cached(run *r)
{
    const qmoe_session *s = r->session;
    size_t n = 0;
    if (!r->options.reuse_cache || r->n != 1 || encodes(r))
        return QMOE_OK;
    while (n < s->n_cached_ids && n + 1 < r->n_prompts &&
           s->cached_ids[n] == r->prompts[n])
        n++;
    if (n == 0)
        return QMOE_OK;
    QMI_TRY(qmi_session_rewind(r->session, n, r->err));
    /* Whatever happens: rows behind them are no longer what was noted. */
    r->session->n_cached_ids = n;
    r->goes_on = true;
    r->lengths[0] -= (int32_t)n;
    memmove(
        r->prompts, r->prompts + n, (size_t)r->lengths[0] * sizeof *r->prompts);
    return QMOE_OK;
}

/* Notes what the caches have: all but the last token, which nothing has
 * followed. */
static qmoe_status note_cached(run *r)
{
    qmoe_session *session = r->session;
    const sequence *s = r->sequences;
    session->n_cached_ids = 0;
    if (r->n != 1 || encodes(r))
        return QMOE_OK;
    const size_t n = (size_t)session->sequences[0].position;
    qmi_free(session->cached_ids);
    session->cached_ids =
        qmi_calloc(n + 1, sizeof *session->cached_ids, "ids", r->err);
    if (session->cached_ids == NULL)
        return QMOE_E_NOMEM;
    for (size_t i = 0; i < n; i++)
        session->cached_ids[i] =
            i < s->n_prompt ? s->prompt[i] : s->ids[i - s->n_prompt];
    session->n_cached_ids = n;
    return QMOE_OK;
}

/* Takes the prompts through the encoder.  Without one they go through the
 * decoder, which then has logits for a first choice. */
static qmoe_status read_prompts(run *r)
{
    if (encodes(r))
        return qmi_session_encode(
            r->session, r->prompts, r->lengths, r->n, r->err);
    if (!r->goes_on)
        QMI_TRY(qmi_session_start(r->session, NULL, r->n, r->err));
    QMI_TRY(
        qmi_session_prefill(r->session, r->prompts, r->lengths, r->n, r->err));
    return decode_pass(r, r->prompts, r->n);
}

/* Only while prompts are read: decoding has the token hook. */
static qmoe_status prefill(run *r)
{
    QMI_TRY(pack_prompts(r));
    QMI_TRY(skip_cached(r));
    for (size_t i = 0; i < r->n; i++)
        r->n_encoded += (size_t)r->lengths[i];
    r->n_passes = (size_t)qmi_prefill_passes(r->lengths, r->n);
    qmi_probe probe = {.after = show_encoding, .user = r};
    qmi_probe_attach(r->session, &probe);
    qmoe_status status = read_prompts(r);
    qmi_probe_detach(r->session, &probe);
    return status;
}

static qmoe_status decode_all(run *r, qmoe_timing *timing)
{
    size_t n_active = r->n;
    /* The decoder begins with its start token; without an encoder the prompts
     * were its first pass. */
    for (size_t i = 0; i < r->n; i++) {
        r->next[i] = r->session->model->shape.start_id;
        r->lengths[i] = 1;
    }
    if (!encodes(r))
        QMI_TRY(pick_tokens(r, &n_active));
    while (n_active != 0) {
        timing->n_decoded += n_active;
        QMI_TRY(decode_pass(r, r->next, n_active));
        QMI_TRY(pick_tokens(r, &n_active));
    }
    return QMOE_OK;
}

/* Moves the results to the caller's array. */
static qmoe_status hand_over(run *r, qmoe_generation **out)
{
    /* What was handed over is the caller's; the rest is freed by finish. */
    qmoe_generation *results =
        qmi_calloc(r->n, sizeof *results, "results", r->err);
    if (results == NULL)
        return QMOE_E_NOMEM;
    for (size_t i = 0; i < r->n; i++) {
        sequence *s = &r->sequences[i];
        qmoe_status status = read_text(r, &results[i].text, s);
        if (status != QMOE_OK) {
            qmoe_generations_free(results, i);
            return status;
        }
        results[i].ids = s->ids;
        results[i].n_ids = s->n_ids;
        results[i].n_prompt_ids = s->n_prompt;
        results[i].ended = s->ended;
        s->ids = NULL;
    }
    *out = results;
    return QMOE_OK;
}

static qmi_launch_counts launch_counts(const qmoe_session *session)
{
    qmi_launch_counts counts = {0};
    if (session->stage.backend->launch_counts != NULL)
        session->stage.backend->launch_counts(session->stage.device, &counts);
    return counts;
}

static qmoe_status generate(run *r, qmoe_generation **out, qmoe_timing *timing,
    const char *const *prompts)
{
    /* Before anything is launched: the session may have run before. */
    const qmi_launch_counts before = launch_counts(r->session);
    if (prompts != NULL)
        QMI_TRY(qmi_model_need_tokenizer(r->session->model, r->err));
    QMI_TRY(start(r, prompts));
    /* Reading and framing of prompts is not counted as encoding. */
    double begin = qmi_seconds();
    QMI_TRY(prefill(r));
    double encoded = qmi_seconds();
    timing->encode_seconds = encoded - begin;
    timing->n_encoded = r->n_encoded;
    QMI_TRY(decode_all(r, timing));
    timing->decode_seconds = qmi_seconds() - encoded;
    QMI_TRY(note_cached(r));
    const qmi_launch_counts after = launch_counts(r->session);
    /* Only what this call has launched. */
    timing->n_replayed = after.replayed - before.replayed;
    timing->n_launches = after.single - before.single + timing->n_replayed;
    return hand_over(r, out);
}

static qmoe_status check_arguments(const run *r, const char *const *prompts)
{
    if (r->n == 0 || r->options.max_new_tokens < 0 || r->options.top_k < 0 ||
        !(r->options.repetition_penalty >= 0))
        return qmi_fail(r->err, QMOE_E_INVALID,
            "generate needs a prompt and non-negative limits");
    const qmoe_generate_options *o = &r->options;
    /* Both or neither leaves open what is meant. */
    if ((prompts == NULL) == (o->prompt_ids == NULL))
        return qmi_fail(r->err, QMOE_E_INVALID,
            "prompts are given as texts or as ids, one of the two");
    if (prompts == NULL && o->n_prompt_ids == NULL)
        return qmi_fail(r->err, QMOE_E_INVALID, "lengths of prompts are NULL");
    for (size_t i = 0; i < r->n; i++)
        if (prompts != NULL ? prompts[i] == NULL : o->prompt_ids[i] == NULL)
            return qmi_fail(r->err, QMOE_E_INVALID, "prompt %zu is NULL", i);
    return QMOE_OK;
}

static qmoe_status generate_checked(run *r, qmoe_generation **out,
    qmoe_timing *timing, const char *const *prompts)
{
    /* Before anything is allocated, so nothing has to be cleaned up. */
    QMI_TRY(check_arguments(r, prompts));
    r->max_new = r->options.max_new_tokens != 0
                     ? (size_t)r->options.max_new_tokens
                     : DEFAULT_NEW_TOKENS;
    qmoe_status status = generate(r, out, timing, prompts);
    finish(r);
    return status;
}

qmoe_status qmoe_session_generate(qmoe_session *session, qmoe_generation **out,
    qmoe_timing *timing, const char *const *prompts, size_t n_prompts,
    const qmoe_generate_options *options)
{
    qmoe_timing unused;
    timing = timing != NULL ? timing : &unused;
    *timing = (qmoe_timing){0};
    if (out != NULL)
        *out = NULL;
    QMI_TRY(qmi_session_call_begin(session, __func__, out == NULL));
    run r = {.session = session,
        .n = n_prompts,
        .err = &session->model->hooks->error};
    qmi_copy_options(&r.options, sizeof r.options, options);
    return qmi_session_call_end(
        session, generate_checked(&r, out, timing, prompts));
}

void qmoe_generations_free(qmoe_generation *generations, size_t n)
{
    if (generations == NULL)
        return;
    for (size_t i = 0; i < n; i++) {
        qmi_free(generations[i].text);
        qmi_free(generations[i].ids);
    }
    qmi_free(generations);
}
