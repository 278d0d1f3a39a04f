/* SPDX-License-Identifier: Apache-2.0
 * qmoe-check: checks every variant of every backend against the reference, and
 * times the clean ones.  Options, backends, exit status.  `qmoe selftest` runs it
 * by the name of qmoe, which is what its errors begin with then. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "cpu.h"
#include "cpu_features.h"
#include "registry.h"
#include "runner.h"
#include "selftest.h"
#include "team.h"

static const char usage_text[] =
    "Usage: qmoe-check [options]\n"
    "\n"
    "Runs every operation and variant of every available backend on\n"
    "random, extreme and structured inputs, and compares each output\n"
    "element with the reference within a bound of its own.  Outputs lie "
    "between\n"
    "guards in a poisoned buffer, and every case runs twice.  Touched guards,\n"
    "modified inputs and bits that differ between the runs are failures,\n"
    "too.  A crash or hang fails its case only.\n"
    "\n"
    "  --backend B         only this backend; it is a failure if it is "
    "missing\n"
    "  --device N          only this device of each backend\n"
    "  --op O              only this operation: embed, rmsnorm, rope, linear,\n"
    "                      glu, kv-store, attention, route, expert-ffn,\n"
    "                      decode, top-logits\n"
    "  --variant V         only variants of this name\n"
    "  --case SUBSTR       only cases whose name contains SUBSTR; may be\n"
    "                      repeated\n"
    "  --except SUBSTR     no case whose name contains SUBSTR; may be "
    "repeated\n"
    "  --seed N            seed of the random inputs (default 1)\n"
    "  --bench             then time the variants without failures on model "
    "shapes\n"
    "  --time-budget-ms N  time for one measurement (default 300)\n"
    "  --threads N         host threads of a timed device (default: all\n"
    "                      processors)\n"
    "  --timeout-ms N      a case without an answer for N ms fails (default\n"
    "                      120000)\n"
    "  --list              list what would run; run nothing\n"
    "  --json              print the results as one JSON document\n"
    "  --selftest          check this program with variants broken on purpose\n"
    "  --help              print this text\n"
    "\n"
    "The last line is 'N passed, N failed, N skipped' (on standard error with\n"
    "--json).  A skip is a case whose shape or format a variant does not\n"
    "support, or a backend that is missing.  Exit status: 0 no failure,\n"
    "1 failures, 2 wrong usage.\n"
    "\n"
    "Examples:\n"
    "  qmoe-check --backend cpu\n"
    "  qmoe-check --op linear --case ternary-dict/ --seed 7\n"
    "  qmoe-check --backend cpu --op expert-ffn --bench --json > times.json\n";

static void fail_usage(const char *text, const char *value)
{
    fprintf(stderr, "%s: error: %s '%s' (see --help)\n",
        program_invocation_short_name, text, value);
    exit(2);
}

static int64_t parse_number(const char *text, int64_t least, int64_t most)
{
    char *end;
    long long n = strtoll(text, &end, 10);
    if (end == text || *end != '\0' || n < least || n > most)
        fail_usage("not a number in range:", text);
    return n;
}

static int parse_op(const char *text)
{
    for (int op = 0; op < QMI_OP_COUNT; op++)
        if (strcmp(qmi_op_name((qmi_op_kind)op), text) == 0)
            return op;
    fail_usage("unknown operation", text);
    return -1;
}

enum {
    OPT_BACKEND = 1,
    OPT_DEVICE,
    OPT_OP,
    OPT_VARIANT,
    OPT_CASE,
    OPT_EXCEPT,
    OPT_SEED,
    OPT_BENCH,
    OPT_BUDGET,
    OPT_THREADS,
    OPT_TIMEOUT,
    OPT_LIST,
    OPT_JSON,
    OPT_SELFTEST,
    OPT_HELP
};

static const struct option long_options[] = {
    {"backend", required_argument, NULL, OPT_BACKEND},
    {"device", required_argument, NULL, OPT_DEVICE},
    {"op", required_argument, NULL, OPT_OP},
    {"variant", required_argument, NULL, OPT_VARIANT},
    {"case", required_argument, NULL, OPT_CASE},
    {"except", required_argument, NULL, OPT_EXCEPT},
    {"seed", required_argument, NULL, OPT_SEED},
    {"bench", no_argument, NULL, OPT_BENCH},
    {"time-budget-ms", required_argument, NULL, OPT_BUDGET},
    {"threads", required_argument, NULL, OPT_THREADS},
    {"timeout-ms", required_argument, NULL, OPT_TIMEOUT},
    {"list", no_argument, NULL, OPT_LIST},
    {"json", no_argument, NULL, OPT_JSON},
    {"selftest", no_argument, NULL, OPT_SELFTEST},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static void add_filter(const char **filters, size_t *n, const char *text)
{
    if (*n == MAX_FILTERS)
        fail_usage("too many cases:", text);
    filters[(*n)++] = text;
}

static void set_option(check_options *o, bool *selftest, int option)
{
    switch (option) {
    case OPT_BACKEND:
        o->backend = optarg;
        break;
    case OPT_DEVICE:
        o->device = (int)parse_number(optarg, 0, 1 << 16);
        break;
    case OPT_OP:
        o->op = parse_op(optarg);
        break;
    case OPT_VARIANT:
        o->variant = optarg;
        break;
    case OPT_CASE:
        add_filter(o->filters, &o->n_filters, optarg);
        break;
    case OPT_EXCEPT:
        add_filter(o->excepted, &o->n_excepted, optarg);
        break;
    case OPT_SEED:
        o->seed = (uint64_t)parse_number(optarg, 0, INT64_MAX);
        break;
    case OPT_BENCH:
        o->bench = true;
        break;
    case OPT_BUDGET:
        o->time_budget_ms = parse_number(optarg, 1, 1000000);
        break;
    case OPT_THREADS:
        o->n_threads = (int)parse_number(optarg, 1, 4096);
        break;
    case OPT_TIMEOUT:
        o->timeout_ms = parse_number(optarg, 1, 100000000);
        break;
    case OPT_LIST:
        o->list = true;
        break;
    case OPT_JSON:
        o->json = true;
        break;
    case OPT_SELFTEST:
        *selftest = true;
        break;
    case OPT_HELP:
        fputs(usage_text, stdout);
        exit(0);
    default: /* getopt_long has said what is wrong */
        exit(2);
    }
}

