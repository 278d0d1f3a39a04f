/* SPDX-License-Identifier: Apache-2.0
 * The tokenizer on models/switch-mini: vectors of Hugging Face's slow T5
 * tokenizer (tests/golden), round trips, sentinels.  Hostile files are in
 * test_spiece_check.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "json.h"
#include "span_corruption.h"

#define MODEL QMOE_SOURCE_DIR "/models/switch-mini/spiece.model"

static int open_tokenizer(void **state)
{
    qmi_tokenizer *tokenizer = NULL;
    qmi_error err = {0};
    if (qmi_tokenizer_open_spiece(&tokenizer, MODEL, &err) != QMOE_OK) {
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

static size_t encode(
    const qmi_tokenizer *t, int32_t **ids, const char *text, size_t n_bytes)
{
    size_t n = 0;
    qmi_error err = {0};
    if (qmi_tokenizer_encode(t, ids, &n, text, n_bytes, NULL, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    return n;
}

static char *decode(const qmi_tokenizer *t, const int32_t *ids, size_t n)
{
    char *text = NULL;
    qmi_error err = {0};
    if (qmi_tokenizer_decode(t, &text, ids, n, false, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    return text;
}

static void check_ids(const qmi_tokenizer *t, const char *text, size_t n_bytes,
    const int32_t *expected, size_t n_expected)
{
    int32_t *ids = NULL;
    size_t n = encode(t, &ids, text, n_bytes);
    assert_int_equal(n, n_expected);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(ids[i], expected[i]);
    qmi_free(ids);
}

static void check_text(
    const qmi_tokenizer *t, const int32_t *ids, size_t n, const char *expected)
{
    char *text = decode(t, ids, n);
    assert_string_equal(text, expected);
    qmi_free(text);
}

/* What text is after encoding and decoding. */
static void check_round_trip(
    const qmi_tokenizer *t, const char *text, const char *expected)
{
    int32_t *ids = NULL;
    size_t n = encode(t, &ids, text, strlen(text));
    check_text(t, ids, n, expected);
    qmi_free(ids);
}

#define IDS(...)                                                               \
    (const int32_t[]){__VA_ARGS__},                                            \
        sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t)

static void sizes_and_sentinels(void **state)
{
    const qmi_tokenizer *t = *state;
    assert_int_equal(qmi_tokenizer_size(t), 2100);
    assert_int_equal(qmi_sentinel(t, 0), 2099);
    assert_int_equal(qmi_sentinel(t, 99), 2000);
    assert_true(qmi_is_sentinel(t, 2099));
    assert_true(qmi_is_sentinel(t, 2000));
    assert_false(qmi_is_sentinel(t, 1999));
    assert_false(qmi_is_sentinel(t, 2100));
    assert_false(qmi_is_sentinel(t, -1));
}

static void every_sentinel(void **state)
{
    const qmi_tokenizer *t = *state;
    for (int k = 0; k < QMI_N_SENTINELS; k++) {
        char name[32];
        int32_t id = qmi_sentinel(t, k);
        snprintf(name, sizeof name, "<extra_id_%d>", k);
        check_ids(t, name, strlen(name), &id, 1);
        check_text(t, &id, 1, name);
    }
}

static void round_trips(void **state)
{
    const qmi_tokenizer *t = *state;
    static const char *const same[] = {"Hello world", "",
        "And God said, Let there be light: and there was light.",
        "The <extra_id_0> walks in <extra_id_1> park.",
        "<extra_id_0> the heaven <extra_id_1>",
        "<extra_id_3> <extra_id_2> <extra_id_99>"};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        check_round_trip(t, same[i], same[i]);
    check_round_trip(t, "  a   b  ", "a b");
    check_round_trip(t, "a\tb\r\nc", "a b c");
    check_round_trip(t, "a<extra_id_0>b", "a <extra_id_0> b");
    check_round_trip(t, "  <extra_id_5>  ", "<extra_id_5>");
    check_round_trip(t, "the\xef\xbc\xa1", "theA");        /* full-width A */
    check_round_trip(t, "\xe6\xbc\xa2", " \xe2\x81\x87 "); /* unknown: U+2047 */
    check_round_trip(t, "\xff\x80 and", " \xe2\x81\x87  and");
}

static void empty_texts(void **state)
{
    const qmi_tokenizer *t = *state;
    static const char *const empty[] = {"", " ", "\n\t  \r\n"};
    for (size_t i = 0; i < sizeof empty / sizeof *empty; i++) {
        int32_t *ids = NULL;
        assert_int_equal(encode(t, &ids, empty[i], strlen(empty[i])), 0);
        assert_non_null(ids);
        qmi_free(ids);
    }
    check_text(t, NULL, 0, "");
    check_text(t, IDS(0, 1), "");
}

