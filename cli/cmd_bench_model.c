/* SPDX-License-Identifier: Apache-2.0
 * qmoe bench model: tokens per second, by role.  In: a model, real or
 * synthetic, and sizes of a batch.  Out: speeds of the compressed and the ideal
 * run, and their ratio.  The tool only reads options and prints;
 * bench/bench_model.c measures, and lets the two runs alternate, so that both
 * see the same machine. */
#include "bench.h"

#include <string.h>

static const char help[] =
    "Usage: qmoe bench model MODEL [options]\n"
    "\n"
    "Measures tokens per second of a compressed model and of an ideal\n"
    "uncompressed run.  In the ideal run all experts of a block share one "
    "bf16\n"
    "matrix, so that it fits in memory and uses caches at their best; all "
    "else\n"
    "is the same, and every expert gets the same tokens.  The two runs\n"
    "alternate.  'ratio' is compressed / ideal: above 1, compression costs no\n"
    "speed.  Encoding runs all prompts at once (in portions without an\n"
    "encoder), decoding one token of every sequence at a time.  Token ids are\n"
    "random.\n"
    "\n"
    "MODEL is a directory, or synth:NAME, a model in memory with random\n"
    "weights and the shapes of base-8, ..., base-256, large-128 or c-2048; "
    "see\n"
    "'qmoe compress --help' for making it smaller.\n"
    "\n"
    "Options:\n"
    "  --vs CHECKPOINT      take the shared matrices from the original "
    "instead\n"
    "                       of decoded experts\n"
    "  --format F           format of a synthetic model's experts (default "
    "{default})\n"
    "  --dense-format F     format of a synthetic model's other matrices "
    "(default\n"
    "                       bf16)\n"
    "  --prompt-tokens N    prompt tokens of each sequence (default 128)\n"
    "  --tokens N           decoded tokens of each sequence (default 64)\n"
    "  --sequences N        sequences in the batch (default 1)\n"
    "  --repeat N           repetitions (default 5)\n"
    "  --routing MODE       model: the router chooses; uniform: every expert "
    "is\n"
    "                       equally likely (default: model; uniform with "
    "synth:)\n"
    "  --seed N             seed of the token ids (default 0)\n" CLI_PLACE_HELP
    "  --json               print one JSON document\n"
    "  -h, --help           print this text\n"
    "\n"
    "Examples:\n"
    "  qmoe bench model build/m --vs models/switch-mini\n"
    "  qmoe bench model 'synth:base-128?experts=32' --json\n";

/* What the options say; the library's options are made of it. */
typedef struct request {
    const char *model, *original, *routing, *format, *dense_format;
    uint64_t n_prompt_tokens, n_tokens, n_sequences, n_repeats, seed;
    cli_place place;
    bool as_json;
} request;

/* ---- output ---- */

/* Position biases are read by attention, whose time is one. */
static bool takes_time(int role)
{
    return role != QMOE_ROLE_POSITION_BIAS;
}

static void print_phase(const char *name, const qmoe_bench_phase *compressed,
    const qmoe_bench_phase *ideal, double ratio)
{
    const qmoe_bench_phase *const runs[] = {compressed, ideal};
    static const char *const labels[] = {"compressed", "ideal bf16"};
    for (int i = 0; i < 2; i++) {
        const qmoe_bench_phase *p = runs[i];
        printf("%-7s %-10s %9.1f %9.1f %9.1f", name, labels[i], p->tokens_per_s,
            p->p10, p->p90);
        for (int role = 0; role < QMOE_ROLE_COUNT; role++)
            if (takes_time(role))
                /* Seconds per token, in microseconds. */
                printf(" %10.1f", 1e6 * p->roles[role]);
        putchar('\n');
    }
    printf("%-7s ratio      %9.2f\n", name, ratio);
}

