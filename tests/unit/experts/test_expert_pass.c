/* SPDX-License-Identifier: Apache-2.0
 * The calibration's way through a model, block by block with the experts
 * between the parts of a block, against a session that runs each block at once:
 * states behind every block are equal, with several experts per token, shared
 * experts behind them, and dense blocks between sparse ones.  Argument: a
 * backend instead of the reference. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "context.h"
#include "expert_pass.h"
#include "expert_trial.h"
#include "probe.h"

enum { N_TOKENS = 300, N_SEQUENCES = 2, MOST_BLOCKS = 3, MOST_WIDTH = 64 };

static const char *backend = "reference";

/* States behind each block, of one run of all steps. */
typedef struct record {
    float states[MOST_BLOCKS][N_TOKENS * MOST_WIDTH];
} record;

static qmoe_status after_step(void *user, qmoe_session *s, const qmi_step *step,
    const qmi_pass *pass, qmi_error *err)
{
    record *r = user;
    const qmi_graph *graph = &s->model->graph;
    if (step->block < 0 || step->dst != graph->residual)
        return QMOE_OK;
    const qmi_view view = {.buffer = s->stage.slots[graph->residual].buffer};
    /* The last step of a block that writes there is what remains. */
    return s->stage.backend->buffer_read(s->stage.device,
        r->states[step->block], view,
        (uint64_t)(pass->n_tokens * s->model->shape.d_model) * sizeof(float),
        err);
}

static void run_whole(record *out, qmi_forward *f)
{
    qmi_error err = {0};
    const qmi_token_set *set = &f->calibration->sets[QMI_DECODE];
    const int32_t sequences[N_SEQUENCES] = {0, 1};
    int32_t lengths[N_SEQUENCES];
    int64_t n_rows;
    qmoe_session *session = NULL;
    const qmoe_session_options options = {
        .size = sizeof options, .backend = backend};
    for (size_t i = 0; i < N_SEQUENCES; i++)
        lengths[i] = (int32_t)qmi_sequence_length(set, i);
    const qmi_batch batch = {.ids = set->ids,
        .sequences = sequences,
        .lengths = lengths,
        .n = N_SEQUENCES};
    qmi_probe probe = {.after = after_step, .user = out};
    assert_int_equal(
        qmoe_session_create(&session, f->session->model, &options), QMOE_OK);
    qmi_probe_attach(session, &probe);
    assert_int_equal(
        qmi_session_start(session, NULL, N_SEQUENCES, &err), QMOE_OK);
    if (qmi_session_decode_pass(session, &n_rows, &batch, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    qmi_probe_detach(session, &probe);
    qmoe_session_destroy(session);
}

static void compare(
    const char *name, int32_t block, const qmi_forward *f, const record *whole)
{
    qmi_error err = {0};
    const qmi_states *states = &f->states[QMI_DECODE];
    static float got[N_TOKENS * MOST_WIDTH];
    float worst = 0, range = 0;
    assert_int_equal(qmi_states_read(states, got, 0, N_TOKENS, &err), QMOE_OK);
    for (int64_t i = 0; i < N_TOKENS * states->width; i++) {
        range = fmaxf(range, fabsf(whole->states[block][i]));
        worst = fmaxf(worst, fabsf(got[i] - whole->states[block][i]));
    }
    printf("  %s block %d: worst error %.3g of %.3g\n", name, (int)block,
        (double)worst, (double)range);
    assert_true(range > 0 && worst <= 1e-5f * range);
}

static void step_through(const char *name, qmi_forward *f, const record *whole)
{
    qmi_error err = {0};
    qmi_expert_pass *pass = NULL;
    qmoe_model *m = f->session->model;
    const qmi_expert_pass_options options = {.n_workers = 2};
    assert_int_equal(
        qmi_expert_pass_create(&pass, m, f, &options, &err), QMOE_OK);
    assert_int_equal(qmi_forward_embed(f, QMI_DECODE, &err), QMOE_OK);
    for (int32_t b = 0; b < m->n_blocks; b++) {
        if (qmi_forward_block(f, b, &err) != QMOE_OK)
            fail_msg("%s", err.text);
        if (qmi_block_is_sparse(&m->blocks[b])) {
            const int64_t n = m->blocks[b].ffn.n_experts;
            assert_int_equal(qmi_expert_pass_block(pass, b, &err), QMOE_OK);
            /* In two groups. */
            if (qmi_expert_pass_through(pass, 0, n / 2, &err) != QMOE_OK ||
                qmi_expert_pass_through(pass, n / 2, n - n / 2, &err) !=
                    QMOE_OK ||
                qmi_forward_after_experts(f, b, &err) != QMOE_OK)
                fail_msg("%s", err.text);
        }
        compare(name, b, f, whole);
    }
    qmi_expert_pass_destroy(pass);
}

static void check_model(const char *name)
{
    static record whole;
    int32_t ids[N_TOKENS];
    float weight[N_TOKENS];
    int64_t begin[N_SEQUENCES + 1] = {0, 110, N_TOKENS};
    char path[512];
    qmi_error err = {0};
    qmoe_context *context = NULL;
    qmoe_model *model = NULL;
    qmi_forward forward;
    for (int i = 0; i < N_TOKENS; i++) {
        ids[i] = 3 + i * i % 91;
        weight[i] = 1;
    }
    const qmi_calibration calibration = {.n_samples = N_SEQUENCES,
        .sets[QMI_DECODE] = {.n_tokens = N_TOKENS,
            .longest = N_TOKENS - 110,
            .n_sequences = N_SEQUENCES,
            .ids = ids,
            .begin = begin,
            .weight = weight}};
    const qmoe_session_options place = {
        .size = sizeof place, .backend = backend};
    snprintf(path, sizeof path, "%s/tests/golden/decoders/%s", QMOE_SOURCE_DIR,
        name);
    assert_int_equal(qmoe_context_create(&context, NULL), QMOE_OK);
    assert_int_equal(qmoe_model_open(&model, context, path), QMOE_OK);
    if (qmi_forward_create(&forward, model, &calibration, NULL, &place, &err) !=
        QMOE_OK)
        fail_msg("%s %s", err.text, qmoe_context_error(context));
    run_whole(&whole, &forward);
    step_through(name, &forward, &whole);
    qmi_forward_destroy(&forward);
    qmoe_model_close(model);
    qmoe_context_destroy(context);
}

static void test_blocks(void **state)
{
    (void)state;
    check_model("mixtral");
    check_model("olmoe");
    check_model("qwen3-moe");
    check_model("qwen2-moe");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_blocks)};
    if (argc > 1)
        backend = argv[1];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
