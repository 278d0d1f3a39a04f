/* SPDX-License-Identifier: Apache-2.0
 * qmoe eval: span-corruption loss of a text. */
#include "cli.h"

#include <inttypes.h>

static const char help[] =
    "Usage: qmoe eval MODEL --text FILE [options]\n"
    "\n"
    "Measures how well a model fills gaps in a text: the mean cross entropy\n"
    "(nats) of T5's span corruption, 15 % of the tokens masked in spans of\n"
    "three on average.  FILE has one document per line, or one JSON record "
    "per\n"
    "line with a member \"text\".  The masks depend on the seed alone, so the\n"
    "same command gives the same loss on every machine, and losses of a model\n"
    "before and after compression can be compared.\n"
    "\n"
    "Options:\n"
    "  --text FILE          the text (required)\n"
    "  -n, --samples N      stop after N documents (default: all)\n"
    "  --seed N             seed of the masks (default 0)\n" CLI_PLACE_HELP
    "  --json               print the result as JSON\n"
    "  -h, --help           this text\n"
    "\n"
    "Examples:\n"
    "  qmoe eval models/switch-mini --text build/corpus/valid.txt\n"
    "  qmoe eval build/m --text build/corpus/valid.txt --samples 20 --json\n";

typedef struct request {
    const char *model, *text;
    uint64_t n_samples, seed;
    cli_place place;
    bool as_json;
} request;

static void print_json(const request *r, const qmoe_eval_result *result,
    const qmoe_device_info *device)
{
    cJSON *json = cJSON_CreateObject();
    cli_json_text(json, "model", r->model);
    cli_json_text(json, "text", r->text);
    cli_json_real(json, "loss", result->loss);
    cli_json_real(json, "token_loss", result->token_loss);
    cli_json_count(json, "tokens", result->n_tokens);
    cli_json_count(json, "samples", result->n_samples);
    cli_json_count(json, "skipped", result->n_skipped);
    cli_json_count(json, "seed", r->seed);
    cli_json_text(json, "backend", device->backend);
    cli_json_real(json, "device", device->index);
    cli_json_text(json, "device_name", device->name);
    cli_json_real(json, "seconds", result->seconds);
    cli_json_print(json);
}

static void print_text(
    const qmoe_eval_result *result, const qmoe_device_info *device)
{
    cli_clear_progress();
    printf("loss        %.9g\n", result->loss);
    printf("token loss  %.9g\n", result->token_loss);
    printf("samples     %" PRIu64 " (%" PRIu64 " skipped), %" PRIu64
           " tokens predicted\n",
        result->n_samples, result->n_skipped, result->n_tokens);
    printf("time        %.1f s on %s\n", result->seconds, device->backend);
}

static cli_exit evaluate(const request *r, cli_session *s)
{
    const qmoe_eval_options options = {
        .size = sizeof options,
        .text_path = r->text,
        .max_samples = r->n_samples,
        .seed = (uint32_t)r->seed,
    };
    qmoe_eval_result result;
    qmoe_device_info device;
    qmoe_status status = qmoe_session_eval(s->session, &result, &options);
    if (status != QMOE_OK)
        return cli_fail_status(s, status);
    qmoe_session_device(s->session, &device);
    if (r->as_json)
        print_json(r, &result, &device);
    else
        print_text(&result, &device);
    return CLI_OK;
}

static cli_exit run(int argc, char **argv)
{
    request r = {.text = "", .place.backend = "auto"};
    const cli_option table[] = {
        {"text", 0, CLI_TEXT, &r.text, 0, 0},
        {"samples", 'n', CLI_COUNT, &r.n_samples, 1, UINT64_MAX},
        {"seed", 0, CLI_COUNT, &r.seed, 0, UINT32_MAX},
        CLI_PLACE_OPTIONS(r.place),
        {"json", 0, CLI_SET, &r.as_json, 0, 0},
    };
    cli_exit code;
    cli_session s;
    if (!cli_parse(&code, &r.model, "MODEL", &cli_verb_eval, argc, argv, table,
            sizeof table / sizeof *table))
        return code;
    if (r.text[0] == '\0')
        return cli_fail(CLI_USAGE, "eval: the text is missing; give --text");
    code = cli_open_session(&s, r.model, &r.place);
    if (code == CLI_OK)
        code = evaluate(&r, &s);
    cli_close(&s);
    return code;
}

const cli_verb cli_verb_eval = {
    "eval", "measure the span-corruption loss on a text", help, run};
