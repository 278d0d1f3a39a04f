/* SPDX-License-Identifier: Apache-2.0
 * qmoe generate: text from prompts.  In: prompts from the command line, a file
 * or standard input, or random ids for a synthetic model.  Out: texts, printed
 * while they are made (one prompt) or at the end (several), or one JSON
 * document.  A prompt is kept byte for byte; what the model says is printed as
 * it is. */
#include "cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char help[] =
    "Usage: qmoe generate MODEL -p TEXT [options]\n"
    "\n"
    "Generates text from prompts.  MODEL is a compressed directory or an\n"
    "uncompressed checkpoint.  Models trained by span corruption fill the "
    "gaps\n"
    "<extra_id_0>, <extra_id_1>, ... of the prompt.  The text of a single\n"
    "prompt is printed while it is generated.  Several prompts run as one\n"
    "batch; their texts are printed at the end, one line \"[number] text\" "
    "each,\n"
    "numbered from 0.\n"
    "\n"
    "A synthetic model (synth:NAME, see 'qmoe compress --help') has true\n"
    "shapes and speed, but random weights.  Without a prompt its input is 32\n"
    "random token ids, and the generated ids are printed.\n"
    "\n"
    "Options:\n"
    "  -p, --prompt TEXT    a prompt; may be repeated\n"
    "  --prompt-file FILE   one prompt per line, blank lines are ignored; - "
    "is\n"
    "                       standard input; these follow the prompts of -p\n"
    "  --max-new-tokens N   stop after N tokens (default 64)\n"
    "  --temperature F      0: take the likeliest token (default 0); --top-k,\n"
    "                       --top-p, --min-p and --seed need more\n"
    "  --top-k N            choose among the N likeliest tokens (default 0: "
    "all)\n"
    "  --top-p F            choose among the likeliest tokens that together "
    "have\n"
    "                       this probability (default 0: all)\n"
    "  --min-p F            choose among the tokens at least F times as "
    "likely\n"
    "                       as the likeliest (default 0: all)\n"
    "  --repetition-penalty F\n"
    "                       divide the logits of tokens that the text has by "
    "F\n"
    "                       (multiply negative ones; default 1: do not)\n"
    "  --seed N             seed of the choice, and of random token ids "
    "(default\n"
    "                       0); prompt i has seed N + i\n"
    "  --ignore-eos         do not stop at the end token\n" CLI_PLACE_HELP
        CLI_VERIFY_HELP
    "  -v, --verbose        print tokens per second and the device to stderr\n"
    "                       (default: if stderr is a terminal)\n"
    "  --profile            print the time per role (attention, experts, ...) "
    "to\n"
    "                       stderr or in the JSON; slower on devices other "
    "than\n"
    "                       the CPU\n"
    "  --json               print prompts, texts, ids and times as JSON\n"
    "  -h, --help           print this text\n"
    "\n"
    "Examples:\n"
    "  qmoe generate build/m -p \"And the <extra_id_0> said unto him\"\n"
    "  qmoe generate build/m --prompt-file prompts.txt --temperature 0.8 "
    "--json\n"
    "  qmoe generate 'synth:base-128?experts=8' --max-new-tokens 8\n";

/* Of a prompt that is made up. */
enum { N_RANDOM_IDS = 32 };

typedef struct request {
    const char *model, *prompt_file;
    cli_texts prompts;
    uint64_t max_new_tokens, top_k;
    cli_place place;
    qmoe_generate_options options;
    bool as_json, verbose, profile;
    bool random_ids; /* no prompt: a synthetic model gets random ids */
} request;

/* ---- prompts ---- */

static bool is_blank(const char *text)
{
    return text[strspn(text, " \t")] == '\0';
}

/* Blank lines are no prompts; a line with a NUL would be cut silently, so it is
 * an error. */
