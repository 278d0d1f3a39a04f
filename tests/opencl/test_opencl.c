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

#include "compare_models.h"
#include "qmoe/quant.h"

enum { SKIPPED = 77 };

static qmoe_context *context;

static void test_uncompressed(void **state)
{
    (void)state;
    compare_uncompressed(context, "opencl");
}

static void test_compressed(void **state)
{
    (void)state;
    compare_compressed(context, "opencl");
}

static void test_choices(void **state)
{
    (void)state;
    compare_choices(context, "opencl");
}

/* ---- limits and the cache ---- */

static const char mini[] = QMOE_SOURCE_DIR "/models/switch-mini";

/* Status of a session on a model with an environment variable set. */
static qmoe_status try_with(
    const char *path, const char *variable, const char *value, uint64_t budget)
{
    qmoe_model *model = NULL;
    qmoe_session *session = NULL;
    const qmoe_session_options options = {.size = sizeof options,
        .backend = "opencl",
        .device_memory_bytes = budget};
    assert_int_equal(qmoe_model_open(&model, context, path), QMOE_OK);
    setenv(variable, value, 1);
    qmoe_status status = qmoe_session_create(&session, model, &options);
    unsetenv(variable);
    qmoe_session_destroy(session);
    qmoe_model_close(model);
    return status;
}

static qmoe_status try_limits(const char *limits)
{
    return try_with(mini, "QMOE_OPENCL_LIMITS", limits, 0);
}

static void expect_text(const char *text)
{
    if (strstr(qmoe_context_error(context), text) == NULL)
        fail_msg("'%s' is not in: %s", text, qmoe_context_error(context));
}

static void test_too_small(void **state)
{
    (void)state;
    assert_int_equal(try_limits("memory=3000000"), QMOE_E_NOMEM);
    expect_text("two experts' matrices");
    expect_text("of 3000000 are available");
    assert_int_equal(
        try_with(mini, "QMOE_OPENCL_LIMITS", "", 5 << 20), QMOE_E_NOMEM);
    expect_text("of 5242880 are available");
    assert_int_equal(try_limits("alloc=100"), QMOE_E_DEVICE);
    expect_text("100");
    assert_int_equal(try_limits("style=gpu,group=16"), QMOE_E_NO_BACKEND);
    expect_text("work-groups");
    assert_int_equal(try_limits("style=gpu,group=128,local=32K"), QMOE_OK);
    assert_int_equal(try_limits("style=gpu,local=100"), QMOE_E_NO_BACKEND);
    expect_text("local memory is too small");
    static const char *const malformed[] = {"memory", "memory=", "memory=x",
        "memory=1X", "memory=0", "style=tpu", "alloc=99999999999G", "foo=1"};
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++) {
        assert_int_equal(try_limits(malformed[i]), QMOE_E_NO_BACKEND);
        expect_text("is not understood");
    }
}

/* Logits must not depend on what is on the device. */
static void test_streamed(void **state)
{
    (void)state;
    static const char *const limits[] = {"experts=streamed,memory=7500K",
        "style=gpu,local=32K,group=128,alloc=64M,memory=6800K"};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        setenv("QMOE_OPENCL_LIMITS", limits[i], 1);
        compare_model(context, "opencl", mini);
        compare_model(context, "opencl", QMOE_TEST_DIR "/opencl-ternary-dict");
        compare_model(context, "opencl", QMOE_TEST_DIR "/opencl-pvq");
        unsetenv("QMOE_OPENCL_LIMITS");
    }
}

/* ---- a compiler at fault ---- */

/* A fault of a program, and the kernel whose self-test finds it. */
typedef struct planted {
    const char *folder, *broken, *kernel;
} planted;

