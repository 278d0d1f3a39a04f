/* SPDX-License-Identifier: Apache-2.0
 * Times by role, imposed routing, and the ideal uncompressed model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "alloc.h"
#include "bench_ideal.h"
#include "context.h"
#include "logits.h"
#include "routing.h"

enum { N_IDS = 6, VOCAB = 1 << 16 };

static const int32_t ids[N_IDS] = {5, 9, 3, 7, 2, 11}, length = N_IDS;
static const int32_t first = 0, one = 1;

static qmoe_context *context;
static qmoe_model *model;

static int open_model(void **state)
{
    (void)state;
    const qmoe_context_options options = {
        .size = sizeof options, .n_threads = 1};
    return qmoe_context_create(&context, &options) == QMOE_OK &&
                   qmoe_model_open(&model, context,
                       QMOE_SOURCE_DIR "/models/switch-mini") == QMOE_OK
               ? 0
               : -1;
}

static int close_model(void **state)
{
    (void)state;
    qmoe_model_close(model);
    qmoe_context_destroy(context);
    return 0;
}

static qmoe_session *make_session(qmoe_model *of)
{
    qmoe_session *session = NULL;
    const qmoe_session_options options = {
        .size = sizeof options, .backend = "cpu"};
    assert_int_equal(qmoe_session_create(&session, of, &options), QMOE_OK);
    return session;
}

/* Encodes and decodes one token. */
static void pass(qmoe_session *session, float *logits)
{
    qmi_error *err = &context->hooks.error;
    const qmi_batch batch = {
        .ids = ids, .sequences = &first, .lengths = &one, .n = 1};
    assert_int_equal(
        qmi_session_encode(session, ids, &length, 1, err), QMOE_OK);
    assert_int_equal(qmi_session_decode(session, logits, &batch, err), QMOE_OK);
}

static void test_roles(void **state)
{
    (void)state;
    static float logits[VOCAB];
    qmoe_role_times times;
    qmoe_session *session = make_session(model);
    pass(session, logits);
    qmoe_session_role_times(session, &times);
    for (int i = 0; i < QMOE_ROLE_COUNT; i++)
        assert_true(times.encode[i] == 0 && times.decode[i] == 0);
    qmoe_session_measure_roles(session, true);
    pass(session, logits);
    qmoe_session_measure_roles(session, false);
    pass(session, logits);
    qmoe_session_role_times(session, &times);
    for (int i = 0; i < QMOE_ROLE_COUNT; i++) {
        const bool runs =
            i != QMOE_ROLE_SHARED_FFN && i != QMOE_ROLE_POSITION_BIAS;
        assert_true((times.decode[i] > 0) == runs);
        assert_true((times.encode[i] > 0) == (runs && i != QMOE_ROLE_HEAD));
    }
    qmoe_session_measure_roles(session, true);
    qmoe_session_role_times(session, &times);
    assert_true(times.decode[QMOE_ROLE_HEAD] == 0);
    qmoe_session_destroy(session);
    assert_string_equal(qmoe_role_name(QMOE_ROLE_EXPERTS), "experts");
    assert_null(qmoe_role_name(QMOE_ROLE_COUNT));
}

/* Imposing what was noted changes nothing; imposing other experts does, in the
 * model but not where all experts are the same. */
static void test_routing(void **state)
{
    (void)state;
    static float noted[VOCAB], imposed[VOCAB];
    qmi_error *err = &context->hooks.error;
    qmi_bench_ideal ideal;
    assert_int_equal(qmi_bench_ideal_make(&ideal, model, model, err), QMOE_OK);
    qmoe_model *const models[] = {model, &ideal.model};
    const size_t n_bytes = (size_t)model->shape.vocab_size * sizeof *noted;
    for (int i = 0; i < 2; i++) {
        qmi_routing routing = {0};
        qmoe_session *session = make_session(models[i]);
        qmi_probe probe = qmi_routing_probe(&routing);
        qmi_probe_attach(session, &probe);
        pass(session, noted);
        assert_int_equal(routing.n,
            (size_t)(qmi_model_sparse_count(model) / 2) * (N_IDS + 1));
        routing.imposes = true;
        pass(session, imposed);
        assert_memory_equal(noted, imposed, n_bytes);
        for (size_t j = 0; j < routing.n; j++)
            routing.expert[j] =
                (routing.expert[j] + 1) % (int32_t)qmi_model_n_experts(model);
        routing.next = 0;
        pass(session, imposed);
        assert_int_equal(memcmp(noted, imposed, n_bytes) == 0, i == 1);
        assert_int_equal(
            qmi_session_encode(session, ids, &length, 1, err), QMOE_E_INVALID);
        qmoe_session_destroy(session);
        qmi_routing_free(&routing);
    }
    qmi_bench_ideal_free(&ideal);
}

/* Nothing leaks and nothing is used when memory runs out. */
static void test_out_of_memory(void **state)
{
    (void)state;
    for (uint64_t n = 1;; n++) {
        qmi_bench_ideal ideal;
        qmi_alloc_fail_after(n);
        qmoe_status status =
            qmi_bench_ideal_make(&ideal, model, model, &context->hooks.error);
        qmi_alloc_fail_after(0);
        qmi_bench_ideal_free(&ideal);
        if (status == QMOE_OK)
            break;
        assert_int_equal(status, QMOE_E_NOMEM);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_roles),
        cmocka_unit_test(test_routing),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
