/* SPDX-License-Identifier: Apache-2.0
 * What callers of the public functions may get wrong: NULL, hooks that call
 * back, handles closed too early. */
#include "qmoe/bench.h"
#include "qmoe/exchange.h"
#include "qmoe/plan.h"
#include "qmoe/quant.h"
#include "scratch.h"

#define MODEL QMOE_SOURCE_DIR "/models/switch-mini"

static qmoe_context *context;
static qmoe_model *model;
static qmoe_session *session;

static int set_up(void **state)
{
    (void)state;
    assert_int_equal(qmoe_context_create(&context, NULL), QMOE_OK);
    assert_int_equal(qmoe_model_open(&model, context, MODEL), QMOE_OK);
    const qmoe_session_options cpu = {.size = sizeof cpu, .backend = "cpu"};
    assert_int_equal(qmoe_session_create(&session, model, &cpu), QMOE_OK);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    qmoe_session_destroy(session);
    qmoe_model_close(model);
    qmoe_context_destroy(context);
    return 0;
}

/* ---- NULL ---- */

static const char *const texts[] = {"a <extra_id_0> b"};
static const int32_t ids[] = {1};

/* The name of every function that was called with NULL. */
static const char *called[64];
static size_t n_called;

static void note(const char *name)
{
    for (size_t i = 0; i < n_called; i++)
        if (strcmp(called[i], name) == 0)
            return;
    assert_true(n_called < sizeof called / sizeof *called);
    called[n_called++] = name;
}

static void check_invalid(qmoe_status status, bool has_context)
{
    assert_int_equal(status, QMOE_E_INVALID);
    if (has_context)
        assert_string_not_equal(qmoe_context_error(context), "");
}

