/* SPDX-License-Identifier: Apache-2.0
 * Byte-pair tokenizers from small tokenizer.json files: merges, added tokens,
 * literal text, frames, decoding, streams, and files that are refused.
 * tests/interop/test_tokenizers.py compares whole vocabularies with the package
 * tokenizers. */
#include "scratch.h"

#include <stdlib.h>

#include "alloc.h"
#include "json.h"
#include "span_corruption.h"
#include "token_stream.h"

/* "Ġ" (c4 a0) is a space, "Ċ" a line feed, "Ã" and "©" the bytes of é. */
#define VOCABULARY                                                             \
    "\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"ab\":3,\"bc\":4,\"abc\":5,\"Ġ\":6," \
    "\"Ġa\":7,\"Ã\":8,\"©\":9,\"Ã©\":10,\"<\":11,\"x\":12,\">\":13,\"<x\":14}"
#define MERGES                                                                 \
    "\"merges\":[\"b c\",\"a b\",\"a bc\",\"Ġ "                               \
    "a\",[\"Ã\",\"©\"],[\"<\",\"x\"]]"
#define ADDED(id, content, flags)                                              \
    "{\"id\":" #id ",\"content\":\"" content "\"," flags "}"
#define SPECIAL "\"special\":true,\"normalized\":false"
#define TOKENS                                                                 \
    ADDED(15, "<x>", SPECIAL)                                                  \
    "," ADDED(16, "<left>", SPECIAL ",\"lstrip\":true") "," ADDED(             \
        17, "<right>", SPECIAL ",\"rstrip\":true") "," ADDED(18, "word",       \
        "\"single_word\":true,\"normalized\":false") "," ADDED(19, "   ",      \
        "\"normalized\":false") "," ADDED(20, "<x>>", SPECIAL) "," ADDED(21,   \
        "e\u0301e", "\"normalized\":true") "," ADDED(22, "\\t", SPECIAL)
#define PRE                                                                    \
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false}"
#define DECODER "\"decoder\":{\"type\":\"ByteLevel\"}"
#define MODEL(members) "\"model\":{\"type\":\"BPE\"," members "}"
#define FILE_OF(normalizer, model)                                             \
    "{\"added_tokens\":[" TOKENS "],\"normalizer\":" normalizer "," PRE        \
    "," DECODER "," model "}"
#define PLAIN FILE_OF("{\"type\":\"NFC\"}", MODEL(VOCABULARY "," MERGES))

static const char *directory;

static int make_directory(void **state)
{
    (void)state;
    directory = scratch_directory("tokenizer_bpe");
    char *kept = qmi_strdup(directory, NULL);
    directory = kept;
    return kept == NULL;
}

static int free_directory(void **state)
{
    (void)state;
    qmi_free((char *)directory);
    return 0;
}

static void write_file(const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "tokenizer_bpe/%s", name);
    scratch_text(path, text);
}

static void remove_file(const char *name)
{
    char path[1100];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    remove(path);
}

