/* SPDX-License-Identifier: Apache-2.0
 * The tool's entry: finds the verb.  In: the command line.  Out: the verb has
 * run, all output has arrived, and the exit code says what happened.  Standard
 * streams are open and signals of writing are errors before any verb begins. */
#include "cli.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* In the order of the help text: as a user meets them. */
static const cli_verb *const verbs[] = {&cli_verb_compress, &cli_verb_generate,
    &cli_verb_chat, &cli_verb_eval, &cli_verb_tokenize, &cli_verb_inspect,
    &cli_verb_report, &cli_verb_verify, &cli_verb_plan, &cli_verb_import,
    &cli_verb_export, &cli_verb_devices, &cli_verb_bench, &cli_verb_selftest};
enum { N_VERBS = sizeof verbs / sizeof *verbs };

static const char help_head[] =
    "Usage: qmoe COMMAND [arguments]\n"
    "\n"
    "Compresses the experts of Mixture-of-Experts models to less than one bit\n"
    "per weight, and runs the compressed models.\n"
    "\n"
    "Commands:\n";

static const char help_tail[] =
    "\n"
    "  qmoe COMMAND --help   print what a command does, options, examples\n"
    "  qmoe --version        print the version\n"
    "\n"
    "An option that would have no effect is an error.\n"
    "\n"
    "Results go to standard output, with --json as one JSON document.  Notes,\n"
    "progress and errors go to standard error.\n"
    "\n"
    "Exit codes:\n"
    "    0  success\n"
    "    1  internal error, out of memory\n"
    "    2  wrong command line or argument, memory limit too small\n"
    "    3  file system: not found, exists, no space, input/output\n"
    "    4  broken file: format, checksum, values that are not finite\n"
    "    5  not supported: architecture, format, method\n"
    "    6  backend or device not available, or failing\n"
    "    7  compressed, but the loss rises more than --max-loss-increase\n"
    "  130  interrupted\n";

/* The list of verbs comes from the table, so none is forgotten. */
static cli_exit show_help(void)
{
    fputs(help_head, stdout);
    for (size_t i = 0; i < N_VERBS; i++)
        printf("  %-10s  %s\n", verbs[i]->name, verbs[i]->summary);
    fputs(help_tail, stdout);
    return CLI_OK;
}

/* The same help for a wrong verb as for a wrong option (cli_closest). */
static cli_exit fail_verb(const char *word)
{
    const char *names[N_VERBS];
    for (size_t i = 0; i < N_VERBS; i++)
        names[i] = verbs[i]->name;
    const char *near = cli_closest(word, names, N_VERBS);
    if (near != NULL)
        return cli_fail(
            CLI_USAGE, "unknown command '%s'; did you mean '%s'?", word, near);
    return cli_fail(CLI_USAGE, "unknown command '%s'; see 'qmoe --help'", word);
}

/* The verb reads its own options: its argv begins with its name. */
static cli_exit dispatch(int argc, char **argv)
{
    /* Not the help: a script that lost its arguments must see an error. */
    if (argc < 2)
        return cli_fail(CLI_USAGE, "no command; see 'qmoe --help'");
    const char *word = argv[1];
    bool is_help = strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
    if (is_help || strcmp(word, "--version") == 0) {
        /* "--version extra" is a mistake, not a question. */
        if (argc > 2)
            return cli_fail(CLI_USAGE, "unexpected argument '%s'", argv[2]);
        if (is_help)
            return show_help();
        printf("qmoe %s\n", qmoe_version());
        return CLI_OK;
    }
    for (size_t i = 0; i < N_VERBS; i++) {
        if (strcmp(word, verbs[i]->name) != 0)
            continue;
        return verbs[i]->run(argc - 1, argv + 1);
    }
    return fail_verb(word);
}

/* A stream the caller closed would make the next opened file take its place,
 * and results would be printed into it. */
static void occupy_standard_streams(void)
{
    static const int modes[] = {O_WRONLY, O_RDONLY, O_WRONLY};
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", modes[fd]) != fd)
            _exit(CLI_INTERNAL);
}

int main(int argc, char **argv)
{
    occupy_standard_streams();
    /* A reader that went away is a failed write, not the end: compress must
     * not die between its work and the removal of its temporary files. */
    signal(SIGPIPE, SIG_IGN);
    /* So is a file beyond the limit of ulimit -f. */
    signal(SIGXFSZ, SIG_IGN);
    cli_init_json();
    /* The last word: a full disk under stdout is an error of the verb. */
    return cli_flush(dispatch(argc, argv));
}
