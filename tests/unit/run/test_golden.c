/* SPDX-License-Identifier: Apache-2.0
 * The model against vectors of Hugging Face transformers (tests/golden): every
 * logit within 1e-4 of the logits' range, greedy output identical. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "logits.h"
#include "position_bias.h"

static const char *const models[] = {
    "tied", "untied", "full-sparse", "three-heads", "switch-mini"};
enum { N_MODELS = sizeof models / sizeof *models };

typedef struct fixture {
    qmi_tensor_file *golden;
    qmoe_context *context;
    qmoe_model *model;
    const char *backend;
} fixture;

static void open_fixture(fixture *f, const char *name, const char *backend)
{
    char golden[512], model[512];
    qmi_error err = {0};
    bool mini = strcmp(name, "switch-mini") == 0;
    snprintf(golden, sizeof golden, "%s/tests/golden/%s/golden.safetensors",
        QMOE_SOURCE_DIR, name);
    snprintf(model, sizeof model, "%s/%s/%s", QMOE_SOURCE_DIR,
        mini ? "models" : "tests/golden", name);
    f->backend = backend;
    if (qmi_safetensors_open(&f->golden, golden, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    assert_int_equal(qmoe_context_create(&f->context, NULL), QMOE_OK);
    if (qmoe_model_open(&f->model, f->context, model) != QMOE_OK)
        fail_msg("%s", qmoe_context_error(f->context));
}

static void close_fixture(fixture *f)
{
    qmoe_model_close(f->model);
    qmoe_context_destroy(f->context);
    qmi_tensor_file_close(f->golden);
}

static const qmi_tensor *tensor(
    const fixture *f, const char *group, int k, const char *name)
{
    char full[128];
    snprintf(full, sizeof full, "%s%d.%s", group, k, name);
    return qmi_tensor_file_find(f->golden, full);
}

static qmoe_session *session_of(const fixture *f, int capacity)
{
    qmoe_session *session = NULL;
    const qmoe_session_options options = {.size = sizeof options,
        .backend = f->backend,
        .expert_capacity = capacity};
    if (qmoe_session_create(&session, f->model, &options) != QMOE_OK)
        fail_msg("%s", qmoe_context_error(f->context));
    return session;
}

/* Tensors of the golden files are 4-byte types at 4-byte alignment. */
static const int32_t *ints(const qmi_tensor *t)
{
    assert_int_equal(t->dtype, QMI_I32);
    return (const int32_t *)(const void *)t->data;
}

static float *expected_logits(const qmi_tensor *t)
{
    assert_int_equal(t->dtype, QMI_F32);
    float *copy = qmi_calloc(t->n_bytes, 1, "logits", NULL);
    memcpy(copy, t->data, t->n_bytes);
    return copy;
}

static void compare(
    const char *what, const float *got, const float *expected, size_t n)
{
    float low = INFINITY, high = -INFINITY, worst = 0;
    for (size_t i = 0; i < n; i++) {
        low = fminf(low, expected[i]);
        high = fmaxf(high, expected[i]);
        assert_true(isfinite(got[i]));
        worst = fmaxf(worst, fabsf(got[i] - expected[i]));
    }
    printf("  %s: range %.4g, worst error %.3g of it\n", what, high - low,
        worst / (high - low));
    assert_true(worst <= 1e-4f * (high - low));
}

static void check_case(const fixture *f, const char *name, int k)
{
    const qmi_tensor *capacity = tensor(f, "case", k, "capacity");
    const qmi_tensor *encoder = tensor(f, "case", k, "encoder_ids");
    const qmi_tensor *decoder = tensor(f, "case", k, "decoder_ids");
    const qmi_tensor *logits = tensor(f, "case", k, "logits");
    char what[128];
    size_t n = logits->n_bytes / sizeof(float);
    float *got = qmi_calloc(n, sizeof *got, "logits", NULL);
    float *expected = expected_logits(logits);
    qmoe_session *session =
        session_of(f, capacity != NULL ? ints(capacity)[0] : 0);
    qmoe_status status = qmoe_session_logits(session, got, ints(encoder),
        (size_t)encoder->shape[0], ints(decoder), (size_t)decoder->shape[0]);
    if (status != QMOE_OK)
        fail_msg("%s", qmoe_context_error(f->context));
    snprintf(what, sizeof what, "%s case %d on %s", name, k, f->backend);
    compare(what, got, expected, n);
    qmoe_session_destroy(session);
    qmi_free(expected);
    qmi_free(got);
}

/* Index of the largest logit. */
static int32_t best(const float *logits, int64_t n)
{
    int32_t at = 0;
    for (int64_t i = 1; i < n; i++)
        if (logits[i] > logits[at])
            at = (int32_t)i;
    return at;
}

