/* SPDX-License-Identifier: Apache-2.0
 * qmoe tokenize: what a model's tokenizer makes of a text.  In: a model and a
 * text.  Out: its ids, each with the text that it stands for alone. */
#include "cli.h"

#include <stdlib.h>

static const char help[] =
    "Usage: qmoe tokenize MODEL -p TEXT [options]\n"
    "\n"
    "Prints the token ids of a text, one a line, each with the text that it\n"
    "stands for.  Special tokens in the text are recognised; none is added\n"
    "around it.  A special token has no text, a part of a character shows as\n"
    "U+FFFD, and control characters as '?'.\n"
    "\n"
    "Options:\n"
    "  -p, --prompt TEXT    the text (required)\n"
    "  --json               print the ids as JSON\n"
    "  -h, --help           print this text\n"
    "\n"
    "Example:\n"
    "  qmoe tokenize models/moe-mini -p \"And the LORD said unto Moses,\"\n";

static cli_exit print_ids(const cli_session *s, const int32_t *ids, size_t n)
{
    char text[256];
    for (size_t i = 0; i < n; i++) {
        size_t n_text = 0;
        const qmoe_status status =
            qmoe_detokenize(s->model, text, sizeof text, &n_text, &ids[i], 1);
        if (status != QMOE_OK)
            return cli_fail_status(s, status);
        printf("%d\t", (int)ids[i]);
        cli_print_name(stdout, text);
        putchar('\n');
    }
    return CLI_OK;
}

static void print_json(const int32_t *ids, size_t n)
{
    cJSON *json = cJSON_CreateObject();
    cJSON *list = cJSON_AddArrayToObject(json, "ids");
    for (size_t i = 0; i < n; i++)
        cJSON_AddItemToArray(list, cJSON_CreateNumber(ids[i]));
    cli_json_print(json);
}

static cli_exit tokenize(const cli_session *s, const char *text, bool as_json)
{
    size_t n = 0;
    qmoe_status status = qmoe_tokenize(s->model, NULL, 0, &n, text);
    if (status != QMOE_OK)
        return cli_fail_status(s, status);
    int32_t *ids = calloc(n + 1, sizeof *ids);
    if (ids == NULL)
        return cli_fail(CLI_INTERNAL, "tokenize: out of memory");
    cli_exit code = CLI_OK;
    status = qmoe_tokenize(s->model, ids, n, &n, text);
    if (status != QMOE_OK)
        code = cli_fail_status(s, status);
    else if (as_json)
        print_json(ids, n);
    else
        code = print_ids(s, ids, n);
    free(ids);
    return code;
}

static cli_exit run(int argc, char **argv)
{
    const char *model, *text = NULL;
    bool as_json = false;
    const cli_option table[] = {{"prompt", 'p', CLI_TEXT, &text, 0, 0},
        {"json", 0, CLI_SET, &as_json, 0, 0}};
    cli_exit code;
    cli_session s;
    if (!cli_parse(&code, &model, "MODEL", &cli_verb_tokenize, argc, argv,
            table, sizeof table / sizeof *table))
        return code;
    if (text == NULL)
        return cli_fail(CLI_USAGE, "tokenize: a text is needed: -p TEXT");
    code = cli_open_model(&s, 0, model);
    if (code == CLI_OK)
        code = tokenize(&s, text, as_json);
    cli_close(&s);
    return code;
}

const cli_verb cli_verb_tokenize = {
    "tokenize", "show the token ids of a text", help, run};
