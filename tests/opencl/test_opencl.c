/* SPDX-License-Identifier: Apache-2.0
 * Whole models on an OpenCL device: the same greedy tokens as on the CPU and
 * logits within 1e-4 of their range, uncompressed and in every format; errors
 * of devices that are too small; the program cache. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "alloc.h"
#include "qmoe/quant.h"
#include "session.h"

enum { SKIPPED = 77, N_PROMPT = 23, N_STEPS = 16, N_FORMATS = 4 };

static const char *const models[] = {"tests/golden/tied", "tests/golden/untied",
    "tests/golden/full-sparse", "tests/golden/three-heads",
    "models/switch-mini"};
enum { N_MODELS = sizeof models / sizeof *models };

static qmoe_context *context;

/* Device 0 of the backend; false with a reason when there is none. */
static bool find_device(char *reason, size_t capacity)
{
    qmoe_device_info devices[64];
    size_t n = 0;
    if (qmoe_devices(context, devices, 64, &n) != QMOE_OK)
        return false;
    for (size_t i = 0; i < n && i < 64; i++) {
        if (strcmp(devices[i].backend, "opencl") != 0)
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

static trace decode(qmoe_model *model, const char *backend)
{
    const int32_t length = N_PROMPT, one = 1, first = 0;
    const qmoe_session_options options = {
        .size = sizeof options, .backend = backend};
    trace t = {.vocab_size = model->config.vocab_size};
    int32_t prompt[N_PROMPT];
    qmoe_session *session = NULL;
    qmi_error err = {0};
    for (int32_t i = 0; i < N_PROMPT; i++)
        prompt[i] = (int32_t)((i * 7919 + 3) % t.vocab_size);
    t.logits = qmi_calloc(
        N_STEPS * (size_t)t.vocab_size, sizeof(float), "logits", NULL);
    if (qmoe_session_create(&session, model, &options) != QMOE_OK)
        fail_msg("%s", qmoe_context_error(context));
    if (qmi_session_encode(session, prompt, &length, 1, N_STEPS, &err) !=
        QMOE_OK)
        fail_msg("%s", err.text);
    int32_t id = model->config.start_id;
    for (int i = 0; i < N_STEPS; i++) {
        float *logits = t.logits + i * t.vocab_size;
        if (qmi_session_decode(session, logits, &id, &first, &one, 1, &err) !=
            QMOE_OK)
            fail_msg("%s", err.text);
        id = t.ids[i] = best(logits, t.vocab_size);
    }
    qmoe_session_destroy(session);
    return t;
}

static void compare_model(const char *path)
{
    qmoe_model *model = NULL;
    if (qmoe_model_open(&model, context, path) != QMOE_OK)
        fail_msg("%s", qmoe_context_error(context));
    trace cpu = decode(model, "cpu"), ours = decode(model, "opencl");
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

static void test_uncompressed(void **state)
{
    (void)state;
    for (int i = 0; i < N_MODELS; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", QMOE_SOURCE_DIR, models[i]);
        compare_model(path);
    }
}

static void test_compressed(void **state)
{
    (void)state;
    static const char *const formats[N_FORMATS] = {
        "ternary-dict", "pvq", "pvq8", "q2"};
    for (int i = 0; i < N_FORMATS; i++) {
        char path[512];
        const qmoe_compress_options options = {.size = sizeof options,
            .format = formats[i],
            .method = "rtn",
            .overwrite = true};
        qmoe_compress_report report;
        snprintf(path, sizeof path, "%s/opencl-%s", QMOE_TEST_DIR, formats[i]);
        if (qmoe_compress(context, &report,
                QMOE_SOURCE_DIR "/models/switch-mini", path,
                &options) != QMOE_OK)
            fail_msg("%s", qmoe_context_error(context));
        compare_model(path);
    }
}

/* ---- limits and the cache ---- */

/* Status of a session on switch-mini under QMOE_OPENCL_LIMITS. */
static qmoe_status try_limits(const char *limits)
{
    qmoe_model *model = NULL;
    qmoe_session *session = NULL;
    const qmoe_session_options options = {
        .size = sizeof options, .backend = "opencl"};
    assert_int_equal(
        qmoe_model_open(&model, context, QMOE_SOURCE_DIR "/models/switch-mini"),
        QMOE_OK);
    setenv("QMOE_OPENCL_LIMITS", limits, 1);
    qmoe_status status = qmoe_session_create(&session, model, &options);
    unsetenv("QMOE_OPENCL_LIMITS");
    qmoe_session_destroy(session);
    qmoe_model_close(model);
    return status;
}

static void test_too_small(void **state)
{
    (void)state;
    assert_int_equal(try_limits("memory=3000000"), QMOE_E_DEVICE);
    assert_non_null(strstr(qmoe_context_error(context), "of 3000000 are left"));
    assert_int_equal(try_limits("alloc=100"), QMOE_E_DEVICE);
    assert_non_null(strstr(qmoe_context_error(context), "100"));
    assert_int_equal(try_limits("style=gpu,group=16"), QMOE_E_NO_BACKEND);
    assert_non_null(strstr(qmoe_context_error(context), "work-groups"));
    assert_int_equal(try_limits("style=gpu,group=128,local=32768"), QMOE_OK);
}

/* Flips the last byte of every file, or counts them. */
static int damage_cache(const char *folder, bool damage)
{
    int n = 0;
    DIR *directory = opendir(folder);
    if (directory == NULL)
        return 0;
    for (struct dirent *e; (e = readdir(directory)) != NULL;) {
        char path[1024];
        if (e->d_name[0] == '.')
            continue;
        n++;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        FILE *file = damage ? fopen(path, "r+b") : NULL;
        if (file == NULL)
            continue;
        fseek(file, -1, SEEK_END);
        int byte = fgetc(file);
        fseek(file, -1, SEEK_END);
        fputc(byte ^ 0xff, file);
        fclose(file);
    }
    closedir(directory);
    return n;
}

static void test_damaged_cache(void **state)
{
    (void)state;
    const char *folder = QMOE_TEST_DIR "/opencl-cache/qmoe";
    int n = damage_cache(folder, false);
    assert_true(n > 0);
    assert_int_equal(damage_cache(folder, true), n);
    assert_int_equal(try_limits(""), QMOE_OK);
    assert_int_equal(damage_cache(folder, false), n);
}

int main(void)
{
    const qmoe_context_options options = {
        .size = sizeof options, .backend_path = QMOE_MODULE_DIR};
    char reason[256] = "no opencl entry";
    setenv("XDG_CACHE_HOME", QMOE_TEST_DIR "/opencl-cache", 1);
    mkdir(QMOE_TEST_DIR "/opencl-cache", 0700);
    if (qmoe_context_create(&context, &options) != QMOE_OK)
        return 1;
    if (!find_device(reason, sizeof reason)) {
        printf("skipped: %s\n", reason);
        qmoe_context_destroy(context);
        return SKIPPED;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uncompressed),
        cmocka_unit_test(test_compressed),
        cmocka_unit_test(test_too_small),
        cmocka_unit_test(test_damaged_cache),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    qmoe_context_destroy(context);
    return failed;
}
