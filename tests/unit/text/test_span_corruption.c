/* SPDX-License-Identifier: Apache-2.0
 * Span masks and samples: vectors of the reference, and what every sample has
 * to satisfy. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "alloc.h"
#include "json.h"
#include "span_corruption.h"

enum { MAX_TOKENS = 2048, START = 0, END = 1 };

static int open_tokenizer(void **state)
{
    qmi_tokenizer *tokenizer = NULL;
    qmi_error err = {0};
    if (qmi_tokenizer_open_spiece(&tokenizer,
            QMOE_SOURCE_DIR "/models/switch-mini/spiece.model",
            &err) != QMOE_OK) {
        print_error("%s\n", err.text);
        return -1;
    }
    *state = tokenizer;
    return 0;
}

static int close_tokenizer(void **state)
{
    qmi_tokenizer_close(*state);
    return 0;
}

/* ---- masks --------------------------------------------------------------- */

typedef struct mask {
    int32_t noise[MAX_TOKENS], kept[MAX_TOKENS];
    int32_t n_spans;
} mask;

static void check_parts(
    const int32_t *parts, const int32_t *expected, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        assert_int_equal(parts[i], expected[i]);
}

static void check_draw(qmi_mt19937 *rng, int32_t n_tokens, const int32_t *noise,
    const int32_t *kept, int32_t n_spans)
{
    static mask m;
    qmi_span_mask(rng, m.noise, m.kept, &m.n_spans, n_tokens);
    assert_int_equal(m.n_spans, n_spans);
    check_parts(m.noise, noise, n_spans);
    check_parts(m.kept, kept, n_spans);
}

static void masks_of_seed_0(void **state)
{
    (void)state;
    qmi_mt19937 rng;
    qmi_mt19937_seed(&rng, 0);
    check_draw(&rng, 20, (int32_t[]){3}, (int32_t[]){17}, 1);
    check_draw(&rng, 50, (int32_t[]){6, 1, 1}, (int32_t[]){24, 11, 7}, 3);
    check_draw(&rng, 2, (int32_t[]){1}, (int32_t[]){1}, 1);
    check_draw(&rng, 3, (int32_t[]){1}, (int32_t[]){2}, 1);
    check_draw(&rng, 100, (int32_t[]){4, 2, 4, 4, 1},
        (int32_t[]){29, 13, 19, 15, 9}, 5);
}

static void mask_of_the_longest_document(void **state)
{
    (void)state;
    static const int32_t noise[28] = {7, 1, 2, 1, 1, 4, 7, 3, 3, 1, 3, 5, 2, 2,
        1, 4, 4, 4, 1, 1, 2, 10, 2, 2, 1, 2, 7, 2};
    static const int32_t kept[28] = {2, 33, 7, 45, 21, 13, 38, 9, 35, 26, 2, 5,
        1, 35, 18, 7, 2, 11, 4, 21, 27, 17, 4, 16, 15, 2, 3, 64};
    qmi_mt19937 rng;
    qmi_mt19937_seed(&rng, 12345);
    check_draw(&rng, 568, noise, kept, 28);
}

/* 0.15 n is exactly a half for 10, 30, 50, 70, 90 and 110: it goes to even. */
static void counts(void **state)
{
    (void)state;
    static const int32_t cases[][3] = {{2, 1, 1}, {3, 1, 1}, {9, 1, 1},
        {10, 2, 1}, {30, 4, 1}, {50, 8, 3}, {70, 10, 3}, {90, 14, 5},
        {110, 16, 5}, {567, 85, 28}, {568, 85, 28}, {1990, 298, 99}};
    static mask m;
    qmi_mt19937 rng;
    qmi_mt19937_seed(&rng, 0);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        qmi_span_mask(&rng, m.noise, m.kept, &m.n_spans, cases[c][0]);
        int32_t n_noise = 0;
        for (int32_t k = 0; k < m.n_spans; k++)
            n_noise += m.noise[k];
        assert_int_equal(n_noise, cases[c][1]);
        assert_int_equal(m.n_spans, cases[c][2]);
    }
}