/* A call that must be refused: by a text where there is a context. */
#define REFUSED(name, ...) (note(#name), check_invalid(name(__VA_ARGS__), true))
#define REFUSED_WITHOUT_TEXT(name, ...)                                        \
    (note(#name), check_invalid(name(__VA_ARGS__), false))
/* One that does nothing, or gives nothing. */
#define HARMLESS(name, ...) (note(#name), (void)name(__VA_ARGS__))

static void null_contexts_and_devices(void)
{
    qmoe_device_info info;
    size_t n;
    REFUSED_WITHOUT_TEXT(qmoe_context_create, NULL, NULL);
    HARMLESS(qmoe_context_destroy, NULL);
    HARMLESS(qmoe_context_cancel, NULL, true);
    assert_string_equal(qmoe_context_error(NULL), "");
    note("qmoe_context_error");
    assert_false(qmoe_format_describe(NULL, 0));
    note("qmoe_format_describe");
    REFUSED_WITHOUT_TEXT(qmoe_devices, NULL, &info, 1, &n);
    REFUSED(qmoe_devices, context, NULL, 1, &n);
    REFUSED(qmoe_devices, context, &info, 1, NULL);
    assert_int_equal(qmoe_devices(context, NULL, 0, &n), QMOE_OK);
    REFUSED_WITHOUT_TEXT(qmoe_find_device, NULL, &info, "cpu", NULL);
    REFUSED(qmoe_find_device, context, NULL, "cpu", NULL);
    assert_int_equal(qmoe_find_device(context, &info, NULL, NULL), QMOE_OK);
    REFUSED_WITHOUT_TEXT(qmoe_tune, NULL, "cpu", NULL, NULL, NULL);
    assert_int_equal(
        qmoe_tune(context, "cpu", NULL, NULL, NULL), QMOE_E_UNSUPPORTED);
}

static void null_models(void)
{
    qmoe_model *opened;
    qmoe_model_info info;
    qmoe_weight_info weight;
    qmoe_weight_stats stats;
    qmoe_verify_report report;
    REFUSED(qmoe_model_open, NULL, context, MODEL);
    REFUSED_WITHOUT_TEXT(qmoe_model_open, &opened, NULL, MODEL);
    assert_null(opened);
    REFUSED(qmoe_model_open, &opened, context, NULL);
    HARMLESS(qmoe_model_close, NULL);
    HARMLESS(qmoe_model_describe, NULL, &info);
    assert_int_equal(info.d_model, 0);
    HARMLESS(qmoe_model_describe, model, NULL);
    note("qmoe_model_weight_count");
    assert_int_equal(qmoe_model_weight_count(NULL), 0);
    REFUSED_WITHOUT_TEXT(qmoe_model_weight, NULL, 0, &weight);
    REFUSED_WITHOUT_TEXT(qmoe_model_weight, model, 0, NULL);
    REFUSED_WITHOUT_TEXT(qmoe_model_weight_stats, NULL, 0, &stats);
    REFUSED(qmoe_model_weight_stats, model, 0, NULL);
    REFUSED_WITHOUT_TEXT(qmoe_verify, NULL, &report, MODEL, NULL, NULL);
    REFUSED(qmoe_verify, context, NULL, MODEL, NULL, NULL);
    REFUSED(qmoe_verify, context, &report, NULL, NULL, NULL);
}

static void null_texts(void)
{
    int32_t id;
    char text[8];
    size_t n;
    REFUSED_WITHOUT_TEXT(qmoe_chat_tokenize, NULL, NULL, 0, &n, NULL, 0, NULL);
    REFUSED(qmoe_chat_tokenize, model, NULL, 0, NULL, NULL, 0, NULL);
    REFUSED(qmoe_chat_tokenize, model, NULL, 1, &n, NULL, 0, NULL);
    REFUSED(qmoe_chat_tokenize, model, NULL, 0, &n, NULL, 1, NULL);
    REFUSED_WITHOUT_TEXT(qmoe_tokenize, NULL, &id, 1, &n, "x");
    REFUSED(qmoe_tokenize, model, NULL, 1, &n, "x");
    REFUSED(qmoe_tokenize, model, &id, 1, NULL, "x");
    REFUSED(qmoe_tokenize, model, &id, 1, &n, NULL);
    assert_int_equal(qmoe_tokenize(model, NULL, 0, &n, "x"), QMOE_OK);
    REFUSED_WITHOUT_TEXT(qmoe_detokenize, NULL, text, sizeof text, &n, ids, 1);
    REFUSED(qmoe_detokenize, model, NULL, sizeof text, &n, ids, 1);
    REFUSED(qmoe_detokenize, model, text, sizeof text, NULL, ids, 1);
    REFUSED(qmoe_detokenize, model, text, sizeof text, &n, NULL, 1);
    assert_int_equal(qmoe_detokenize(model, NULL, 0, &n, NULL, 0), QMOE_OK);
}

static void null_sessions(void)
{
    static const char *const no_text[] = {NULL};
    qmoe_session *made;
    qmoe_device_info info;
    qmoe_role_times times;
    qmoe_generation *made_texts;
    qmoe_eval_result result;
    float logits;
    REFUSED(qmoe_session_create, NULL, model, NULL);
    REFUSED_WITHOUT_TEXT(qmoe_session_create, &made, NULL, NULL);
    HARMLESS(qmoe_session_destroy, NULL);
    HARMLESS(qmoe_session_device, NULL, &info);
    assert_string_equal(info.backend, "");
    HARMLESS(qmoe_session_device, session, NULL);
    HARMLESS(qmoe_session_measure_roles, NULL, true);
    HARMLESS(qmoe_session_role_times, NULL, &times);
    HARMLESS(qmoe_session_role_times, session, NULL);
    REFUSED_WITHOUT_TEXT(
        qmoe_session_generate, NULL, &made_texts, NULL, texts, 1, NULL);
    REFUSED(qmoe_session_generate, session, NULL, NULL, texts, 1, NULL);
    REFUSED(qmoe_session_generate, session, &made_texts, NULL, NULL, 1, NULL);
    REFUSED(
        qmoe_session_generate, session, &made_texts, NULL, no_text, 1, NULL);
    HARMLESS(qmoe_generations_free, NULL, 1);
    REFUSED_WITHOUT_TEXT(qmoe_session_logits, NULL, &logits, ids, 1, ids, 1);
    REFUSED(qmoe_session_logits, session, NULL, ids, 1, ids, 1);
    REFUSED(qmoe_session_logits, session, &logits, NULL, 1, ids, 1);
    REFUSED(qmoe_session_logits, session, &logits, ids, 1, NULL, 1);
    const qmoe_eval_options eval = {.size = sizeof eval, .text_path = "x"};
    const qmoe_eval_options holes = {
        .size = sizeof holes, .text_paths = no_text, .n_text_paths = 1};
    REFUSED_WITHOUT_TEXT(qmoe_session_eval, NULL, &result, &eval);
    REFUSED(qmoe_session_eval, session, NULL, &eval);
    REFUSED(qmoe_session_eval, session, &result, NULL);
    REFUSED(qmoe_session_eval, session, &result, &holes);
    qmoe_perplexity perplexity;
    qmoe_comparison comparison;
    REFUSED_WITHOUT_TEXT(qmoe_session_perplexity, NULL, &perplexity, NULL);
    REFUSED(qmoe_session_perplexity, session, NULL, NULL);
    REFUSED_WITHOUT_TEXT(
        qmoe_session_compare, NULL, session, &comparison, NULL);
    REFUSED(qmoe_session_compare, session, NULL, &comparison, NULL);
    REFUSED(qmoe_session_compare, session, session, &comparison, NULL);
    HARMLESS(qmoe_comparison_free, NULL);
    HARMLESS(qmoe_model_generation_defaults, NULL, NULL);
}

static void null_work(void)
{
    static const char *const no_text[] = {NULL};
    qmoe_compress_report compressed;
    qmoe_plan_report planned;
    qmoe_export_report exported;
    qmoe_import_report imported;
    const qmoe_compress_options holes = {
        .size = sizeof holes, .calibration = no_text, .n_calibration = 1};
    const qmoe_plan_options no_list = {.size = sizeof no_list, .n_gpus = 1};
    REFUSED_WITHOUT_TEXT(qmoe_compress, NULL, &compressed, MODEL, "o", NULL);
    REFUSED(qmoe_compress, context, NULL, MODEL, "o", NULL);
    REFUSED(qmoe_compress, context, &compressed, NULL, "o", NULL);
    REFUSED(qmoe_compress, context, &compressed, MODEL, NULL, NULL);
    REFUSED(qmoe_compress, context, &compressed, MODEL, "o", NULL);
    REFUSED(qmoe_compress, context, &compressed, MODEL, "o", &holes);
    REFUSED_WITHOUT_TEXT(qmoe_plan, NULL, &planned, MODEL, NULL);
    REFUSED(qmoe_plan, context, NULL, MODEL, NULL);
    REFUSED(qmoe_plan, context, &planned, NULL, NULL);
    REFUSED(qmoe_plan, context, &planned, MODEL, &no_list);
    REFUSED_WITHOUT_TEXT(qmoe_export, NULL, &exported, MODEL, "o", NULL);
    REFUSED(qmoe_export, context, NULL, MODEL, "o", NULL);
    REFUSED(qmoe_export, context, &exported, NULL, "o", NULL);
    REFUSED(qmoe_export, context, &exported, MODEL, NULL, NULL);
    REFUSED_WITHOUT_TEXT(qmoe_import, NULL, &imported, MODEL, "o", NULL);
    REFUSED(qmoe_import, context, NULL, MODEL, "o", NULL);
    REFUSED(qmoe_import, context, &imported, NULL, "o", NULL);
    REFUSED(qmoe_import, context, &imported, MODEL, NULL, NULL);
}

static void null_benches(void)
{
    qmoe_bench_kernels_report kernels;
    qmoe_bench_model_report report;
    const qmoe_bench_kernels_options lists[] = {
        {.size = sizeof *lists, .n_shapes = 1},
        {.size = sizeof *lists, .n_batches = 1},
        {.size = sizeof *lists, .n_threads = 1},
        {.size = sizeof *lists, .n_formats = 1},
    };
    HARMLESS(qmoe_bench_describe_machine, NULL);
    REFUSED_WITHOUT_TEXT(qmoe_bench_kernels, NULL, &kernels, NULL);
    REFUSED(qmoe_bench_kernels, context, NULL, NULL);
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        REFUSED(qmoe_bench_kernels, context, &kernels, &lists[i]);
    HARMLESS(qmoe_bench_kernels_free, NULL);
    qmoe_bench_attention_report attention;
    const qmoe_bench_attention_options attention_lists[] = {
        {.size = sizeof *attention_lists, .n_keys = 1},
        {.size = sizeof *attention_lists, .n_threads = 1},
    };
    REFUSED_WITHOUT_TEXT(qmoe_bench_attention, NULL, &attention, NULL);
    REFUSED(qmoe_bench_attention, context, NULL, NULL);
    for (size_t i = 0; i < 2; i++)
        REFUSED(qmoe_bench_attention, context, &attention, &attention_lists[i]);
    HARMLESS(qmoe_bench_attention_free, NULL);
    REFUSED_WITHOUT_TEXT(qmoe_bench_model, NULL, &report, NULL);
    REFUSED(qmoe_bench_model, model, NULL, NULL);
}

/* Functions that take no pointer. */
static const char *const without_pointers[] = {"qmoe_status_name",
    "qmoe_status_text", "qmoe_version", "qmoe_role_name",
    "qmoe_recorded_rate_at"};

static bool is_known(const char *name)
{
    for (size_t i = 0; i < n_called; i++)
        if (strcmp(called[i], name) == 0)
            return true;
    for (size_t i = 0; i < sizeof without_pointers / sizeof *without_pointers;
         i++)
        if (strcmp(without_pointers[i], name) == 0)
            return true;
    return false;
}

/* Functions that a header declares; all must have been called. */
static size_t check_header(const char *header)
{
    char path[512], line[512];
    size_t n = 0;
    bool in_declaration = false;
    snprintf(path, sizeof path, QMOE_SOURCE_DIR "/include/qmoe/%s", header);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, "QMOE_API ", 9) == 0)
            in_declaration = true;
        char *open = in_declaration ? strchr(line, '(') : NULL;
        if (open == NULL)
            continue;
        in_declaration = false;
        *open = '\0';
        char *name = open;
        while (name > line && name[-1] != ' ' && name[-1] != '*')
            name--;
        n++;
        if (!is_known(name))
            fail_msg("%s: %s was not called with NULL", header, name);
    }
    fclose(file);
    return n;
}

