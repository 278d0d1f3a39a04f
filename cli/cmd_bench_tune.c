/* SPDX-License-Identifier: Apache-2.0
 * qmoe bench tune: measures how a device's kernels run best. */
#include "bench.h"

static const char help[] =
    "Usage: qmoe bench tune [options]\n"
    "\n"
    "Measures candidates for the specialisation of a device's kernels and "
    "keeps\n"
    "the winners in the cache folder ($XDG_CACHE_HOME/qmoe or ~/.cache/qmoe).\n"
    "Every later run on the same device, driver and kernels uses them.  "
    "Without\n"
    "a tuning, defaults for the kind of device are used.  Results are right\n"
    "under any tuning; only the speed differs.  It takes under a minute on a\n"
    "device that is otherwise idle.\n"
    "\n"
    "Options:\n"
    "  -b, --backend NAME   the backend (default opencl; others have nothing "
    "to\n"
    "                       tune)\n"
    "  --device D           device of the backend (default: the first; 'qmoe\n"
    "                       devices' lists them)\n"
    "  -h, --help           this text\n"
    "\n"
    "Example:\n"
    "  qmoe bench tune --device 0\n";

static void print_candidate(void *user, const char *format, int64_t n_tokens,
    const char *candidate, double seconds)
{
    (void)user;
    printf("%-6s %2lld token%s  %-40s ", format, (long long)n_tokens,
        n_tokens == 1 ? " " : "s", candidate);
    if (seconds < 0)
        printf("does not run here\n");
    else
        printf("%9.1f us\n", 1e6 * seconds);
    fflush(stdout);
}

static cli_exit run(int argc, char **argv)
{
    const char *backend = "opencl";
    const char *device = NULL;
    const cli_option table[] = {
        {"backend", 'b', CLI_TEXT, &backend, 0, 0},
        {"device", 0, CLI_TEXT, &device, 0, 0},
    };
    cli_exit code;
    cli_session s;
    if (!cli_parse(&code, NULL, NULL, &cli_verb_bench_tune, argc, argv, table,
            sizeof table / sizeof *table))
        return code;
    code = cli_open_context(&s, 0);
    if (code == CLI_OK) {
        qmoe_status status =
            qmoe_tune(s.context, backend, device, print_candidate, NULL);
        if (status != QMOE_OK)
            code = cli_fail_status(&s, status);
    }
    cli_close(&s);
    return code;
}

const cli_verb cli_verb_bench_tune = {
    "bench tune", "measure how a device's kernels run best", help, run};