/* The length counts, not the NUL. */
static void text_by_length(void **state)
{
    const qmi_tokenizer *t = *state;
    check_ids(t, "Hello world<extra_id_0>", 11, IDS(155, 9, 9, 58, 467));
    check_ids(t, "Hello world<extra_id_0>", 23, IDS(155, 9, 9, 58, 467, 2099));
    check_ids(t, "<extra_id_1>2>", 12, IDS(2098));
    int32_t *ids = NULL;
    size_t n = encode(t, &ids, "Hello\0world", 11);
    assert_true(n > 1);
    qmi_free(ids);
}

/* Every character of Unicode's white space goes, on both sides. */
static void space_beside_sentinels(void **state)
{
    const qmi_tokenizer *t = *state;
    static const char *const texts[] = {"a<extra_id_1>b", "a <extra_id_1>\nb",
        "a\xc2\xa0 <extra_id_1>\xe3\x80\x80 b",
        "a\xc2\x85\x1c<extra_id_1>\x1f\x0b\xc2\x85\x0c b",
        "a\xe2\x80\xa9\xe1\x9a\x80<extra_id_1>\xe2\x80\x8a\xe2\x81\x9f b"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        check_ids(t, texts[i], strlen(texts[i]), IDS(21, 2098, 160));
}

static void almost_sentinels(void **state)
{
    const qmi_tokenizer *t = *state;
    static const char *const texts[] = {"<extra_id_100>", "<extra_id_05>",
        "<extra_id_00>", "<extra_id_>", "<extra_id_1", "<extra_id_1 >",
        "<extra_id_-1>", "<EXTRA_ID_1>", "<extra_id_999999999999999999999>"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        int32_t *ids = NULL;
        size_t n = encode(t, &ids, texts[i], strlen(texts[i]));
        for (size_t k = 0; k < n; k++)
            assert_false(qmi_is_sentinel(t, ids[k]));
        qmi_free(ids);
    }
    int32_t *ids = NULL;
    const char *nested = "<extra_id_1<extra_id_2>";
    size_t n = encode(t, &ids, nested, strlen(nested));
    assert_int_equal(ids[n - 1], 2097);
    qmi_free(ids);
}

/* Names of control pieces are plain text: no input can end the sequence. */
static void control_pieces_in_text(void **state)
{
    const qmi_tokenizer *t = *state;
    int32_t *ids = NULL;
    size_t n = encode(t, &ids, "one</s>two<pad>", 15);
    for (size_t i = 0; i < n; i++)
        assert_true(ids[i] > 1);
    qmi_free(ids);
    check_text(t, IDS(0, 90, 1, 190, 1, 0, 0), "one two");
    check_text(t, IDS(2099, 1, 90), "<extra_id_0> one");
}

static void decoded_spaces(void **state)
{
    const qmi_tokenizer *t = *state;
    /* 17 is a lone space, 3 a comma. */
    check_text(t, IDS(2099, 17, 2098), "<extra_id_0> <extra_id_1>");
    check_text(t, IDS(90, 2099, 3, 90), "one <extra_id_0>, one");
    check_text(t, IDS(17, 90), "one");
}

/* Ids beyond the tokenizer's belong to the padding of a model's vocabulary. */
static void ids_outside(void **state)
{
    const qmi_tokenizer *t = *state;
    int32_t n = qmi_tokenizer_size(t);
    char *text = decode(t, IDS(155, n, 9, INT32_MAX));
    char *same = decode(t, IDS(155, 9));
    assert_string_equal(text, same);
    qmi_free(text);
    qmi_free(same);
    qmi_error err = {0};
    assert_int_equal(qmi_tokenizer_decode(t, &text, IDS(155, -1), false, &err),
        QMOE_E_INVALID);
    assert_non_null(strstr(err.text, "-1 is negative"));
    assert_null(text);
}

/* Text that is streamed must only ever grow. */
static void decoding_a_prefix_gives_a_prefix(void **state)
{
    const qmi_tokenizer *t = *state;
    const char *text =
        "<extra_id_0> And, the  LORD (<extra_id_1>), \xe2\x81\x87"
        " <extra_id_2><extra_id_3> . \xef\xac\x81ne <extra_id_4>";
    int32_t *ids = NULL;
    size_t n = encode(t, &ids, text, strlen(text));
    char *before = decode(t, ids, 0);
    for (size_t i = 1; i <= n; i++) {
        char *now = decode(t, ids, i);
        assert_memory_equal(now, before, strlen(before));
        qmi_free(before);
        before = now;
    }
    qmi_free(before);
    qmi_free(ids);
}

static void failing_allocations(void **state)
{
    const qmi_tokenizer *t = *state;
    int32_t *ids = NULL;
    char *text = NULL;
    size_t n = 7;
    qmi_alloc_fail_after(1);
    assert_int_equal(qmi_tokenizer_encode(t, &ids, &n, "Hello", 5, NULL, NULL),
        QMOE_E_NOMEM);
    assert_null(ids);
    assert_int_equal(n, 0);
    qmi_alloc_fail_after(1);
    assert_int_equal(
        qmi_tokenizer_decode(t, &text, IDS(155, 9), false, NULL), QMOE_E_NOMEM);
    assert_null(text);
    for (uint64_t k = 1;; k++) {
        qmi_tokenizer *other = NULL;
        qmi_alloc_fail_after(k);
        qmoe_status status = qmi_tokenizer_open_spiece(&other, MODEL, NULL);
        qmi_alloc_fail_after(0);
        if (status == QMOE_OK) {
            qmi_tokenizer_close(other);
            assert_true(k > 2);
            return;
        }
        assert_int_equal(status, QMOE_E_NOMEM);
        assert_null(other);
    }
}

/* ---- vectors of Hugging Face --------------------------------------------- */

enum { MAX_IDS = 512 };

static void check_entry(
    const qmi_tokenizer *t, const cJSON *text, const cJSON *ids, bool with_end)
{
    int32_t expected[MAX_IDS];
    size_t n = 0;
    const cJSON *id;
    assert_true(cJSON_IsString(text) && cJSON_IsArray(ids));
    cJSON_ArrayForEach(id, ids)
    {
        assert_true(n < MAX_IDS);
        expected[n++] = id->valueint;
    }
    if (with_end)
        assert_int_equal(expected[--n], 1);
    check_ids(t, text->valuestring, strlen(text->valuestring), expected, n);
}

/* Copies `text` without the spaces beside sentinels, where this decoder is
 * regular and Hugging Face's is not. */
static void without_sentinel_space(char *out, size_t size, const char *text)
{
    size_t n = 0;
    assert_true(strlen(text) < size);
    for (const char *p = text; *p != '\0'; p++) {
        bool after = n != 0 && out[n - 1] == '>';
        if (*p == ' ' && (after || strncmp(p + 1, "<extra_id_", 10) == 0))
            continue;
        out[n++] = *p;
    }
    out[n] = '\0';
}

static void check_decoding(
    const qmi_tokenizer *t, const cJSON *ids, const cJSON *text)
{
    int32_t numbers[MAX_IDS];
    size_t n = 0;
    const cJSON *id;
    char expected[1024], found[1024];
    assert_true(cJSON_IsString(text));
    if (strstr(text->valuestring, "<unk>") != NULL)
        return; /* shown as U+2047 by SentencePiece */
    cJSON_ArrayForEach(id, ids) numbers[n++] = id->valueint;
    char *decoded = decode(t, numbers, n);
    without_sentinel_space(expected, sizeof expected, text->valuestring);
    without_sentinel_space(found, sizeof found, decoded);
    assert_string_equal(found, expected);
    qmi_free(decoded);
}

static void golden_cases(void **state)
{
    const qmi_tokenizer *t = *state;
    cJSON *root = NULL;
    const cJSON *entry;
    int n_entries = 0;
    qmi_error err = {0};
    if (qmi_json_load(&root,
            QMOE_SOURCE_DIR "/tests/golden/switch-mini/cases.json",
            &err) != QMOE_OK)
        fail_msg("%s", err.text);
    cJSON_ArrayForEach(entry, cJSON_GetObjectItem(root, "tokenizer"))
    {
        const cJSON *ids = cJSON_GetObjectItem(entry, "ids");
        check_entry(t, cJSON_GetObjectItem(entry, "text"), ids, false);
        check_decoding(t, ids, cJSON_GetObjectItem(entry, "decoded"));
        n_entries++;
    }
    assert_true(n_entries > 10);
    cJSON_ArrayForEach(entry, cJSON_GetObjectItem(root, "prompts"))
    {
        check_entry(t, cJSON_GetObjectItem(entry, "prompt"),
            cJSON_GetObjectItem(entry, "encoder_ids"), true);
        check_decoding(t, cJSON_GetObjectItem(entry, "output_ids"),
            cJSON_GetObjectItem(entry, "text"));
        n_entries++;
    }
    assert_true(n_entries > 12);
    cJSON_Delete(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_and_sentinels),
        cmocka_unit_test(every_sentinel),
        cmocka_unit_test(round_trips),
        cmocka_unit_test(empty_texts),
        cmocka_unit_test(text_by_length),
        cmocka_unit_test(space_beside_sentinels),
        cmocka_unit_test(almost_sentinels),
        cmocka_unit_test(control_pieces_in_text),
        cmocka_unit_test(decoded_spaces),
        cmocka_unit_test(ids_outside),
        cmocka_unit_test(decoding_a_prefix_gives_a_prefix),
        cmocka_unit_test(failing_allocations),
        cmocka_unit_test(golden_cases),
    };
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