static void add_backend_record(
    check_report *report, const char *name, bool failed, const char *text)
{
    record r = {
        .kind = failed ? RECORD_FAILURE : RECORD_SKIP, .device = -1, .op = -1};
    snprintf(r.backend, sizeof r.backend, "%s", name);
    if (failed)
        verdict_fail(&r.v, CHECK_COVERAGE, "%s", text);
    else
        snprintf(r.v.text, sizeof r.v.text, "%s", text);
    report_add(report, &r);
}

/* Every backend but the reference, which judges the others. */
static bool run_all(check_report *report, const qmi_registry *registry)
{
    const check_options *o = report->options;
    bool found = o->backend == NULL;
    for (size_t i = 0; i < qmi_registry_count(registry); i++) {
        const char *name, *reason;
        const qmi_backend *backend;
        qmi_registry_at(registry, i, &name, &backend, &reason);
        if (strcmp(name, "reference") == 0 ||
            (o->backend != NULL && strcmp(o->backend, name) != 0))
            continue;
        found = true;
        if (backend != NULL)
            run_backend(report, backend);
        else
            add_backend_record(report, name, o->backend != NULL, reason);
    }
    if (found && !o->list && report->n_passed + report->n_failed == 0)
        add_backend_record(report, "-", true, "nothing ran at all");
    return found;
}

static int check_all(const check_options *options)
{
    const qmi_backend *const builtin[] = {
        qmi_backend_cpu(), qmi_backend_reference()};
    check_report report = {.options = options};
    qmi_registry *registry = NULL;
    qmi_error err = {0};
    if (qmi_registry_create(&registry, builtin, 2, NULL, &err) != QMOE_OK) {
        fprintf(
            stderr, "%s: error: %s\n", program_invocation_short_name, err.text);
        return 2;
    }
    bool found = run_all(&report, registry);
    if (found)
        report_print(&report);
    bool failed = report.n_failed != 0;
    report_free(&report);
    qmi_registry_destroy(registry);
    if (!found)
        fail_usage("no backend to check is called", options->backend);
    return failed ? 1 : 0;
}

int main(int argc, char **argv)
{
    check_options options = {
        .device = -1,
        .op = -1,
        .seed = 1,
        .time_budget_ms = 300,
        .timeout_ms = 120000,
    };
    bool selftest = false;
    int option;
    while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1)
        set_option(&options, &selftest, option);
    if (optind < argc)
        fail_usage("unexpected argument", argv[optind]);
    qmi_error err = {0};
    if (qmi_cpu_check_level(&err) != QMOE_OK ||
        qmi_team_check_kind(&err) != QMOE_OK) {
        fprintf(stderr, "qmoe-check: error: %s\n", err.text);
        return 2;
    }
    if (selftest)
        return run_selftest(&options);
    return check_all(&options);
}
