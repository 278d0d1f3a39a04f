/* SPDX-License-Identifier: Apache-2.0
 * qmoe chat: a conversation.  In: lines of a person or a pipe, one a turn, and
 * commands that begin with '/'.  Out: answers, printed while they are made.
 * The conversation is rendered anew for each turn by the model's own template;
 * what the caches have of it is not computed again.  A signal ends the answer
 * at hand, and between answers the program. */
#include "cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char help[] =
    "Usage: qmoe chat MODEL [options]\n"
    "\n"
    "Talks with a model that has a chat template (instruct and chat models).\n"
    "Each line of standard input is a turn, and the answer is printed while "
    "it\n"
    "is made.  Ctrl-C ends the answer, and at the prompt the program.  Text "
    "is\n"
    "text: special tokens in what you type are not recognised.\n"
    "\n"
    "Commands:\n"
    "  /reset               forget the conversation, but not /system\n"
    "  /system TEXT         begin anew with this system message; without TEXT\n"
    "                       with none\n"
    "  /help                print the commands\n"
    "  /exit                end the program, as the end of the input does\n"
    "\n"
    "How tokens are chosen is what the model's generation_config.json says,\n"
    "unless an option says otherwise.\n"
    "\n"
    "Options:\n"
    "  --system TEXT        the system message (default: the template's own)\n"
    "  --variables JSON     variables of the template, for example\n"
    "                       '{\"enable_thinking\": false}'\n"
    "  --max-new-tokens N   end an answer after N tokens (default 1024)\n"
    "  --temperature F      0: take the likeliest token\n"
    "  --top-k N            choose among the N likeliest tokens (0: all)\n"
    "  --top-p F            choose among the likeliest tokens that together "
    "have\n"
    "                       this probability (0: all)\n"
    "  --min-p F            choose among the tokens at least F times as "
    "likely\n"
    "                       as the likeliest (0: all)\n"
    "  --repetition-penalty F\n"
    "                       divide the logits of tokens that the text has by "
    "F\n"
    "                       (multiply negative ones; 1: do not)\n"
    "  --seed N             seed of the choice (default 0); turn i has seed "
    "N + i\n" CLI_PLACE_HELP CLI_VERIFY_HELP
    "  -v, --verbose        print tokens per second after each answer\n"
    "  -h, --help           print this text\n"
    "\n"
    "Examples:\n"
    "  qmoe chat build/smollm2\n"
    "  echo \"What is the capital of France?\" | qmoe chat build/smollm2\n";

static const char commands[] =
    "  /reset         forget the conversation, but not /system\n"
    "  /system TEXT   begin anew with this system message\n"
    "  /help          print this\n"
    "  /exit          end\n";

/* Text that grows. */
typedef struct text {
    char *at;
    size_t n, capacity;
} text;

typedef struct chat {
    const char *model, *system, *variables;
    cli_place place;
    qmoe_generate_options options; /* as given; sampling: of the model */
    uint64_t max_new_tokens, top_k;
    bool verbose;
    bool is_terminal; /* a person types */
    cli_session session;
    char *own_system; /* of /system; frees what `system` may be */
    qmoe_chat_message *messages;
    size_t n_messages;
    uint64_t n_turns;
    text answer;
} chat;

/* ---- messages ---- */

static char *copy_text(const char *from)
{
    char *copy = cli_grow(NULL, strlen(from) + 1);
    strcpy(copy, from);
    return copy;
}

static void add_message(chat *c, const char *role, const char *content)
{
    c->messages =
        cli_grow(c->messages, (c->n_messages + 1) * sizeof *c->messages);
    c->messages[c->n_messages++] =
        (qmoe_chat_message){.role = role, .content = copy_text(content)};
}

static void drop_messages(chat *c, size_t n_left)
{
    while (c->n_messages > n_left)
        free((char *)c->messages[--c->n_messages].content);
}

static void begin(chat *c)
{
    drop_messages(c, 0);
    if (c->system != NULL && c->system[0] != '\0')
        add_message(c, "system", c->system);
}

/* ---- one answer ---- */

