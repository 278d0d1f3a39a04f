/* SPDX-License-Identifier: Apache-2.0
 * qmoe eval: the loss of a text for what the model was trained to do.  In: a
 * model and texts, or random ids for a synthetic model.  Out: the losses as
 * text or JSON; those of models that predict the next
 * token, and comparisons: eval_next.c.  Losses are printed with 9 digits, so that small differences between runs show. */
#include "eval_next.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "Usage: qmoe eval MODEL --text FILE [options]\n"
    "\n"
    "Computes the loss of a text for what the model was trained to do: the\n"
    "mean cross entropy in nats.\n"
    "\n"
    "Decoder-only models predict the next token.  The text is tokenised as a\n"
    "whole and cut into windows.  With the convention 'gptq' of most papers "
    "on\n"
    "compression a window has 2048 tokens and all its predictions count; with\n"
    "'llama.cpp' it has 512 and those of its second half count.  Numbers of\n"
    "different conventions, lengths or tokenizers cannot be compared.\n"
    "\n"
    "T5 models fill gaps: 15 % of the tokens are masked in spans of three on\n"
    "average.  FILE has one document per line, or one JSON record per line\n"
    "with a member \"text\".  The masks depend on the seed alone, so losses\n"
    "before and after compression can be compared.\n"
    "\n"
    "--against compares with another model, prediction by prediction: the\n"
    "divergence KL(MODEL2 || MODEL), how often both find the same token\n"
    "likeliest, and by block the experts they choose and the error of what "
    "the\n"
    "block hands on.\n"
    "\n"
    "Losses on different processors differ only by rounding (below 1e-6).\n"
    "\n"
    "A synthetic model (synth:NAME, see 'qmoe compress --help') has true\n"
    "shapes and speed, but random weights.  Without --text its input is 8\n"
    "samples of random token ids, 512 + 115 each (decoder-only models: 129);\n"
    "the loss is meaningless.\n"
    "\n"
    "Options:\n"
    "  --text FILE          the text (required); may be repeated: the files "
    "are\n"
    "                       used one after the other, and the loss of each is\n"
    "                       printed, too\n"
    "  -n, --samples N      stop after N documents or windows (default: all)\n"
    "  --seed N             seed of the masks (default 0)\n"
    "  --context N          tokens of a window (default 2048, llama.cpp: 512)\n"
    "  --convention C       gptq (default) or llama.cpp\n"
    "  --documents          each line of FILE is a document, or a JSON record\n"
    "                       with one, as for T5; the end token stands between\n"
    "                       them (default: FILE is one text)\n"
    "  --against MODEL2     compare with this model\n"
    "  --depths N           compare at up to N depths, too: MODEL2 with its\n"
    "                       first blocks replaced by MODEL's; each costs\n"
    "                       another pass (default 0)\n" CLI_PLACE_HELP
        CLI_VERIFY_HELP "  --json               print the result as JSON\n"
    "  -h, --help           print this text\n"
    "\n"
    "Examples:\n"
    "  qmoe eval models/switch-mini --text build/corpus/valid.txt\n"
    "  qmoe eval build/m --text build/corpus/valid.txt --samples 20 --json\n"
    "  qmoe eval build/m --text wiki.test.raw --context 2048\n"
    "  qmoe eval build/m --text wiki.test.raw --against base-model\n"
    "  qmoe eval 'synth:base-8?experts=2' --samples 1\n";

/* What the options say; random_ids: there is no text, and none is needed. */
typedef struct request {
    const char *model;
    cli_texts texts;
    uint64_t n_samples, seed;
    cli_place place;
    bool as_json, random_ids;
    cli_eval_next
        next; /* of models that predict the next token, or --against */
    const char *convention;
} request;

