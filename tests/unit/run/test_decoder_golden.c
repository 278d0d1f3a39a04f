/* SPDX-License-Identifier: Apache-2.0
 * Decoder-only models against vectors of Hugging Face transformers
 * (tests/golden/decoders): every logit within 1e-4 of the logits' range,
 * whether the tokens come at once, in chunks or one by one; greedy output
 * identical.  Arguments: the models to be tested instead of all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "logits.h"

static const char *const models[] = {"llama", "llama-dynamic", "llama-longrope",
    "mistral", "qwen2", "qwen3", "olmoe", "mixtral", "mixtral-fused",
    "qwen2-moe", "qwen3-moe"};
enum { N_MODELS = sizeof models / sizeof *models };

/* QMOE_TEST_BACKEND: the backend to be tested instead of the two built in. */
static const char *backend_of(int i)
{
    static const char *const own[] = {"cpu", "reference"};
    const char *other = getenv("QMOE_TEST_BACKEND");
    if (other != NULL)
        return i == 0 ? other : NULL;
    return i < 2 ? own[i] : NULL;
}

typedef struct fixture {
    const char *name;
    qmi_tensor_file *golden;
    qmoe_context *context;
    qmoe_model *model;
    qmoe_session *session;
} fixture;

static void open_fixture(fixture *f, const char *name, const char *backend)
{
    char directory[512], golden[600];
    qmi_error err = {0};
    f->name = name;
    snprintf(directory, sizeof directory, "%s/tests/golden/decoders/%s",
        QMOE_SOURCE_DIR, name);
    snprintf(golden, sizeof golden, "%s/golden.safetensors", directory);
    if (qmi_safetensors_open(&f->golden, golden, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    assert_int_equal(qmoe_context_create(&f->context, NULL), QMOE_OK);
    if (qmoe_model_open(&f->model, f->context, directory) != QMOE_OK)
        fail_msg("%s", qmoe_context_error(f->context));
    const qmoe_session_options options = {
        .size = sizeof options, .backend = backend};
    if (qmoe_session_create(&f->session, f->model, &options) != QMOE_OK)
        fail_msg("%s", qmoe_context_error(f->context));
}

static void close_fixture(fixture *f)
{
    qmoe_session_destroy(f->session);
    qmoe_model_close(f->model);
    qmoe_context_destroy(f->context);
    qmi_tensor_file_close(f->golden);
}

static void *copy_of(const qmi_tensor *t)
{
    void *copy = qmi_calloc(t->n_bytes, 1, "a tensor", NULL);
    memcpy(copy, t->data, t->n_bytes);
    return copy;
}

/* All logits of the ids, in portions of `n_chunk` tokens. */
static void run_portions(
    fixture *f, float *logits, const int32_t *ids, int32_t n, int32_t n_chunk)
{
    qmi_error err = {0};
    const int32_t first = 0;
    const int64_t width = f->model->shape.vocab_size;
    assert_int_equal(qmi_session_start(f->session, NULL, 1, &err), QMOE_OK);
    for (int32_t at = 0; at < n; at += n_chunk) {
        const int32_t length = n - at < n_chunk ? n - at : n_chunk;
        const qmi_batch batch = {
            .ids = ids + at, .sequences = &first, .lengths = &length, .n = 1};
        if (qmi_session_decode(f->session, logits + at * width, &batch, &err) !=
            QMOE_OK)
            fail_msg("%s: %s", f->name, err.text);
    }
}

static void compare(const fixture *f, const char *what, const float *got,
    const float *expected, size_t n)
{
    float low = INFINITY, high = -INFINITY, worst = 0;
    for (size_t i = 0; i < n; i++) {
        low = fminf(low, expected[i]);
        high = fmaxf(high, expected[i]);
        assert_true(isfinite(got[i]));
        worst = fmaxf(worst, fabsf(got[i] - expected[i]));
    }
    printf("  %s, %s: range %.4g, worst error %.3g of it\n", f->name, what,
        (double)(high - low), (double)(worst / (high - low)));
    assert_true(worst <= 1e-4f * (high - low));
}

static void check_logits(fixture *f)
{
    const qmi_tensor *ids = qmi_tensor_file_find(f->golden, "case0.ids");
    const qmi_tensor *logits = qmi_tensor_file_find(f->golden, "case0.logits");
    const int32_t n = (int32_t)ids->shape[0];
    const size_t n_logits = logits->n_bytes / sizeof(float);
    int32_t *list = copy_of(ids);
    float *expected = copy_of(logits);
    float *got = qmi_calloc(n_logits, sizeof *got, "logits", NULL);
    run_portions(f, got, list, n, n);
    compare(f, "at once", got, expected, n_logits);
    /* Which frequencies count depends on the tokens there are: only the last
     * portion has all of them. */
    const bool by_length = strcmp(f->name, "llama-dynamic") == 0 ||
                           strcmp(f->name, "llama-longrope") == 0;
    if (!by_length) {
        run_portions(f, got, list, n, 11);
        compare(f, "chunks", got, expected, n_logits);
        run_portions(f, got, list, n, 1);
        compare(f, "one by one", got, expected, n_logits);
    }
    qmi_free(list);
    qmi_free(expected);
    qmi_free(got);
}

static void check_greedy(fixture *f)
{
    const qmi_tensor *prompt = qmi_tensor_file_find(f->golden, "greedy0.ids");
    if (prompt == NULL)
        return;
    const qmi_tensor *output =
        qmi_tensor_file_find(f->golden, "greedy0.output_ids");
    const int32_t *ids = copy_of(prompt);
    int32_t *expected = copy_of(output);
    const size_t n = (size_t)prompt->shape[0];
    const qmoe_generate_options options = {.size = sizeof options,
        .max_new_tokens = (int)output->shape[0],
        .prompt_ids = &ids,
        .n_prompt_ids = &n};
    qmoe_generation *got;
    if (qmoe_session_generate(f->session, &got, NULL, NULL, 1, &options) !=
        QMOE_OK)
        fail_msg("%s: %s", f->name, qmoe_context_error(f->context));
    assert_int_equal(got->n_ids, output->shape[0]);
    assert_memory_equal(got->ids, expected, output->n_bytes);
    qmoe_generations_free(got, 1);
    qmi_free((int32_t *)ids);
    qmi_free(expected);
}

static const char *const *wanted = models;
static int n_wanted = N_MODELS;

static void agrees_with_transformers(void **state)
{
    (void)state;
    const char *backend;
    for (int i = 0; (backend = backend_of(i)) != NULL; i++)
        for (int m = 0; m < n_wanted; m++) {
            fixture f = {0};
            open_fixture(&f, wanted[m], backend);
            check_logits(&f);
            check_greedy(&f);
            close_fixture(&f);
        }
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        wanted = (const char *const *)argv + 1;
        n_wanted = argc - 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_transformers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
