/* SPDX-License-Identifier: Apache-2.0 */
#include "compare_models.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "qmoe/quant.h"
#include "logits.h"
#include "sanitized.h"

/* With sanitizers every step takes the same way ten times as slowly. */
enum { N_PROMPT = 23, N_STEPS = SANITIZED ? 4 : 8, N_FORMATS = 4 };

static const char *const models[] = {"tests/golden/tied", "tests/golden/untied",
    "tests/golden/full-sparse", "tests/golden/three-heads",
    "models/switch-mini"};
enum { N_MODELS = sizeof models / sizeof *models };

bool find_device(
    qmoe_context *context, const char *backend, char *reason, size_t capacity)
{
    qmoe_device_info devices[64];
    size_t n = 0;
    if (qmoe_devices(context, devices, 64, &n) != QMOE_OK)
        return false;
    for (size_t i = 0; i < n && i < 64; i++) {
        if (strcmp(devices[i].backend, backend) != 0)
            continue;
        snprintf(reason, capacity, "%s", devices[i].detail);
        return devices[i].usable;
    }
    return false;
}

/* ---- greedy decoding ---- */

typedef struct trace {
    int64_t vocab_size;
    int32_t ids[N_STEPS];
    float *logits; /* [N_STEPS, vocab_size] */
} trace;

static int32_t best(const float *logits, int64_t n)
{
    int32_t at = 0;
    for (int64_t i = 1; i < n; i++)
        if (logits[i] > logits[at])
            at = (int32_t)i;
    return at;
}

