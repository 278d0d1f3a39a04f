/* SPDX-License-Identifier: Apache-2.0
 * Tokenizers that are no tokenizer.json: ranks of tiktoken as Kimi, Qwen and
 * Llama 3 have them, and tokenizer.model of SentencePiece with pieces of type
 * BPE; files of both that are refused. */
#include "scratch.h"

#include "alloc.h"
#include "tokenizer.h"

static const char *make_directory(const char *file, const void *data, size_t n)
{
    const char *directory = scratch_directory("tokenizer_files");
    char name[64];
    for (int i = 0; i < 4; i++) {
        static const char *const others[] = {"tiktoken.model", "qwen.tiktoken",
            "tokenizer.model", "tokenizer_config.json"};
        snprintf(name, sizeof name, "tokenizer_files/%s", others[i]);
        remove(scratch_path(name));
    }
    snprintf(name, sizeof name, "tokenizer_files/%s", file);
    scratch_write(name, data, n);
    return directory;
}

static qmi_tokenizer *open_in(const char *directory)
{
    qmi_tokenizer *t = NULL;
    qmi_error err = {0};
    if (qmi_tokenizer_open_directory(&t, directory, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    assert_non_null(t);
    return t;
}

static void check_ids(const qmi_tokenizer *t, const char *text, bool frame,
    const int32_t *expected, size_t n_expected)
{
    const qmi_encode_options options = {.frame = frame};
    int32_t *ids = NULL;
    size_t n = 0;
    assert_int_equal(
        qmi_tokenizer_encode(t, &ids, &n, text, strlen(text), &options, NULL),
        QMOE_OK);
    assert_int_equal(n, n_expected);
    assert_memory_equal(ids, expected, n * sizeof *ids);
    qmi_free(ids);
}
#define IDS(...)                                                               \
    (const int32_t[]){__VA_ARGS__},                                            \
        sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t)

static void check_refused(const char *file, const void *data, size_t n,
    qmoe_status expected, const char *part)
{
    qmi_tokenizer *t = NULL;
    qmi_error err = {0};
    const qmoe_status status =
        qmi_tokenizer_open_directory(&t, make_directory(file, data, n), &err);
    assert_error(status, expected, err.text, part);
    assert_non_null(strstr(err.text, file));
    assert_null(t);
}

/* ---- tiktoken ---- */

/* a b c ab bc abc, and a line feed. */
#define RANKS "YQ== 0\nYg== 1\nYw== 2\nYWI= 3\nYmM= 4\nYWJj 5\nCg== 6\n"

static void reads_ranks(void **state)
{
    uint8_t byte = 0;
    (void)state;
    const char *directory =
        make_directory("tiktoken.model", RANKS, strlen(RANKS));
    scratch_text("tokenizer_files/tokenizer_config.json",
        "{\"bos_token\":\"[BOS]\",\"added_tokens_decoder\":{\"7\":{\"content\":"
        "\"[BOS]\",\"special\":true},\"9\":{\"content\":\"<|im_end|>\","
        "\"special\":true}}}");
    qmi_tokenizer *t = open_in(directory);
    assert_int_equal(qmi_tokenizer_size(t), 7 + 256);
    assert_int_equal(qmi_tokenizer_bos(t), 7);
    assert_int_equal(qmi_tokenizer_id(t, "<|im_end|>"), 9);
    assert_int_equal(qmi_tokenizer_id(t, "<|reserved_token_8|>"), 8);
    assert_int_equal(qmi_tokenizer_kind(t, 262, &byte), QMI_TOKEN_CONTROL);
    check_ids(t, "abc", false, IDS(5));
    /* ab is of lower rank than bc. */
    check_ids(t, "ababcc", false, IDS(3, 5, 2));
    check_ids(t, "ab\nbc<|im_end|>", true, IDS(3, 6, 4, 9));
    qmi_tokenizer_close(t);
}

static void reads_ranks_of_qwen(void **state)
{
    (void)state;
    qmi_tokenizer *t =
        open_in(make_directory("qwen.tiktoken", RANKS, strlen(RANKS)));
    assert_int_equal(qmi_tokenizer_size(t), 7 + 208);
    assert_int_equal(qmi_tokenizer_id(t, "<|endoftext|>"), 7);
    assert_int_equal(qmi_tokenizer_id(t, "<|im_end|>"), 9);
    assert_int_equal(qmi_tokenizer_id(t, "<|extra_0|>"), 10);
    assert_int_equal(qmi_tokenizer_id(t, "<|extra_204|>"), 214);
    check_ids(t, "ab\nbc<|im_end|>", true, IDS(3, 6, 4, 9));
    qmi_tokenizer_close(t);
}

/* Base64 of three bytes. */
static void put_rank(FILE *out, uint32_t bytes, int rank)
{
    static const char digits[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int shift = 18; shift >= 0; shift -= 6)
        fputc(digits[bytes >> shift & 63], out);
    fprintf(out, " %d\n", rank);
}

/* The letters, and n_ranks - 7 tokens that no text has. */
static const char *make_llama(int n_ranks)
{
    const char *directory =
        make_directory("tokenizer.model", RANKS, strlen(RANKS));
    char path[256];
    snprintf(path, sizeof path, "%s/tokenizer.model", directory);
    FILE *out = fopen(path, "a");
    assert_non_null(out);
    for (int rank = 7; rank < n_ranks; rank++)
        put_rank(out, 0xf00000u + (uint32_t)rank, rank);
    assert_int_equal(fclose(out), 0);
    return directory;
}

static void reads_ranks_of_llama(void **state)
{
    enum { FIRST = 128000 };
    (void)state;
    const char *directory = make_llama(FIRST);
    qmi_tokenizer *t = open_in(directory);
    assert_int_equal(qmi_tokenizer_size(t), FIRST + 256);
    assert_int_equal(qmi_tokenizer_bos(t), FIRST);
    assert_int_equal(qmi_tokenizer_eos(t), FIRST + 1);
    assert_int_equal(qmi_tokenizer_id(t, "<|end_header_id|>"), FIRST + 7);
    assert_int_equal(qmi_tokenizer_id(t, "<|eot_id|>"), FIRST + 9);
    assert_int_equal(
        qmi_tokenizer_id(t, "<|reserved_special_token_5|>"), FIRST + 10);
    assert_int_equal(
        qmi_tokenizer_id(t, "<|reserved_special_token_250|>"), FIRST + 255);
    check_ids(t, "abc<|eot_id|>", true, IDS(FIRST, 5, FIRST + 9));
    qmi_tokenizer_close(t);
    /* As in Llama 3.1. */
    scratch_text("tokenizer_files/tokenizer_config.json",
        "{\"add_bos_token\":false,\"added_tokens_decoder\":{\"128008\":"
        "{\"content\":\"<|eom_id|>\",\"special\":true}}}");
    t = open_in(directory);
    assert_int_equal(qmi_tokenizer_id(t, "<|eom_id|>"), FIRST + 8);
    check_ids(t, "abc", true, IDS(5));
    qmi_tokenizer_close(t);
}

static void refuses_ranks_of_others(void **state)
{
    qmi_tokenizer *t = NULL;
    qmi_error err = {0};
    (void)state;
    assert_int_equal(qmi_tokenizer_open_directory(&t, make_llama(200), &err),
        QMOE_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "tokenizer.model: 200 ranks"));
    assert_null(t);
}