/* Greedy decoding step by step through the caches. */
static void check_greedy(const fixture *f, int k)
{
    const qmi_tensor *encoder = tensor(f, "greedy", k, "encoder_ids");
    const qmi_tensor *output = tensor(f, "greedy", k, "output_ids");
    const int32_t length = (int32_t)encoder->shape[0], one = 1, first = 0;
    int64_t vocab_size = f->model->shape.vocab_size;
    float *logits =
        qmi_calloc((size_t)vocab_size, sizeof *logits, "logits", NULL);
    qmoe_session *session = session_of(f, 0);
    qmi_error err = {0};
    assert_int_equal(
        qmi_session_encode(session, ints(encoder), &length, 1, &err), QMOE_OK);
    int32_t id = f->model->shape.start_id;
    const qmi_batch batch = {
        .ids = &id, .sequences = &first, .lengths = &one, .n = 1};
    for (int64_t i = 0; i < output->shape[0]; i++) {
        assert_int_equal(
            qmi_session_decode(session, logits, &batch, &err), QMOE_OK);
        id = best(logits, vocab_size);
        assert_int_equal(id, ints(output)[i]);
    }
    qmoe_session_destroy(session);
    qmi_free(logits);
}

static void check_model(const char *name, const char *backend)
{
    fixture f;
    int n_cases = 0, n_greedy = 0;
    open_fixture(&f, name, backend);
    for (; tensor(&f, "case", n_cases, "logits") != NULL; n_cases++)
        check_case(&f, name, n_cases);
    for (; tensor(&f, "greedy", n_greedy, "output_ids") != NULL; n_greedy++)
        check_greedy(&f, n_greedy);
    printf(
        "  %s on %s: %d cases, %d greedy\n", name, backend, n_cases, n_greedy);
    assert_true(n_cases > 0);
    close_fixture(&f);
}

static void test_cpu(void **state)
{
    (void)state;
    for (int i = 0; i < N_MODELS; i++)
        check_model(models[i], "cpu");
}

static void test_reference(void **state)
{
    (void)state;
    for (int i = 0; i < N_MODELS; i++)
        check_model(models[i], "reference");
}

/* All greedy prompts of a model as one batch give what they give alone. */
static void test_batch_equals_singles(void **state)
{
    (void)state;
    fixture f;
    open_fixture(&f, "tied", "cpu");
    enum { MAX = 8, MAX_IDS = 1024 };
    int32_t ids[MAX_IDS], lengths[MAX], active[MAX], next[MAX], ones[MAX];
    int32_t n_ids = 0, n = 0;
    for (; n < MAX && tensor(&f, "greedy", n, "output_ids") != NULL; n++) {
        const qmi_tensor *t = tensor(&f, "greedy", n, "encoder_ids");
        lengths[n] = (int32_t)t->shape[0];
        memcpy(ids + n_ids, t->data, t->n_bytes);
        n_ids += lengths[n];
        active[n] = n;
        ones[n] = 1;
        next[n] = f.model->shape.start_id;
    }
    assert_true(n >= 2);
    qmoe_session *session = session_of(&f, 0);
    qmi_error err = {0};
    int64_t vocab_size = f.model->shape.vocab_size;
    float *logits =
        qmi_calloc((size_t)(n * vocab_size), sizeof *logits, "logits", NULL);
    assert_int_equal(
        qmi_session_encode(session, ids, lengths, (size_t)n, &err), QMOE_OK);
    for (int32_t step = 0; n > 0; step++) {
        const qmi_batch batch = {
            .ids = next, .sequences = active, .lengths = ones, .n = (size_t)n};
        assert_int_equal(
            qmi_session_decode(session, logits, &batch, &err), QMOE_OK);
        int32_t kept = 0;
        for (int32_t i = 0; i < n; i++) {
            const qmi_tensor *output =
                tensor(&f, "greedy", active[i], "output_ids");
            int32_t id = best(logits + i * vocab_size, vocab_size);
            assert_int_equal(id, ints(output)[step]);
            if (step + 1 == output->shape[0])
                continue;
            active[kept] = active[i];
            next[kept++] = id;
        }
        n = kept;
    }
    qmi_free(logits);
    qmoe_session_destroy(session);
    close_fixture(&f);
}

/* First distances of the buckets 8..15 (both directions) and 16..31. */
static void test_relative_buckets(void **state)
{
    (void)state;
    static const int two_way[] = {8, 12, 16, 23, 32, 46, 64, 91};
    static const int one_way[] = {
        16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113};
    for (int i = 0; i < 8; i++) {
        int64_t d = two_way[i];
        assert_int_equal(qmi_relative_bucket(-d, true, 32, 128), 8 + i);
        assert_int_equal(qmi_relative_bucket(-d + 1, true, 32, 128), 7 + i);
        assert_int_equal(qmi_relative_bucket(d, true, 32, 128), 24 + i);
    }
    for (int i = 0; i < 16; i++) {
        int64_t d = one_way[i];
        assert_int_equal(qmi_relative_bucket(-d, false, 32, 128), 16 + i);
        assert_int_equal(qmi_relative_bucket(-d + 1, false, 32, 128), 15 + i);
    }
    assert_int_equal(qmi_relative_bucket(5, false, 32, 128), 0);
    assert_int_equal(qmi_relative_bucket(-1000000, true, 32, 128), 15);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_relative_buckets),
        cmocka_unit_test(test_cpu),
        cmocka_unit_test(test_reference),
        cmocka_unit_test(test_batch_equals_singles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
