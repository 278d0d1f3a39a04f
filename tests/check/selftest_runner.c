/* SPDX-License-Identifier: Apache-2.0
 * The runner against backends that die, hang, refuse or are not there. */
#include "selftest.h"

#include "runner.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Cases of kv-store, the cheapest operation, that break on purpose. */
static const char few[] = "kv-store/c1/";
static const int64_t broken_tokens = 7;

static bool is_broken(const qmi_op *op)
{
    return op->u.kv_store.n_tokens == broken_tokens;
}

static qmoe_status run_crash(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    if (is_broken(op))
        abort();
    return run_reference(device, op, err);
}

static qmoe_status run_exit(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    if (is_broken(op))
        _exit(0);
    return run_reference(device, op, err);
}

/* As CUDA does after a fault: nothing works any more in this process. */
static bool is_lost;

static qmoe_status run_lost(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    is_lost = is_lost || is_broken(op);
    if (is_lost)
        return qmi_fail(err, QMOE_E_DEVICE, "broken on purpose");
    return run_reference(device, op, err);
}

static qmoe_status sync_lost(qmi_device *device, qmi_error *err)
{
    (void)device;
    return is_lost ? qmi_fail(err, QMOE_E_DEVICE, "lost") : QMOE_OK;
}

static qmoe_status run_hang(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    while (is_broken(op))
        sleep(100);
    return run_reference(device, op, err);
}

static qmoe_status run_nothing(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    if (is_broken(op))
        return QMOE_OK;
    return run_reference(device, op, err);
}

static bool supports_none(const qmi_device *device, const qmi_op *op)
{
    (void)device;
    (void)op;
    return false;
}

static const qmi_variant *no_variants(
    const qmi_device *device, qmi_op_kind kind, size_t *n)
{
    (void)device;
    (void)kind;
    *n = 0;
    return NULL;
}

static const qmi_variant *refusing_variants(
    const qmi_device *device, qmi_op_kind kind, size_t *n)
{
    static qmi_variant variant = {"refusing", supports_none, run_reference};
    (void)device;
    (void)kind;
    *n = 1;
    return &variant;
}

static bool supports_sound(const qmi_device *device, const qmi_op *op)
{
    (void)device;
    return !is_broken(op);
}

/* Two variants, and both decline the broken case. */
static const qmi_variant *declining_variants(
    const qmi_device *device, qmi_op_kind kind, size_t *n)
{
    static const qmi_variant variants[] = {
        {"first", supports_sound, run_reference},
        {"second", supports_sound, run_reference}};
    (void)device;
    (void)kind;
    *n = 2;
    return variants;
}

static const qmi_variant *one_refusing_variant(
    const qmi_device *device, qmi_op_kind kind, size_t *n)
{
    static qmi_variant variants[2];
    variants[0] = *toy_backend()->variants(device, kind, n);
    variants[1] = (qmi_variant){"refusing", supports_none, run_reference};
    *n = 2;
    return variants;
}

static qmoe_status no_devices(int *n_devices, char *reason, size_t capacity)
{
    *n_devices = 0;
    snprintf(reason, capacity, "no driver");
    return QMOE_OK;
}

static void die_late(qmi_device *device)
{
    (void)device;
    _exit(9);
}

static check_options quiet_options(const char *filter)
{
    return (check_options){
        .device = -1,
        .op = QMI_OP_KV_STORE,
        .filters = {filter},
        .n_filters = filter != NULL,
        .seed = 1,
        .time_budget_ms = 20,
        .timeout_ms = 60000,
        .quiet = true,
    };
}

/* First failure of `check`; NULL if none. */
static const record *find_failure(const check_report *report, unsigned check)
{
    for (size_t i = 0; i < report->n; i++)
        if (report->records[i].v.failed & check)
            return &report->records[i];
    return NULL;
}

static bool names_broken_case(const record *r)
{
    return r != NULL && strstr(r->name, "/t7/") != NULL &&
           strcmp(r->variant, "toy") == 0;
}

