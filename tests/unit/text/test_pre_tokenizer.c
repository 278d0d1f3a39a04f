/* SPDX-License-Identifier: Apache-2.0
 * Cutting text into pieces: the chains of known model families on texts that
 * tell them apart (results of the package tokenizers 0.23.3), behaviors,
 * Metaspace, and patterns that are refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "tokenizer_json.h"

#define SHORT "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define ANY "[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?"
#define TAIL "|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
#define OTHER "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*" TAIL
#define UPPER "[\\\\p{Lu}\\\\p{Lt}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]"
#define LOWER "[\\\\p{Ll}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]"
#define SPLIT(regex)                                                           \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" regex                      \
    "\"},\"behavior\":\"Isolated\",\"invert\":false},"
#define BYTES                                                                  \
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"
#define CHAIN(steps)                                                           \
    "{\"type\":\"Sequence\",\"pretokenizers\":[" steps BYTES "]}"

#define GPT2 "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}"
#define LLAMA3 CHAIN(SPLIT(SHORT "|" ANY "\\\\p{L}+|\\\\p{N}{1,3}" OTHER))
#define QWEN2 CHAIN(SPLIT(SHORT "|" ANY "\\\\p{L}+|\\\\p{N}" OTHER))
#define QWEN35                                                                 \
    CHAIN(                                                                     \
        SPLIT(SHORT "|" ANY "[\\\\p{L}\\\\p{M}]+|\\\\p{N}"                     \
                    "| ?[^\\\\s\\\\p{L}\\\\p{M}\\\\p{N}]+[\\\\r\\\\n]*" TAIL))
#define O200K                                                                  \
    CHAIN(SPLIT(ANY UPPER "*" LOWER "+" SHORT "?|" ANY UPPER "+" LOWER         \
                          "*" SHORT "?|\\\\p{N}{1,3}"                          \
                          "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n/]*" TAIL))
#define DEEPSEEK3                                                              \
    CHAIN(SPLIT("\\\\p{N}{1,3}") SPLIT("[一-龥぀-ゟ゠-ヿ]+") SPLIT(      \
        "[!\\\"#$%&'()*+,\\\\-./:;<=>?@\\\\[\\\\\\\\\\\\]^_`{|}~]"             \
        "[A-Za-z]+|[^\\\\r\\\\n\\\\p{L}\\\\p{P}\\\\p{S}]?"                     \
        "[\\\\p{L}\\\\p{M}]+| ?[\\\\p{P}\\\\p{S}]+[\\\\r\\\\n]*" TAIL))
/* Cased letters: a part of the ranges that the files list. */
#define DEEPSEEK2                                                              \
    CHAIN(SPLIT("[\\\\r\\\\n]") SPLIT("\\\\s?[A-Za-zµÀ-ÖØ-öø-ƺ]+")             \
            SPLIT("\\\\s?[!-/:-~！-／：-～‘-‟　-。]+") SPLIT("\\\\s+$") SPLIT( \
                "[一-龥ࠀ-一가-\xed\x9f\xbf]+") "{\"type\":\"Digits\","         \
                                               "\"individual_digits\":true},")

/* The parts of a tokenizer that cut text, from JSON. */
static qmoe_status read_json(
    qmi_bpe_tokenizer **t, const char *json, qmi_error *err)
{
    cJSON *tree = NULL;
    assert_int_equal(
        qmi_json_parse(&tree, json, strlen(json), "chain", err), QMOE_OK);
    assert_int_equal(qmi_bpe_tokenizer_create(t, err), QMOE_OK);
    const qmoe_status status =
        qmi_json_pre_tokenizer(&(qmi_json_part){*t, "chain", err}, tree);
    cJSON_Delete(tree);
    return status;
}

