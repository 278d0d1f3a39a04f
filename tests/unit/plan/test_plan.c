/* SPDX-License-Identifier: Apache-2.0
 * Plans: sizes against published ones and against what compression writes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "pvq.h"
#include "q2.h"
#include "qmoe/plan.h"
#include "qmoe/quant.h"
#include "scratch.h"
#include "ternary_dict.h"

#define MINI QMOE_SOURCE_DIR "/models/switch-mini"

static qmoe_context *context;

static void plan(qmoe_plan_report *r, const char *source, const char *format)
{
    /* Rates are given, so that nothing is measured. */
    const qmoe_plan_options options = {
        .size = sizeof options,
        .format = format,
        .memory_bytes = UINT64_C(32) << 30,
        .memory_rate = 1e10,
        .weight_rate = 1e6,
    };
    qmoe_status status = qmoe_plan(context, r, source, &options);
    if (status != QMOE_OK)
        fail_msg("%s: %s", source, qmoe_context_error(context));
}

static void assert_near(double value, double expected, double tolerance)
{
    if (!(value >= expected - tolerance && value <= expected + tolerance))
        fail_msg("%.6g is not %.6g +- %.2g", value, expected, tolerance);
}

/* Expected sizes, and the parameter counts that follow from the
 * published configurations. */
static void test_published_sizes(void **state)
{
    (void)state;
    qmoe_plan_report r;
    plan(&r, "synth:c-2048", "ternary-dict");
    assert_int_equal(r.expert_weights, UINT64_C(1570347417600));
    assert_int_equal(r.n_matrices, 122880);
    assert_int_equal(r.roles[QMOE_ROLE_ROUTER].n_weights, 127795200);
    assert_int_equal(r.roles[QMOE_ROLE_ATTENTION].n_weights, 718848000);
    assert_int_equal(r.roles[QMOE_ROLE_NORM].n_weights, 160160);
    assert_int_equal(r.roles[QMOE_ROLE_POSITION_BIAS].n_weights, 1920);
    assert_int_equal(r.roles[QMOE_ROLE_EMBEDDING].n_weights, 66826240);
    assert_int_equal(r.roles[QMOE_ROLE_HEAD].n_weights, 66826240);
    assert_int_equal(r.roles[QMOE_ROLE_DENSE_FFN].n_weights, 0);
    assert_int_equal(r.source_bytes, 2 * r.total_weights);
    assert_near((double)r.source_bytes / 1e9, 3142.66, 0.01);
    /* Expected of independent weights; published: 20.07, 158.6. */
    assert_near(
        2 * (double)r.expert_weights / (double)r.expert_bytes, 21.11, 0.005);
    assert_near((double)r.total_bytes / 1e9, 150.7, 0.05);
    assert_false(r.exact);
    plan(&r, "synth:c-2048", "pvq");
    assert_near((double)r.total_bytes / 1e9, 113.7, 0.05);
    assert_true(r.exact);
    plan(&r, "synth:large-128", "ternary-dict");
    assert_near(
        2 * (double)r.expert_weights / (double)r.expert_bytes, 20.56, 0.005);
    plan(&r, "synth:base-128", "ternary-dict");
    assert_int_equal(r.roles[QMOE_ROLE_DENSE_FFN].n_weights, 56623104);
}

/* A directory, its config.json alone, and what is written from it. */
static void test_own_sizes(void **state)
{
    (void)state;
    static const char *const formats[] = {"pvq", "pvq8", "q2"};
    qmoe_plan_report r, bare;
    plan(&bare, MINI "/config.json", NULL);
    plan(&r, MINI, NULL);
    assert_memory_equal(r.roles, bare.roles, sizeof r.roles);
    for (size_t i = 0; i < 3; i++) {
        const char *out = scratch_path("planned");
        const qmoe_compress_options options = {.size = sizeof options,
            .method = "rtn",
            .format = formats[i],
            .overwrite = true};
        qmoe_compress_report done;
        plan(&r, MINI, formats[i]);
        if (qmoe_compress(context, &done, MINI, out, &options) != QMOE_OK)
            fail_msg("%s", qmoe_context_error(context));
        assert_int_equal(r.expert_bytes, done.expert_bytes);
        assert_true(r.exact);
        plan(&bare, out, NULL);
        assert_string_equal(bare.model.format, formats[i]);
        assert_int_equal(bare.total_bytes, r.total_bytes);
        assert_true(bare.exact);
        assert_true(bare.compress_seconds == 0);
    }
}