static void null_arguments(void **state)
{
    (void)state;
    null_contexts_and_devices();
    null_models();
    null_texts();
    null_sessions();
    null_work();
    null_benches();
    size_t n = check_header("qmoe.h") + check_header("quant.h") +
               check_header("plan.h") + check_header("exchange.h") +
               check_header("bench.h");
    assert_int_equal(
        n, n_called + sizeof without_pointers / sizeof *without_pointers);
}

/* ---- errors ---- */

static void no_error_after_success(void **state)
{
    size_t n;
    (void)state;
    qmoe_model *none;
    assert_int_equal(
        qmoe_model_open(&none, context, "/nowhere"), QMOE_E_NOT_FOUND);
    assert_string_not_equal(qmoe_context_error(context), "");
    assert_int_equal(qmoe_tokenize(model, NULL, 0, &n, "x"), QMOE_OK);
    assert_string_equal(qmoe_context_error(context), "");
}

/* ---- hooks ---- */

typedef struct hook {
    int n_calls;
    qmoe_status generate, eval, logits;
    bool destroys;
} hook;

static int call_back(void *user, size_t sequence, int32_t id, const char *text)
{
    hook *h = user;
    qmoe_generation *out;
    qmoe_eval_result result;
    float logits;
    size_t n;
    (void)sequence, (void)id, (void)text;
    const qmoe_eval_options eval = {.size = sizeof eval, .text_path = "x"};
    h->n_calls++;
    h->generate = qmoe_session_generate(session, &out, NULL, texts, 1, NULL);
    h->eval = qmoe_session_eval(session, &result, &eval);
    h->logits = qmoe_session_logits(session, &logits, ids, 1, ids, 1);
    /* The model is not in use like that. */
    assert_int_equal(qmoe_tokenize(model, NULL, 0, &n, "x"), QMOE_OK);
    if (h->destroys)
        qmoe_session_destroy(session);
    return 0;
}

