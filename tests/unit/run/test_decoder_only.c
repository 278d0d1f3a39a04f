/* SPDX-License-Identifier: Apache-2.0
 * A model without an encoder: the decoder of switch-mini, its cross attention
 * left out.  Prompts go through DECODE at once, tokens one by one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "alloc.h"
#include "logits.h"
#include "top_pass.h"

enum { N_PROMPTS = 3, N_NEW = 12, MOST = 64 };

static const int32_t prompt_ids[] = {
    2099, 90, 2098, 2095, 2099, 3, 2098, 90, 2097, 17};
static const size_t prompt_lengths[N_PROMPTS] = {3, 1, 6};

/* Blocks of a prompt are reported up to the last step, no further. */
static uint64_t reported;

static int on_progress(void *user, const qmoe_progress *progress)
{
    (void)user;
    if (strcmp(progress->stage, "encode") != 0)
        return 0;
    assert_true(progress->done <= progress->total);
    reported = progress->done;
    return 0;
}

static qmoe_context *context;
static qmoe_model *model;

/* Cross attention is a norm, queries, the attention and its output. */
static void drop_cross_attention(qmi_graph *graph)
{
    qmi_steps *steps = &graph->programs[QMI_DECODE];
    size_t n = 0;
    for (size_t i = 0; i < steps->n; i++) {
        const qmi_step *two = &steps->items[i + 2 < steps->n ? i + 2 : i];
        const qmi_cache k = two->u.attention.k_cache;
        if (two->kind == QMI_OP_ATTENTION && k != QMI_NONE &&
            graph->caches[k].rule == QMI_CACHE_ENCODED)
            i += 3;
        else
            steps->items[n++] = steps->items[i];
    }
    assert_true(n < steps->n);
    steps->n = n;
    graph->programs[QMI_ENCODE].n = graph->programs[QMI_CROSS].n = 0;
}

static qmoe_session *open_session(const char *backend)
{
    const qmoe_session_options options = {
        .size = sizeof options, .backend = backend};
    qmoe_session *session = NULL;
    if (qmoe_session_create(&session, model, &options) != QMOE_OK)
        fail_msg("%s", qmoe_context_error(context));
    return session;
}

/* The likeliest token after n ids, all of them decoded anew. */
static int32_t next_of(qmoe_session *session, const int32_t *ids, size_t n)
{
    const size_t width = (size_t)model->shape.vocab_size;
    float *logits = qmi_calloc(n * width, sizeof *logits, "logits", NULL);
    assert_non_null(logits);
    if (qmoe_session_logits(session, logits, NULL, 0, ids, n) != QMOE_OK)
        fail_msg("%s", qmoe_context_error(context));
    const float *last = logits + (n - 1) * width;
    size_t best = 0;
    for (size_t i = 1; i < width; i++)
        if (last[i] > last[best])
            best = i;
    qmi_free(logits);
    return (int32_t)best;
}

static qmoe_generation *generate(qmoe_session *session, int top_k)
{
    const int32_t *prompts[N_PROMPTS];
    const qmoe_generate_options options = {.size = sizeof options,
        .max_new_tokens = N_NEW,
        .ignore_eos = true,
        .top_k = top_k,
        .prompt_ids = prompts,
        .n_prompt_ids = prompt_lengths};
    qmoe_generation *out = NULL;
    qmoe_timing timing;
    for (size_t i = 0, at = 0; i < N_PROMPTS; at += prompt_lengths[i++])
        prompts[i] = prompt_ids + at;
    if (qmoe_session_generate(
            session, &out, &timing, NULL, N_PROMPTS, &options) != QMOE_OK)
        fail_msg("%s", qmoe_context_error(context));
    assert_int_equal(timing.n_encoded, sizeof prompt_ids / sizeof *prompt_ids);
    assert_int_equal(timing.n_decoded, N_PROMPTS * (N_NEW - 1));
    return out;
}

/* Three prompts at once give what each gives by itself, without caches. */
static void test_generate(void **state)
{
    (void)state;
    static const char *const backends[] = {"cpu", "reference"};
    for (int b = 0; b < 2; b++) {
        qmoe_session *session = open_session(backends[b]);
        reported = 0;
        qmoe_generation *out = generate(session, 0);
        assert_int_equal(reported, model->graph.programs[QMI_DECODE].n);
        for (size_t i = 0, at = 0; i < N_PROMPTS; at += prompt_lengths[i++]) {
            int32_t ids[MOST];
            size_t n = prompt_lengths[i];
            memcpy(ids, prompt_ids + at, n * sizeof *ids);
            assert_int_equal(out[i].n_prompt_ids, n);
            assert_int_equal(out[i].n_ids, N_NEW);
            for (size_t t = 0; t < N_NEW; t++, n++) {
                ids[n] = next_of(session, ids, n);
                assert_int_equal(out[i].ids[t], ids[n]);
            }
        }
        qmoe_generations_free(out, N_PROMPTS);
        qmoe_session_destroy(session);
    }
}

/* Logits of last tokens alone are those rows of all logits, bit for bit. */
static void test_last_only(void **state)
{
    (void)state;
    static const int32_t sequences[N_PROMPTS] = {0, 1, 2};
    static const int32_t lengths[N_PROMPTS] = {3, 1, 6};
    enum { N_IDS = sizeof prompt_ids / sizeof *prompt_ids };
    const size_t width = (size_t)model->shape.vocab_size;
    float *all = qmi_calloc(N_IDS * width, sizeof *all, "logits", NULL);
    float *last = qmi_calloc(N_PROMPTS * width, sizeof *last, "logits", NULL);
    assert_true(all != NULL && last != NULL);
    qmoe_session *session = open_session("reference");
    qmi_batch batch = {.ids = prompt_ids,
        .sequences = sequences,
        .lengths = lengths,
        .n = N_PROMPTS};
    qmi_error err = {0};
    assert_int_equal(qmi_session_start(session, NULL, N_PROMPTS, &err), 0);
    assert_int_equal(qmi_session_decode(session, all, &batch, &err), 0);
    batch.rows = QMI_LAST_ROWS;
    assert_int_equal(qmi_session_start(session, NULL, N_PROMPTS, &err), 0);
    assert_int_equal(qmi_session_decode(session, last, &batch, &err), 0);
    for (size_t i = 0, end = 0; i < N_PROMPTS; i++) {
        end += (size_t)lengths[i];
        assert_memory_equal(
            last + i * width, all + (end - 1) * width, width * sizeof *last);
    }
    qmoe_session_destroy(session);
    qmi_free(all);
    qmi_free(last);
}

static int set_up(void **state)
{
    (void)state;
    const qmoe_context_options options = {
        .size = sizeof options, .progress = on_progress};
    if (qmoe_context_create(&context, &options) != QMOE_OK ||
        qmoe_model_open(
            &model, context, QMOE_SOURCE_DIR "/models/switch-mini") != QMOE_OK)
        return -1;
    drop_cross_attention(&model->graph);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    qmoe_model_close(model);
    qmoe_context_destroy(context);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_generate),
        cmocka_unit_test(test_last_only),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
