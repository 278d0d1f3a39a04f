/* SPDX-License-Identifier: Apache-2.0
 * Errors, exit codes and the library's objects with the tool's hooks.  In: a
 * status of the library, or what the tool itself found.  Out: one line on
 * stderr and an exit code of the table in 'qmoe --help'.  Every error of the
 * tool goes through cli_fail, so that there is one form.  A cli_session is
 * zeroed or open, and cli_close takes it in either state. */
#include "cli.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* Returns the code it is given, so that callers can return the call. */
cli_exit cli_fail(cli_exit code, const char *format, ...)
{
    char text[4096];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    /* The progress line would run into the error's. */
    cli_clear_progress();
    fputs("qmoe: error: ", stderr);
    /* Names come from files and may hold control characters. */
    cli_print_name(stderr, text);
    fputc('\n', stderr);
    return code;
}

/* No default: a new status must be given a code here (-Wswitch). */
static cli_exit exit_code(qmoe_status status)
{
    switch (status) {
    case QMOE_OK:
        return CLI_OK;
    case QMOE_E_INVALID:
        return CLI_USAGE;
    case QMOE_E_CANCELLED:
        return CLI_INTERRUPTED;
    case QMOE_E_IO:
    case QMOE_E_NOT_FOUND:
    case QMOE_E_NO_SPACE:
    case QMOE_E_EXISTS:
        return CLI_FILES;
    case QMOE_E_FORMAT:
    case QMOE_E_CHECKSUM:
        return CLI_BROKEN;
    case QMOE_E_UNSUPPORTED:
        return CLI_UNSUPPORTED;
    case QMOE_E_NO_BACKEND:
    case QMOE_E_DEVICE:
        return CLI_BACKEND;
    case QMOE_E_NOMEM:
    case QMOE_E_INTERNAL:
        break;
    }
    return CLI_INTERNAL;
}

cli_exit cli_fail_status(const cli_session *s, qmoe_status status)
{
    const char *text = qmoe_context_error(s->context);
    /* What was in the works when the user stopped it is no error of its own. */
    if (status == QMOE_E_CANCELLED)
        return cli_fail(CLI_INTERRUPTED, "interrupted");
    /* Errors that come before there is a context have no text of their own. */
    if (text[0] == '\0')
        text = qmoe_status_text(status);
    return cli_fail(exit_code(status), "%s", text);
}

/* Notes of the library go where errors go: stdout holds results only. */
static void on_message(void *user, const char *text)
{
    /* Set where the same work is done again for other formats (plan). */
    const cli_session *s = user;
    if (s->is_silent)
        return;
    cli_clear_progress();
    fputs("qmoe: ", stderr);
    cli_print_name(stderr, text);
    fputc('\n', stderr);
}

cli_exit cli_open_context(cli_session *s, uint64_t n_threads)
{
    const qmoe_context_options options = {
        .size = sizeof options,
        .n_threads = (int)n_threads,
        .progress = cli_on_progress,
        .message = on_message,
        .user = s,
    };
    /* Zeroed first: cli_close is called whatever fails below. */
    *s = (cli_session){0};
    /* Before the context: a signal must not fall between. */
    cli_catch_signals();
    cli_catch_bus_errors();
    qmoe_status status = qmoe_context_create(&s->context, &options);
    /* Also after a failure, when it is NULL: no handler keeps a context. */
    cli_cancel_on_signal(s->context);
    return status == QMOE_OK ? CLI_OK : cli_fail_status(s, status);
}

static cli_exit open_model(cli_session *s, const char *directory)
{
    qmoe_status status = qmoe_model_open(&s->model, s->context, directory);
    return status == QMOE_OK ? CLI_OK : cli_fail_status(s, status);
}

cli_exit cli_open_model(
    cli_session *s, uint64_t n_threads, const char *directory)
{
    cli_exit code = cli_open_context(s, n_threads);
    return code == CLI_OK ? open_model(s, directory) : code;
}

static cli_exit verify(const cli_session *s, const char *directory)
{
    qmoe_verify_report report;
    qmoe_status status =
        qmoe_verify(s->context, &report, directory, NULL, NULL);
    if (status != QMOE_OK)
        return cli_fail_status(s, status);
    /* Without checksums there is nothing to compare with, and a silent success
     * would be a skipped check reported as passed. */
    if (!report.compressed)
        return cli_fail(CLI_USAGE,
            "--verify: %s is not compressed and carries no checksums",
            directory);
    return CLI_OK;
}

/* Zeros of options that were not given mean the library's defaults. */
qmoe_session_options cli_session_options(const cli_place *place)
{
    return (qmoe_session_options){
        .size = sizeof(qmoe_session_options),
        .backend = place->backend,
        .device_name = place->device,
        .expert_capacity = (int)place->expert_capacity,
        .expert_cache_bytes = place->expert_cache,
        .device_memory_bytes = place->device_memory,
        .kv_type = place->kv_type,
    };
}

/* --verify comes first: nothing of a broken model is used. */
cli_exit cli_open_session(
    cli_session *s, const char *directory, const cli_place *place)
{
    cli_exit code = cli_open_context(s, place->n_threads);
    if (code == CLI_OK && place->verify)
        code = verify(s, directory);
    if (code == CLI_OK)
        code = open_model(s, directory);
    if (code != CLI_OK)
        return code;
    const qmoe_session_options options = cli_session_options(place);
    qmoe_status status = qmoe_session_create(&s->session, s->model, &options);
    return status == QMOE_OK ? CLI_OK : cli_fail_status(s, status);
}

/* The same prefix as in the library, which alone knows the names behind it. */
bool cli_is_synthetic(const char *model)
{
    static const char scheme[] = "synth:";
    return strncmp(model, scheme, sizeof scheme - 1) == 0;
}

void cli_close(cli_session *s)
{
    cli_clear_progress();
    /* First: a signal from here on must not cancel what is being destroyed. */
    cli_cancel_on_signal(NULL);
    /* Users before what they use; each takes NULL. */
    qmoe_session_destroy(s->session);
    qmoe_model_close(s->model);
    qmoe_context_destroy(s->context);
    *s = (cli_session){0};
}

char *cli_strip_line(char *line, size_t n)
{
    while (n != 0 && (line[n - 1] == '\n' || line[n - 1] == '\r'))
        line[--n] = '\0';
    return line;
}

/* The tool ends where the library would return E_NOMEM: it holds little, and
 * nothing of it is worth a path for its failure. */
void *cli_grow(void *old, size_t n_bytes)
{
    void *grown = realloc(old, n_bytes != 0 ? n_bytes : 1);
    if (grown == NULL)
        exit(cli_fail(CLI_INTERNAL, "out of memory"));
    return grown;
}

static void *allocate(size_t n_bytes)
{
    return cli_grow(NULL, n_bytes);
}

/* The tool does not look at what cJSON returns: here an allocation never
 * fails. */
void cli_init_json(void)
{
    cJSON_Hooks hooks = {.malloc_fn = allocate, .free_fn = free};
    cJSON_InitHooks(&hooks);
}