static qmoe_status generate(hook *h, qmoe_generation **out)
{
    const qmoe_generate_options options = {.size = sizeof options,
        .max_new_tokens = 4,
        .ignore_eos = true,
        .on_token = call_back,
        .user = h};
    return qmoe_session_generate(session, out, NULL, texts, 1, &options);
}

static void calls_from_on_token(void **state)
{
    hook h = {0};
    qmoe_generation *out, *again;
    (void)state;
    assert_int_equal(generate(&h, &out), QMOE_OK);
    assert_int_equal(h.n_calls, 4);
    assert_int_equal(h.generate, QMOE_E_INVALID);
    assert_int_equal(h.eval, QMOE_E_INVALID);
    assert_int_equal(h.logits, QMOE_E_INVALID);
    assert_string_equal(qmoe_context_error(context), "");
    assert_int_equal(generate(&h, &again), QMOE_OK);
    assert_memory_equal(out->ids, again->ids, 4 * sizeof *out->ids);
    qmoe_generations_free(out, 1);
    qmoe_generations_free(again, 1);
}

static void session_destroyed_in_on_token(void **state)
{
    hook h = {.destroys = true};
    qmoe_generation *out;
    (void)state;
    assert_int_equal(generate(&h, &out), QMOE_E_INVALID);
    session = NULL;
    assert_null(out);
    assert_int_equal(h.n_calls, 1);
    assert_non_null(strstr(qmoe_context_error(context), "destroyed by a hook"));
}