/* One of each kernel. */
static const planted faults[] = {
    {NULL, "base|+ epsilon|+ 2.0f", "rmsnorm"},
    {NULL, "base|a * c - b * s|a * c + b * s", "rope"},
    {NULL, "base|has_one_gate ? t|has_one_gate ? 0", "glu"},
    {NULL, "base|rows[rows_at + t]|t", "kv-store"},
    {NULL, "base|exp(logit - s.largest)|exp(logit)", "route"},
    {NULL, "base|exp(p[j] - most)|(p[j] - most)", "attention"},
    {NULL, "base|order[begin++] = p|order[begin++] = e", "expert-ffn"},
    {NULL, "f32|y *= residual[at]|y += residual[at]", "expert-ffn"},
    {NULL, "base|x > value[at - 1]|x >= value[at - 1]", "top-logits"},
    {NULL, "bf16|= BITS(w, c)|= BITS(w, 0)", "decode_rows of format bf16"},
    {NULL, "bf16|alpha * values[i]|values[i] + 1",
        "product of one token of format bf16"},
    {NULL, "bf16|bias[row]|0.0f", "product of many tokens of format bf16"},
    {"ternary-dict",
        "ternary-dict|KIND_OF(entry, k) == 1 ?|KIND_OF(entry, k) == 2 ?",
        "decode_rows of format ternary-dict"},
    {"ternary-dict", "ternary-dict|alpha * values[i]|values[i] + 1",
        "product of one token of format ternary-dict"},
    {"pvq", "pvq|scale * (float)q|-scale * (float)q",
        "decode_rows of format pvq"},
    {"pvq", "pvq|vload16(0, scale) * sum[i]|sum[i] + 1.0f",
        "product of one token of format pvq"},
    {"pvq", "pvq|load_some(bias + row, n)|(float16)0.0f",
        "product of many tokens of format pvq"},
    {"pvq8", "pvq8|scale * (float)q|-scale * (float)q",
        "decode_rows of format pvq8"},
    {"q2", "q2|levels[4 * at + code]|levels[4 * at]",
        "decode_rows of format q2"},
    {"q2", "q2|alpha * values[i]|values[0]",
        "product of many tokens of format q2"},
};

/* More of the same kernels: each compiles the program of all small kernels
 * anew. */
static const planted more_faults[] = {
    {NULL, "base|vstore_half2_rte|vstore_half2_rtz", "kv-store"},
    {NULL, "base|n_best == 2|n_best == 3", "route"},
    {NULL, "base|used > capacity|used > 2", "route"},
    {NULL, "base|position + 1 - window|position - window", "attention"},
    {NULL, "base|begin + i, min(|begin, min(", "expert-ffn"},
    {NULL, "base|sum += weight[|sum -= weight[", "expert-ffn"},
    {NULL, "base|> least|>= least + 1.0f", "top-logits"},
};

static void find_faults(const planted *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s", mini);
        if (list[i].folder != NULL)
            snprintf(path, sizeof path, "%s/opencl-%s", QMOE_TEST_DIR,
                list[i].folder);
        assert_int_equal(try_with(path, "QMOE_OPENCL_BREAK", list[i].broken, 0),
            QMOE_E_DEVICE);
        expect_text(list[i].kernel);
        expect_text("fails its self-test");
        expect_text("--backend cpu");
    }
}

static void test_miscompiled(void **state)
{
    (void)state;
    qmoe_context *shipped = context;
    const qmoe_context_options options = {
        .size = sizeof options, .backend_path = QMOE_BREAKABLE_DIR};
    assert_int_equal(qmoe_context_create(&context, &options), QMOE_OK);
    find_faults(faults, sizeof faults / sizeof *faults);
    if (getenv("QMOE_TEST_ALL") != NULL)
        find_faults(more_faults, sizeof more_faults / sizeof *more_faults);
    /* What the compiler refuses is shown in its words. */
    assert_int_equal(
        try_with(mini, "QMOE_OPENCL_BREAK", "base|+ epsilon|+ no_such_name", 0),
        QMOE_E_DEVICE);
    expect_text("compiler refuses program base");
    expect_text("no_such_name");
    qmoe_context_destroy(context);
    context = shipped;
    /* The module that is installed knows nothing of it. */
    assert_int_equal(
        try_with(mini, "QMOE_OPENCL_BREAK", "base|+ epsilon|+ no_such_name", 0),
        QMOE_OK);
}

/* ---- the cache ---- */

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

static uint64_t cache_bytes(const char *folder)
{
    uint64_t n_bytes = 0;
    DIR *directory = opendir(folder);
    for (struct dirent *e; directory != NULL && (e = readdir(directory));) {
        char path[1024];
        struct stat info;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (stat(path, &info) == 0 && S_ISREG(info.st_mode))
            n_bytes += (uint64_t)info.st_size;
    }
    if (directory != NULL)
        closedir(directory);
    return n_bytes;
}

static void test_bounded_cache(void **state)
{
    (void)state;
    const char *folder = QMOE_TEST_DIR "/opencl-cache-small";
    enum { MOST = 300000 };
    char command[600];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    assert_int_equal(system(command), 0);
    setenv("QMOE_OPENCL_CACHE_BYTES", "300000", 1);
    assert_int_equal(try_with(mini, "QMOE_OPENCL_CACHE", folder, 0), QMOE_OK);
    assert_true(cache_bytes(folder) <= MOST);
    unsetenv("QMOE_OPENCL_CACHE_BYTES");
    assert_int_equal(try_with(mini, "QMOE_OPENCL_CACHE", folder, 0), QMOE_OK);
    assert_true(cache_bytes(folder) > MOST);
    const uint64_t before = cache_bytes(QMOE_TEST_DIR "/opencl-cache/qmoe");
    setenv("QMOE_OPENCL_CACHE", "off", 1);
    assert_int_equal(try_limits("style=gpu,group=32"), QMOE_OK);
    unsetenv("QMOE_OPENCL_CACHE");
    assert_int_equal(cache_bytes(QMOE_TEST_DIR "/opencl-cache/qmoe"), before);
}

