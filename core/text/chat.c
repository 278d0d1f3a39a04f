/* SPDX-License-Identifier: Apache-2.0
 * In: the files of a model, then messages.  Out: the text for the tokenizer.
 * The template sees the variables that transformers gives it; messages go there
 * as JSON. */
#include "chat.h"

#include <string.h>

#include "alloc.h"
#include "clock.h"
#include "json.h"
#include "map.h"
#include "text.h"

enum { MAX_TEMPLATE_BYTES = 1 << 20 };

struct qmi_chat_template {
    qmi_jinja *jinja;
    char *tokens; /* JSON object: bos_token and so on */
};

void qmi_chat_template_close(qmi_chat_template *template)
{
    if (template == NULL)
        return;
    qmi_jinja_close(template->jinja);
    qmi_free(template->tokens);
    qmi_free(template);
}

/* ---- opening ---- */

static void write_member(qmi_text *to, const char *key, const char *value)
{
    qmi_text_string(to, to->n > 1 ? ", \"" : "\"");
    qmi_text_json(to, key);
    qmi_text_string(to, "\": \"");
    qmi_text_json(to, value);
    qmi_text_string(to, "\"");
}

/* Takes the text over. */
static qmoe_status finish(char **out, qmi_text *text)
{
    qmi_text_bytes(text, "", 1);
    if (text->failed) {
        qmi_free(text->data);
        return QMOE_E_NOMEM;
    }
    *out = text->data;
    return QMOE_OK;
}

/* A special token is a text or an object with "content". */
static qmoe_status read_tokens(
    char **out, const cJSON *config, const char *path, qmi_error *err)
{
    static const char *const keys[] = {"bos_token", "eos_token", "unk_token",
        "sep_token", "pad_token", "cls_token", "mask_token"};
    qmi_text text = {.err = err};
    qmi_text_string(&text, "{");
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        const cJSON *token = cJSON_GetObjectItemCaseSensitive(config, keys[i]);
        if (cJSON_IsObject(token))
            token = cJSON_GetObjectItemCaseSensitive(token, "content");
        if (token == NULL || cJSON_IsNull(token))
            continue;
        if (!cJSON_IsString(token)) {
            qmi_free(text.data);
            return qmi_fail(err, QMOE_E_FORMAT,
                "%s: %s: not a text or an object with a text \"content\"", path,
                keys[i]);
        }
        write_member(&text, keys[i], token->valuestring);
    }
    qmi_text_string(&text, "}");
    return finish(out, &text);
}

/* The text of "chat_template"; NULL: there is none. */
static qmoe_status find_template(
    const char **out, const cJSON *config, const char *path, qmi_error *err)
{
    const cJSON *found =
        cJSON_GetObjectItemCaseSensitive(config, "chat_template");
    const cJSON *item = NULL;
    *out = NULL;
    if (found == NULL || cJSON_IsNull(found))
        return QMOE_OK;
    if (cJSON_IsArray(found)) {
        const cJSON *list = found;
        found = NULL;
        cJSON_ArrayForEach(item, list)
        {
            const char *name = cJSON_GetStringValue(
                cJSON_GetObjectItemCaseSensitive(item, "name"));
            if (name != NULL && strcmp(name, "default") == 0)
                found = cJSON_GetObjectItemCaseSensitive(item, "template");
        }
    }
    *out = cJSON_GetStringValue(found);
    if (*out == NULL)
        return qmi_fail(err, QMOE_E_FORMAT,
            "%s: chat_template: neither a text nor a list with a template "
            "named \"default\"",
            path);
    return QMOE_OK;
}

static qmoe_status open_inside(qmi_chat_template *template, const cJSON *config,
    const char *path, qmi_error *err)
{
    const char *text = NULL;
    QMI_TRY(find_template(&text, config, path, err));
    if (text == NULL)
        return qmi_fail(err, QMOE_E_NOT_FOUND,
            "%s: no chat_template, and no file chat_template.jinja", path);
    qmi_text name = {.err = err};
    char *file = NULL;
    qmi_text_string(&name, path);
    qmi_text_string(&name, ": chat_template");
    QMI_TRY(finish(&file, &name));
    qmoe_status status =
        qmi_jinja_open(&template->jinja, text, strlen(text), file, err);
    qmi_free(file);
    return status;
}

static qmoe_status open_file(
    qmi_chat_template *template, const char *path, qmi_error *err)
{
    char *text = NULL;
    size_t n_bytes = 0;
    QMI_TRY(qmi_read_file(&text, &n_bytes, path, MAX_TEMPLATE_BYTES, err));
    qmoe_status status =
        qmi_jinja_open(&template->jinja, text, n_bytes, path, err);
    qmi_free(text);
    return status;
}