static void append(text *to, const char *piece)
{
    const size_t n = strlen(piece);
    if (to->capacity - to->n <= n) {
        to->capacity = 2 * (to->n + n + 1);
        to->at = cli_grow(to->at, to->capacity);
    }
    memcpy(to->at + to->n, piece, n + 1);
    to->n += n;
}

static int on_token(void *user, size_t sequence, int32_t id, const char *piece)
{
    chat *c = user;
    (void)sequence, (void)id;
    fputs(piece, stdout);
    fflush(stdout);
    append(&c->answer, piece);
    return cli_interrupted() || ferror(stdout);
}

/* The ids of the conversation in a new array. */
static qmoe_status render(chat *c, int32_t **ids, size_t *n)
{
    const qmoe_chat_options options = {.size = sizeof options,
        .add_generation_prompt = true,
        .variables = c->variables};
    size_t capacity = 0;
    *ids = NULL;
    /* Twice: first for the number. */
    for (;;) {
        qmoe_status status = qmoe_chat_tokenize(c->session.model, *ids,
            capacity, n, c->messages, c->n_messages, &options);
        if (status != QMOE_OK || *n <= capacity)
            return status;
        capacity = *n;
        *ids = cli_grow(*ids, capacity * sizeof **ids);
    }
}

static void print_speed(const qmoe_timing *t)
{
    const double seconds = t->decode_seconds;
    fprintf(stderr,
        "qmoe: %" PRIu64 " tokens read in %.2f s, %" PRIu64
        " made in %.2f s (%.1f tokens/s)\n",
        t->n_encoded, t->encode_seconds, t->n_decoded, seconds,
        seconds > 0 ? (double)t->n_decoded / seconds : 0);
}

static qmoe_status generate(chat *c, qmoe_timing *timing)
{
    int32_t *ids;
    size_t n;
    qmoe_generation *made;
    qmoe_status status = render(c, &ids, &n);
    if (status == QMOE_OK) {
        const int32_t *prompt = ids;
        c->options.prompt_ids = &prompt;
        c->options.n_prompt_ids = &n;
        status = qmoe_session_generate(
            c->session.session, &made, timing, NULL, 1, &c->options);
    }
    if (status == QMOE_OK)
        qmoe_generations_free(made, 1);
    free(ids);
    return status;
}

/* An answer that a signal ended stays in the conversation as far as it came. */
static cli_exit answer(chat *c)
{
    qmoe_timing timing = {0};
    c->answer.n = 0;
    append(&c->answer, "");
    qmoe_status status = generate(c, &timing);
    c->options.seed++;
    cli_clear_progress();
    if (c->answer.n != 0 || status == QMOE_OK)
        putchar('\n');
    const bool was_ended =
        status == QMOE_E_CANCELLED && cli_take_interruption(c->session.context);
    /* on_token ends an answer, too, when nobody reads it any more. */
    if (status == QMOE_E_CANCELLED && !was_ended && !cli_interrupted())
        return cli_flush(CLI_OK);
    if (status != QMOE_OK && !was_ended)
        return cli_fail_status(&c->session, status);
    add_message(c, "assistant", c->answer.at);
    if (c->verbose)
        print_speed(&timing);
    return cli_flush(CLI_OK);
}

/* ---- turns ---- */

/* Whether `line` is this command; *rest: what stands behind it. */
static bool is_command(const char *line, const char *name, const char **rest)
{
    const size_t n = strlen(name);
    if (strncmp(line, name, n) != 0 || (line[n] != '\0' && line[n] != ' '))
        return false;
    *rest = line + n + strspn(line + n, " ");
    return true;
}

/* *ends: the program is to end. */
static cli_exit run_command(chat *c, const char *line, bool *ends)
{
    const char *rest;
    if (is_command(line, "/exit", &rest)) {
        *ends = true;
    } else if (is_command(line, "/reset", &rest)) {
        begin(c);
    } else if (is_command(line, "/system", &rest)) {
        free(c->own_system);
        c->own_system = copy_text(rest);
        c->system = c->own_system;
        begin(c);
    } else if (is_command(line, "/help", &rest)) {
        fputs(commands, stderr);
    } else {
        /* A person may go on; a script has made a mistake. */
        if (!c->is_terminal)
            return cli_fail(CLI_USAGE, "chat: unknown command '%.40s'", line);
        fprintf(stderr, "no such command; /help lists them\n");
    }
    return CLI_OK;
}