static void parts_are_positive_and_complete(void **state)
{
    (void)state;
    static mask m;
    qmi_mt19937 rng;
    qmi_mt19937_seed(&rng, 77);
    for (int32_t n = 2; n <= QMI_MAX_DOCUMENT_TOKENS; n++) {
        int32_t total = 0;
        qmi_span_mask(&rng, m.noise, m.kept, &m.n_spans, n);
        for (int32_t k = 0; k < m.n_spans; k++) {
            assert_true(m.noise[k] >= 1 && m.kept[k] >= 1);
            total += m.noise[k] + m.kept[k];
        }
        assert_int_equal(total, n);
    }
}

/* ---- samples ------------------------------------------------------------- */

static void fill_document(int32_t *ids, size_t n)
{
    for (size_t i = 0; i + 1 < n; i++)
        ids[i] = 3 + (int32_t)(i * 7 % 1900);
    ids[n - 1] = END;
}

/* Puts the decoder's spans back in place of the encoder's sentinels. */
static void rebuild(
    const qmi_sample *s, const qmi_tokenizer *t, const int32_t *ids, size_t n)
{
    size_t d = 1, position = 0;
    int k = 0;
    assert_int_equal(s->decoder_ids[0], START);
    assert_int_equal(s->encoder_ids[s->n_encoder - 1], END);
    for (size_t e = 0; e + 1 < s->n_encoder; e++) {
        if (!qmi_is_sentinel(t, s->encoder_ids[e])) {
            assert_true(position < n);
            assert_int_equal(s->encoder_ids[e], ids[position++]);
            continue;
        }
        assert_true(e > 0); /* the text starts kept */
        assert_int_equal(s->encoder_ids[e], qmi_sentinel(t, k));
        assert_true(d < s->n_decoder);
        assert_int_equal(s->decoder_ids[d++], qmi_sentinel(t, k));
        k++;
        while (d < s->n_decoder && !qmi_is_sentinel(t, s->decoder_ids[d])) {
            assert_true(position < n);
            assert_int_equal(s->decoder_ids[d++], ids[position++]);
        }
    }
    assert_int_equal(position, n);
    assert_int_equal(d, s->n_decoder - 1);
    assert_int_equal(s->decoder_ids[d], qmi_sentinel(t, k));
    /* The end token belongs to the last noise span. */
    assert_int_equal(s->decoder_ids[d - 1], END);
    assert_true(qmi_is_sentinel(t, s->encoder_ids[s->n_encoder - 2]));
}

static void samples_hold_the_document(void **state)
{
    const qmi_tokenizer *tokenizer = *state;
    static int32_t ids[MAX_TOKENS];
    qmi_mt19937 rng;
    qmi_mt19937_seed(&rng, 4);
    for (size_t n = 2; n <= QMI_MAX_DOCUMENT_TOKENS; n++) {
        qmi_sample sample;
        fill_document(ids, n);
        assert_int_equal(
            qmi_sample_make(&sample, &rng, tokenizer, ids, n, START, END, NULL),
            QMOE_OK);
        rebuild(&sample, tokenizer, ids, n);
        if (n == QMI_MAX_DOCUMENT_TOKENS) {
            assert_int_equal(sample.n_encoder, 512);
            assert_int_equal(sample.n_decoder, 115);
        }
        qmi_sample_free(&sample);
        assert_null(sample.encoder_ids);
    }
}

static void worked_example(void **state)
{
    const qmi_tokenizer *tokenizer = *state;
    static int32_t ids[MAX_TOKENS];
    qmi_mt19937 rng;
    qmi_sample sample;
    fill_document(ids, 50);
    qmi_mt19937_seed(&rng, 0);
    for (size_t n = 20; n <= 50; n += 30) {
        assert_int_equal(
            qmi_sample_make(&sample, &rng, tokenizer, ids, n, START, END, NULL),
            QMOE_OK);
        if (n == 20)
            qmi_sample_free(&sample);
    }
    assert_int_equal(sample.n_encoder, 46);
    assert_int_equal(sample.n_decoder, 13);
    assert_int_equal(sample.encoder_ids[23], ids[23]);
    assert_int_equal(sample.encoder_ids[24], 2099);
    assert_int_equal(sample.encoder_ids[25], ids[30]);
    assert_int_equal(sample.encoder_ids[36], 2098);
    assert_int_equal(sample.encoder_ids[37], ids[42]);
    assert_int_equal(sample.encoder_ids[44], 2097);
    const int32_t decoder[13] = {START, 2099, ids[24], ids[25], ids[26],
        ids[27], ids[28], ids[29], 2098, ids[41], 2097, END, 2096};
    for (int i = 0; i < 13; i++)
        assert_int_equal(sample.decoder_ids[i], decoder[i]);
    qmi_sample_free(&sample);
}

