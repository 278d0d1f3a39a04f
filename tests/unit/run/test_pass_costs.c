/* SPDX-License-Identifier: Apache-2.0
 * What a generated token costs beside arithmetic: uploads, allocations of the
 * library, buffers of the device.  And caches that grow keep what they hold. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "alloc.h"
#include "logits.h"

enum { N_NEW = 150, N_PROMPTS = 2 };

/* ---- a backend that counts ---- */

typedef struct costs {
    uint64_t uploads, buffers, allocations;
} costs;

static const qmi_backend *real;
static qmi_backend counting;
static costs now;
static uint64_t in_buffers; /* allocations that buffers are made of */

static qmoe_status write_counted(qmi_device *device, qmi_view dst,
    const void *src, uint64_t n_bytes, qmi_error *err)
{
    now.uploads++;
    return real->buffer_write(device, dst, src, n_bytes, err);
}

static qmoe_status alloc_counted(
    qmi_buffer **out, qmi_device *device, uint64_t n_bytes, qmi_error *err)
{
    const uint64_t before = qmi_alloc_count();
    qmoe_status status = real->buffer_alloc(out, device, n_bytes, err);
    now.buffers++;
    in_buffers += qmi_alloc_count() - before;
    return status;
}

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

/* ---- per token ---- */

static costs costs_of[N_NEW]; /* counted up to each token of sequence 0 */
static size_t n_costs;

static int on_token(void *user, size_t sequence, int32_t id, const char *text)
{
    (void)user, (void)id, (void)text;
    if (sequence != 0)
        return 0;
    now.allocations = qmi_alloc_count() - in_buffers;
    costs_of[n_costs++] = now;
    return 0;
}

/* Tokens 64 and 128 find their caches full: rows are doubled twice.  Texts and
 * scratch memory may grow, too, but no more often. */
static void test_tokens(void **state)
{
    (void)state;
    static const int32_t first[] = {5, 9, 30}, second[] = {700};
    const int32_t *const prompts[N_PROMPTS] = {first, second};
    const size_t lengths[N_PROMPTS] = {3, 1};
    const qmoe_generate_options options = {.size = sizeof options,
        .max_new_tokens = N_NEW,
        .ignore_eos = true,
        .on_token = on_token,
        .prompt_ids = prompts,
        .n_prompt_ids = lengths};
    qmoe_session *session = open_session();
    qmoe_generation *out = NULL;
    real = session->stage.backend;
    counting = *real;
    counting.buffer_write = write_counted;
    counting.buffer_alloc = alloc_counted;
    session->stage.backend = &counting;
    if (qmoe_session_generate(session, &out, NULL, NULL, N_PROMPTS, &options) !=
        QMOE_OK)
        fail_msg("%s", qmoe_context_error(context));
    qmoe_generations_free(out, N_PROMPTS);
    assert_int_equal(n_costs, N_NEW);
    int n_allocating = 0, n_growing = 0;
    for (size_t i = 1; i < N_NEW; i++) {
        const costs *before = &costs_of[i - 1], *after = &costs_of[i];
        n_allocating += after->allocations != before->allocations;
        n_growing += after->buffers != before->buffers;
        /* Growing, the table of position bias may be uploaded as well. */
        if (after->buffers == before->buffers)
            assert_int_equal(after->uploads - before->uploads, 1);
    }
    assert_int_equal(n_growing, 2);
    assert_in_range(n_allocating, 0, 2);
    qmoe_session_destroy(session);
}

/* ---- growing caches ---- */

static void decode(qmoe_session *session, float *logits, const int32_t *ids,
    int32_t n_each, qmi_error *err)
{
    static const int32_t active[N_PROMPTS] = {0, 1};
    const int32_t lengths[N_PROMPTS] = {n_each, n_each};
    const qmi_batch batch = {
        .ids = ids, .sequences = active, .lengths = lengths, .n = N_PROMPTS};
    if (qmi_session_decode(session, logits, &batch, err) != QMOE_OK)
        fail_msg("%s", err->text);
}

static void encode(qmoe_session *session, qmi_error *err)
{
    static const int32_t ids[] = {5, 9, 30, 1, 700, 1};
    static const int32_t lengths[N_PROMPTS] = {4, 2};
    if (qmi_session_encode(session, ids, lengths, N_PROMPTS, err) != QMOE_OK)
        fail_msg("%s", err->text);
}

/* All tokens in one pass need one size, one by one they need three. */
static void test_growth(void **state)
{
    (void)state;
    const size_t width = (size_t)model->shape.vocab_size;
    qmi_error err = {0};
    int32_t ids[N_PROMPTS * N_NEW];
    float *whole =
        qmi_calloc(N_PROMPTS * N_NEW * width, sizeof *whole, "logits", &err);
    float *one = qmi_calloc(N_PROMPTS * width, sizeof *one, "logits", &err);
    assert_true(whole != NULL && one != NULL);
    for (int32_t i = 0; i < N_PROMPTS * N_NEW; i++)
        ids[i] = i * 37 % 2000;
    qmoe_session *session = open_session();
    encode(session, &err);
    decode(session, whole, ids, N_NEW, &err);
    encode(session, &err);
    for (int t = 0; t < N_NEW; t++) {
        const int32_t next[N_PROMPTS] = {ids[t], ids[N_NEW + t]};
        decode(session, one, next, 1, &err);
        for (size_t i = 0; i < N_PROMPTS * width; i++) {
            const size_t row = i / width * N_NEW + (size_t)t;
            const float expected = whole[row * width + i % width];
            if (fabsf(one[i] - expected) > 1e-3f)
                fail_msg("token %d, logit %zu: %g, but %g in one pass", t, i,
                    one[i], expected);
        }
    }
    qmoe_session_destroy(session);
    qmi_free(whole);
    qmi_free(one);
}

/* A growth that fails leaves no batch, and a session for the next one. */
static void test_failing_growth(void **state)
{
    (void)state;
    const size_t width = (size_t)model->shape.vocab_size;
    static const int32_t next[N_PROMPTS], active[N_PROMPTS] = {0, 1};
    static const int32_t ones[N_PROMPTS] = {1, 1};
    const qmi_batch batch = {
        .ids = next, .sequences = active, .lengths = ones, .n = N_PROMPTS};
    qmi_error err = {0};
    float *logits =
        qmi_calloc(N_PROMPTS * width, sizeof *logits, "logits", &err);
    assert_non_null(logits);
    qmoe_session *session = open_session();
    encode(session, &err);
    for (int t = 0; t < 64; t++)
        decode(session, logits, next, 1, &err);
    qmi_alloc_fail_after(4); /* the second cache */
    assert_int_equal(
        qmi_session_decode(session, logits, &batch, &err), QMOE_E_NOMEM);
    qmi_alloc_fail_after(0);
    assert_int_equal(
        qmi_session_decode(session, logits, &batch, &err), QMOE_E_INVALID);
    encode(session, &err);
    decode(session, logits, next, 1, &err);
    qmoe_session_destroy(session);
    qmi_free(logits);
}

static int set_up(void **state)
{
    (void)state;
    if (qmoe_context_create(&context, NULL) != QMOE_OK)
        return -1;
    return qmoe_model_open(&model, context,
               QMOE_SOURCE_DIR "/models/switch-mini") == QMOE_OK
               ? 0
               : -1;
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
        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_growth),
        cmocka_unit_test(test_failing_growth),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
