/* SPDX-License-Identifier: Apache-2.0
 * Whole models on the emulated CUDA device: the same greedy tokens as on the
 * CPU; memory that is too small; steps launched as graphs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "compare_models.h"
#include "logits.h"
#include "sanitized.h"

static qmoe_context *context;
static int n_loads;

static int on_progress(void *user, const qmoe_progress *p)
{
    (void)user;
    if (strcmp(p->stage, "load") != 0)
        return 0;
    n_loads++;
    return p->done <= p->total ? 0 : 1;
}

static void test_uncompressed(void **state)
{
    (void)state;
    compare_uncompressed(context, "cuda");
}

static void test_compressed(void **state)
{
    (void)state;
    if (is_too_long())
        skip();
    compare_compressed(context, "cuda");
}

static void test_choices(void **state)
{
    (void)state;
    compare_choices(context, "cuda");
}

static qmoe_status try_memory(const char *limits, uint64_t own_limit)
{
    qmoe_model *model = NULL;
    qmoe_session *session = NULL;
    const qmoe_session_options options = {.size = sizeof options,
        .backend = "cuda",
        .device_memory_bytes = own_limit};
    assert_int_equal(
        qmoe_model_open(&model, context, QMOE_SOURCE_DIR "/models/switch-mini"),
        QMOE_OK);
    n_loads = 0;
    setenv("QMOE_CUDA_EMU_LIMITS", limits, 1);
    qmoe_status status = qmoe_session_create(&session, model, &options);
    unsetenv("QMOE_CUDA_EMU_LIMITS");
    qmoe_session_destroy(session);
    qmoe_model_close(model);
    return status;
}

/* Too little is found out before anything is loaded. */
static void test_too_small(void **state)
{
    (void)state;
    assert_int_equal(try_memory("memory=3000000", 0), QMOE_E_NOMEM);
    assert_non_null(strstr(qmoe_context_error(context), "3000000 are free"));
    assert_non_null(strstr(qmoe_context_error(context), "weights need"));
    assert_int_equal(n_loads, 0);
    assert_int_equal(try_memory("", 3000000), QMOE_E_NOMEM);
    assert_non_null(strstr(qmoe_context_error(context), "3000000 are free"));
    assert_int_equal(n_loads, 0);
    assert_int_equal(try_memory("", 0), QMOE_OK);
    assert_true(n_loads > 1);
}

/* ---- graphs ---- */

enum { N_SEQUENCES = 2, N_STEPS = 6 };

/* Logits of all steps of a batch, one of whose sequences ends half way, and
 * what the device was given before each step. */
typedef struct steps {
    float *logits;
    size_t n_logits;
    qmi_launch_counts counts[N_STEPS + 1];
} steps;

static void decode_steps(steps *out, qmoe_session *s, int64_t vocab_size)
{
    static const int32_t ids[] = {5, 6, 7, 8, 9};
    static const int32_t lengths[N_SEQUENCES] = {2, 3};
    int32_t next[N_SEQUENCES] = {0}, ones[N_SEQUENCES] = {1, 1};
    int32_t active[N_SEQUENCES] = {0, 1};
    qmi_error err = {0};
    const bool encodes = qmi_graph_encodes(&s->model->graph);
    if ((encodes ? qmi_session_encode(s, ids, lengths, N_SEQUENCES, &err)
                 : qmi_session_start(s, NULL, N_SEQUENCES, &err)) != QMOE_OK)
        fail_msg("%s", err.text);
    out->n_logits = 0;
    for (int i = 0; i < N_STEPS; i++) {
        const size_t n = i < N_STEPS / 2 ? N_SEQUENCES : N_SEQUENCES - 1;
        float *logits = out->logits + out->n_logits;
        const qmi_batch batch = {
            .ids = next, .sequences = active, .lengths = ones, .n = n};
        s->stage.backend->launch_counts(s->stage.device, &out->counts[i]);
        if (qmi_session_decode(s, logits, &batch, &err) != QMOE_OK)
            fail_msg("%s", err.text);
        out->n_logits += n * (size_t)vocab_size;
        for (size_t k = 0; k < n; k++)
            next[k] = (next[k] * 31 + i + (int32_t)k) % (int32_t)vocab_size;
    }
    s->stage.backend->launch_counts(s->stage.device, &out->counts[N_STEPS]);
}