static void print_text(const qmoe_bench_model_report *r)
{
    cli_bench_print_machine(&r->device);
    printf("%d thread%s, %d x %d prompt tokens, %d x %d new ones, %d "
           "repetitions\n",
        r->n_threads, r->n_threads == 1 ? "" : "s", r->n_sequences,
        r->n_prompt_tokens, r->n_sequences, r->n_tokens, r->n_repeats);
    /* How many experts a batch touches decides what the caches can do, so it
     * stands beside the speeds. */
    if (r->expert_bytes != 0)
        printf("experts: %s %s, ideal %s; in use per block: %.1f encoding, "
               "%.1f decoding\n",
            r->format, cli_human_bytes(r->expert_bytes).text,
            cli_human_bytes(r->ideal_expert_bytes).text, r->experts_encode,
            r->experts_decode);
    printf("%-18s %9s %9s %9s   us/token:\n", "", "tokens/s", "p10", "p90");
    printf("%-48s", "");
    for (int role = 0; role < QMOE_ROLE_COUNT; role++)
        if (takes_time(role))
            printf(" %10s", qmoe_role_name((qmoe_role)role));
    putchar('\n');
    print_phase(
        "encode", &r->compressed.encode, &r->ideal.encode, r->encode_ratio);
    print_phase(
        "decode", &r->compressed.decode, &r->ideal.decode, r->decode_ratio);
}

static void add_phase(cJSON *json, const char *name, const qmoe_bench_phase *p)
{
    cJSON *phase = cJSON_AddObjectToObject(json, name);
    cli_json_real(phase, "tokens_per_s", p->tokens_per_s);
    cli_json_real(phase, "p10", p->p10);
    cli_json_real(phase, "p90", p->p90);
    cJSON *roles = cJSON_AddObjectToObject(phase, "seconds_per_token");
    for (int role = 0; role < QMOE_ROLE_COUNT; role++)
        if (takes_time(role))
            cli_json_real(
                roles, qmoe_role_name((qmoe_role)role), p->roles[role]);
}

static void add_run(cJSON *json, const char *name, const qmoe_bench_run *run)
{
    cJSON *object = cJSON_AddObjectToObject(json, name);
    add_phase(object, "encode", &run->encode);
    add_phase(object, "decode", &run->decode);
}

static void print_json(const request *q, const qmoe_bench_model_report *r)
{
    cJSON *json = cJSON_CreateObject();
    cli_bench_add_machine(json, &r->device, &r->facts);
    cli_json_text(json, "model", q->model);
    cli_json_text(json, "format", r->format);
    cli_json_count(json, "threads", (uint64_t)r->n_threads);
    cli_json_count(json, "sequences", (uint64_t)r->n_sequences);
    cli_json_count(json, "prompt_tokens", (uint64_t)r->n_prompt_tokens);
    cli_json_count(json, "tokens", (uint64_t)r->n_tokens);
    cli_json_count(json, "repetitions", (uint64_t)r->n_repeats);
    cli_json_count(json, "expert_bytes", r->expert_bytes);
    cli_json_count(json, "ideal_expert_bytes", r->ideal_expert_bytes);
    cli_json_real(json, "experts_encode", r->experts_encode);
    cli_json_real(json, "experts_decode", r->experts_decode);
    add_run(json, "compressed", &r->compressed);
    add_run(json, "ideal", &r->ideal);
    cli_json_real(json, "encode_ratio", r->encode_ratio);
    cli_json_real(json, "decode_ratio", r->decode_ratio);
    cli_json_print(json);
}

/* ---- the run ---- */

/* The router of a synthetic model has random weights and says nothing of a real
 * one, so uniform is its default. */
static cli_exit take_routing(qmoe_bench_routing *out, const request *r)
{
    *out = cli_is_synthetic(r->model) ? QMOE_BENCH_ROUTING_UNIFORM
                                      : QMOE_BENCH_ROUTING_MODEL;
    if (r->routing == NULL)
        return CLI_OK;
    *out = QMOE_BENCH_ROUTING_MODEL;
    if (strcmp(r->routing, "model") == 0)
        return CLI_OK;
    *out = QMOE_BENCH_ROUTING_UNIFORM;
    if (strcmp(r->routing, "uniform") == 0)
        return CLI_OK;
    return cli_fail(CLI_USAGE,
        "bench model: --routing: '%s' is neither model nor uniform",
        r->routing);
}