/* Sums of weights, in the models' own words where those are exact; what a
 * token reads of the experts are top_k of them.  mixtral-8x22b is the base model,
 * whose vocabulary is smaller than that of the instructed one. */
static void test_published_decoders(void **state)
{
    (void)state;
    static const struct {
        const char *source;
        double weights, expert_bytes, rest_bytes; /* 1e9; per token */
    } cases[] = {
        {"synth:olmoe-1b-7b", 6.919161856, 1.611, 0.747},
        {"synth:mixtral-8x7b", 46.702792704, 22.548, 2.950},
        {"synth:mixtral-8x22b", 140.621, 67.646, 10.27},
        {"synth:qwen1.5-moe-a2.7b", 14.316, 1.661, 3.095},
        {"synth:qwen2-57b-a14b", 57.409, 12.332, 15.078},
        {"synth:qwen3-30b-a3b", 30.532122624, 3.624, 2.461},
        {"synth:qwen3-235b-a22b", 235.094, 28.387, 14.75},
        {"synth:qwen3-coder-480b-a35b", 480.155, 46.808, 22.27},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qmoe_plan_report r;
        plan(&r, cases[i].source, "bf16");
        const double experts = (double)r.roles[QMOE_ROLE_EXPERTS].token_bytes;
        assert_near((double)r.total_weights / 1e9, cases[i].weights, 0.0006);
        assert_near(experts / 1e9, cases[i].expert_bytes, 0.006);
        assert_near(((double)r.token_bytes - experts) / 1e9,
            cases[i].rest_bytes, 0.006);
    }
}