/* jinja, config: the paths of the two files, of which one may be missing. */
static qmoe_status open_files(qmi_chat_template *template, const char *jinja,
    const char *config_path, qmi_error *err)
{
    cJSON *config = NULL;
    qmi_error missing = {0};
    qmoe_status status = open_file(template, jinja, &missing);
    if (status != QMOE_OK && status != QMOE_E_NOT_FOUND)
        return qmi_fail(err, status, "%s", missing.text);
    bool has_file = status == QMOE_OK;
    status = qmi_json_load(&config, config_path, err);
    if (status == QMOE_E_NOT_FOUND && !has_file)
        return qmi_fail(err, status, "%s: no such file, and no %s", jinja,
            qmi_last_component(config_path));
    if (status == QMOE_E_NOT_FOUND)
        status = QMOE_OK; /* and no special tokens */
    if (status == QMOE_OK)
        status = read_tokens(&template->tokens, config, config_path, err);
    if (status == QMOE_OK && !has_file)
        status = open_inside(template, config, config_path, err);
    cJSON_Delete(config);
    return status;
}

qmoe_status qmi_chat_template_open(
    qmi_chat_template **out, const char *directory, qmi_error *err)
{
    *out = NULL;
    qmi_chat_template *template =
        qmi_calloc(1, sizeof *template, "a chat template", err);
    char *jinja = qmi_path_join(directory, "chat_template.jinja", err);
    char *config = qmi_path_join(directory, "tokenizer_config.json", err);
    qmoe_status status = QMOE_E_NOMEM;
    if (template != NULL && jinja != NULL && config != NULL)
        status = open_files(template, jinja, config, err);
    if (status == QMOE_OK)
        *out = template;
    else
        qmi_chat_template_close(template);
    qmi_free(jinja);
    qmi_free(config);
    return status;
}

/* ---- rendering ---- */

/* The members of a JSON object, without its braces. */
static qmoe_status write_members(qmi_text *to, const char *json, qmi_error *err)
{
    cJSON *tree = NULL;
    qmi_error own = {0};
    qmoe_status status =
        qmi_json_parse(&tree, json, strlen(json), "a message", &own);
    if (status == QMOE_E_FORMAT || (status == QMOE_OK && !cJSON_IsObject(tree)))
        status = qmi_fail(&own, QMOE_E_INVALID,
            "the members of a message are not a JSON object");
    if (status == QMOE_OK && tree->child != NULL) {
        const char *begin = strchr(json, '{') + 1, *end = strrchr(json, '}');
        qmi_text_string(to, ", ");
        qmi_text_bytes(to, begin, (size_t)(end - begin));
    }
    cJSON_Delete(tree);
    return status == QMOE_OK ? status : qmi_fail(err, status, "%s", own.text);
}

static qmoe_status write_messages(qmi_text *to,
    const qmi_chat_message *messages, size_t n_messages, qmi_error *err)
{
    qmi_text_string(to, "[");
    for (size_t i = 0; i < n_messages; i++) {
        const qmi_chat_message *message = &messages[i];
        qmi_text_string(to, i > 0 ? ", {\"role\": \"" : "{\"role\": \"");
        qmi_text_json(to, message->role);
        qmi_text_string(to, "\"");
        if (message->content != NULL) {
            qmi_text_string(to, ", \"content\": \"");
            qmi_text_json(to, message->content);
            qmi_text_string(to, "\"");
        }
        if (message->members != NULL)
            QMI_TRY(write_members(to, message->members, err));
        qmi_text_string(to, "}");
    }
    qmi_text_string(to, "]");
    return QMOE_OK;
}

static const char *or_else(const char *json, const char *fallback)
{
    return json == NULL ? fallback : json;
}

qmoe_status qmi_chat_render(const qmi_chat_template *template,
    qmi_jinja_text *out, const qmi_chat_message *messages, size_t n_messages,
    const qmi_chat_options *options, qmi_error *err)
{
    qmi_text text = {.err = err};
    char *json = NULL;
    *out = (qmi_jinja_text){0};
    qmoe_status status = write_messages(&text, messages, n_messages, err);
    if (status != QMOE_OK) {
        qmi_free(text.data);
        return status;
    }
    QMI_TRY(finish(&json, &text));
    const qmi_jinja_variable variables[] = {
        {NULL, or_else(template->tokens, "{}"), false},
        {NULL, or_else(options->variables, "{}"), true},
        {"messages", json, true},
        {"tools", or_else(options->tools, "null"), true},
        {"documents", "null", false},
        {"add_generation_prompt",
            options->add_generation_prompt ? "true" : "false", false}};
    status = qmi_jinja_render(template->jinja, out, variables,
        sizeof variables / sizeof variables[0],
        options->now != 0 ? options->now : qmi_unix_seconds(), err);
    qmi_free(json);
    return status;
}