static cli_exit read_lines(cli_texts *prompts, FILE *file, const char *path)
{
    char *line = NULL;
    size_t capacity = 0;
    ssize_t n;
    cli_exit code = CLI_OK;
    /* getline reports an error like the end: feof tells them apart, errno says
     * why. */
    errno = 0;
    for (uint64_t number = 1; (n = getline(&line, &capacity, file)) >= 0;
         number++) {
        if (strlen(line) != (size_t)n) {
            code = cli_fail(CLI_BROKEN,
                "%s:%" PRIu64 ": a NUL byte; prompts are text", path, number);
            break;
        }
        if (is_blank(cli_strip_line(line, (size_t)n)))
            continue;
        char *copy = cli_grow(NULL, strlen(line) + 1);
        strcpy(copy, line);
        /* One at a time: prompts are few beside what running them costs. */
        prompts->items =
            cli_grow(prompts->items, (prompts->n + 1) * sizeof *prompts->items);
        prompts->items[prompts->n++] = copy;
        errno = 0;
    }
    /* What was read so far is not run: a batch must be what the file says. */
    if (code == CLI_OK && !feof(file))
        code = cli_fail(CLI_FILES, "%s: %s", path, strerror(errno));
    free(line);
    return code;
}

/* The file is read as a whole before the model is opened: a mistake in its
 * last line costs no loading. */
static cli_exit read_prompts(cli_texts *prompts, const char *path)
{
    /* Standard input is not ours to close. */
    if (strcmp(path, "-") == 0)
        return read_lines(prompts, stdin, "standard input");
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return cli_fail(CLI_FILES, "%s: %s", path, strerror(errno));
    cli_exit code = read_lines(prompts, file, path);
    fclose(file);
    return code;
}

/* ---- output ---- */

/* 0 when nothing was decoded: a model that ended at once. */
static double tokens_per_second(const qmoe_timing *t)
{
    return t->decode_seconds > 0 ? (double)t->n_decoded / t->decode_seconds : 0;
}

/* One prompt and what came of it; `ended` tells an end token from the limit. */
static cJSON *json_generation(const char *prompt, const qmoe_generation *g)
{
    cJSON *json = cJSON_CreateObject();
    /* A prompt of ids is no text. */
    if (prompt != NULL) {
        cli_json_text(json, "prompt", prompt);
        cli_json_text(json, "text", g->text);
    }
    cJSON *ids = cJSON_AddArrayToObject(json, "ids");
    for (size_t i = 0; i < g->n_ids; i++)
        cJSON_AddItemToArray(ids, cJSON_CreateNumber(g->ids[i]));
    cli_json_count(json, "n_prompt_tokens", g->n_prompt_ids);
    cJSON_AddBoolToObject(json, "ended", g->ended);
    return json;
}

static void json_roles(cJSON *timing, const char *key, const double *seconds)
{
    cJSON *json = cJSON_AddObjectToObject(timing, key);
    for (int i = 0; i < QMOE_ROLE_COUNT; i++)
        cli_json_real(json, qmoe_role_name((qmoe_role)i), seconds[i]);
}

static void print_json(const request *r, const qmoe_generation *generations,
    const qmoe_timing *t, const qmoe_device_info *device,
    const qmoe_role_times *roles)
{
    cJSON *json = cJSON_CreateObject();
    cli_json_text(json, "model", r->model);
    cJSON_AddBoolToObject(json, "synthetic", cli_is_synthetic(r->model));
    cli_json_text(json, "backend", device->backend);
    cli_json_real(json, "device", device->index);
    cli_json_text(json, "device_name", device->name);
    cJSON *list = cJSON_AddArrayToObject(json, "generations");
    for (size_t i = 0; i < r->prompts.n; i++)
        cJSON_AddItemToArray(
            list, json_generation(r->prompts.items[i], &generations[i]));
    if (r->random_ids)
        cJSON_AddItemToArray(list, json_generation(NULL, generations));
    cJSON *timing = cJSON_AddObjectToObject(json, "timing");
    cli_json_real(timing, "encode_seconds", t->encode_seconds);
    cli_json_real(timing, "decode_seconds", t->decode_seconds);
    cli_json_count(timing, "encoded_tokens", t->n_encoded);
    cli_json_count(timing, "decoded_tokens", t->n_decoded);
    cli_json_real(timing, "tokens_per_second", tokens_per_second(t));
    /* Backends without a count leave both out. */
    if (t->n_launches != 0) {
        cli_json_count(timing, "launches", t->n_launches);
        cli_json_count(timing, "replayed_launches", t->n_replayed);
    }
    if (r->profile) {
        json_roles(timing, "encode_roles", roles->encode);
        json_roles(timing, "decode_roles", roles->decode);
    }
    cli_json_print(json);
}

