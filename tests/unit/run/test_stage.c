/* SPDX-License-Identifier: Apache-2.0
 * A stage runs the steps of its range of blocks and no others: a model in two
 * stages, one after the other on the same buffers, gives the logits of one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "alloc.h"
#include "pass.h"
#include "probe.h"
#include "steps.h"

enum { N_SEQUENCES = 2, N_ENCODER = 4, N_TOKENS = 3 };

static const int32_t encoder_ids[N_ENCODER] = {5, 9, 30, 700};
static const int32_t encoder_lengths[N_SEQUENCES] = {3, 1};
static const int32_t decoder_ids[N_TOKENS] = {0, 17, 4};
static const int32_t decoder_lengths[N_SEQUENCES] = {1, 2};
static const int32_t active[N_SEQUENCES] = {0, 1};
static const qmi_batch batch = {.ids = decoder_ids,
    .sequences = active,
    .lengths = decoder_lengths,
    .n = N_SEQUENCES};

static qmoe_context *context;
static qmoe_model *model;

static qmoe_session *open_session(void)
{
    const qmoe_session_options options = {
        .size = sizeof options, .backend = "cpu"};
    qmoe_session *session = NULL;
    if (qmoe_session_create(&session, model, &options) != QMOE_OK)
        fail_msg("%s", qmoe_context_error(context));
    return session;
}

static void check(qmoe_status status, const qmi_error *err)
{
    if (status != QMOE_OK)
        fail_msg("%s", err->text);
}

static qmoe_status count_step(void *user, qmoe_session *session,
    const qmi_step *step, const qmi_pass *pass, qmi_error *err)
{
    (void)pass, (void)err;
    if (step->block >= 0)
        assert_true(qmi_stage_has_block(&session->stage, step->block));
    ++*(size_t *)user;
    return QMOE_OK;
}

/* A program, its blocks before `cut` first; each of its steps runs once. */
static void run_in_two(qmoe_session *session, const qmi_pass *pass, int32_t cut)
{
    qmi_error err = {0};
    size_t n = 0;
    qmi_probe probe = {.after = count_step, .user = &n};
    qmi_probe_attach(session, &probe);
    session->stage.first_block = 0;
    session->stage.end_block = cut;
    check(qmi_session_run_program(session, pass, &err), &err);
    session->stage.first_block = cut;
    session->stage.end_block = model->n_blocks;
    check(qmi_session_run_program(session, pass, &err), &err);
    session->stage.first_block = 0;
    qmi_probe_detach(session, &probe);
    assert_int_equal(n, model->graph.programs[pass->program].n);
}

static void compute(float *logits, qmoe_session *session, int32_t cut)
{
    qmi_error err = {0};
    qmi_pass pass;
    const size_t n = N_TOKENS * (size_t)model->shape.vocab_size;
    check(qmi_session_start(session, encoder_lengths, N_SEQUENCES, &err), &err);
    check(qmi_session_prepare_encoder(session, &pass, encoder_ids, &err), &err);
    run_in_two(session, &pass, cut);
    pass.program = QMI_CROSS;
    run_in_two(session, &pass, cut);
    check(qmi_session_prepare_decoder(session, &pass, &batch, &err), &err);
    run_in_two(session, &pass, cut);
    check(
        session->stage.backend->buffer_read(session->stage.device, logits,
            qmi_session_output(session, QMI_DECODE), n * sizeof *logits, &err),
        &err);
}

/* Cut 0 is one stage with all blocks. */
static void test_two_stages(void **state)
{
    (void)state;
    const size_t n = N_TOKENS * (size_t)model->shape.vocab_size;
    float *whole = qmi_calloc(n, sizeof *whole, "logits", NULL);
    float *parts = qmi_calloc(n, sizeof *parts, "logits", NULL);
    assert_true(whole != NULL && parts != NULL);
    qmoe_session *session = open_session();
    compute(whole, session, 0);
    for (int32_t cut = 1; cut <= model->n_blocks; cut++) {
        compute(parts, session, cut);
        assert_memory_equal(parts, whole, n * sizeof *whole);
    }
    qmoe_session_destroy(session);
    qmi_free(whole);
    qmi_free(parts);
}

/* Embedding goes with a program's first block, its last norm with the last. */
static void test_outside_of_blocks(void **state)
{
    (void)state;
    qmi_step items[] = {{.block = QMI_BEFORE_BLOCKS},
        {.block = QMI_BEFORE_BLOCKS}, {.block = 4}, {.block = 4}, {.block = 5},
        {.block = QMI_AFTER_BLOCKS}};
    const qmi_steps steps = {.items = items, .n = 6}, none = {0};
    const qmi_steps outside = {.items = items, .n = 2};
    static const struct {
        int32_t first_block, end_block;
        size_t first, last;
    } cases[] = {{0, 4, 6, 6}, {0, 5, 0, 4}, {4, 5, 0, 4}, {5, 6, 4, 6},
        {4, 6, 0, 6}, {6, 9, 6, 6}};
    size_t first, last;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const qmi_stage stage = {.first_block = cases[i].first_block,
            .end_block = cases[i].end_block};
        qmi_stage_steps(&stage, &steps, &first, &last);
        assert_int_equal(first, cases[i].first);
        assert_int_equal(last, cases[i].last);
        qmi_stage_steps(&stage, &none, &first, &last);
        assert_int_equal(first, last);
        /* Without blocks they are the first stage's. */
        qmi_stage_steps(&stage, &outside, &first, &last);
        assert_int_equal(last - first, cases[i].first_block == 0 ? 2 : 0);
    }
}

/* Caches of other stages' blocks take no memory. */
static void test_caches(void **state)
{
    (void)state;
    qmi_error err = {0};
    qmi_pass pass;
    qmoe_session *session = open_session();
    session->stage.end_block = model->n_blocks - 1;
    check(qmi_session_start(session, encoder_lengths, N_SEQUENCES, &err), &err);
    check(qmi_session_prepare_decoder(session, &pass, &batch, &err), &err);
    for (size_t i = 1; i <= model->graph.n_caches; i++)
        assert_true((session->stage.caches[i].buffer != NULL) ==
                    (model->graph.caches[i].block < model->n_blocks - 1));
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
        cmocka_unit_test(test_two_stages),
        cmocka_unit_test(test_outside_of_blocks),
        cmocka_unit_test(test_caches),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
