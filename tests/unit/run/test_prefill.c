/* SPDX-License-Identifier: Apache-2.0
 * Long prompts in portions, conversations that go on from the caches, and
 * narrower caches, on a tiny decoder-only model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "logits.h"
#include "prefill.h"

enum { VOCAB = 96, N_LONG = 700, N_PROMPTS = 2 };
static const int32_t lengths[N_PROMPTS] = {N_LONG, 290};

static qmoe_context *context;
static qmoe_model *model;

static int open_model(void **state)
{
    (void)state;
    return qmoe_context_create(&context, NULL) != QMOE_OK ||
           qmoe_model_open(&model, context,
               QMOE_SOURCE_DIR "/tests/golden/decoders/qwen3-moe") != QMOE_OK;
}

static int close_model(void **state)
{
    (void)state;
    qmoe_model_close(model);
    qmoe_context_destroy(context);
    return 0;
}

static qmoe_session *open_session(const char *kv_type)
{
    qmoe_session *session;
    const qmoe_session_options options = {
        .size = sizeof options, .backend = "cpu", .kv_type = kv_type};
    if (qmoe_session_create(&session, model, &options) != QMOE_OK)
        fail_msg("%s", qmoe_context_error(context));
    return session;
}

static void fill_ids(int32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ids[i] = 3 + (int32_t)(i * i % (VOCAB - 3));
}

/* The logits of the last token of each prompt. */
static void run(float *logits, bool in_portions)
{
    qmi_error err = {0};
    int32_t ids[N_LONG * N_PROMPTS], left[N_PROMPTS];
    const int32_t sequences[N_PROMPTS] = {0, 1};
    qmoe_session *session = open_session(NULL);
    fill_ids(ids, sizeof ids / sizeof *ids);
    memcpy(left, lengths, sizeof left);
    assert_int_equal(qmi_session_start(session, NULL, N_PROMPTS, &err), 0);
    if (in_portions) {
        assert_int_equal(
            qmi_session_prefill(session, ids, left, N_PROMPTS, &err), 0);
        /* 256 tokens each at a time: 700 = 2 * 256 + 188, 290 = 256 + 34. */
        assert_int_equal(left[0], 188);
        assert_int_equal(left[1], 34);
        assert_int_equal(session->sequences[0].position, 512);
    }
    const qmi_batch batch = {.ids = ids,
        .sequences = sequences,
        .lengths = left,
        .n = N_PROMPTS,
        .rows = QMI_LAST_ROWS};
    if (qmi_session_decode(session, logits, &batch, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    qmoe_session_destroy(session);
}

static float largest_difference(const float *a, const float *b, size_t n)
{
    float worst = 0;
    for (size_t i = 0; i < n; i++)
        worst = fmaxf(worst, fabsf(a[i] - b[i]));
    return worst;
}

static void reads_prompts_in_portions(void **state)
{
    (void)state;
    float whole[N_PROMPTS * VOCAB], portions[N_PROMPTS * VOCAB];
    assert_int_equal(qmi_prefill_passes(lengths, N_PROMPTS), 3);
    run(whole, false);
    run(portions, true);
    assert_true(largest_difference(whole, portions, N_PROMPTS * VOCAB) < 1e-3f);
}

static qmoe_generation *generate(qmoe_session *session, const int32_t *ids,
    size_t n, bool reuse, qmoe_timing *timing)
{
    qmoe_generation *out;
    const qmoe_generate_options options = {.size = sizeof options,
        .max_new_tokens = 5,
        .ignore_eos = true,
        .prompt_ids = &ids,
        .n_prompt_ids = &n,
        .reuse_cache = reuse};
    if (qmoe_session_generate(session, &out, timing, NULL, 1, &options) !=
        QMOE_OK)
        fail_msg("%s", qmoe_context_error(context));
    return out;
}

/* A second turn: what came before, its answer, and more. */
static void goes_on_from_caches(void **state)
{
    (void)state;
    enum { N_FIRST = 20, N_MORE = 7 };
    int32_t ids[N_FIRST + 5 + N_MORE];
    qmoe_timing timing;
    qmoe_session *session = open_session(NULL), *fresh = open_session(NULL);
    fill_ids(ids, N_FIRST);
    qmoe_generation *first = generate(session, ids, N_FIRST, true, &timing);
    assert_int_equal(timing.n_encoded, N_FIRST);
    memcpy(ids + N_FIRST, first->ids, 5 * sizeof *ids);
    fill_ids(ids + N_FIRST + 5, N_MORE);
    const size_t n = N_FIRST + 5 + N_MORE;
    qmoe_generation *second = generate(session, ids, n, true, &timing);
    /* The answer's last token was not decoded. */
    assert_int_equal(timing.n_encoded, N_MORE + 1);
    qmoe_generation *plain = generate(fresh, ids, n, false, &timing);
    assert_int_equal(timing.n_encoded, n);
    assert_memory_equal(second->ids, plain->ids, 5 * sizeof *ids);
    /* Another prompt shares its first tokens alone. */
    ids[12] = 5;
    qmoe_generations_free(second, 1);
    second = generate(session, ids, n, true, &timing);
    assert_int_equal(timing.n_encoded, n - 12);
    qmoe_generations_free(first, 1);
    qmoe_generations_free(second, 1);
    qmoe_generations_free(plain, 1);
    qmoe_session_destroy(session);
    qmoe_session_destroy(fresh);
}

static void keeps_caches_narrow(void **state)
{
    (void)state;
    enum { N = 40 };
    static const struct {
        const char *type;
        float least, most; /* difference to f32 */
    } types[] = {{"f32", 0, 0}, {"f16", 1e-6f, 0.1f}, {"q8", 1e-4f, 2}};
    static float wide[N * VOCAB], narrow[N * VOCAB];
    int32_t ids[N];
    fill_ids(ids, N);
    for (int i = 0; i < 3; i++) {
        qmoe_session *session = open_session(types[i].type);
        float *logits = i == 0 ? wide : narrow;
        if (qmoe_session_logits(session, logits, NULL, 0, ids, N) != QMOE_OK)
            fail_msg("%s", qmoe_context_error(context));
        const float d = largest_difference(wide, logits, N * VOCAB);
        printf("  %s: %g\n", types[i].type, (double)d);
        assert_true(d >= types[i].least && d <= types[i].most);
        qmoe_session_destroy(session);
    }
    qmoe_session *session;
    const qmoe_session_options options = {
        .size = sizeof options, .backend = "cpu", .kv_type = "q3"};
    assert_int_equal(
        qmoe_session_create(&session, model, &options), QMOE_E_INVALID);
    assert_non_null(strstr(qmoe_context_error(context), "f32, f16, q8"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_prompts_in_portions),
        cmocka_unit_test(goes_on_from_caches),
        cmocka_unit_test(keeps_caches_narrow),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