static void print_speed(const qmoe_timing *t, const qmoe_device_info *device)
{
    /* The generated text comes first where both go to one terminal. */
    fflush(stdout);
    fprintf(stderr, "qmoe: %s device %d (", device->backend, device->index);
    cli_print_name(stderr, device->name);
    fprintf(stderr,
        "): %" PRIu64 " prompt tokens in %.3f s, %" PRIu64
        " new tokens in %.3f s (%.1f tokens/s)\n",
        t->n_encoded, t->encode_seconds, t->n_decoded, t->decode_seconds,
        tokens_per_second(t));
    if (t->n_launches != 0)
        fprintf(stderr,
            "qmoe: %" PRIu64 " launches, %" PRIu64
            " of them replayed in graphs\n",
            t->n_launches, t->n_replayed);
}

/* Microseconds; 0 where nothing was decoded. */
static double per_token(double seconds, uint64_t n)
{
    return n != 0 ? 1e6 * seconds / (double)n : 0;
}

/* On stderr: stdout holds the text and nothing else. */
static void print_roles(const qmoe_timing *t, const qmoe_role_times *roles)
{
    fflush(stdout);
    fprintf(
        stderr, "qmoe: %-10s %12s %12s\n", "us/token", "encoding", "decoding");
    for (int i = 0; i < QMOE_ROLE_COUNT; i++)
        /* Roles a model does not have take no time and no line. */
        if (roles->encode[i] + roles->decode[i] > 0)
            fprintf(stderr, "qmoe: %-10s %12.1f %12.1f\n",
                qmoe_role_name((qmoe_role)i),
                per_token(roles->encode[i], t->n_encoded),
                per_token(roles->decode[i], t->n_decoded));
}

/* ---- the run ---- */

/* What the token hook of a single prompt needs. */
typedef struct stream {
    bool shown, begun;
    bool as_ids; /* not as text */
} stream;

/* Called for each token of each sequence; only a single prompt's are shown,
 * since several would mix. */
static int on_token(void *user, size_t sequence, int32_t id, const char *text)
{
    stream *out = user;
    (void)sequence;
    if (out->shown) {
        if (out->as_ids)
            printf("%s%" PRId32, out->begun ? " " : "", id);
        else
            fputs(text, stdout);
        out->begun = true;
        fflush(stdout);
    }
    /* A reader that went away ends the generation: nobody sees the rest. */
    return cli_interrupted() || ferror(stdout);
}

/* Cancelled by on_token because stdout failed: cli_flush tells that error, not
 * "interrupted". */
static cli_exit fail_generate(const cli_session *s, qmoe_status status)
{
    if (status == QMOE_E_CANCELLED && !cli_interrupted())
        return cli_flush(CLI_OK);
    return cli_fail_status(s, status);
}

static void fill_random(int32_t *ids, const cli_session *s, uint64_t seed)
{
    qmoe_model_info info;
    qmoe_model_describe(s->model, &info);
    /* The minimal standard generator (Park and Miller): any ids will do, but
     * the same seed must give the same ones on every machine. */
    uint64_t state = seed % 2147483646 + 1;
    for (int i = 0; i < N_RANDOM_IDS; i++) {
        state = state * 48271 % 2147483647;
        ids[i] = (int32_t)(state % (uint64_t)info.vocab_size);
    }
}

/* One prompt streams; several, or JSON, come whole at the end. */
static cli_exit generate(request *r, const cli_session *s)
{
    size_t n = r->random_ids ? 1 : r->prompts.n;
    int32_t random[N_RANDOM_IDS];
    const int32_t *const prompt_ids[] = {random};
    const size_t n_prompt_ids[] = {N_RANDOM_IDS};
    stream out = {.shown = n == 1 && !r->as_json, .as_ids = r->random_ids};
    qmoe_generation *generations;
    qmoe_timing timing;
    qmoe_device_info device;
    qmoe_role_times roles;
    r->options.on_token = on_token;
    r->options.user = &out;
    if (r->random_ids) {
        fill_random(random, s, r->options.seed);
        r->options.prompt_ids = prompt_ids;
        r->options.n_prompt_ids = n_prompt_ids;
    }
    /* Measuring waits for the device between roles, so it is done only when
     * asked for. */
    qmoe_session_measure_roles(s->session, r->profile);
    qmoe_status status = qmoe_session_generate(s->session, &generations,
        &timing, r->random_ids ? NULL : r->prompts.items, n, &r->options);
    /* The line of the streamed text ends, also after an error in the middle. */
    if (out.begun || (out.shown && status == QMOE_OK))
        putchar('\n');
    if (status != QMOE_OK)
        return fail_generate(s, status);
    qmoe_session_device(s->session, &device);
    qmoe_session_role_times(s->session, &roles);
    if (r->as_json)
        print_json(r, generations, &timing, &device, &roles);
    /* In the order of the prompts, each on a line of its own. */
    for (size_t i = 0; !r->as_json && n > 1 && i < n; i++)
        printf("[%zu] %s\n", i, generations[i].text);
    if (r->verbose)
        print_speed(&timing, &device);
    if (r->profile && !r->as_json)
        print_roles(&timing, &roles);
    /* Texts and ids belong to the library. */
    qmoe_generations_free(generations, n);
    return CLI_OK;
}