static trace decode(
    qmoe_context *context, qmoe_model *model, const char *backend)
{
    const int32_t length = N_PROMPT, one = 1, first = 0;
    const qmoe_session_options options = {
        .size = sizeof options, .backend = backend};
    trace t = {.vocab_size = model->shape.vocab_size};
    int32_t prompt[N_PROMPT];
    qmoe_session *session = NULL;
    qmi_error err = {0};
    for (int32_t i = 0; i < N_PROMPT; i++)
        prompt[i] = (int32_t)((i * 7919 + 3) % t.vocab_size);
    t.logits = qmi_calloc(
        N_STEPS * (size_t)t.vocab_size, sizeof(float), "logits", NULL);
    if (qmoe_session_create(&session, model, &options) != QMOE_OK)
        fail_msg("%s", qmoe_context_error(context));
    if (qmi_session_encode(session, prompt, &length, 1, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    int32_t id = model->shape.start_id;
    const qmi_batch batch = {
        .ids = &id, .sequences = &first, .lengths = &one, .n = 1};
    for (int i = 0; i < N_STEPS; i++) {
        float *logits = t.logits + i * t.vocab_size;
        if (qmi_session_decode(session, logits, &batch, &err) != QMOE_OK)
            fail_msg("%s", err.text);
        id = t.ids[i] = best(logits, t.vocab_size);
    }
    qmoe_session_destroy(session);
    return t;
}

void compare_model(qmoe_context *context, const char *backend, const char *path)
{
    qmoe_model *model = NULL;
    if (qmoe_model_open(&model, context, path) != QMOE_OK)
        fail_msg("%s", qmoe_context_error(context));
    trace cpu = decode(context, model, "cpu");
    trace ours = decode(context, model, backend);
    float low = INFINITY, high = -INFINITY, worst = 0;
    assert_memory_equal(cpu.ids, ours.ids, sizeof cpu.ids);
    for (int64_t i = 0; i < N_STEPS * cpu.vocab_size; i++) {
        low = fminf(low, cpu.logits[i]);
        high = fmaxf(high, cpu.logits[i]);
        assert_true(isfinite(ours.logits[i]));
        worst = fmaxf(worst, fabsf(cpu.logits[i] - ours.logits[i]));
    }
    printf("  %s: worst difference %.3g of the logits' range\n", path,
        (double)(worst / (high - low)));
    assert_true(worst <= 1e-4f * (high - low));
    qmi_free(cpu.logits);
    qmi_free(ours.logits);
    qmoe_model_close(model);
}

void compare_uncompressed(qmoe_context *context, const char *backend)
{
    for (int i = 0; i < N_MODELS; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", QMOE_SOURCE_DIR, models[i]);
        compare_model(context, backend, path);
    }
}

void compare_compressed(qmoe_context *context, const char *backend)
{
    static const char *const formats[N_FORMATS] = {
        "ternary-dict", "pvq", "pvq8", "q2"};
    for (int i = 0; i < N_FORMATS; i++) {
        char path[512];
        const qmoe_compress_options options = {.size = sizeof options,
            .format = formats[i],
            .method = "rtn",
            .overwrite = true};
        qmoe_compress_report report;
        snprintf(
            path, sizeof path, "%s/%s-%s", QMOE_TEST_DIR, backend, formats[i]);
        if (qmoe_compress(context, &report,
                QMOE_SOURCE_DIR "/models/switch-mini", path,
                &options) != QMOE_OK)
            fail_msg("%s", qmoe_context_error(context));
        compare_model(context, backend, path);
    }
}

/* ---- choices ---- */

enum { N_PROMPTS = 2, N_NEW = 10 };

typedef struct choices {
    int32_t ids[N_PROMPTS][N_NEW];
} choices;

static choices generate(qmoe_context *context, qmoe_session *session,
    const qmoe_generate_options *options)
{
    static const char *const prompts[N_PROMPTS] = {
        "And the LORD said unto <extra_id_0>, Go.", "In the beginning"};
    choices out;
    qmoe_generation *results = NULL;
    if (qmoe_session_generate(
            session, &results, NULL, prompts, N_PROMPTS, options) != QMOE_OK)
        fail_msg("%s", qmoe_context_error(context));
    for (int i = 0; i < N_PROMPTS; i++) {
        assert_int_equal(results[i].n_ids, N_NEW);
        memcpy(out.ids[i], results[i].ids, sizeof out.ids[i]);
    }
    qmoe_generations_free(results, N_PROMPTS);
    return out;
}

static void compare_generations(
    qmoe_context *context, qmoe_session *cpu, qmoe_session *ours)
{
    static const struct {
        float temperature, top_p;
        int top_k;
    } cases[] = {{0, 0, 0}, {1.5f, 0, 1}, {1.5f, 0, 40}, {2, 0.9f, 40},
        {5, 0, QMI_TOP_LOGITS_MAX}, {5, 0, QMI_TOP_LOGITS_MAX + 1}, {2, 0, 0},
        {2, 0.8f, 0}};
    /* The greedy one, and one of each way to choose. */
    const size_t step = is_too_long() ? 2 : 1;
    choices greedy = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i += step) {
        const qmoe_generate_options options = {.size = sizeof options,
            .max_new_tokens = N_NEW,
            .temperature = cases[i].temperature,
            .top_k = cases[i].top_k,
            .top_p = cases[i].top_p,
            .seed = 11 + i,
            .ignore_eos = true};
        const choices want = generate(context, cpu, &options);
        const choices got = generate(context, ours, &options);
        assert_memory_equal(&got, &want, sizeof want);
        greedy = i == 0 ? want : greedy;
        /* All but the first two draw. */
        assert_int_equal(memcmp(&want, &greedy, sizeof want) != 0, i >= 2);
    }
}

static void expect_refused(qmoe_session *session, int64_t n_cols, int64_t top_k)
{
    qmi_error err = {0};
    const qmi_op op = {.kind = QMI_OP_TOP_LOGITS,
        .u.top_logits = {.n_tokens = 1, .n_cols = n_cols, .top_k = top_k}};
    assert_int_equal(
        qmi_run(session->stage.backend, session->stage.device, &op, &err),
        QMOE_E_UNSUPPORTED);
}

void compare_choices(qmoe_context *context, const char *backend)
{
    const char *const backends[] = {"cpu", backend};
    qmoe_session *sessions[2] = {NULL, NULL};
    qmoe_model *model = NULL;
    if (qmoe_model_open(
            &model, context, QMOE_SOURCE_DIR "/models/switch-mini") != QMOE_OK)
        fail_msg("%s", qmoe_context_error(context));
    for (int i = 0; i < 2; i++) {
        const qmoe_session_options options = {
            .size = sizeof options, .backend = backends[i]};
        if (qmoe_session_create(&sessions[i], model, &options) != QMOE_OK)
            fail_msg("%s", qmoe_context_error(context));
    }
    compare_generations(context, sessions[0], sessions[1]);
    expect_refused(sessions[1], 10, 0);
    expect_refused(sessions[1], 10, 11);
    expect_refused(sessions[1], 1000, QMI_TOP_LOGITS_MAX + 1);
    expect_refused(sessions[1], (int64_t)INT32_MAX + 1, 1);
    qmoe_session_destroy(sessions[0]);
    qmoe_session_destroy(sessions[1]);
    qmoe_model_close(model);
}
