/* SPDX-License-Identifier: Apache-2.0
 * The largest logits of a pass against all of them, and counts that operation
 * top-logits refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "alloc.h"
#include "sampler.h"
#include "logits.h"
#include "probe.h"
#include "top_pass.h"

enum { N_SEQUENCES = 3, N_TOKENS = 6, MAX_STEPS = 8 };

static const int32_t encoder_ids[] = {5, 9, 30, 1, 700, 2, 8};
static const int32_t encoder_lengths[N_SEQUENCES] = {3, 1, 3};
static const int32_t decoder_ids[N_TOKENS] = {0, 17, 4, 0, 0, 2000};
static const int32_t decoder_lengths[N_SEQUENCES] = {3, 1, 2};
static const int32_t active[N_SEQUENCES] = {0, 1, 2};
static const qmi_batch batch = {.ids = decoder_ids,
    .sequences = active,
    .lengths = decoder_lengths,
    .n = N_SEQUENCES};

static qmoe_context *context;
static qmoe_model *model;

static qmoe_session *open_session(const char *backend)
{
    const qmoe_session_options options = {
        .size = sizeof options, .backend = backend};
    qmoe_session *session = NULL;
    if (qmoe_session_create(&session, model, &options) != QMOE_OK)
        fail_msg("%s", qmoe_context_error(context));
    return session;
}

static void encode(qmoe_session *session)
{
    qmi_error err = {0};
    if (qmi_session_encode(session, encoder_ids, encoder_lengths, N_SEQUENCES,
            &err) != QMOE_OK)
        fail_msg("%s", err.text);
}

static qmoe_status decode_top(
    qmoe_session *session, qmi_top *top, int64_t k, qmi_error *err)
{
    return qmi_session_decode_top(session, top, k, &batch, err);
}

static void check_row(
    const float *logits, const float *values, const int32_t *ids, int64_t k)
{
    const int64_t n = model->shape.vocab_size;
    for (int64_t j = 0; j < k; j++) {
        int64_t n_before = 0;
        for (int64_t i = 0; i < n; i++)
            n_before +=
                logits[i] > values[j] || (logits[i] == values[j] && i < ids[j]);
        assert_int_equal(n_before, j);
        assert_memory_equal(&values[j], &logits[ids[j]], sizeof *values);
    }
}

/* Sequences of different lengths in one pass; k goes up and down, so that the
 * memory for results is reused. */
static void test_equals_all(void **state)
{
    (void)state;
    static const char *const backends[] = {"cpu", "reference"};
    static const int64_t counts[] = {5, QMI_TOP_LOGITS_MAX, 1};
    const size_t n = (size_t)model->shape.vocab_size;
    float *logits = qmi_calloc(N_TOKENS * n, sizeof *logits, "logits", NULL);
    qmi_error err = {0};
    for (int b = 0; b < 2; b++) {
        qmoe_session *session = open_session(backends[b]);
        encode(session);
        if (qmi_session_decode(session, logits, &batch, &err) != QMOE_OK)
            fail_msg("%s", err.text);
        for (int i = 0; i < 3; i++) {
            const int64_t k = counts[i];
            qmi_top top;
            encode(session);
            if (decode_top(session, &top, k, &err) != QMOE_OK)
                fail_msg("%s", err.text);
            for (int64_t t = 0; t < N_TOKENS; t++)
                check_row(logits + (size_t)t * n, top.logits + t * k,
                    top.ids + t * k, k);
        }
        qmoe_session_destroy(session);
    }
    qmi_free(logits);
}

/* ---- generation against a choice from all logits ---- */

enum { N_NEW = 12 };
static const char prompt[] = "And the LORD said unto <extra_id_0>, Go.";

static void choose_from_all(int32_t out[N_NEW], qmoe_session *session,
    const qmi_sampler_options *options, uint64_t seed)
{
    const int32_t first = 0, one = 1;
    const int64_t n = model->shape.vocab_size;
    float *logits = qmi_calloc((size_t)n, sizeof *logits, "logits", NULL);
    qmi_sampler *sampler = NULL;
    int32_t *ids = NULL, id = model->shape.start_id;
    size_t n_ids = 0;
    qmi_error err = {0};
    assert_int_equal(qmi_tokenizer_encode(model->tokenizer, &ids, &n_ids,
                         prompt, strlen(prompt), NULL, &err),
        QMOE_OK);
    int32_t *whole = qmi_calloc(n_ids + 1, sizeof *whole, "ids", NULL);
    memcpy(whole, ids, n_ids * sizeof *ids);
    whole[n_ids] = model->shape.end_ids[0];
    const int32_t length = (int32_t)n_ids + 1;
    assert_int_equal(
        qmi_session_encode(session, whole, &length, 1, &err), QMOE_OK);
    assert_int_equal(
        qmi_sampler_create(&sampler, options, n, seed, &err), QMOE_OK);
    const qmi_batch next = {
        .ids = &id, .sequences = &first, .lengths = &one, .n = 1};
    for (int i = 0; i < N_NEW; i++) {
        assert_int_equal(
            qmi_session_decode(session, logits, &next, &err), QMOE_OK);
        id = out[i] = qmi_sampler_pick(sampler, logits);
    }
    qmi_sampler_destroy(sampler);
    qmi_free(ids);
    qmi_free(whole);
    qmi_free(logits);
}