static void refused_lengths(void **state)
{
    const qmi_tokenizer *tokenizer = *state;
    static int32_t ids[MAX_TOKENS];
    qmi_mt19937 rng, untouched;
    qmi_sample sample;
    qmi_error err = {0};
    qmi_mt19937_seed(&rng, 0);
    untouched = rng;
    fill_document(ids, MAX_TOKENS);
    /* 1990 tokens take 99 spans and the last sentinel; 1991 one more. */
    static const size_t refused[] = {
        0, 1, 2000, MAX_TOKENS, (size_t)INT32_MAX + 1};
    for (size_t c = 0; c < sizeof refused / sizeof *refused; c++) {
        assert_int_equal(qmi_sample_make(&sample, &rng, tokenizer, ids,
                             refused[c], START, END, &err),
            QMOE_E_INVALID);
        assert_null(sample.encoder_ids);
        assert_null(sample.decoder_ids);
        assert_int_equal(sample.n_encoder, 0);
    }
    assert_memory_equal(&rng, &untouched, sizeof rng);
    assert_int_equal(
        qmi_sample_make(&sample, &rng, tokenizer, ids, 1990, START, END, &err),
        QMOE_OK);
    assert_int_equal(
        sample.decoder_ids[sample.n_decoder - 1], qmi_sentinel(tokenizer, 99));
    qmi_sample_free(&sample);
}

static void failing_allocations(void **state)
{
    const qmi_tokenizer *tokenizer = *state;
    int32_t ids[40];
    fill_document(ids, 40);
    for (uint64_t n = 1;; n++) {
        qmi_mt19937 rng;
        qmi_sample sample;
        qmi_error err = {0};
        qmi_mt19937_seed(&rng, 0);
        qmi_alloc_fail_after(n);
        qmoe_status status = qmi_sample_make(
            &sample, &rng, tokenizer, ids, 40, START, END, &err);
        qmi_alloc_fail_after(0);
        if (status == QMOE_OK) {
            qmi_sample_free(&sample);
            assert_true(n > 3);
            return;
        }
        assert_int_equal(status, QMOE_E_NOMEM);
        assert_null(sample.encoder_ids);
        assert_null(sample.decoder_ids);
    }
}

static void check_sample(const qmi_sample *sample, const int32_t *encoder,
    size_t n_encoder, const int32_t *decoder, size_t n_decoder)
{
    assert_int_equal(sample->n_encoder, n_encoder);
    assert_int_equal(sample->n_decoder, n_decoder);
    assert_memory_equal(sample->encoder_ids, encoder, 4 * n_encoder);
    assert_memory_equal(sample->decoder_ids, decoder, 4 * n_decoder);
}

static void sample_of_text(qmi_sample *sample, qmi_mt19937 *rng,
    const qmi_tokenizer *t, const char *text)
{
    int32_t *plain = NULL, ids[64];
    size_t n = 0;
    assert_int_equal(
        qmi_tokenizer_encode(t, &plain, &n, text, strlen(text), NULL, NULL),
        QMOE_OK);
    assert_true(n < 64);
    memcpy(ids, plain, n * sizeof *ids);
    qmi_free(plain);
    ids[n++] = END;
    assert_int_equal(
        qmi_sample_make(sample, rng, t, ids, n, START, END, NULL), QMOE_OK);
}

/* The two documents of docs/evaluation.md section 7. */
static void documented_samples(void **state)
{
    static const int32_t encoder0[] = {
        434, 4, 1038, 45, 1611, 4, 240, 5, 4, 156, 2099, 1};
    static const int32_t decoder0[] = {0, 2099, 7, 1, 2098};
    static const int32_t encoder1[] = {11, 45, 46, 3, 340, 81, 23, 396, 12, 5,
        81, 39, 396, 7, 11, 45, 252, 4, 396, 3, 14, 35, 2099, 1};
    static const int32_t decoder1[] = {0, 2099, 39, 199, 7, 1, 2098};
    qmi_mt19937 rng;
    qmi_sample sample;
    qmi_mt19937_seed(&rng, 0);
    sample_of_text(&sample, &rng, *state,
        "In the beginning God created the heaven and the earth.");
    check_sample(&sample, encoder0, 12, decoder0, 5);
    qmi_sample_free(&sample);
    sample_of_text(&sample, &rng, *state,
        "And God said, Let there be light: and there was light. And God saw "
        "the light, that it was good.");
    check_sample(&sample, encoder1, 24, decoder1, 7);
    qmi_sample_free(&sample);
}