static cli_exit generate_from(request *r)
{
    /* Prompts of argv are not ours to free; those of the file are, from here
     * on. */
    size_t n_given = r->prompts.n;
    cli_session s = {0};
    cli_exit code = CLI_OK;
    if (r->prompt_file != NULL)
        code = read_prompts(&r->prompts, r->prompt_file);
    if (code == CLI_OK && r->prompts.n == 0 && !r->random_ids)
        code = cli_fail(CLI_USAGE,
            "generate: no prompt; give -p TEXT or --prompt-file FILE");
    if (code == CLI_OK)
        code = cli_open_session(&s, r->model, &r->place);
    if (code == CLI_OK)
        code = generate(r, &s);
    cli_close(&s);
    for (size_t i = n_given; i < r->prompts.n; i++)
        free((char *)r->prompts.items[i]);
    return code;
}

/* Options of a choice that is none.  A random prompt uses the seed, too, so
 * there it has an effect. */
static cli_exit refuse_idle(const request *r)
{
    static const char all[] = "top-k top-p min-p seed";
    const cli_idle rules[] = {
        {r->options.temperature == 0, r->random_ids ? "top-k top-p min-p" : all,
            "--temperature 0 takes the likeliest token"},
        {r->top_k == 1, r->random_ids ? "top-p min-p" : "top-p min-p seed",
            "--top-k 1 leaves one token to choose"},
    };
    return cli_refuse_idle(
        &cli_verb_generate, rules, sizeof rules / sizeof *rules);
}

static cli_exit run(int argc, char **argv)
{
    /* Speeds are printed unasked only to a person at a terminal. */
    request r = {
        .place.backend = "auto",
        .max_new_tokens = 64,
        .options.size = sizeof r.options,
        .verbose = isatty(STDERR_FILENO) != 0,
    };
    const cli_option table[] = {
        {"prompt", 'p', CLI_TEXTS, &r.prompts, 0, 0},
        {"prompt-file", 0, CLI_TEXT, &r.prompt_file, 0, 0},
        {"max-new-tokens", 0, CLI_COUNT, &r.max_new_tokens, 1,
            CLI_MAX_NEW_TOKENS},
        CLI_SAMPLING_OPTIONS(r.options, r.top_k),
        {"ignore-eos", 0, CLI_SET, &r.options.ignore_eos, 0, 0},
        CLI_PLACE_OPTIONS(r.place),
        CLI_VERIFY_OPTION(r.place),
        {"verbose", 'v', CLI_SET, &r.verbose, 0, 0},
        {"profile", 0, CLI_SET, &r.profile, 0, 0},
        {"json", 0, CLI_SET, &r.as_json, 0, 0},
    };
    cli_exit code;
    if (cli_parse(&code, &r.model, "MODEL", &cli_verb_generate, argc, argv,
            table, sizeof table / sizeof *table)) {
        r.options.max_new_tokens = (int)r.max_new_tokens;
        r.options.top_k = (int)r.top_k;
        /* A prompt file that turns out empty is an error, not a wish for random
         * ids. */
        r.random_ids = r.prompts.n == 0 && r.prompt_file == NULL &&
                       cli_is_synthetic(r.model);
        code = refuse_idle(&r);
        if (code == CLI_OK)
            code = generate_from(&r);
    }
    /* The list alone: its texts are those of argv. */
    free(r.prompts.items);
    return code;
}

const cli_verb cli_verb_generate = {
    "generate", "generate text from prompts", help, run};
