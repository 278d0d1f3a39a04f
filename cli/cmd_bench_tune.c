/* SPDX-License-Identifier: Apache-2.0
 * qmoe bench tune: measures how a device's kernels run best.  In: a backend and
 * a device.  Out: a line or a JSON member per candidate, as they are measured,
 * and a tuning that the backend keeps.  Nothing is kept after a failure, so a
 * document is printed only for what later runs will use. */
#include "bench.h"

static const char help[] =
    "Usage: qmoe bench tune [options]\n"
    "\n"
    "Measures candidates for the specialisation of a device's kernels and\n"
    "keeps the fastest in the cache directory ($XDG_CACHE_HOME/qmoe or\n"
    "~/.cache/qmoe).  Every later run on the same device, driver and kernels\n"
    "uses them.  Without a tuning, the defaults of the device type are used.\n"
    "Results are right under any tuning; only the speed differs.  The command\n"
    "takes under a minute on a device that is otherwise idle.\n"
    "\n"
    "Options:\n"
    "  -b, --backend NAME   the backend (default opencl; others cannot be "
    "tuned)\n"
    "  --device D           device of the backend (default: the first; 'qmoe\n"
    "                       devices' lists them)\n"
    "  --json               print one JSON document: every candidate with its\n"
    "                       seconds per product, null where it does not run;\n"
    "                       candidates are grouped by what they set, and the\n"
    "                       fastest of each group is kept\n"
    "  -h, --help           print this text\n"
    "\n"
    "Examples:\n"
    "  qmoe bench tune --device 0\n"
    "  qmoe bench tune --json | jq '.results | min_by(.seconds // 1e9)'\n";

static void print_candidate(void *user, const char *format, int64_t n_tokens,
    const char *candidate, double seconds)
{
    (void)user;
    /* Printed at once: a candidate takes seconds, and a hang shows at which. */
    printf("%-6s %2lld token%s  %-40s ", format, (long long)n_tokens,
        n_tokens == 1 ? " " : "s", candidate);
    /* Not an error: devices differ in what they can run. */
    if (seconds < 0)
        printf("does not run here\n");
    else
        printf("%9.1f us\n", 1e6 * seconds);
    fflush(stdout);
}

/* Candidates measured so far: the number is what the progress shows. */
typedef struct candidates {
    cJSON *list;
    uint64_t n;
} candidates;

static void add_candidate(void *user, const char *format, int64_t n_tokens,
    const char *candidate, double seconds)
{
    candidates *measured = user;
    const qmoe_progress progress = {
        .stage = "tune", .item = candidate, .done = ++measured->n};
    /* The document comes at the end, so the user watches a progress line. */
    cli_on_progress(NULL, &progress);
    cJSON *result = cJSON_CreateObject();
    cli_json_text(result, "format", format);
    cli_json_count(result, "tokens", (uint64_t)n_tokens);
    cli_json_text(result, "candidate", candidate);
    if (seconds < 0)
        cJSON_AddNullToObject(result, "seconds");
    else
        cli_json_real(result, "seconds", seconds);
    cJSON_AddItemToArray(measured->list, result);
}

/* The document is printed when the tuning was kept. */
static qmoe_status tune_json(
    const cli_session *s, const char *backend, const char *device)
{
    qmoe_device_info info;
    /* Asked before the measurement: the document names the device first. */
    qmoe_status status = qmoe_find_device(s->context, &info, backend, device);
    if (status != QMOE_OK)
        return status;
    cJSON *json = cJSON_CreateObject();
    cli_bench_add_machine(json, &info, NULL);
    candidates measured = {.list = cJSON_AddArrayToObject(json, "results")};
    status = qmoe_tune(s->context, backend, device, add_candidate, &measured);
    if (status == QMOE_OK)
        cli_json_print(json);
    else
        cJSON_Delete(json);
    return status;
}

static cli_exit run(int argc, char **argv)
{
    /* Only this backend has a choice of kernels. */
    const char *backend = "opencl";
    const char *device = NULL;
    bool as_json = false;
    const cli_option table[] = {
        {"backend", 'b', CLI_TEXT, &backend, 0, 0},
        {"device", 0, CLI_TEXT, &device, 0, 0},
        {"json", 0, CLI_SET, &as_json, 0, 0},
    };
    cli_exit code;
    cli_session s;
    if (!cli_parse(&code, NULL, NULL, &cli_verb_bench_tune, argc, argv, table,
            sizeof table / sizeof *table))
        return code;
    code = cli_open_context(&s, 0);
    if (code == CLI_OK) {
        qmoe_status status = as_json ? tune_json(&s, backend, device)
                                     : qmoe_tune(s.context, backend, device,
                                           print_candidate, NULL);
        if (status != QMOE_OK)
            code = cli_fail_status(&s, status);
    }
    cli_close(&s);
    return code;
}

const cli_verb cli_verb_bench_tune = {
    "bench tune", "find the fastest kernels of a device", help, run};