/* ---- choosing a device ---- */

static void test_device_names(void **state)
{
    (void)state;
    qmoe_device_info first, found;
    char name[128];
    assert_int_equal(
        qmoe_find_device(context, &first, "opencl", NULL), QMOE_OK);
    assert_int_equal(first.index, 0);
    snprintf(name, sizeof name, "%s", first.name);
    for (char *c = name; *c != '\0'; c++)
        *c = (char)(*c >= 'a' && *c <= 'z' ? *c - 'a' + 'A' : *c);
    assert_int_equal(
        qmoe_find_device(context, &found, "opencl", name), QMOE_OK);
    assert_int_equal(found.index, 0);
    assert_int_equal(qmoe_find_device(context, &found, "opencl", "no such"),
        QMOE_E_NO_BACKEND);
    expect_text(first.name);
    assert_int_equal(qmoe_find_device(context, &found, "opencl", "accelerator"),
        QMOE_E_NO_BACKEND);
    expect_text(first.type);
    assert_int_equal(
        qmoe_find_device(context, &found, "opencl", "99"), QMOE_E_NO_BACKEND);
}

/* ---- losses and compression ---- */

static double loss_of(const char *path, const char *backend)
{
    qmoe_model *model = NULL;
    qmoe_session *session = NULL;
    qmoe_eval_result result = {0};
    const qmoe_session_options options = {
        .size = sizeof options, .backend = backend};
    const qmoe_eval_options eval = {.size = sizeof eval,
        .text_path = QMOE_SOURCE_DIR "/README.md",
        .max_samples = 6};
    if (qmoe_model_open(&model, context, path) != QMOE_OK ||
        qmoe_session_create(&session, model, &options) != QMOE_OK ||
        qmoe_session_eval(session, &result, &eval) != QMOE_OK)
        fail_msg("%s", qmoe_context_error(context));
    qmoe_session_destroy(session);
    qmoe_model_close(model);
    return result.loss;
}

static void test_losses(void **state)
{
    (void)state;
    static const char *const folders[] = {
        "", "opencl-ternary-dict", "opencl-pvq", "opencl-pvq8", "opencl-q2"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", QMOE_TEST_DIR, folders[i]);
        const char *model = i == 0 ? mini : path;
        const double cpu = loss_of(model, "cpu");
        const double ours = loss_of(model, "opencl");
        printf("  %s: loss %.9g, on the CPU %.9g\n", model, ours, cpu);
        assert_true(fabs(cpu - ours) <= 1e-4);
    }
}

static void test_compress(void **state)
{
    (void)state;
    static const char *const backends[] = {"cpu", "opencl"};
    const char *text = QMOE_SOURCE_DIR "/README.md";
    qmoe_compress_report reports[2];
    for (int i = 0; i < 2; i++) {
        const qmoe_compress_options options = {.size = sizeof options,
            .calibration = &text,
            .n_calibration = 1,
            .max_samples = 4,
            .backend = backends[i],
            .overwrite = true};
        if (qmoe_compress(context, &reports[i], mini,
                QMOE_TEST_DIR "/opencl-gptq", &options) != QMOE_OK)
            fail_msg("%s", qmoe_context_error(context));
    }
    assert_true(fabs(reports[0].input_error - reports[1].input_error) <= 1e-3);
    assert_int_equal(reports[0].n_experts_without_tokens,
        reports[1].n_experts_without_tokens);
    compare_model(context, "opencl", QMOE_TEST_DIR "/opencl-gptq");
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
    if (!find_device(context, "opencl", reason, sizeof reason)) {
        printf("skipped: %s\n", reason);
        qmoe_context_destroy(context);
        return SKIPPED;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uncompressed),
        cmocka_unit_test(test_compressed),
        cmocka_unit_test(test_choices),
        cmocka_unit_test(test_too_small),
        cmocka_unit_test(test_streamed),
        cmocka_unit_test(test_damaged_cache),
        cmocka_unit_test(test_bounded_cache),
        cmocka_unit_test(test_miscompiled),
        cmocka_unit_test(test_device_names),
        cmocka_unit_test(test_losses),
        cmocka_unit_test(test_compress),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    qmoe_context_destroy(context);
    return failed;
}
