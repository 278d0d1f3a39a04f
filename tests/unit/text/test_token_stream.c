/* SPDX-License-Identifier: Apache-2.0
 * Text by one id at a time against decoding from the start: random ids, all
 * prefixes, the tokenizer of switch-mini and tokenizers with byte pieces. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "mt19937.h"
#include "token_stream.h"

#define MODEL QMOE_SOURCE_DIR "/models/switch-mini/spiece.model"
#define PATH QMOE_TEST_DIR "/test_token_stream.model"
#define SPACE "\xe2\x96\x81"

enum { N_IDS = 24, N_ROUNDS = 40 };

/* ---- a tokenizer with byte pieces ---- */

enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, BYTE = 6 };
enum { FIRST_BYTE = 8 };

static void put_field(qmi_text *to, unsigned number, const qmi_text *message)
{
    const char head[] = {(char)(number << 3 | 2), (char)message->n};
    assert_true(message->n < 128);
    qmi_text_bytes(to, head, sizeof head);
    qmi_text_bytes(to, message->data, message->n);
}

static void put_flag(qmi_text *to, unsigned number, bool on)
{
    const char bytes[] = {(char)(number << 3 & 0x7f) /* varint */, (char)on};
    qmi_text_bytes(to, bytes, sizeof bytes);
}

static void put_piece(qmi_text *to, const char *text, int type)
{
    qmi_text piece = {0};
    const char kind[] = {3 << 3, (char)type};
    qmi_text_bytes(&piece, "\x0a", 1);
    qmi_text_bytes(&piece, (const char[]){(char)strlen(text)}, 1);
    qmi_text_string(&piece, text);
    qmi_text_bytes(&piece, "\x15\0\0\x80\xbf", 5); /* score -1 */
    qmi_text_bytes(&piece, kind, sizeof kind);
    put_field(to, 1, &piece);
    qmi_free(piece.data);
}

static void save_model(bool dummy_prefix, bool remove_spaces)
{
    static const struct {
        const char *text;
        int type;
    } pieces[FIRST_BYTE] = {{"<unk>", UNKNOWN}, {"</s>", CONTROL},
        {SPACE, NORMAL}, {SPACE SPACE, NORMAL}, {SPACE "a", NORMAL},
        {"b", NORMAL}, {"c" SPACE, NORMAL}, {"\xc3\xa9", NORMAL}};
    qmi_text file = {0}, part = {0};
    for (int i = 0; i < FIRST_BYTE; i++)
        put_piece(&file, pieces[i].text, pieces[i].type);
    for (unsigned i = 0; i < 256; i++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", i);
        put_piece(&file, name, BYTE);
    }
    qmi_text_bytes(&part, "\x98\x02\x01", 3); /* 35: byte_fallback */
    put_field(&file, 2, &part);
    part.n = 0;
    put_flag(&part, 3, dummy_prefix);
    put_flag(&part, 4, remove_spaces);
    put_field(&file, 3, &part);
    FILE *f = fopen(PATH, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(file.data, 1, file.n, f), file.n);
    assert_int_equal(fclose(f), 0);
    qmi_free(file.data);
    qmi_free(part.data);
}

static qmi_tokenizer *open_tokenizer(const char *path)
{
    qmi_tokenizer *t = NULL;
    qmi_error err = {0};
    if (qmi_tokenizer_open_spiece(&t, path, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    return t;
}

/* ---- comparison ---- */

static void show_ids(const int32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++)
        print_error("%d ", (int)ids[i]);
    print_error("\n");
}

/* The text of n ids, one at a time, is that of all of them. */
static void check_stream(const qmi_tokenizer *t, const int32_t *ids, size_t n)
{
    qmi_token_stream *stream = NULL;
    qmi_text given = {0};
    char *expected = NULL;
    const char *added;
    assert_int_equal(qmi_token_stream_create(&stream, t, NULL), QMOE_OK);
    assert_int_equal(
        qmi_tokenizer_decode(t, &expected, ids, n, false, NULL), QMOE_OK);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(
            qmi_token_stream_add(stream, &added, ids[i], i + 1 == n, NULL),
            QMOE_OK);
        qmi_text_string(&given, added);
    }
    qmi_text_bytes(&given, "", 1);
    if (strcmp(given.data, expected) != 0) {
        show_ids(ids, n);
        fail_msg("'%s' is not '%s'", given.data, expected);
    }
    qmi_free(given.data);
    qmi_free(expected);
    qmi_token_stream_destroy(stream);
}

