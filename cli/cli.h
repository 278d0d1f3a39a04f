/* SPDX-License-Identifier: Apache-2.0
 * What the verbs of the tool share: the verb table's type, options, the
 * library's objects with the tool's hooks, errors, output, progress.  A verb
 * is one file cmd_<name>.c and one line of the table in main.c. */
#ifndef QMOE_CLI_H
#define QMOE_CLI_H

#include <stdio.h>

#include <cjson/cJSON.h>

#include "qmoe/qmoe.h"

#if defined(__GNUC__)
#define CLI_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define CLI_PRINTF(f, a)
#endif

/* Exit codes, as `qmoe --help` lists them. */
typedef enum cli_exit {
    CLI_OK = 0,
    CLI_INTERNAL = 1,
    CLI_USAGE = 2,
    CLI_FILES = 3,
    CLI_BROKEN = 4,
    CLI_UNSUPPORTED = 5,
    CLI_BACKEND = 6,
    CLI_LOSS = 7,
    CLI_INTERRUPTED = 130
} cli_exit;

typedef struct cli_verb {
    const char *name;
    const char *summary; /* one line of `qmoe --help` */
    const char *help;    /* all of `qmoe <name> --help` but its last lines */
    cli_exit (*run)(int argc, char **argv); /* argv[0] is the verb */
} cli_verb;

extern const cli_verb cli_verb_compress, cli_verb_generate, cli_verb_eval,
    cli_verb_chat, cli_verb_tokenize, cli_verb_inspect, cli_verb_verify,
    cli_verb_devices, cli_verb_bench, cli_verb_selftest, cli_verb_plan,
    cli_verb_import, cli_verb_export, cli_verb_report;

/* ---- cli.c: errors and the library's objects --------------------------- */

/* Prints the one line "qmoe: error: ..." and returns `code`. */
cli_exit cli_fail(cli_exit code, const char *format, ...) CLI_PRINTF(2, 3);

/* The objects a verb works with; members not used stay NULL. */
typedef struct cli_session {
    qmoe_context *context;
    qmoe_model *model;
    qmoe_session *session;
    bool is_silent; /* messages of the library are not shown */
} cli_session;

/* Context with the tool's hooks; n_threads 0 = the library's choice. */
cli_exit cli_open_context(cli_session *s, uint64_t n_threads);
/* cli_open_context, then the model. */
cli_exit cli_open_model(
    cli_session *s, uint64_t n_threads, const char *directory);
/* Where and within which bounds a model is to run. */
typedef struct cli_place {
    const char *backend, *device, *kv_type;
    uint64_t expert_capacity, n_threads;
    uint64_t expert_cache, device_memory; /* bytes, 0 = no bound */
    bool verify;                          /* all of the model first */
} cli_place;
/* Lines of an option table and of a help text that fill a place. */
#define CLI_PLACE_OPTIONS(place)                                               \
    {"backend", 'b', CLI_TEXT, &(place).backend, 0, 0},                        \
        {"device", 0, CLI_TEXT, &(place).device, 0, 0},                        \
        {"device-memory", 0, CLI_SIZE, &(place).device_memory, 0, 0},          \
        {"expert-cache", 0, CLI_SIZE, &(place).expert_cache, 0, 0},            \
        {"kv-type", 0, CLI_TEXT, &(place).kv_type, 0, 0},                      \
        {"expert-capacity", 0, CLI_COUNT, &(place).expert_capacity, 0,         \
            INT32_MAX},                                                        \
    {                                                                          \
        "threads", 't', CLI_COUNT, &(place).n_threads, 1, CLI_MAX_THREADS      \
    }
/* Lines of an option table that fill a qmoe_generate_options; top_k is apart,
 * since counts are 64 bits. */
#define CLI_SAMPLING_OPTIONS(options, top_k)                                   \
    {"temperature", 0, CLI_REAL, &(options).temperature, 0,                    \
        CLI_MAX_TEMPERATURE},                                                  \
        {"top-k", 0, CLI_COUNT, &(top_k), 0, INT32_MAX},                       \
        {"top-p", 0, CLI_REAL, &(options).top_p, 0, 1},                        \
        {"min-p", 0, CLI_REAL, &(options).min_p, 0, 1},                        \
        {"repetition-penalty", 0, CLI_REAL, &(options).repetition_penalty, 0,  \
            CLI_MAX_PENALTY},                                                  \
    {                                                                          \
        "seed", 0, CLI_COUNT, &(options).seed, 0, UINT64_MAX                   \
    }
#define CLI_VERIFY_OPTION(place)                                               \
    {                                                                          \
        "verify", 0, CLI_SET, &(place).verify, 0, 0                            \
    }
#define CLI_VERIFY_HELP                                                        \
    "  --verify             check all of a compressed model first, as 'qmoe\n" \
    "                       verify' does; by default its configuration,\n"     \
    "                       tokenizer and headers are checked, not the data\n" \
    "                       of its tensors\n"
#define CLI_PLACE_HELP                                                         \
    "  -b, --backend NAME   cpu, opencl, cuda, reference or auto (default:\n"  \
    "                       auto: CUDA, else a GPU under OpenCL, else the "    \
    "CPU)\n"                                                                   \
    "  --device D           device of the backend, by number, type (gpu, "     \
    "cpu,\n"                                                                   \
    "                       accelerator) or part of its name (default: the\n"  \
    "                       first; 'qmoe devices' lists them)\n"               \
    "  --device-memory SIZE use at most this much of the device's memory;\n"   \
    "                       experts beyond it are uploaded on demand\n"        \
    "  --expert-cache SIZE  keep at most this much of the experts in host\n"   \
    "                       memory, e.g. 4G (default: the system decides)\n"   \
    "  --kv-type TYPE       keep keys and values as f32, f16 or q8, 8 bits\n"  \
    "                       with a scale per 32 values (default: f32)\n"       \
    "  --expert-capacity N  tokens that an expert accepts per sequence; "      \
    "further\n"                                                                \
    "                       tokens skip it (default 0: no limit)\n"            \
    "  -t, --threads N      CPU threads (default: all processors)\n"