static void refuses_broken_ranks(void **state)
{
    (void)state;
#define BROKEN(text, part)                                                     \
    check_refused("tiktoken.model", text, strlen(text), QMOE_E_FORMAT, part)
    BROKEN("", "no tokens");
    BROKEN("YQ==\n", "line 1 is not a token");
    BROKEN("YQ== 0\nYg==1\n", "line 2 is not a token");
    BROKEN("YQ== -1\n", "line 1 is not a token");
    BROKEN("YQ== 99999999\n", "line 1 is not a token");
    BROKEN("YQ== 1048576\n", "line 1: token id");
    BROKEN("YQ= 0\n", "line 1 is not a token");
    BROKEN("Y!== 0\n", "line 1 is not a token");
    BROKEN("==== 0\n", "line 1 is not a token");
    BROKEN(" 0\n", "line 1 is not a token");
    BROKEN("YQ== 0\nYg== 0\n", "two tokens have the id 0");
    BROKEN("YQ== 0\nYQ== 1\n", "is there twice");
    BROKEN("YQ== 0\nYg== 2\n", "a rank below 3 is missing");
}

/* ---- SentencePiece ---- */

typedef struct bytes {
    uint8_t data[1024];
    size_t n;
} bytes;

/* A field of bytes, or of a small number. */
static void put_bytes(bytes *out, int number, const void *data, size_t n)
{
    out->data[out->n++] = (uint8_t)(number << 3 | 2);
    out->data[out->n++] = (uint8_t)n;
    memcpy(out->data + out->n, data, n);
    out->n += n;
}