/* The four cases of `few`: one is broken, three still pass. */
static void test_death_of(const qmi_backend *backend, const char *name,
    unsigned check,
    qmoe_status (*run)(qmi_device *, const qmi_op *, qmi_error *),
    int64_t timeout_ms)
{
    check_options options = quiet_options(few);
    options.timeout_ms = timeout_ms;
    check_report report = {.options = &options};
    toy_run = run;
    run_backend(&report, backend);
    const record *r = find_failure(&report, check);
    expect(names_broken_case(r), "%s: the case is not named", name);
    expect(report.n_failed == 1 && report.n_passed == 3,
        "%s: %zu passed, %zu failed, not 3 and 1", name, report.n_passed,
        report.n_failed);
    if (r != NULL) {
        char command[512];
        reproducer(command, sizeof command, r, options.seed);
        expect(strstr(command, "--op kv-store") != NULL &&
                   strstr(command, r->name) != NULL &&
                   strstr(command, "--seed 1") != NULL,
            "%s: reproducer '%s'", name, command);
    }
    report_free(&report);
}

static void test_death(const char *name, unsigned check,
    qmoe_status (*run)(qmi_device *, const qmi_op *, qmi_error *),
    int64_t timeout_ms)
{
    test_death_of(toy_backend(), name, check, run, timeout_ms);
}

static void test_lost(void)
{
    qmi_backend backend = *toy_backend();
    backend.sync = sync_lost;
    test_death_of(&backend, "a lost device", CHECK_STATUS, run_lost, 60000);
}

static void test_exit_late(void)
{
    check_options options = quiet_options(few);
    check_report report = {.options = &options};
    qmi_backend backend = *toy_backend();
    backend.device_close = die_late;
    toy_run = run_reference;
    run_backend(&report, &backend);
    expect(find_failure(&report, CHECK_CRASH) != NULL,
        "dies at the end: not noticed");
    expect(report.n_passed == 4, "dies at the end: %zu passed, not 4",
        report.n_passed);
    report_free(&report);
}

static void test_coverage(const char *name,
    const qmi_variant *(*variants)(const qmi_device *, qmi_op_kind, size_t *),
    bool filtered, size_t n_failed, size_t n_skipped)
{
    check_options options = quiet_options(filtered ? few : NULL);
    check_report report = {.options = &options};
    qmi_backend backend = *toy_backend();
    backend.variants = variants;
    toy_run = run_reference;
    run_backend(&report, &backend);
    expect(report.n_failed == n_failed, "%s: %zu failed, not %zu", name,
        report.n_failed, n_failed);
    expect(n_failed == 0 || find_failure(&report, CHECK_COVERAGE) != NULL,
        "%s: not by the coverage check", name);
    expect(report.n_skipped == n_skipped, "%s: %zu skipped, not %zu", name,
        report.n_skipped, n_skipped);
    report_free(&report);
}

static qmoe_status bind_nothing(qmi_bound_weight *out, qmi_device *device,
    const qmi_weight *host, qmi_error *err)
{
    (void)device;
    *out = (qmi_bound_weight){0};
    return qmi_fail(err, QMOE_E_UNSUPPORTED, "no kernels for '%s'", host->name);
}

/* Only an optional format may be missing, and only as a whole. */
static void test_missing_format(const char *filter, bool binds, bool fails)
{
    check_options options = quiet_options(filter);
    options.op = QMI_OP_DECODE;
    check_report report = {.options = &options};
    qmi_backend backend = *toy_backend();
    backend.variants = refusing_variants;
    if (!binds)
        backend.weight_bind = bind_nothing;
    run_backend(&report, &backend);
    expect(report.n != 0 && (report.n_failed != 0) == fails,
        "%s, %s: %zu of %zu failed", filter, binds ? "declined" : "missing",
        report.n_failed, report.n);
    report_free(&report);
}