/* ---- vectors of the reference in tests/golden ---------------------------- */

static void check_numbers(const cJSON *expected, const int32_t *found, size_t n)
{
    assert_true(cJSON_IsArray(expected));
    assert_int_equal(cJSON_GetArraySize(expected), n);
    size_t i = 0;
    const cJSON *number;
    cJSON_ArrayForEach(number, expected)
        assert_int_equal(number->valueint, found[i++]);
}

static void golden_draws(const cJSON *draws)
{
    static mask m;
    const cJSON *draw, *entry;
    assert_true(cJSON_GetArraySize(draws) > 0);
    cJSON_ArrayForEach(draw, draws)
    {
        qmi_mt19937 rng;
        const cJSON *seed = cJSON_GetObjectItem(draw, "seed");
        qmi_mt19937_seed(&rng, (uint32_t)cJSON_GetNumberValue(seed));
        cJSON_ArrayForEach(entry, cJSON_GetObjectItem(draw, "masks"))
        {
            const cJSON *length = cJSON_GetObjectItem(entry, "length");
            qmi_span_mask(&rng, m.noise, m.kept, &m.n_spans, length->valueint);
            check_numbers(cJSON_GetObjectItem(entry, "noise"), m.noise,
                (size_t)m.n_spans);
            check_numbers(
                cJSON_GetObjectItem(entry, "kept"), m.kept, (size_t)m.n_spans);
        }
    }
}

static void golden_samples(const cJSON *root, const qmi_tokenizer *tokenizer)
{
    const cJSON *settings = cJSON_GetObjectItem(root, "samples"), *document;
    const cJSON *documents = cJSON_GetObjectItem(root, "documents");
    qmi_mt19937 rng;
    assert_true(cJSON_GetArraySize(documents) > 0);
    qmi_mt19937_seed(
        &rng, (uint32_t)cJSON_GetObjectItem(settings, "seed")->valueint);
    assert_int_equal(cJSON_GetObjectItem(settings, "sentinel0")->valueint,
        qmi_sentinel(tokenizer, 0));
    cJSON_ArrayForEach(document, documents)
    {
        static int32_t ids[MAX_TOKENS];
        size_t n = 0;
        const cJSON *id;
        qmi_sample sample;
        cJSON_ArrayForEach(id, cJSON_GetObjectItem(document, "ids")) ids[n++] =
            id->valueint;
        assert_int_equal(
            qmi_sample_make(&sample, &rng, tokenizer, ids, n, START, END, NULL),
            QMOE_OK);
        check_numbers(cJSON_GetObjectItem(document, "encoder"),
            sample.encoder_ids, sample.n_encoder);
        check_numbers(cJSON_GetObjectItem(document, "decoder"),
            sample.decoder_ids, sample.n_decoder);
        qmi_sample_free(&sample);
    }
}

static void golden_spans(void **state)
{
    cJSON *root = NULL;
    qmi_error err = {0};
    if (qmi_json_load(
            &root, QMOE_SOURCE_DIR "/tests/golden/spans.json", &err) != QMOE_OK)
        fail_msg("%s", err.text);
    golden_draws(cJSON_GetObjectItem(root, "draws"));
    golden_samples(root, *state);
    cJSON_Delete(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(masks_of_seed_0),
        cmocka_unit_test(mask_of_the_longest_document),
        cmocka_unit_test(counts),
        cmocka_unit_test(parts_are_positive_and_complete),
        cmocka_unit_test(samples_hold_the_document),
        cmocka_unit_test(worked_example),
        cmocka_unit_test(documented_samples),
        cmocka_unit_test(refused_lengths),
        cmocka_unit_test(failing_allocations),
        cmocka_unit_test(golden_spans),
    };
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