/* Prints once all repetitions are there: a table of half of them would be
 * trusted like a whole one. */
static cli_exit measure(const request *r, const cli_session *s,
    qmoe_model *original, qmoe_bench_routing routing)
{
    qmoe_bench_model_report report;
    const qmoe_bench_model_options options = {
        /* Members that stay zero mean the library's defaults. */
        .size = sizeof options,
        .session =
            {
                .backend = r->place.backend,
                .device_name = r->place.device,
                .expert_capacity = (int)r->place.expert_capacity,
                .expert_cache_bytes = r->place.expert_cache,
                .device_memory_bytes = r->place.device_memory,
            },
        .original = original,
        .format = r->format,
        .dense_format = r->dense_format,
        .n_prompt_tokens = (int)r->n_prompt_tokens,
        .n_tokens = (int)r->n_tokens,
        .n_sequences = (int)r->n_sequences,
        .n_repeats = (int)r->n_repeats,
        .routing = routing,
        .seed = (uint32_t)r->seed,
    };
    qmoe_status status = qmoe_bench_model(s->model, &report, &options);
    if (status != QMOE_OK)
        return cli_fail_status(s, status);
    cli_clear_progress();
    if (r->as_json)
        print_json(r, &report);
    else
        print_text(&report);
    return CLI_OK;
}

/* Opens one model or two; the device is opened by the measurement, which
 * needs it for both runs. */
static cli_exit open_and_measure(const request *r, cli_session *s)
{
    qmoe_model *original = NULL;
    qmoe_bench_routing routing;
    /* Before the model is opened: a wrong word must not cost its loading. */
    cli_exit code = take_routing(&routing, r);
    if (code == CLI_OK)
        code = cli_open_model(s, r->place.n_threads, r->model);
    if (code != CLI_OK)
        return code;
    qmoe_status status = QMOE_OK;
    /* The original only lends its expert matrices to the ideal run. */
    if (r->original != NULL)
        status = qmoe_model_open(&original, s->context, r->original);
    code = status == QMOE_OK ? measure(r, s, original, routing)
                             : cli_fail_status(s, status);
    /* Accepts NULL; the model of the session is closed by cli_close. */
    qmoe_model_close(original);
    return code;
}

static cli_exit run(int argc, char **argv)
{
    /* Bounds keep sizes far from overflow; what fits memory the library
     * says. */
    enum { MAX_TOKENS = 1 << 16, MAX_SEQUENCES = 1024, MAX_REPEATS = 101 };
    request r = {
        .place.backend = "auto",
        .n_prompt_tokens = 128,
        .n_tokens = 64,
        .n_sequences = 1,
        .n_repeats = 5,
    };
    const cli_option table[] = {
        {"vs", 0, CLI_TEXT, &r.original, 0, 0},
        {"prompt-tokens", 0, CLI_COUNT, &r.n_prompt_tokens, 1, MAX_TOKENS},
        {"tokens", 0, CLI_COUNT, &r.n_tokens, 1, MAX_TOKENS},
        {"sequences", 0, CLI_COUNT, &r.n_sequences, 1, MAX_SEQUENCES},
        {"repeat", 0, CLI_COUNT, &r.n_repeats, 1, MAX_REPEATS},
        {"routing", 0, CLI_TEXT, &r.routing, 0, 0},
        {"seed", 0, CLI_COUNT, &r.seed, 0, UINT32_MAX},
        {"format", 0, CLI_TEXT, &r.format, 0, 0},
        {"dense-format", 0, CLI_TEXT, &r.dense_format, 0, 0},
        CLI_PLACE_OPTIONS(r.place),
        {"json", 0, CLI_SET, &r.as_json, 0, 0},
    };
    cli_session s = {0};
    cli_exit code;
    if (!cli_parse(&code, &r.model, "MODEL", &cli_verb_bench_model, argc, argv,
            table, sizeof table / sizeof *table))
        return code;
    code = open_and_measure(&r, &s);
    cli_close(&s);
    return code;
}

const cli_verb cli_verb_bench_model = {
    "bench model", "tokens per second, time per role", help, run};
