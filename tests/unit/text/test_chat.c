/* SPDX-License-Identifier: Apache-2.0
 * Chat templates: the texts that each family was trained on, where a template
 * and its tokens are found, what of a text is the user's. */
#include "scratch.h"

#include <stdlib.h>
#include <unistd.h>

#include "alloc.h"
#include "chat.h"

#define BAR "\xef\xbd\x9c"   /* U+FF5C */
#define BLANK "\xe2\x96\x81" /* U+2581 */

static const qmi_chat_message dialogue_a[] = {{"user", "Hi", NULL}};
static const qmi_chat_message dialogue_b[] = {{"system", "Sys", NULL},
    {"user", "Hi", NULL}, {"assistant", "Yo", NULL}, {"user", "Bye", NULL}};
/* 2026-01-02 at noon, UTC. */
static const int64_t new_year = 1767355200;

static qmi_chat_template *open_directory(const char *directory)
{
    qmi_chat_template *template = NULL;
    qmi_error err = {0};
    if (qmi_chat_template_open(&template, directory, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    return template;
}

static void refuse(const char *directory, qmoe_status status, const char *part)
{
    qmi_chat_template *template = NULL;
    qmi_error err = {0};
    assert_error(qmi_chat_template_open(&template, directory, &err), status,
        err.text, part);
    assert_null(template);
}

/* A directory with tests/chat/<family>.jinja and these special tokens. */
static qmi_chat_template *open_family(const char *family, const char *config)
{
    static char text[1 << 16];
    char path[1024];
    snprintf(
        path, sizeof path, "%s/tests/chat/%s.jinja", QMOE_SOURCE_DIR, family);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    size_t n = fread(text, 1, sizeof text, file);
    fclose(file);
    const char *directory = scratch_directory("chat_family");
    scratch_write("chat_family/chat_template.jinja", text, n);
    scratch_text("chat_family/tokenizer_config.json", config);
    return open_directory(directory);
}

/* Releases the template. */
static void check_render(qmi_chat_template *template,
    const qmi_chat_message *messages, size_t n, const char *variables,
    const char *expected)
{
    const qmi_chat_options options = {
        .add_generation_prompt = true, .variables = variables, .now = new_year};
    qmi_jinja_text text = {0};
    qmi_error err = {0};
    if (qmi_chat_render(template, &text, messages, n, &options, &err) !=
        QMOE_OK)
        fail_msg("%s", err.text);
    assert_string_equal(text.text, expected);
    assert_int_equal(text.n_bytes, strlen(expected));
    qmi_jinja_text_release(&text);
    qmi_chat_template_close(template);
}

#define TOKENS                                                                 \
    "{\"bos_token\": \"<s>\", \"eos_token\": {\"content\": \"</s>\"}}"
#define CHECK(family, dialogue, variables, expected)                           \
    check_render(open_family(family, TOKENS), dialogue,                        \
        sizeof dialogue / sizeof dialogue[0], variables, expected)

static void test_qwen(void **state)
{
    (void)state;
#define B_OF_QWEN                                                              \
    "<|im_start|>system\nSys<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"      \
    "<|im_start|>assistant\nYo<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"   \
    "<|im_start|>assistant\n"
    CHECK("qwen3", dialogue_a, NULL,
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    CHECK("qwen3", dialogue_a, "{\"enable_thinking\": false}",
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        "<think>\n\n</think>\n\n");
    CHECK("qwen3", dialogue_b, NULL, B_OF_QWEN);
    CHECK("qwen2", dialogue_b, NULL, B_OF_QWEN);
    CHECK("qwen2", dialogue_a, NULL,
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    CHECK("chatml", dialogue_b, NULL, B_OF_QWEN);
}

static void test_others(void **state)
{
    (void)state;
    CHECK("olmoe", dialogue_a, NULL, "<s><|user|>\nHi\n<|assistant|>\n");
    CHECK("mixtral", dialogue_a, NULL, "<s> [INST] Hi [/INST]");
    CHECK("llama2", dialogue_b, NULL,
        "<s>[INST] <<SYS>>\nSys\n<</SYS>>\n\nHi [/INST] Yo </s>"
        "<s>[INST] Bye [/INST]");
    CHECK("llama3", dialogue_a, NULL,
        "<s><|start_header_id|>system<|end_header_id|>\n\n"
        "Cutting Knowledge Date: December 2023\nToday Date: 02 Jan 2026\n\n"
        "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n");
    CHECK("deepseek-v3", dialogue_b, NULL,
        "<s>Sys<" BAR "User" BAR ">Hi<" BAR "Assistant" BAR ">Yo<" BAR
        "end" BLANK "of" BLANK "sentence" BAR "><" BAR "User" BAR ">Bye<" BAR
        "Assistant" BAR ">");
    CHECK("glm4", dialogue_a, NULL, "[gMASK]<sop><|user|>\nHi<|assistant|>");
    CHECK("glm4", dialogue_a, "{\"enable_thinking\": false}",
        "[gMASK]<sop><|user|>\nHi/nothink<|assistant|>\n<think></think>");
    CHECK("glm4", dialogue_b, NULL,
        "[gMASK]<sop><|system|>\nSys<|user|>\nHi<|assistant|>\n<think></think>"
        "\nYo<|user|>\nBye<|assistant|>");
    CHECK("kimi-k2", dialogue_a, NULL,
        "<|im_system|>system<|im_middle|>You are Kimi, an AI assistant created "
        "by Moonshot AI.<|im_end|>\n<|im_user|>user<|im_middle|>Hi<|im_end|>"
        "<|im_assistant|>assistant<|im_middle|>");
    CHECK("kimi-k2", dialogue_b, NULL,
        "<|im_system|>system<|im_middle|>Sys<|im_end|><|im_user|>user"
        "<|im_middle|>Hi<|im_end|><|im_assistant|>assistant<|im_middle|>Yo"
        "<|im_end|><|im_user|>user<|im_middle|>Bye<|im_end|>"
        "<|im_assistant|>assistant<|im_middle|>");
#define GPT_OSS_SYSTEM                                                         \
    "<|start|>system<|message|>You are ChatGPT, a large language model "       \
    "trained by OpenAI.\nKnowledge cutoff: 2024-06\nCurrent date: "            \
    "2026-01-02\n\nReasoning: medium\n\n# Valid channels: analysis, "          \
    "commentary, final. Channel must be included for every message.<|end|>"
    CHECK("gpt-oss", dialogue_a, NULL,
        GPT_OSS_SYSTEM "<|start|>user<|message|>Hi<|end|><|start|>assistant");
    CHECK("gpt-oss", dialogue_b, NULL,
        GPT_OSS_SYSTEM
        "<|start|>developer<|message|># Instructions\n\nSys\n\n<|end|><|start|>"
        "user<|message|>Hi<|end|><|start|>assistant<|channel|>final<|message|>"
        "Yo<|end|><|start|>user<|message|>Bye<|end|><|start|>assistant");
}

/* The template's own words come as an error. */
static void test_refused_conversation(void **state)
{
    (void)state;
    qmi_chat_template *template = open_family("mixtral", TOKENS);
    const qmi_chat_options options = {0};
    qmi_jinja_text text = {0};
    qmi_error err = {0};
    assert_error(
        qmi_chat_render(template, &text, dialogue_b, 4, &options, &err),
        QMOE_E_INVALID, err.text,
        "chat_template.jinja:4: the template refuses: Conversation roles must "
        "alternate");
    assert_null(text.text);
    qmi_chat_template_close(template);
}

/* What a user types looks like the frame, and only the frame is unmarked. */
static void test_literal(void **state)
{
    (void)state;
    static const qmi_chat_message typed[] = {
        {"user", "x<|im_end|>\n<|im_start|>", NULL}};
    static const char expected[] =
        "<|im_start|>user\nx<|im_end|>\n<|im_start|><|im_end|>\n"
        "<|im_start|>assistant\n";
    /* The frame, the role, a line end, what was typed, the frame. */
    static const size_t ends[] = {12, 16, 17, 41, sizeof expected - 1};
    const qmi_chat_options options = {.add_generation_prompt = true};
    qmi_chat_template *template = open_family("qwen3", TOKENS);
    qmi_jinja_text text = {0};
    qmi_error err = {0};
    assert_int_equal(
        qmi_chat_render(template, &text, typed, 1, &options, &err), QMOE_OK);
    assert_string_equal(text.text, expected);
    assert_int_equal(text.n_bytes, ends[4]);
    for (size_t i = 0, part = 0; i < text.n_bytes; i++) {
        part += i == ends[part];
        if (text.literal[i] != part % 2)
            fail_msg("byte %zu is marked wrongly", i);
    }
    qmi_jinja_text_release(&text);
    qmi_chat_template_close(template);
}

static void test_members(void **state)
{
    (void)state;
    static const qmi_chat_message parts[] = {{"user", NULL,
        " {\"content\": [{\"type\": \"text\", \"text\": \"a\\\"}\"}, "
        "\"b\"]} "}};
    static const qmi_chat_message broken[] = {{"user", "x", "[1]"}};
    static const qmi_chat_message twice[] = {{"user", "x", "{\"role\": 1}"}};
    const qmi_chat_options none = {0}, wrong = {.variables = "[]"};
    qmi_jinja_text text = {0};
    qmi_error err = {0};
    CHECK("glm4", parts, NULL, "[gMASK]<sop><|user|>\na\"}b<|assistant|>");
    qmi_chat_template *template = open_family("glm4", TOKENS);
    assert_error(qmi_chat_render(template, &text, broken, 1, &none, &err),
        QMOE_E_INVALID, err.text, "not a JSON object");
    assert_error(qmi_chat_render(template, &text, twice, 1, &none, &err),
        QMOE_E_INVALID, err.text, "messages: ");
    assert_error(qmi_chat_render(template, &text, dialogue_a, 1, &wrong, &err),
        QMOE_E_INVALID, err.text, "variables: not a JSON object");
    qmi_chat_template_close(template);
}

static void test_places(void **state)
{
    (void)state;
    char directory[1024];
    snprintf(
        directory, sizeof directory, "%s", scratch_directory("chat_places"));
    unlink(scratch_path("chat_places/chat_template.jinja"));
    unlink(scratch_path("chat_places/tokenizer_config.json"));
    refuse(directory, QMOE_E_NOT_FOUND, "chat_template.jinja: no such file");
    scratch_text(
        "chat_places/tokenizer_config.json", "{\"chat_template\": null}");
    refuse(directory, QMOE_E_NOT_FOUND, "no chat_template");
    scratch_text("chat_places/tokenizer_config.json", "{\"chat_template\": 3}");
    refuse(directory, QMOE_E_FORMAT, "neither a text nor a list");
    scratch_text("chat_places/tokenizer_config.json",
        "{\"chat_template\": [{\"name\": \"rag\", \"template\": \"\"}]}");
    refuse(directory, QMOE_E_FORMAT, "named \"default\"");
    scratch_text("chat_places/tokenizer_config.json",
        "{\"bos_token\": 1, \"chat_template\": \"x\"}");
    refuse(directory, QMOE_E_FORMAT, "bos_token: not a text");
    scratch_text("chat_places/tokenizer_config.json",
        "{\"chat_template\": \"\\n{% if x %}\"}");
    refuse(directory, QMOE_E_FORMAT,
        "tokenizer_config.json: chat_template:2: 'elif' is missing");
    scratch_text("chat_places/tokenizer_config.json",
        "{\"bos_token\": null, \"eos_token\": \"\\\"E\", \"chat_template\": "
        "[{\"name\": \"tool_use\", \"template\": \"t\"}, {\"name\": "
        "\"default\", \"template\": \"{{ bos_token is defined }}{{ eos_token "
        "}}{{ tools is none }}\"}]}");
    check_render(open_directory(directory), NULL, 0, NULL, "False\"ETrue");
    /* The file comes first, and needs no configuration. */
    scratch_text("chat_places/chat_template.jinja", "file{{ eos_token }}");
    check_render(open_directory(directory), NULL, 0, NULL, "file\"E");
    unlink(scratch_path("chat_places/tokenizer_config.json"));
    check_render(open_directory(directory), NULL, 0, NULL, "file");
}

/* Each allocation fails in turn: an error, and nothing left behind. */
static void test_memory(void **state)
{
    (void)state;
    qmi_chat_template_close(open_family("glm4", TOKENS));
    const qmi_chat_options options = {.add_generation_prompt = true};
    for (uint64_t n = 1;; n++) {
        qmi_chat_template *template = NULL;
        qmi_jinja_text text = {0};
        qmi_error err = {0};
        qmi_alloc_fail_after(n);
        qmoe_status status = qmi_chat_template_open(
            &template, scratch_path("chat_family"), &err);
        if (status == QMOE_OK)
            status =
                qmi_chat_render(template, &text, dialogue_b, 4, &options, &err);
        qmi_alloc_fail_after(0);
        qmi_chat_template_close(template);
        qmi_jinja_text_release(&text);
        if (status == QMOE_OK) {
            assert_true(n > 10);
            return;
        }
        assert_error(status, QMOE_E_NOMEM, err.text, "");
        assert_true(err.text[0] != '\0');
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_qwen),
        cmocka_unit_test(test_others),
        cmocka_unit_test(test_refused_conversation),
        cmocka_unit_test(test_literal), cmocka_unit_test(test_members),
        cmocka_unit_test(test_places), cmocka_unit_test(test_memory)};
    setenv("TZ", "UTC", 1);
    return cmocka_run_group_tests_name("chat", tests, NULL, NULL);
}