static qmi_tokenizer *open_text(const char *json)
{
    qmi_tokenizer *t = NULL;
    qmi_error err = {0};
    write_file("tokenizer.json", json);
    if (qmi_tokenizer_open_directory(&t, directory, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    assert_non_null(t);
    return t;
}

/* The ids as text, "1 2 3". */
static void check_ids(const qmi_tokenizer *t, const char *text,
    const qmi_encode_options *options, const char *expected)
{
    qmi_error err = {0};
    int32_t *ids = NULL;
    size_t n = 0;
    char found[512] = "";
    if (qmi_tokenizer_encode(t, &ids, &n, text, strlen(text), options, &err) !=
        QMOE_OK)
        fail_msg("%s", err.text);
    for (size_t i = 0; i < n; i++)
        snprintf(found + strlen(found), sizeof found - strlen(found), "%s%d",
            i == 0 ? "" : " ", (int)ids[i]);
    qmi_free(ids);
    assert_string_equal(found, expected);
}

static void check_text(const qmi_tokenizer *t, const int32_t *ids, size_t n,
    bool specials, const char *expected)
{
    qmi_error err = {0};
    char *text = NULL;
    assert_int_equal(
        qmi_tokenizer_decode(t, &text, ids, n, specials, &err), QMOE_OK);
    assert_string_equal(text, expected);
    qmi_free(text);
}
#define IDS(...)                                                               \
    (const int32_t[]){__VA_ARGS__},                                            \
        sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t)

/* ---- encoding ---- */

static void merges_by_rank(void **state)
{
    (void)state;
    qmi_tokenizer *t = open_text(PLAIN);
    check_ids(t, "", NULL, "");
    check_ids(t, "ab", NULL, "3");
    /* "b c" comes first, so that "a b" finds no b any more. */
    check_ids(t, "abc", NULL, "5");
    check_ids(t, "abab", NULL, "3 3");
    check_ids(t, "a abc", NULL, "0 6 5");
    check_ids(t, "é", NULL, "10");
    /* Bytes without a token are left out. */
    check_ids(t, "azb", NULL, "3");
    qmi_tokenizer_close(t);
}

/* Long pieces have a heap; the result is that of short ones. */
static void merges_long_pieces(void **state)
{
    char text[3 * 1000 + 1], expected[2 * 1000 + 1];
    (void)state;
    qmi_tokenizer *t = open_text(PLAIN);
    for (int i = 0; i < 1000; i++) {
        memcpy(text + 3 * i, "abc", 4);
        memcpy(expected + 2 * i, "5 ", 3);
    }
    int32_t *ids = NULL;
    size_t n = 0;
    assert_int_equal(
        qmi_tokenizer_encode(t, &ids, &n, text, 3000, NULL, NULL), QMOE_OK);
    assert_int_equal(n, 1000);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(ids[i], 5);
    qmi_free(ids);
    qmi_tokenizer_close(t);
}

/* The leftmost of equals, in short and in long pieces. */
static void merges_from_the_left(void **state)
{
    char text[102];
    int32_t *ids = NULL;
    size_t n = 0;
    (void)state;
    qmi_tokenizer *t = open_text("{" PRE "," DECODER "," MODEL(
        "\"vocab\":{\"a\":0,\"aa\":1},\"merges\":[\"a a\"]") "}");
    check_ids(t, "aaaaa", NULL, "1 1 0");
    memset(text, 'a', 101);
    assert_int_equal(
        qmi_tokenizer_encode(t, &ids, &n, text, 101, NULL, NULL), QMOE_OK);
    assert_int_equal(n, 51);
    for (size_t i = 0; i < 51; i++)
        assert_int_equal(ids[i], i < 50);
    qmi_free(ids);
    qmi_tokenizer_close(t);
}

static void takes_whole_pieces_first(void **state)
{
    (void)state;
#define LONE                                                                   \
    "\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"abc\":3,\"bc\":4},\"merges\":[\"b "  \
    "c\"]"
#define WITHOUT(model) "{" PRE "," DECODER "," model "}"
    qmi_tokenizer *t = open_text(WITHOUT(MODEL(LONE)));
    check_ids(t, "abc", NULL, "0 4");
    qmi_tokenizer_close(t);
    t = open_text(WITHOUT(MODEL("\"ignore_merges\":true," LONE)));
    check_ids(t, "abc", NULL, "3");
    qmi_tokenizer_close(t);
}

static void finds_added_tokens(void **state)
{
    (void)state;
    qmi_tokenizer *t = open_text(PLAIN);
    check_ids(t, "a<x>b", NULL, "0 15 1");
    /* The longest at a place. */
    check_ids(t, "<x>>", NULL, "20");
    check_ids(t, "a <left> b", NULL, "0 16 6 1");
    check_ids(t, "a <right> b", NULL, "0 6 17 1");
    check_ids(t, "word a", NULL, "18 7");
    /* The letters of it have no tokens but b. */
    check_ids(t, "wordb", NULL, "1");
    check_ids(t, "a   b", NULL, "0 19 1");
    /* Searched in normalised text, normalised itself. */
    check_ids(t, "a\u00e9eb", NULL, "0 21 1");
    check_ids(t, "ae\u0301eb", NULL, "0 21 1");
    qmi_tokenizer_close(t);
}

/* Nothing that is typed becomes a special token; white space that is a token of
 * the vocabulary stays one. */
static void takes_literal_text_as_text(void **state)
{
    uint8_t mask[9] = {0, 0, 0, 1, 0, 0, 0, 0, 0};
    const qmi_encode_options all = {.all_literal = true};
    const qmi_encode_options some = {.literal = mask};
    (void)state;
    qmi_tokenizer *t = open_text(PLAIN);
    check_ids(t, "<x><x>   ", NULL, "15 15 19");
    check_ids(t, "<x><x>   ", &all, "11 12 13 11 12 13 19");
    check_ids(t, "a\tb", NULL, "0 22 1");
    check_ids(t, "a\tb", &all, "0 1");
    check_ids(t, "<x><x>   ", &some, "15 11 12 13 19");
    /* Merges cross from literal text to the rest. */
    check_ids(t, "xxabcxxxx", &some, "12 12 5 12 12 12 12");
    mask[3] = 0;
    mask[1] = 1;
    /* The longer one has a literal byte, and so has the shorter. */
    check_ids(t, "<x>>a", &some, "11 12 13 13 0");
    mask[1] = 0;
    mask[3] = 1;
    check_ids(t, "<x>>a", &some, "15 13 0");
    /* In text that the normalizer changes, too. */
    uint8_t accents[8] = {0, 0, 0, 0, 1, 1, 1, 1};
    const qmi_encode_options second = {.literal = accents};
    check_ids(t, "e\u0301ee\u0301e", NULL, "21 21");
    check_ids(t, "e\u0301ee\u0301e", &second, "21 10");
    qmi_tokenizer_close(t);
}

static void refuses_what_is_no_text(void **state)
{
    qmi_error err = {0};
    int32_t *ids = NULL;
    size_t n = 0;
    (void)state;
    qmi_tokenizer *t = open_text(PLAIN);
    assert_int_equal(qmi_tokenizer_encode(t, &ids, &n, "ab\xff", 3, NULL, &err),
        QMOE_E_INVALID);
    assert_non_null(strstr(err.text, "byte 2"));
    assert_null(ids);
    qmi_tokenizer_close(t);
}

/* ---- characters ---- */

#define BYTE_NAMES "\"<0xC3>\":5,\"<0xA9>\":6,"
#define CHARACTERS(flags, names)                                                  \
    "{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":["                    \
    "{\"type\":\"Prepend\",\"prepend\":\"▁\"},{\"type\":\"Replace\","           \
    "\"pattern\":{\"String\":\" \"},\"content\":\"▁\"}]},"                      \
    "\"pre_tokenizer\":null,\"decoder\":{\"type\":\"Sequence\",\"decoders\":["    \
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\"▁\"},\"content\":\" \"},"  \
    "{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},"                            \
    "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]},"            \
    "\"added_tokens\":[" ADDED(9, "<s>",                                          \
        SPECIAL) "],"                                                             \
                 "\"post_processor\":{\"type\":\"TemplateProcessing\","           \
                 "\"single\":["                                                   \
                 "{\"SpecialToken\":{\"id\":\"<s>\"}},{\"Sequence\":{\"id\":"     \
                 "\"A\"}}],"                                                      \
                 "\"special_tokens\":{\"<s>\":{\"ids\":[9]}}}," MODEL(            \
                     flags "\"vocab\":{\"<unk>\":0,\"▁\":1,\"a\":2,\"▁a\":3," \
                           "\"b\":4," names "\"aa\":7,\"▁aa\":8},\"merges\":["  \
                           "\"▁ a\",\"a a\",\"▁ aa\"]") "}"

static void encodes_characters(void **state)
{
    const qmi_encode_options frame = {.frame = true};
    (void)state;
    qmi_tokenizer *t = open_text(CHARACTERS("\"byte_fallback\":true,"
                                            "\"unk_token\":\"<unk>\",",
        BYTE_NAMES));
    check_ids(t, "", &frame, "9");
    check_ids(t, "a a", &frame, "9 3 3");
    check_ids(t, "aaa", NULL, "3 7");
    check_ids(t, "bé", NULL, "1 4 5 6");
    /* ö is C3 B6, and <0xB6> is missing: unknown. */
    check_ids(t, "bö", NULL, "1 4 0");
    check_text(t, IDS(9, 3, 3, 5, 6, 4), false, "a a\u00e9b");
    check_text(t, IDS(9, 3), true, "<s> a");
    check_text(t, IDS(3, 5, 4), false, "a\ufffdb");
    qmi_tokenizer_close(t);
    t = open_text(CHARACTERS("\"unk_token\":\"<unk>\",", ""));
    check_ids(t, "öö", NULL, "1 0 0");
    qmi_tokenizer_close(t);
    t = open_text(CHARACTERS("\"fuse_unk\":true,\"unk_token\":\"<unk>\",", ""));
    check_ids(t, "ööa", NULL, "1 0 2");
    qmi_tokenizer_close(t);
    t = open_text(CHARACTERS("", ""));
    check_ids(t, "öa", NULL, "3");
    qmi_tokenizer_close(t);
}

/* ---- decoding ---- */

static void decodes_bytes(void **state)
{
    uint8_t byte = 0;
    (void)state;
    qmi_tokenizer *t = open_text(PLAIN);
    check_text(t, IDS(5, 7, 10), false, "abc a\u00e9");
    check_text(t, IDS(8, 9), false, "\u00e9");
    check_text(t, IDS(8, 0, 9, 8), false, "\ufffda\ufffd\ufffd");
    check_text(t, IDS(15, 0, 15), false, "a");
    check_text(t, IDS(15, 0, 15), true, "<x>a<x>");
    check_text(t, IDS(18, 100000), false, "word");
    assert_int_equal(qmi_tokenizer_kind(t, 5, &byte), QMI_TOKEN_PIECE);
    assert_int_equal(qmi_tokenizer_kind(t, 15, &byte), QMI_TOKEN_CONTROL);
    assert_int_equal(qmi_tokenizer_kind(t, 18, &byte), QMI_TOKEN_ADDED);
    assert_int_equal(qmi_tokenizer_kind(t, 23, &byte), QMI_TOKEN_NOTHING);
    assert_int_equal(qmi_tokenizer_size(t), 23);
    assert_int_equal(qmi_tokenizer_id(t, "<x>"), 15);
    assert_int_equal(qmi_tokenizer_id(t, " a"), 7);
    assert_int_equal(qmi_tokenizer_id(t, "none"), -1);
    assert_int_equal(qmi_sentinel(t, 0), -1);
    assert_false(qmi_is_sentinel(t, 0));
    qmi_tokenizer_close(t);
}

/* Any ids: a stream gives what decoding all at once gives. */
static void streams_what_it_decodes(void **state)
{
    static const char *const files[] = {
        PLAIN, CHARACTERS("\"byte_fallback\":true,", BYTE_NAMES)};
    (void)state;
    for (uint32_t round = 0; round < 400; round++) {
        qmi_tokenizer *t = open_text(files[round % 2]);
        int32_t ids[12];
        for (uint32_t i = 0; i < 12; i++)
            ids[i] = (int32_t)((round * 2654435761u >> 7) * (i + 3) * 40503u %
                               (round % 2 == 0 ? 23 : 10));
        qmi_token_stream *stream = NULL;
        char *whole = NULL, joined[256] = "";
        assert_int_equal(qmi_token_stream_create(&stream, t, NULL), QMOE_OK);
        for (size_t i = 0; i < 12; i++) {
            const char *text = NULL;
            assert_int_equal(
                qmi_token_stream_add(stream, &text, ids[i], i == 11, NULL),
                QMOE_OK);
            assert_true(qmi_utf8_valid(text, strlen(text)));
            strcat(joined, text);
        }
        assert_int_equal(
            qmi_tokenizer_decode(t, &whole, ids, 12, false, NULL), QMOE_OK);
        assert_string_equal(joined, whole);
        qmi_free(whole);
        qmi_token_stream_destroy(stream);
        qmi_tokenizer_close(t);
    }
}

/* ---- tokenizer_config.json ---- */

static void reads_settings(void **state)
{
    const qmi_encode_options frame = {.frame = true};
    uint8_t byte = 0;
    (void)state;
    write_file("tokenizer_config.json",
        "{\"bos_token\":{\"content\":\"<x>\"},\"eos_token\":\"<new>\","
        "\"pad_token\":\"none\",\"add_bos_token\":true,\"add_eos_token\":true,"
        "\"added_tokens_decoder\":{\"15\":{\"content\":\"<x>\"},"
        "\"30\":{\"content\":\"<new>\",\"special\":true}}}");
    qmi_tokenizer *t = open_text(PLAIN);
    assert_int_equal(qmi_tokenizer_bos(t), 15);
    assert_int_equal(qmi_tokenizer_eos(t), 30);
    assert_int_equal(qmi_tokenizer_pad(t), -1);
    assert_int_equal(qmi_tokenizer_size(t), 31);
    assert_int_equal(qmi_tokenizer_kind(t, 25, &byte), QMI_TOKEN_NOTHING);
    check_ids(t, "a<new>", &frame, "15 0 30 30");
    qmi_tokenizer_close(t);
    /* In place of what the post-processor would add. */
    write_file("tokenizer_config.json", "{\"add_bos_token\":false}");
    t = open_text(CHARACTERS("", ""));
    check_ids(t, "a", &frame, "3");
    qmi_tokenizer_close(t);
    remove_file("tokenizer_config.json");
}

/* ---- files that are refused ---- */

static void check_refused(
    const char *json, qmoe_status expected, const char *part)
{
    qmi_error err = {0};
    qmi_tokenizer *t = NULL;
    write_file("tokenizer.json", json);
    const qmoe_status status =
        qmi_tokenizer_open_directory(&t, directory, &err);
    assert_error(status, expected, err.text, part);
    assert_non_null(strstr(err.text, "tokenizer.json: "));
    assert_null(strchr(err.text, '\n'));
    assert_null(t);
}

static void refuses_broken_files(void **state)
{
    (void)state;
#define BROKEN(json, part) check_refused(json, QMOE_E_FORMAT, part)
    BROKEN("", "not valid JSON");
    BROKEN("[]", "not a JSON object");
    BROKEN(WITHOUT(MODEL("\"merges\":[]")), "'model.vocab' is no object");
    BROKEN(WITHOUT(MODEL("\"vocab\":{},\"merges\":[]")), "no tokens");
    BROKEN(WITHOUT(MODEL("\"vocab\":{\"a\":0}")), "'model.merges' is no list");
    BROKEN(WITHOUT(MODEL("\"vocab\":{\"a\":-1},\"merges\":[]")), "id of token");
    BROKEN(
        WITHOUT(MODEL("\"vocab\":{\"a\":1.5},\"merges\":[]")), "id of token");
    BROKEN(
        WITHOUT(MODEL("\"vocab\":{\"a\":1e9},\"merges\":[]")), "id of token");
    BROKEN(WITHOUT(MODEL("\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]")),
        "two tokens have the id 0");
    BROKEN(WITHOUT(MODEL("\"vocab\":{\"\":0},\"merges\":[]")), "has 0 bytes");
#define AB "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":"
    BROKEN(WITHOUT(MODEL(AB "[\"a c\"]")), "merge 0, 'a' and 'c'");
    BROKEN(WITHOUT(MODEL(AB "[\"b a\"]")), "merge 0, 'b' and 'a'");
    BROKEN(WITHOUT(MODEL(AB "[\"a b\",\"ab\"]")), "merge 1 is not two");
    BROKEN(WITHOUT(MODEL(AB "[\"a b c\"]")), "merge 0 is not two");
    BROKEN(WITHOUT(MODEL(AB "[[\"a\"]]")), "merge 0 is not two");
    BROKEN(WITHOUT(MODEL(AB "[[\"a\",\"b\",\"c\"]]")), "merge 0 is not two");
    BROKEN(WITHOUT(MODEL(AB "[[\"a\",1]]")), "merge 0 is not two");
    BROKEN(WITHOUT(MODEL(AB "[7]")), "merge 0 is not two");
    BROKEN(WITHOUT(MODEL("\"unk_token\":\"u\"," AB "[]")), "unk_token");
#define WITH(member) "{" PRE "," DECODER "," MODEL(AB "[]") "," member "}"
    BROKEN(WITH("\"added_tokens\":{}"), "'added_tokens' is no list");
    BROKEN(WITH("\"added_tokens\":[5]"), "an added token is no object");
    BROKEN(WITH("\"added_tokens\":[{\"content\":\"x\"}]"), "'id' is missing");
    BROKEN(WITH("\"added_tokens\":[{\"id\":9}]"), "has 0 bytes");
    BROKEN(WITH("\"added_tokens\":[{\"id\":0,\"content\":\"x\"}]"),
        "is another token");
    BROKEN(WITH("\"added_tokens\":[{\"id\":7,\"content\":\"ab\"}]"),
        "is another token");
    BROKEN(WITH("\"added_tokens\":[{\"id\":1048576,\"content\":\"x\"}]"),
        "'id' is not an integer");
    BROKEN(WITH("\"post_processor\":{\"type\":\"TemplateProcessing\"}"),
        "does not have the text once");
    BROKEN(
        WITH("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":"
             "[{\"SpecialToken\":{\"id\":\"q\"}}]}"),
        "has no ids of 'q'");
    BROKEN(
        WITH("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":"
             "[{\"SpecialToken\":{\"id\":\"q\"}}],\"special_tokens\":"
             "{\"q\":{\"ids\":[3]}}}"),
        "'q' is no token");
}

static void refuses_what_it_does_not_compute(void **state)
{
    (void)state;
#define FOREIGN(json, part) check_refused(json, QMOE_E_UNSUPPORTED, part)
    FOREIGN("{}", "a model of type '(none)'");
    FOREIGN("{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}",
        "a model of type 'Unigram'");
    FOREIGN(WITHOUT(MODEL("\"dropout\":0.1," AB "[]")), "'model.dropout'");
    FOREIGN(WITHOUT(MODEL("\"end_of_word_suffix\":\"</w>\"," AB "[]")),
        "'model.end_of_word_suffix'");
    FOREIGN("{" PRE "," MODEL(AB "[]") "}", "without a decoder");
    FOREIGN("{" DECODER "," MODEL(AB "[]") "}", "does not fit");
    FOREIGN("{\"normalizer\":{\"type\":\"Precompiled\"}," MODEL(AB "[]") "}",
        "a normalizer of type 'Precompiled'");
    FOREIGN("{" PRE ",\"decoder\":{\"type\":\"WordPiece\"}," MODEL(AB "[]") "}",
        "a decoder of type 'WordPiece'");
    FOREIGN("{\"decoder\":{\"type\":\"Strip\",\"content\":\" \"}," MODEL(
                AB "[]") "}",
        "at a place");
    FOREIGN(WITH("\"post_processor\":{\"type\":\"BertProcessing\"}"),
        "a post-processor of type 'BertProcessing'");
}

static void fails_cleanly_without_memory(void **state)
{
    (void)state;
    write_file("tokenizer_config.json",
        "{\"added_tokens_decoder\":{\"30\":{\"content\":\"<new>\"}}}");
    write_file("tokenizer.json", PLAIN);
    for (uint64_t k = 1;; k++) {
        qmi_tokenizer *t = NULL;
        int32_t *ids = NULL;
        char *text = NULL;
        size_t n = 0;
        const uint64_t before = qmi_alloc_count();
        qmi_alloc_fail_after(k);
        qmoe_status status = qmi_tokenizer_open_directory(&t, directory, NULL);
        if (status == QMOE_OK)
            status = qmi_tokenizer_encode(
                t, &ids, &n, "a<x> e\u0301e abc", 14, NULL, NULL);
        if (status == QMOE_OK)
            status = qmi_tokenizer_decode(t, &text, ids, n, true, NULL);
        const bool past_the_end = qmi_alloc_count() - before < k;
        qmi_alloc_fail_after(0);
        qmi_free(text);
        qmi_free(ids);
        qmi_tokenizer_close(t);
        if (past_the_end) {
            assert_int_equal(status, QMOE_OK);
            break;
        }
        /* PCRE2 does without its machine code's stack. */
        assert_true(status == QMOE_E_NOMEM || status == QMOE_OK);
    }
    remove_file("tokenizer_config.json");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges_by_rank),
        cmocka_unit_test(merges_long_pieces),
        cmocka_unit_test(merges_from_the_left),
        cmocka_unit_test(takes_whole_pieces_first),
        cmocka_unit_test(finds_added_tokens),
        cmocka_unit_test(takes_literal_text_as_text),
        cmocka_unit_test(refuses_what_is_no_text),
        cmocka_unit_test(encodes_characters),
        cmocka_unit_test(decodes_bytes),
        cmocka_unit_test(streams_what_it_decodes),
        cmocka_unit_test(reads_settings),
        cmocka_unit_test(refuses_broken_files),
        cmocka_unit_test(refuses_what_it_does_not_compute),
        cmocka_unit_test(fails_cleanly_without_memory),
    };
    return cmocka_run_group_tests(tests, make_directory, free_directory);
}