/* A synthetic model, "synth:..."? */
bool cli_is_synthetic(const char *model);
qmoe_session_options cli_session_options(const cli_place *place);
/* cli_open_model, then a session on it. */
cli_exit cli_open_session(
    cli_session *s, const char *directory, const cli_place *place);
void cli_close(cli_session *s);
/* Reports a failed call of the library by the context's text. */
cli_exit cli_fail_status(const cli_session *s, qmoe_status status);

/* Cuts the end of a line off, of `n` bytes, in the form of either system. */
char *cli_strip_line(char *line, size_t n);
/* Memory for the tool's own lists; ends the program when there is none. */
void *cli_grow(void *old, size_t n_bytes);
/* Gives cJSON the same rule. */
void cli_init_json(void);

/* ---- options.c --------------------------------------------------------- */

typedef enum cli_kind {
    CLI_SET,   /* bool, set to true */
    CLI_CLEAR, /* bool, set to false */
    CLI_COUNT, /* uint64_t within low .. high */
    CLI_REAL,  /* float within low .. high */
    CLI_SIZE,  /* uint64_t of bytes, "512", "64K", "1.5G": binary units */
    CLI_TEXT,  /* const char * */
    CLI_TEXTS  /* cli_texts: every use appends */
} cli_kind;

typedef struct cli_texts {
    const char **items;
    size_t n;
} cli_texts;

typedef struct cli_option {
    const char *name; /* without dashes */
    int letter;       /* 0: none */
    cli_kind kind;
    void *value;
    uint64_t low, high;
} cli_option;

enum {
    CLI_MAX_THREADS = 1024,
    CLI_MAX_NEW_TOKENS = 1 << 20,
    CLI_MAX_TEMPERATURE = 1000,
    CLI_MAX_PENALTY = 1000
};
/* Of --rounds; CLI_NO_ROUNDS: the option was not given. */
enum { CLI_MAX_ROUNDS = 256, CLI_NO_ROUNDS = CLI_MAX_ROUNDS + 1 };

/* Reads a verb's arguments: options (and --help, which every verb has), then
 * exactly one argument named `what`, or none when `what` is NULL.  Returns
 * false when the program is to end with *code: help was shown or the
 * arguments are wrong. */
bool cli_parse(cli_exit *code, const char **argument, const char *what,
    const cli_verb *verb, int argc, char **argv, const cli_option *options,
    size_t n_options);
/* Whether the option was on the command line cli_parse read last. */
bool cli_given(const char *name);
/* Options, named with blanks between, that do nothing where `idle` is true. */
typedef struct cli_idle {
    bool idle;
    const char *options, *why;
} cli_idle;
/* Refuses the first option given that has no effect. */
cli_exit cli_refuse_idle(
    const cli_verb *verb, const cli_idle *rules, size_t n_rules);
/* "512", "64K", "4G", "1.5G": binary units; reports a bad one by the option. */
cli_exit cli_parse_size(
    uint64_t *n_bytes, const char *option, const char *text);
/* The candidate a mistyped word was meant to be, or NULL. */
const char *cli_closest(
    const char *word, const char *const *candidates, size_t n);

/* ---- output.c ---------------------------------------------------------- */

/* "22.1 MB"; decimal units. */
typedef struct cli_size {
    char text[16];
} cli_size;
cli_size cli_human_bytes(uint64_t n_bytes);
/* Text that names come from files must not be able to drive a terminal:
 * control characters become '?'. */
void cli_print_name(FILE *to, const char *text);

void cli_json_text(cJSON *object, const char *key, const char *text);
/* NULL: null. */
void cli_json_name(cJSON *object, const char *key, const char *name);
void cli_json_count(cJSON *object, const char *key, uint64_t value);
/* Not finite: null. */
void cli_json_real(cJSON *object, const char *key, double value);
/* Writes the document to stdout and frees it. */
void cli_json_print(cJSON *document);

/* Pushes out what was printed: `code`, or CLI_FILES when stdout took less
 * than all. */
cli_exit cli_flush(cli_exit code);

/* ---- progress.c -------------------------------------------------------- */

/* From here on SIGINT and SIGTERM ask the running work to stop; a second one,
 * of either, ends the program at once. */
void cli_catch_signals(void);
/* Signals end the process again, while it has nothing to undo. */
void cli_release_signals(void);
/* Whether Ctrl-C came (SIGINT); if so it is forgotten, and `context` works again: for
 * verbs in which it ends one of several works. */
bool cli_take_interruption(qmoe_context *context);
bool cli_interrupted(void);
/* The context whose calls they cancel, from its creation until just before it
 * is destroyed; NULL: none. */
void cli_cancel_on_signal(qmoe_context *context);
/* From here on a model file that cannot be read while it is in use ends the
 * program with an error line that names it (bus_error.c). */
void cli_catch_bus_errors(void);
/* Hook of qmoe_context_options: keeps a line on the terminal up to date; prints
 * one now and then when stderr is something else. */
int cli_on_progress(void *user, const qmoe_progress *progress);
/* Takes the progress line off the terminal, before anything else is said. */
void cli_clear_progress(void);

#endif