static void json_losses(cJSON *json, const qmoe_eval_result *result)
{
    /* No sample, no loss: null. */
    const double none = result->n_samples == 0 ? NAN : 0;
    cli_json_real(json, "loss", result->loss + none);
    cli_json_real(json, "token_loss", result->token_loss + none);
    cli_json_count(json, "tokens", result->n_tokens);
    cli_json_count(json, "samples", result->n_samples);
}

/* The sum over all texts first, then each text with the same members. */
static void print_json(const request *r, const qmoe_eval_result *result,
    const qmoe_eval_result *per_text, const qmoe_device_info *device)
{
    cJSON *json = cJSON_CreateObject();
    cli_json_text(json, "model", r->model);
    cJSON_AddBoolToObject(json, "synthetic", cli_is_synthetic(r->model));
    cJSON_AddBoolToObject(json, "random_ids", r->random_ids);
    /* A single text is named at the top, too. */
    if (r->texts.n == 1)
        cli_json_text(json, "text", r->texts.items[0]);
    json_losses(json, result);
    cli_json_count(json, "skipped", result->n_skipped);
    cli_json_count(json, "seed", r->seed);
    cli_json_text(json, "backend", device->backend);
    cli_json_real(json, "device", device->index);
    cli_json_text(json, "device_name", device->name);
    cli_json_real(json, "seconds", result->seconds);
    cJSON *texts = cJSON_AddArrayToObject(json, "texts");
    for (size_t i = 0; i < r->texts.n; i++) {
        cJSON *item = cJSON_CreateObject();
        cli_json_text(item, "text", r->texts.items[i]);
        json_losses(item, &per_text[i]);
        cJSON_AddItemToArray(texts, item);
    }
    cli_json_print(json);
}

/* The loss comes first: it is what was asked for. */
static void print_text(const request *r, const qmoe_eval_result *result,
    const qmoe_eval_result *per_text, const qmoe_device_info *device)
{
    cli_clear_progress();
    /* A number that means nothing says so itself. */
    if (r->random_ids)
        printf("random ids: the loss means nothing\n");
    printf("loss        %.9g\n", result->loss);
    printf("token loss  %.9g\n", result->token_loss);
    printf("samples     %" PRIu64 " (%" PRIu64 " skipped), %" PRIu64
           " tokens predicted\n",
        result->n_samples, result->n_skipped, result->n_tokens);
    printf("time        %.1f s on %s\n", result->seconds, device->backend);
    /* One text's losses are the total's, so the list begins with two. */
    for (size_t i = 0; r->texts.n > 1 && i < r->texts.n; i++) {
        const qmoe_eval_result *t = &per_text[i];
        fputs("text        ", stdout);
        cli_print_name(stdout, r->texts.items[i]);
        if (t->n_samples != 0)
            printf(": loss %.9g, token loss %.9g", t->loss, t->token_loss);
        printf("%s %" PRIu64 " samples, %" PRIu64 " tokens predicted\n",
            t->n_samples != 0 ? "," : ":", t->n_samples, t->n_tokens);
    }
}

static cli_exit evaluate(const request *r, cli_session *s)
{
    /* The library fills one result per text. */
    qmoe_eval_result *per_text = cli_grow(NULL, r->texts.n * sizeof *per_text);
    const qmoe_eval_options options = {
        .size = sizeof options,
        .text_paths = r->texts.items,
        .n_text_paths = r->texts.n,
        .per_text = per_text,
        .random_ids = r->random_ids,
        .max_samples = r->n_samples,
        .seed = (uint32_t)r->seed,
    };
    qmoe_eval_result result;
    qmoe_device_info device;
    qmoe_status status = qmoe_session_eval(s->session, &result, &options);
    cli_exit code = status == QMOE_OK ? CLI_OK : cli_fail_status(s, status);
    qmoe_session_device(s->session, &device);
    if (code == CLI_OK && r->as_json)
        print_json(r, &result, per_text, &device);
    else if (code == CLI_OK)
        print_text(r, &result, per_text, &device);
    free(per_text);
    return code;
}

