/* SPDX-License-Identifier: Apache-2.0
 * Renders templates for tests/interop/test_jinja.py.
 *
 *     jinja_tool CASES
 *
 * CASES holds one JSON object a line: "template", and "data" and "plain", texts
 * of JSON objects whose members are the variables, user data or not.  For each,
 * one line of JSON: "text" and "literal" (a digit for each byte), or "error"
 * and "status". */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jinja.h"
#include "json.h"

static const char *member(const cJSON *one, const char *key)
{
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(one, key));
}

static void print_result(
    qmoe_status status, const qmi_jinja_text *text, const qmi_error *err)
{
    cJSON *result = cJSON_CreateObject();
    if (status == QMOE_OK) {
        char *digits = malloc(text->n_bytes + 1);
        if (digits == NULL)
            abort();
        for (size_t i = 0; i < text->n_bytes; i++)
            digits[i] = (char)('0' + text->literal[i]);
        digits[text->n_bytes] = '\0';
        cJSON_AddStringToObject(result, "text", text->text);
        cJSON_AddStringToObject(result, "literal", digits);
        free(digits);
    } else {
        cJSON_AddStringToObject(result, "error", err->text);
        cJSON_AddNumberToObject(result, "status", status);
    }
    char *line = cJSON_PrintUnformatted(result);
    puts(line);
    cJSON_free(line);
    cJSON_Delete(result);
}

static void run_case(const cJSON *one)
{
    qmi_error err = {0};
    qmi_jinja *jinja = NULL;
    qmi_jinja_text text = {0};
    const qmi_jinja_variable variables[] = {
        {NULL, member(one, "data"), true}, {NULL, member(one, "plain"), false}};
    const char *template = member(one, "template");
    qmoe_status status =
        qmi_jinja_open(&jinja, template, strlen(template), "case", &err);
    if (status == QMOE_OK)
        status = qmi_jinja_render(jinja, &text, variables, 2, 0, &err);
    print_result(status, &text, &err);
    qmi_jinja_text_release(&text);
    qmi_jinja_close(jinja);
}

int main(int argc, char **argv)
{
    char *line = NULL;
    size_t capacity = 0;
    FILE *file = argc == 2 ? fopen(argv[1], "r") : NULL;
    if (file == NULL)
        return 2;
    while (getline(&line, &capacity, file) > 0) {
        cJSON *one = cJSON_Parse(line);
        if (one == NULL)
            return 1;
        run_case(one);
        cJSON_Delete(one);
    }
    free(line);
    fclose(file);
    return 0;
}