static void put_number(bytes *out, int number, int value)
{
    if (number >= 16) {
        out->data[out->n++] = (uint8_t)((number << 3 & 127) | 128);
        out->data[out->n++] = (uint8_t)(number >> 4);
    } else {
        out->data[out->n++] = (uint8_t)(number << 3);
    }
    out->data[out->n++] = (uint8_t)value;
}

static void put_piece(bytes *out, const char *text, float score, int type)
{
    bytes piece = {.n = 0};
    put_bytes(&piece, 1, text, strlen(text));
    piece.data[piece.n++] = 2 << 3 | 5;
    memcpy(piece.data + piece.n, &score, 4);
    piece.n += 4;
    put_number(&piece, 3, type);
    put_bytes(out, 1, piece.data, piece.n);
}

typedef struct settings {
    int type, remove, escape, suffix;
} settings;

static void put_model(bytes *out, settings s, int last_type)
{
    bytes trainer = {.n = 0}, normalizer = {.n = 0};
    put_piece(out, "<unk>", 0, 2);
    put_piece(out, "<s>", 0, 3);
    put_piece(out, "</s>", 0, 3);
    put_piece(out, "<0xC3>", 0, 6);
    put_piece(out, "<0xA9>", 0, 6);
    put_piece(out, "ab", -1, 1);
    put_piece(out, "ba", -1, 1);
    put_piece(out, "▁ab", -2, 1);
    put_piece(out, "▁", -3, 1);
    put_piece(out, "a", -4, 1);
    put_piece(out, "b", -5, last_type);
    put_number(&trainer, 3, s.type);
    put_number(&trainer, 24, s.suffix);
    put_number(&trainer, 35, 1);
    put_number(&normalizer, 4, s.remove);
    put_number(&normalizer, 5, s.escape);
    put_bytes(out, 2, trainer.data, trainer.n);
    put_bytes(out, 3, normalizer.data, normalizer.n);
}

static void reads_pieces(void **state)
{
    bytes model = {.n = 0};
    char *text = NULL;
    (void)state;
    put_model(&model, (settings){.type = 2, .escape = 1}, 1);
    qmi_tokenizer *t =
        open_in(make_directory("tokenizer.model", model.data, model.n));
    assert_int_equal(qmi_tokenizer_size(t), 11);
    assert_int_equal(qmi_tokenizer_eos(t), 2);
    check_ids(t, "ab", true, IDS(1, 7));
    /* ab and ba have one score: the leftmost is merged. */
    check_ids(t, "bab", false, IDS(8, 6, 10));
    check_ids(t, "ab  ab", false, IDS(7, 8, 7));
    check_ids(t, "\u00e9</s>a", false, IDS(8, 3, 4, 2, 8, 9));
    check_ids(t, "\u00f6", false, IDS(8, 0));
    assert_int_equal(qmi_tokenizer_decode(t, &text,
                         (const int32_t[]){1, 7, 3, 4, 7}, 5, false, NULL),
        QMOE_OK);
    assert_string_equal(text, "ab\u00e9 ab");
    qmi_free(text);
    qmi_tokenizer_close(t);
}

static void check_foreign(settings s, int last_type, const char *part)
{
    bytes model = {.n = 0};
    put_model(&model, s, last_type);
    check_refused(
        "tokenizer.model", model.data, model.n, QMOE_E_UNSUPPORTED, part);
}

static void refuses_other_pieces(void **state)
{
    (void)state;
    check_foreign((settings){.type = 1, .escape = 1}, 1, "another type");
    check_foreign((settings){.type = 2, .escape = 0}, 1, "keeps spaces");
    check_foreign(
        (settings){.type = 2, .escape = 1, .suffix = 1}, 1, "keeps spaces");
    check_foreign((settings){.type = 2, .escape = 1, .remove = 1}, 1,
        "removes extra white space");
    check_foreign((settings){.type = 2, .escape = 1}, 5, "unused pieces");
    check_refused(
        "tokenizer.model", "text", 4, QMOE_E_FORMAT, "not a SentencePiece");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_ranks),
        cmocka_unit_test(reads_ranks_of_qwen),
        cmocka_unit_test(reads_ranks_of_llama),
        cmocka_unit_test(refuses_ranks_of_others),
        cmocka_unit_test(refuses_broken_ranks),
        cmocka_unit_test(reads_pieces),
        cmocka_unit_test(refuses_other_pieces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