static void test_no_device(const char *asked_for)
{
    check_options options = quiet_options(few);
    options.backend = asked_for;
    check_report report = {.options = &options};
    qmi_backend backend = *toy_backend();
    backend.probe = no_devices;
    run_backend(&report, &backend);
    bool failed = find_failure(&report, CHECK_COVERAGE) != NULL;
    expect(failed == (asked_for != NULL) && report.n == 1 &&
               strstr(report.records[0].v.text, "no driver") != NULL,
        "a backend without device%s",
        asked_for != NULL ? ", asked for by name" : "");
    report_free(&report);
}

/* A clean variant is timed, a failing one is not. */
static void test_timing(const char *name, bool clean, const char *filter,
    qmoe_status (*run)(qmi_device *, const qmi_op *, qmi_error *))
{
    check_options options = quiet_options(filter);
    options.bench = true;
    check_report report = {.options = &options};
    size_t n_timings = 0;
    toy_run = run;
    run_backend(&report, toy_backend());
    for (size_t i = 0; i < report.n; i++) {
        const record *r = &report.records[i];
        if (r->kind != RECORD_TIMING)
            continue;
        n_timings++;
        expect(r->t.seconds.n >= 30 && r->t.seconds.p10 > 0 &&
                   r->t.seconds.p10 <= r->t.seconds.median &&
                   r->t.seconds.median <= r->t.seconds.p90 &&
                   r->t.gigabytes > 0 && r->t.reference_ratio > 0,
            "%s: implausible timing of %s", name, r->name);
    }
    expect((n_timings != 0) == clean, "%s: %zu timings", name, n_timings);
    report_free(&report);
}

/* The name of one case selects that one. */
static void test_filter(void)
{
    check_options options = quiet_options(few);
    check_report all = {.options = &options};
    toy_run = run_reference;
    run_backend(&all, toy_backend());
    expect(all.n == 4, "%zu cases of %s, not 4", all.n, few);
    char name[CHECK_NAME] = "";
    if (all.n != 0)
        snprintf(name, sizeof name, "%s", all.records[0].name);
    check_options single = quiet_options(name);
    check_report one = {.options = &single};
    run_backend(&one, toy_backend());
    expect(one.n == 1 && strcmp(one.records[0].name, name) == 0,
        "--case '%s' selects %zu cases", name, one.n);
    check_options two = single;
    two.filters[two.n_filters++] = "kv-store/c17/t1/";
    check_report both = {.options = &two};
    run_backend(&both, toy_backend());
    expect(both.n == 2 && both.n_failed == 0,
        "two times --case select %zu cases", both.n);
    check_options rest = quiet_options(few);
    rest.excepted[rest.n_excepted++] = name;
    check_report others = {.options = &rest};
    run_backend(&others, toy_backend());
    expect(others.n == 3 && strcmp(others.records[0].name, name) != 0,
        "--except '%s' leaves %zu cases", name, others.n);
    report_free(&others);
    report_free(&all);
    report_free(&one);
    report_free(&both);
}

void selftest_runner(void)
{
    case_list cases = {0};
    check_kv_store.list(&cases, false);
    size_t n_cases = cases.n;
    case_list_free(&cases);
    test_filter();
    test_death("crash", CHECK_CRASH, run_crash, 60000);
    test_death("silent exit", CHECK_CRASH, run_exit, 60000);
    test_death("hang", CHECK_TIMEOUT, run_hang, 1000);
    test_lost();
    test_exit_late();
    test_coverage("no variants", no_variants, false, 0, 1);
    test_coverage("only refusing", refusing_variants, true, 4, 4);
    test_coverage("one case declined", declining_variants, true, 1, 2);
    test_coverage("one refusing", one_refusing_variant, true, 0, 4);
    test_coverage(
        "one refusing, no filter", one_refusing_variant, false, 1, n_cases);
    test_missing_format("decode/tlut-0.5/", false, false);
    test_missing_format("decode/tlut-0.5/", true, true);
    test_missing_format("decode/q2/", false, true);
    test_no_device(NULL);
    test_no_device("toy");
    test_timing("clean", true, "/c768/t1/", run_reference);
    test_timing("failing", false, NULL, run_nothing);
}