/* Every round has a small alphabet, so that what is rare among all ids meets. */
static void check_random(const qmi_tokenizer *t, const int32_t *favourites,
    size_t n_favourites, uint32_t seed)
{
    qmi_mt19937 rng;
    const uint32_t last = (uint32_t)qmi_tokenizer_size(t) + 2;
    qmi_mt19937_seed(&rng, seed);
    for (int round = 0; round < N_ROUNDS; round++) {
        int32_t alphabet[6], ids[N_IDS];
        for (size_t i = 0; i < 6; i++)
            alphabet[i] = qmi_mt19937_interval(&rng, 2) != 0
                              ? favourites[qmi_mt19937_interval(
                                    &rng, (uint32_t)n_favourites - 1)]
                              : (int32_t)qmi_mt19937_interval(&rng, last);
        for (size_t i = 0; i < N_IDS; i++)
            ids[i] = alphabet[qmi_mt19937_interval(&rng, 5)];
        for (size_t n = 1; n <= N_IDS; n++)
            check_stream(t, ids, n);
    }
}

/* ---- tests ---- */

static void words_and_sentinels(void **state)
{
    (void)state;
    qmi_tokenizer *t = open_tokenizer(MODEL);
    /* Control, unknown, a lone space, a comma, a word, sentinels, padding. */
    static const int32_t favourites[] = {0, 1, 2, 17, 3, 90, 2099, 2000, 2100};
    check_random(
        t, favourites, sizeof favourites / sizeof *favourites, 20261130);
    qmi_tokenizer_close(t);
}

static void bytes_of_characters(void **state)
{
    (void)state;
#define B(value) (FIRST_BYTE + (value))
    static const int32_t favourites[] = {0, 1, 2, 3, 4, 5, 6, 7, B(0), B('A'),
        B(' '), B(0xe2), B(0x96), B(0x81), B(0xc3), B(0xa9), B(0xc0), B(0xe0),
        B(0xed), B(0xf0), B(0x9f), B(0x98), B(0x80), B(0xf8), B(0xff),
        FIRST_BYTE + 256};
    /* A lead byte that stands alone, and later a byte that would fit it. */
    static const int32_t apart[] = {B(0xc3), B(0xc3), 5, B(0x80)};
#undef B
    for (uint32_t flags = 0; flags < 4; flags++) {
        save_model((flags & 1) != 0, (flags & 2) != 0);
        qmi_tokenizer *t = open_tokenizer(PATH);
        check_random(t, favourites, sizeof favourites / sizeof *favourites,
            1000 + flags);
        check_stream(t, apart, sizeof apart / sizeof *apart);
        qmi_tokenizer_close(t);
    }
}

/* A character comes as a whole; what is none comes as soon as that is sure. */
static void bytes_are_held_back(void **state)
{
    (void)state;
    static const struct {
        int32_t id;
        const char *text;
    } steps[] = {{5, "b"}, {FIRST_BYTE + 0xc3, ""},
        {FIRST_BYTE + 0xa9, "\xc3\xa9"}, {FIRST_BYTE + 0xe2, ""},
        {FIRST_BYTE + 0x96, ""},
        {FIRST_BYTE + 'A', "\xef\xbf\xbd\xef\xbf\xbd"
                           "A"},
        {FIRST_BYTE + 0xf0, ""}, {4, "\xef\xbf\xbd a"},
        {FIRST_BYTE + 0x80, "\xef\xbf\xbd"},
        {FIRST_BYTE + 0xc3, "\xef\xbf\xbd"}};
    save_model(true, true);
    qmi_tokenizer *t = open_tokenizer(PATH);
    qmi_token_stream *stream = NULL;
    const char *text;
    assert_int_equal(qmi_token_stream_create(&stream, t, NULL), QMOE_OK);
    const size_t n = sizeof steps / sizeof *steps;
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(
            qmi_token_stream_add(stream, &text, steps[i].id, i + 1 == n, NULL),
            QMOE_OK);
        assert_string_equal(text, steps[i].text);
    }
    assert_int_equal(
        qmi_token_stream_add(stream, &text, -1, true, NULL), QMOE_E_INVALID);
    qmi_token_stream_destroy(stream);
    qmi_tokenizer_close(t);
}

static void failing_allocations(void **state)
{
    (void)state;
    qmi_tokenizer *t = open_tokenizer(MODEL);
    static const int32_t ids[] = {90, 17, 2099, 90, 3};
    qmoe_status status = QMOE_E_NOMEM;
    for (uint64_t n = 1; status != QMOE_OK; n++) {
        qmi_token_stream *stream = NULL;
        const char *text;
        assert_true(n < 100);
        qmi_alloc_fail_after(n);
        status = qmi_token_stream_create(&stream, t, NULL);
        for (size_t i = 0; status == QMOE_OK && i < 5; i++)
            status = qmi_token_stream_add(stream, &text, ids[i], i == 4, NULL);
        qmi_alloc_fail_after(0);
        if (status != QMOE_OK)
            assert_int_equal(status, QMOE_E_NOMEM);
        qmi_token_stream_destroy(stream);
    }
    qmi_tokenizer_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_and_sentinels),
        cmocka_unit_test(bytes_of_characters),
        cmocka_unit_test(bytes_are_held_back),
        cmocka_unit_test(failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