static cli_exit take_turn(chat *c, const char *line, bool *ends)
{
    if (line[0] == '/')
        return run_command(c, line, ends);
    if (line[strspn(line, " \t")] == '\0')
        return CLI_OK;
    add_message(c, "user", line);
    c->n_turns++;
    return answer(c);
}

/* Its length, or -1.  A signal ends the program: nothing is at work. */
static ssize_t read_line(char **line, size_t *capacity)
{
    cli_release_signals();
    errno = 0;
    const ssize_t n = getline(line, capacity, stdin);
    const int reason = errno;
    cli_catch_signals();
    errno = reason;
    return n;
}

static cli_exit converse(chat *c)
{
    char *line = NULL;
    size_t capacity = 0;
    bool ends = false;
    cli_exit code = CLI_OK;
    begin(c);
    while (code == CLI_OK && !ends) {
        if (c->is_terminal) {
            fputs("> ", stderr);
            fflush(stderr);
        }
        ssize_t n = read_line(&line, &capacity);
        if (n < 0 && !feof(stdin))
            code = cli_fail(CLI_FILES, "standard input: %s", strerror(errno));
        if (n < 0)
            break;
        if (strlen(line) != (size_t)n)
            code = cli_fail(CLI_BROKEN, "standard input: a NUL byte");
        cli_strip_line(line, (size_t)n);
        if (code == CLI_OK)
            code = take_turn(c, line, &ends);
    }
    free(line);
    return code;
}

/* ---- the verb ---- */

/* Of the model where no option says otherwise. */
static void choose_sampling(chat *c)
{
    qmoe_generate_options of_model;
    qmoe_generate_options *o = &c->options;
    qmoe_model_generation_defaults(c->session.model, &of_model);
    if (!cli_given("temperature"))
        o->temperature = of_model.temperature;
    if (!cli_given("top-k"))
        c->top_k = (uint64_t)of_model.top_k;
    if (!cli_given("top-p"))
        o->top_p = of_model.top_p;
    if (!cli_given("min-p"))
        o->min_p = of_model.min_p;
    if (!cli_given("repetition-penalty"))
        o->repetition_penalty = of_model.repetition_penalty;
    o->top_k = (int)c->top_k;
    o->max_new_tokens = (int)c->max_new_tokens;
    o->reuse_cache = true;
    o->on_token = on_token;
    o->user = c;
}

static cli_exit open_and_converse(chat *c)
{
    qmoe_model_info info;
    cli_exit code = cli_open_session(&c->session, c->model, &c->place);
    if (code != CLI_OK)
        return code;
    qmoe_model_describe(c->session.model, &info);
    if (!info.predicts_next)
        return cli_fail(CLI_UNSUPPORTED,
            "chat: %s fills gaps in texts and was not made to talk", c->model);
    choose_sampling(c);
    return converse(c);
}

static cli_exit run(int argc, char **argv)
{
    chat c = {
        .place.backend = "auto",
        .max_new_tokens = 1024,
        .options.size = sizeof c.options,
        .is_terminal = isatty(STDIN_FILENO) != 0,
    };
    const cli_option table[] = {
        {"system", 0, CLI_TEXT, &c.system, 0, 0},
        {"variables", 0, CLI_TEXT, &c.variables, 0, 0},
        {"max-new-tokens", 0, CLI_COUNT, &c.max_new_tokens, 1,
            CLI_MAX_NEW_TOKENS},
        CLI_SAMPLING_OPTIONS(c.options, c.top_k),
        CLI_PLACE_OPTIONS(c.place),
        CLI_VERIFY_OPTION(c.place),
        {"verbose", 'v', CLI_SET, &c.verbose, 0, 0},
    };
    cli_exit code;
    if (cli_parse(&code, &c.model, "MODEL", &cli_verb_chat, argc, argv, table,
            sizeof table / sizeof *table))
        code = open_and_converse(&c);
    cli_close(&c.session);
    drop_messages(&c, 0);
    free(c.messages);
    free(c.own_system);
    free(c.answer.at);
    return code;
}

const cli_verb cli_verb_chat = {
    "chat", "talk with a model that has a chat template", help, run};