/* The pieces of a text with '|' between them. */
static void check_pieces(
    const char *json, const char *text, const char *expected)
{
    qmi_error err = {0};
    qmi_bpe_tokenizer *t = NULL;
    qmi_matcher *matcher = NULL;
    qmi_pieces pieces = {0};
    char joined[512] = "";
    if (read_json(&t, json, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    assert_int_equal(qmi_matcher_create(&matcher, &err), QMOE_OK);
    if (qmi_pre_tokenize(&t->pre_tokenizer, matcher, &pieces, text,
            strlen(text), true, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    for (size_t i = 0; i < pieces.current.n; i++)
        snprintf(joined + strlen(joined), sizeof joined - strlen(joined),
            "%s%.*s", i == 0 ? "" : "|", (int)pieces.current.spans[i].n,
            pieces.text + pieces.current.spans[i].start);
    assert_string_equal(joined, expected);
    qmi_pieces_free(&pieces);
    qmi_matcher_free(matcher);
    qmi_tokenizer_close(&t->base);
}

static void cuts_words_numbers_and_spaces(void **state)
{
    static const char text[] = "Hello  World! it's 12345 IT'S\n\n  x=1;\n";
    (void)state;
    check_pieces(
        GPT2, text, "Hello| | World|!| it|'s| 12345| IT|'|S|\n\n | x|=|1|;|\n");
    check_pieces(LLAMA3, text,
        "Hello| | World|!| it|'s| |123|45| IT|'S|\n\n| | x|=|1|;\n");
    check_pieces(DEEPSEEK3, text,
        "Hello| | World|!| it|'s| |123|45| IT|'S|\n\n| | x|=|1|;\n");
    check_pieces(QWEN2, text,
        "Hello| | World|!| it|'s| |1|2|3|4|5| IT|'S|\n\n| | x|=|1|;\n");
    check_pieces(QWEN35, text,
        "Hello| | World|!| it|'s| |1|2|3|4|5| IT|'S|\n\n| | x|=|1|;\n");
    check_pieces(
        O200K, text, "Hello| | World|!| it's| |123|45| IT'S|\n\n| | x|=|1|;\n");
    check_pieces(DEEPSEEK2, text,
        "Hello| | World|!| it|'|s| |1|2|3|4|5| IT|'|S|\n|\n| | x|=|1|;|\n");
}

static void cuts_code(void **state)
{
    static const char text[] = "fooBar HTTPServer's a/b//\n";
    static const char indented[] = "\t\tif (a_b)\r\n";
    (void)state;
    check_pieces(O200K, text, "foo|Bar| HTTPServer's| a|/b|//\n");
    check_pieces(LLAMA3, text, "fooBar| HTTPServer|'s| a|/b|//\n");
    check_pieces(QWEN2, text, "fooBar| HTTPServer|'s| a|/b|//\n");
    check_pieces(DEEPSEEK3, text, "fooBar| HTTPServer|'s| a|/b|//\n");
    check_pieces(GPT2, text, "fooBar| HTTPServer|'s| a|/|b|//|\n");
    check_pieces(DEEPSEEK2, text, "fooBar| HTTPServer|'|s| a|/|b|//|\n");
    check_pieces(GPT2, indented, "\t|\t|if| (|a|_|b|)|\r\n");
    check_pieces(DEEPSEEK2, indented, "\t|\tif| (|a|_|b|)|\r|\n");
    check_pieces(QWEN2, indented, "\t|\tif| (|a|_b|)\r\n");
    check_pieces(O200K, indented, "\t|\tif| (|a|_b|)\r\n");
    check_pieces(DEEPSEEK3, indented, "\t|\tif| (|a|_b|)\r\n");
}

static void cuts_other_scripts(void **state)
{
    static const char text[] = "中文abc，1234年 カタカナ한국";
    static const char marks[] =
        "e\u0301te\u0301 \u0928\u092e\u0938\u094d\u0924\u0947";
    (void)state;
    check_pieces(GPT2, text, "中文abc|，|1234|年| カタカナ한국");
    check_pieces(LLAMA3, text, "中文abc|，|123|4|年| カタカナ한국");
    check_pieces(O200K, text, "中文abc|，|123|4|年| カタカナ한국");
    check_pieces(QWEN2, text, "中文abc|，|1|2|3|4|年| カタカナ한국");
    check_pieces(DEEPSEEK3, text, "中文|abc|，|123|4|年| |カタカナ|한국");
    check_pieces(DEEPSEEK2, text, "中文|abc|，|1|2|3|4|年| |カタカナ한국");
    check_pieces(
        QWEN35, marks, "e\u0301te\u0301| \u0928\u092e\u0938\u094d\u0924\u0947");
    check_pieces(LLAMA3, marks,
        "e|\u0301te|\u0301| \u0928\u092e\u0938|\u094d\u0924|\u0947");
    check_pieces(GPT2, marks,
        "e|\u0301|te|\u0301| \u0928\u092e\u0938|\u094d|\u0924|\u0947");
    check_pieces(DEEPSEEK2, "café wörd", "caf|é| w|ö|rd");
    check_pieces(DEEPSEEK3, "café wörd", "café| wörd");
    check_pieces(QWEN2, "…—€ 😀😀 ok", "…—€| 😀😀| ok");
}

/* U+180E was white space once; PCRE2 still thinks so. */
static void knows_white_space(void **state)
{
    (void)state;
    check_pieces(GPT2, "a\u180e!b", "a|\u180e!|b");
    check_pieces(GPT2, "a\u2003\u3000b", "a|\u2003|\u3000|b");
}

#define PLAIN(pattern, behavior, invert)                                       \
    "{\"type\":\"Split\",\"pattern\":" pattern ",\"behavior\":\"" behavior     \
    "\",\"invert\":" invert "}"
#define DASH "{\"String\":\"-\"}"

/* An ideographic comma is no Han, though Han text uses it. */
static void knows_scripts(void **state)
{
    (void)state;
    check_pieces(PLAIN("{\"Regex\":\"\\\\p{Han}+\"}", "Isolated", "false"),
        "中文、", "中文|、");
}

static void knows_what_becomes_of_a_match(void **state)
{
    static const char text[] = "-a--b-";
    (void)state;
    check_pieces(PLAIN(DASH, "Isolated", "false"), text, "-|a|-|-|b|-");
    check_pieces(PLAIN(DASH, "Removed", "false"), text, "a|b");
    check_pieces(PLAIN(DASH, "Removed", "true"), text, "-|-|-|-");
    check_pieces(PLAIN(DASH, "MergedWithPrevious", "false"), text, "-|a-|-|b-");
    check_pieces(PLAIN(DASH, "MergedWithNext", "false"), text, "-a|-|-b|-");
    check_pieces(PLAIN(DASH, "Contiguous", "false"), text, "-|a|--|b|-");
    check_pieces("{\"type\":\"Digits\",\"individual_digits\":false}", "a12½b",
        "a|12½|b");
}

#define METASPACE(scheme, split)                                               \
    "{\"type\":\"Metaspace\",\"replacement\":\"▁\",\"prepend_scheme\":"      \
    "\"" scheme "\",\"split\":" split "}"

static void replaces_spaces(void **state)
{
    (void)state;
    check_pieces(METASPACE("first", "false"), "a b", "▁a▁b");
    check_pieces(METASPACE("never", "true"), "a  b", "a|▁|▁b");
    check_pieces(METASPACE("always", "true"), " a", "▁a");
    check_pieces(
        "{\"type\":\"ByteLevel\",\"add_prefix_space\":true}", "a b", " a| b");
}

static void check_refused(const char *json, const char *part)
{
    qmi_error err = {0};
    qmi_bpe_tokenizer *t = NULL;
    const qmoe_status status = read_json(&t, json, &err);
    assert_true(status == QMOE_E_UNSUPPORTED || status == QMOE_E_FORMAT);
    if (strstr(err.text, part) == NULL)
        fail_msg("'%s' is not in: %s", part, err.text);
    qmi_tokenizer_close(&t->base);
}

static void refuses_what_it_would_read_otherwise(void **state)
{
    (void)state;
#define REGEX(regex) PLAIN("{\"Regex\":\"" regex "\"}", "Isolated", "false")
    check_refused(REGEX("[a&&[^b]]"), "an intersection of classes");
    check_refused(REGEX("[a[b]]"), "a class in a class");
    check_refused(REGEX("[]a]"), "a bracket first in a class");
    check_refused(REGEX("\\\\w+"), "'\\w+', an escape");
    check_refused(REGEX("\\\\b"), "an escape");
    check_refused(REGEX("\\\\K"), "an escape");
    check_refused(REGEX("a\\\\"), "an escape");
    check_refused(REGEX("\\\\p{Emoji}"), "a property");
    check_refused(REGEX("\\\\pL"), "a property without braces");
    check_refused(REGEX("(?R)"), "a group");
    check_refused(REGEX("(?<name>a)"), "a group");
    check_refused(REGEX("(*COMMIT)a"), "a group");
    check_refused(REGEX("a{,3}"), "a repetition without a least number");
    check_refused(REGEX("a{1,3}+"), "a repetition of a repetition");
    check_refused(REGEX("[a"), "a class without an end");
    check_refused(REGEX("(a"), "no regular expression");
    check_refused(REGEX("a{70000}"), "no regular expression");
    check_refused(REGEX("a*"), "matches the empty text");
    check_refused(REGEX(""), "not 1 to");
    check_refused(PLAIN("{}", "Isolated", "false"), "neither a Regex nor");
    check_refused(PLAIN(DASH, "Sideways", "false"), "behavior 'Sideways'");
    check_refused("{\"type\":\"Whitespace\"}", "a pre-tokenizer of type");
    check_refused(
        "{\"type\":\"Metaspace\",\"replacement\":\"ab\"}", "not one character");
    check_refused("{\"type\":\"Sequence\",\"pretokenizers\":[" GPT2 "," GPT2
                  "]}",
        "behind ByteLevel");
    check_refused("{\"type\":\"Sequence\"}", "has no list");
    check_refused(
        "{\"type\":\"Sequence\",\"pretokenizers\":[{}]}", "has no type");
}

/* Deep brackets are PCRE2's to bound, a long pattern is ours. */
static void bounds_patterns(void **state)
{
    char source[20000];
    qmi_error err = {0};
    qmi_pattern *pattern = NULL;
    (void)state;
    memset(source, '(', 100);
    source[100] = 'a';
    memset(source + 101, ')', 100);
    source[201] = '\0';
    assert_int_equal(
        qmi_pattern_compile(&pattern, source, false, "f", &err), QMOE_E_FORMAT);
    memset(source, 'a', sizeof source - 1);
    source[sizeof source - 1] = '\0';
    assert_int_equal(
        qmi_pattern_compile(&pattern, source, false, "f", &err), QMOE_E_FORMAT);
    assert_null(pattern);
}

/* (a|aa)+[bc] on a run of a: steps double with each character. */
static void gives_up_on_patterns_that_take_for_ever(void **state)
{
    char text[200];
    qmi_error err = {0};
    qmi_pattern *pattern = NULL;
    qmi_matcher *matcher = NULL;
    size_t start = 0, end = 0;
    (void)state;
    memset(text, 'a', sizeof text);
    assert_int_equal(
        qmi_pattern_compile(&pattern, "(a|aa)+[bc]", false, "f", &err),
        QMOE_OK);
    assert_int_equal(qmi_matcher_create(&matcher, &err), QMOE_OK);
    assert_int_equal(qmi_pattern_next(pattern, matcher, &start, &end, text,
                         sizeof text, 0, &err),
        QMOE_E_INVALID);
    assert_non_null(strstr(err.text, "limit"));
    qmi_matcher_free(matcher);
    qmi_pattern_free(pattern);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cuts_words_numbers_and_spaces),
        cmocka_unit_test(cuts_code),
        cmocka_unit_test(cuts_other_scripts),
        cmocka_unit_test(knows_white_space),
        cmocka_unit_test(knows_scripts),
        cmocka_unit_test(knows_what_becomes_of_a_match),
        cmocka_unit_test(replaces_spaces),
        cmocka_unit_test(refuses_what_it_would_read_otherwise),
        cmocka_unit_test(bounds_patterns),
        cmocka_unit_test(gives_up_on_patterns_that_take_for_ever),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