static void test_generation(void **state)
{
    (void)state;
    static const qmi_sampler_options cases[] = {{0, 0, 0, 0}, {0, 7, 0.5f, 0},
        {1.5f, 1, 0, 0}, {3, 40, 0, 0}, {3, 40, 0.9f, 0},
        {6, QMI_TOP_LOGITS_MAX, 0, 0}, {6, QMI_TOP_LOGITS_MAX + 1, 0, 0},
        {3, 0, 0, 0}, {3, 0, 0.9f, 0}, {3, 100000, 0.5f, 0}};
    const char *const prompts[] = {prompt};
    qmoe_session *session = open_session("cpu");
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        const qmoe_generate_options options = {.size = sizeof options,
            .max_new_tokens = N_NEW,
            .temperature = cases[c].temperature,
            .top_k = cases[c].top_k,
            .top_p = cases[c].top_p,
            .seed = c,
            .ignore_eos = true};
        qmoe_generation *got = NULL;
        int32_t want[N_NEW];
        choose_from_all(want, session, &cases[c], c);
        if (qmoe_session_generate(session, &got, NULL, prompts, 1, &options) !=
            QMOE_OK)
            fail_msg("%s", qmoe_context_error(context));
        assert_int_equal(got->n_ids, N_NEW);
        assert_memory_equal(got->ids, want, sizeof want);
        qmoe_generations_free(got, 1);
    }
    qmoe_session_destroy(session);
}

/* ---- roles, refusals, memory ---- */

/* Switches the measuring on when its turn comes after a step of this kind. */
static qmoe_status switch_on(void *user, qmoe_session *session,
    const qmi_step *step, const qmi_pass *pass, qmi_error *err)
{
    (void)pass, (void)err;
    if (step->kind == *(const qmi_op_kind *)user)
        qmoe_session_measure_roles(session, true);
    return QMOE_OK;
}

static void decode_measured_from(
    qmoe_session *session, qmi_op_kind kind, qmoe_role_times *times)
{
    qmi_error err = {0};
    qmi_top top;
    encode(session);
    qmoe_session_measure_roles(session, false);
    qmi_probe probe = {.after = switch_on, .user = &kind};
    qmi_probe_attach(session, &probe);
    assert_int_equal(decode_top(session, &top, 2, &err), QMOE_OK);
    qmi_probe_detach(session, &probe);
    qmoe_session_role_times(session, times);
}

/* The operation's time is the head's, of the decoder.  Measured in the middle
 * of a pass, what began before is left out. */
static void test_roles(void **state)
{
    (void)state;
    const qmi_steps *steps = &model->graph.programs[QMI_DECODE];
    qmoe_session *session = open_session("cpu");
    qmoe_role_times times;
    decode_measured_from(session, steps->items[steps->n - 1].kind, &times);
    for (int i = 0; i < QMOE_ROLE_COUNT; i++) {
        assert_true(times.encode[i] == 0);
        assert_true((times.decode[i] > 0) == (i == QMOE_ROLE_HEAD));
        /* Less than what began at zero. */
        assert_true(times.decode[i] < 60);
    }
    decode_measured_from(session, QMI_OP_TOP_LOGITS, &times);
    assert_true(times.decode[QMOE_ROLE_HEAD] == 0);
    qmoe_session_destroy(session);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        int64_t n_cols, top_k;
    } cases[] = {{10, 0}, {10, -1}, {10, 11}, {0, 1},
        {1000, QMI_TOP_LOGITS_MAX + 1}, {(int64_t)INT32_MAX + 1, 1}};
    static const char *const backends[] = {"cpu", "reference"};
    for (int b = 0; b < 2; b++) {
        qmoe_session *session = open_session(backends[b]);
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
            qmi_error err = {0};
            const qmi_op op = {.kind = QMI_OP_TOP_LOGITS,
                .u.top_logits = {.n_tokens = 1,
                    .n_cols = cases[c].n_cols,
                    .top_k = cases[c].top_k}};
            assert_int_equal(qmi_run(session->stage.backend,
                                 session->stage.device, &op, &err),
                QMOE_E_UNSUPPORTED);
            assert_non_null(strstr(err.text, "top-logits"));
        }
        qmoe_session_destroy(session);
    }
}

/* However early memory runs out, the session works again afterwards. */
static void test_no_memory(void **state)
{
    (void)state;
    qmoe_session *session = open_session("cpu");
    qmi_error err = {0};
    qmi_top top;
    int n_failed = 0;
    for (uint64_t n = 1; n < 1000; n++) {
        encode(session);
        qmi_alloc_fail_after(n);
        const qmoe_status status = decode_top(session, &top, 100, &err);
        qmi_alloc_fail_after(0);
        if (status == QMOE_OK)
            break;
        assert_int_equal(status, QMOE_E_NOMEM);
        assert_null(top.logits);
        n_failed++;
    }
    assert_true(n_failed > 5);
    assert_int_equal(decode_top(session, &top, 100, &err), QMOE_OK);
    qmoe_session_destroy(session);
}

static int set_up(void **state)
{
    (void)state;
    const qmoe_context_options options = {
        .size = sizeof options, .n_threads = 2};
    if (qmoe_context_create(&context, &options) != QMOE_OK)
        return 1;
    return qmoe_model_open(&model, context,
               QMOE_SOURCE_DIR "/models/switch-mini") != QMOE_OK;
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
        cmocka_unit_test(test_equals_all),
        cmocka_unit_test(test_generation),
        cmocka_unit_test(test_roles),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