/* Twice in one session: the second time with all graphs made. */
static void run_steps(steps out[2], const char *directory, const char *graphs)
{
    qmoe_model *model = NULL;
    qmoe_session *session = NULL;
    const qmoe_session_options options = {
        .size = sizeof options, .backend = "cuda"};
    assert_int_equal(qmoe_model_open(&model, context, directory), QMOE_OK);
    setenv("QMOE_CUDA_GRAPHS", graphs, 1);
    assert_int_equal(qmoe_session_create(&session, model, &options), QMOE_OK);
    unsetenv("QMOE_CUDA_GRAPHS");
    for (int i = 0; i < 2; i++) {
        const int64_t vocab_size = model->shape.vocab_size;
        out[i].logits = qmi_calloc(N_STEPS * N_SEQUENCES,
            (size_t)vocab_size * sizeof(float), "logits", NULL);
        decode_steps(&out[i], session, vocab_size);
    }
    qmoe_session_destroy(session);
    qmoe_model_close(model);
}

/* Step i launches nothing by itself and changes nothing of a graph. */
static void expect_replay(const steps *s, int i)
{
    const qmi_launch_counts *a = &s->counts[i], *b = &s->counts[i + 1];
    assert_int_equal(b->single, a->single);
    assert_int_equal(b->updated, a->updated);
    assert_int_equal(b->graphs, a->graphs + 1);
    assert_true(b->replayed > a->replayed + 30);
}

static void check_graphs(const char *directory)
{
    steps on[2], off[2];
    run_steps(on, directory, "on");
    run_steps(off, directory, "off");
    for (int i = 0; i < 2; i++) {
        assert_int_equal(on[i].n_logits, off[i].n_logits);
        assert_memory_equal(
            on[i].logits, off[i].logits, on[i].n_logits * sizeof(float));
        assert_int_equal(off[i].counts[N_STEPS].replayed, 0);
        qmi_free(on[i].logits);
        qmi_free(off[i].logits);
    }
    /* The first step of a batch's size is noted, the second makes the graph. */
    for (int i = 1; i < N_STEPS; i++)
        if (i != N_STEPS / 2)
            expect_replay(&on[0], i);
    for (int i = 0; i < N_STEPS; i++)
        expect_replay(&on[1], i);
}

static void test_graphs(void **state)
{
    (void)state;
    check_graphs(QMOE_SOURCE_DIR "/models/switch-mini");
    check_graphs(QMOE_SOURCE_DIR "/tests/golden/decoders/qwen3-moe");
}

static void test_wrong_wish(void **state)
{
    (void)state;
    setenv("QMOE_CUDA_GRAPHS", "yes", 1);
    assert_int_equal(try_memory("", 0), QMOE_E_INVALID);
    unsetenv("QMOE_CUDA_GRAPHS");
    assert_non_null(strstr(qmoe_context_error(context), "QMOE_CUDA_GRAPHS"));
}

int main(void)
{
    const qmoe_context_options options = {.size = sizeof options,
        .backend_path = QMOE_MODULE_DIR,
        .progress = on_progress};
    char reason[256] = "no cuda entry";
    if (qmoe_context_create(&context, &options) != QMOE_OK)
        return 1;
    if (!find_device(context, "cuda", reason, sizeof reason)) {
        printf("no emulated device: %s\n", reason);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uncompressed),
        cmocka_unit_test(test_compressed),
        cmocka_unit_test(test_choices),
        cmocka_unit_test(test_too_small),
        cmocka_unit_test(test_graphs),
        cmocka_unit_test(test_wrong_wish),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    qmoe_context_destroy(context);
    return failed;
}