/* Options of the other kind of model would have no effect. */
static cli_exit refuse_idle(const request *r, bool predicts_next)
{
    static const char spans[] = "seed", next[] = "context convention documents";
    const cli_idle rules[] = {
        {predicts_next && !r->random_ids, spans,
            "the model predicts the next token"},
        {!predicts_next, next, "the model fills gaps in documents"},
        {r->random_ids, next, "there is no text"},
        {r->random_ids, "against depths", "there is no text"},
        {r->next.against == NULL, "depths", "there is no --against"},
    };
    return cli_refuse_idle(&cli_verb_eval, rules, sizeof rules / sizeof *rules);
}

static cli_exit evaluate_objective(request *r, cli_session *s)
{
    qmoe_model_info info;
    qmoe_model_describe(s->model, &info);
    cli_exit code = refuse_idle(r, info.predicts_next);
    if (code != CLI_OK)
        return code;
    r->next.fills_gaps = !info.predicts_next;
    if (r->random_ids || (r->next.fills_gaps && r->next.against == NULL))
        return evaluate(r, s);
    r->next.seed = (uint32_t)r->seed;
    r->next.model = r->model;
    r->next.texts = &r->texts;
    r->next.place = &r->place;
    r->next.max_windows = r->n_samples;
    r->next.as_json = r->as_json;
    return cli_run_eval_next(&r->next, s);
}

/* gptq is what is not said. */
static cli_exit read_convention(request *r)
{
    if (r->convention == NULL || strcmp(r->convention, "gptq") == 0)
        return CLI_OK;
    r->next.second_half = strcmp(r->convention, "llama.cpp") == 0;
    return r->next.second_half
               ? CLI_OK
               : cli_fail(CLI_USAGE,
                     "eval: --convention '%s' is not gptq or llama.cpp",
                     r->convention);
}

static cli_exit run(int argc, char **argv)
{
    enum { MAX_CONTEXT = 1 << 20 };
    request r = {.place.backend = "auto"};
    const cli_option table[] = {
        {"text", 0, CLI_TEXTS, &r.texts, 0, 0},
        {"samples", 'n', CLI_COUNT, &r.n_samples, 1, UINT64_MAX},
        {"seed", 0, CLI_COUNT, &r.seed, 0, UINT32_MAX},
        {"context", 0, CLI_COUNT, &r.next.n_context, 2, MAX_CONTEXT},
        {"convention", 0, CLI_TEXT, &r.convention, 0, 0},
        {"documents", 0, CLI_SET, &r.next.documents, 0, 0},
        {"against", 0, CLI_TEXT, &r.next.against, 0, 0},
        {"depths", 0, CLI_COUNT, &r.next.n_depths, 0, QMOE_MAX_DEPTHS},
        CLI_PLACE_OPTIONS(r.place),
        CLI_VERIFY_OPTION(r.place),
        {"json", 0, CLI_SET, &r.as_json, 0, 0},
    };
    cli_exit code;
    cli_session s = {0};
    if (cli_parse(&code, &r.model, "MODEL", &cli_verb_eval, argc, argv, table,
            sizeof table / sizeof *table)) {
        /* Only random weights get random ids; a real model needs a text. */
        r.random_ids = r.texts.n == 0 && cli_is_synthetic(r.model);
        if (r.texts.n == 0 && !r.random_ids)
            code =
                cli_fail(CLI_USAGE, "eval: the text is missing; give --text");
        if (code == CLI_OK)
            code = read_convention(&r);
        if (code == CLI_OK)
            code = cli_open_session(&s, r.model, &r.place);
        if (code == CLI_OK)
            code = evaluate_objective(&r, &s);
        /* A session that was never opened is zeroed. */
        cli_close(&s);
    }
    free(r.texts.items);
    return code;
}

const cli_verb cli_verb_eval = {
    "eval", "compute the loss of a text, or compare two models", help, run};