/* Without a number of rounds the quantiser's own is planned. */
static void test_rounds(void **state)
{
    (void)state;
    static const struct {
        const char *format;
        int wish, rounds;
    } cases[] = {{"pvq", 0, 16}, {"pvq", -1, 0}, {"pvq", 3, 3},
        {"ternary-dict", 0, 4}, {"q2", 0, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const qmoe_plan_options options = {.size = sizeof options,
            .format = cases[i].format,
            .weight_rate = 1e6,
            .passes = cases[i].wish};
        qmoe_plan_report r;
        assert_int_equal(qmoe_plan(context, &r, MINI, &options), QMOE_OK);
        assert_int_equal(r.passes, cases[i].rounds);
    }
}

static void test_places(void **state)
{
    (void)state;
    const uint64_t gpus[] = {UINT64_C(48) << 30, UINT64_C(48) << 30};
    qmoe_plan_options options = {
        .size = sizeof options,
        .format = "pvq",
        .gpu_bytes = gpus,
        .n_gpus = 2,
        .memory_bytes = UINT64_C(9) << 30,
        .gpu_rate = 7e11,
        .memory_rate = 5e10,
        .weight_rate = 1e6,
    };
    qmoe_plan_report r;
    assert_int_equal(qmoe_plan(context, &r, "synth:c-2048", &options), QMOE_OK);
    assert_int_equal(r.gpu_usable_bytes, UINT64_C(95) << 30);
    assert_int_equal(r.memory_usable_bytes, UINT64_C(8) << 30);
    assert_int_equal(r.others.gpu_bytes, r.other_bytes);
    assert_int_equal(r.experts.gpu_bytes, r.gpu_usable_bytes - r.other_bytes);
    assert_int_equal(r.experts.memory_bytes, r.memory_usable_bytes);
    assert_int_equal(
        r.experts.gpu_bytes + r.experts.memory_bytes + r.experts.disk_bytes,
        r.expert_bytes);
    assert_true(r.seconds_per_token == 0); /* the disk's rate is missing */
    options.disk_rate = 3e9;
    assert_int_equal(qmoe_plan(context, &r, "synth:c-2048", &options), QMOE_OK);
    double expert = (double)r.roles[QMOE_ROLE_EXPERTS].token_bytes;
    double all = (double)r.expert_bytes;
    double expected = ((double)r.token_bytes - expert) / 7e11 +
                      expert * ((double)r.experts.gpu_bytes / all / 7e11 +
                                   (double)r.experts.memory_bytes / all / 5e10 +
                                   (double)r.experts.disk_bytes / all / 3e9);
    assert_near(r.seconds_per_token, expected, 1e-9);
    assert_near(r.compress_seconds,
        1570347417600.0 / 1e6 + (double)(r.source_bytes + r.total_bytes) / 3e9,
        1);
}

static void test_refusals(void **state)
{
    (void)state;
    qmoe_plan_report r;
    const qmoe_plan_options unknown = {.size = sizeof unknown, .format = "q9"};
    const qmoe_plan_options negative = {
        .size = sizeof negative, .disk_rate = -1};
    assert_error(qmoe_plan(context, &r, "synth:c-1", NULL), QMOE_E_INVALID,
        qmoe_context_error(context), "synth:c-1");
    assert_error(qmoe_plan(context, &r, MINI, &unknown), QMOE_E_UNSUPPORTED,
        qmoe_context_error(context), "q9");
    assert_error(qmoe_plan(context, &r, MINI, &negative), QMOE_E_INVALID,
        qmoe_context_error(context), "negative");
    assert_error(qmoe_plan(context, &r, scratch_text("list.json", "[]"), NULL),
        QMOE_E_FORMAT, qmoe_context_error(context), "not a JSON object");
    assert_error(qmoe_plan(context, &r, scratch_path("absent"), NULL),
        QMOE_E_NOT_FOUND, qmoe_context_error(context), "absent");
    /* 2^24 experts of 2^24 x 2^24. */
    const char *huge = scratch_text("huge.json",
        "{\"model_type\": \"switch_transformers\", \"vocab_size\": 8,"
        " \"d_model\": 16777216, \"d_ff\": 16777216, \"d_kv\": 1,"
        " \"num_heads\": 1, \"num_experts\": 16777216, \"num_layers\": 1,"
        " \"is_full_sparse\": true}");
    assert_error(qmoe_plan(context, &r, huge, NULL), QMOE_E_UNSUPPORTED,
        qmoe_context_error(context), "beyond");
}

static void test_stack_sizes(void **state)
{
    (void)state;
    assert_int_equal(qmi_stack_size(qmi_format_find("bf16"), 2, 3, 5, 0), 60);
    /* docs/format.md, sections 4.7, 7.4, 8.6. */
    assert_int_equal(qmi_stack_size(&qmi_format_ternary_dict, 2, 3, 10, 1.6),
        (16 * 6 + 64 * 2 * 3 + 96 * 2 + 64) / 8);
    assert_int_equal(
        qmi_stack_size(&qmi_format_q2, 1, 4, 768, 0), 4 * (768 / 4 + 8));
    assert_int_equal(qmi_stack_size(&qmi_format_pvq, 3, 512, 256, 0),
        3 * 512 * 256 * 5 / 64);
    assert_int_equal(qmi_stack_size(qmi_format_find("f32"), INT64_C(1) << 24,
                         INT64_C(1) << 24, INT64_C(1) << 24, 0),
        UINT64_MAX);
}

static int set_up(void **state)
{
    (void)state;
    const qmoe_context_options options = {
        .size = sizeof options, .n_threads = 2};
    return qmoe_context_create(&context, &options) == QMOE_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    qmoe_context_destroy(context);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_sizes),
        cmocka_unit_test(test_published_decoders),
        cmocka_unit_test(test_own_sizes),
        cmocka_unit_test(test_rounds),
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_stack_sizes),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