/* ---- order of closing ---- */

static void closed_before_the_session(void **state)
{
    qmoe_generation *out;
    qmoe_device_info info;
    (void)state;
    qmoe_context_destroy(context);
    qmoe_model_close(model);
    context = NULL;
    model = NULL;
    const qmoe_generate_options options = {
        .size = sizeof options, .max_new_tokens = 2};
    assert_int_equal(
        qmoe_session_generate(session, &out, NULL, texts, 1, &options),
        QMOE_OK);
    assert_int_equal(out->n_ids, 2);
    qmoe_generations_free(out, 1);
    qmoe_session_device(session, &info);
    assert_string_equal(info.backend, "cpu");
}

/* Everything goes away while a long call runs. */
static int close_all(void *user, const qmoe_progress *progress)
{
    (void)progress;
    if (!*(bool *)user)
        return 0;
    *(bool *)user = false;
    qmoe_session_destroy(session);
    qmoe_model_close(model);
    qmoe_context_destroy(context);
    session = NULL;
    model = NULL;
    context = NULL;
    return 0;
}

static void closed_in_a_progress_hook(void **state)
{
    bool armed = false;
    const qmoe_context_options hooks = {
        .size = sizeof hooks, .progress = close_all, .user = &armed};
    (void)state;
    const char *text = scratch_text(
        "library_calls.txt", "In the beginning the earth was without form.\n");
    tear_down(NULL);
    assert_int_equal(qmoe_context_create(&context, &hooks), QMOE_OK);
    assert_int_equal(qmoe_model_open(&model, context, MODEL), QMOE_OK);
    const qmoe_session_options cpu = {.size = sizeof cpu, .backend = "cpu"};
    assert_int_equal(qmoe_session_create(&session, model, &cpu), QMOE_OK);
    armed = true;
    qmoe_eval_result result;
    const qmoe_eval_options eval = {.size = sizeof eval, .text_path = text};
    assert_int_equal(
        qmoe_session_eval(session, &result, &eval), QMOE_E_INVALID);
    assert_int_equal(result.n_samples, 0);
    assert_null(session);

    /* A call of the context alone goes on to its end. */
    assert_int_equal(qmoe_context_create(&context, &hooks), QMOE_OK);
    assert_int_equal(qmoe_model_open(&model, context, MODEL), QMOE_OK);
    armed = true;
    qmoe_verify_report report;
    assert_int_equal(qmoe_verify(context, &report, MODEL, NULL, NULL), QMOE_OK);
    assert_true(report.n_without_checksum > 0);
    assert_null(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(null_arguments, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            no_error_after_success, set_up, tear_down),
        cmocka_unit_test_setup_teardown(calls_from_on_token, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            session_destroyed_in_on_token, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            closed_before_the_session, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            closed_in_a_progress_hook, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
