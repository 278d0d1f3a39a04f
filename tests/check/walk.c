/* SPDX-License-Identifier: Apache-2.0
 * Child side: goes through everything there is to check on one backend, in an
 * order that does not change, so that a later child can go on at a step. */
#include "runner.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "bench.h"

/* The reference is slow, and only the ratio's denominator. */
enum { REFERENCE_SAMPLES = 3, MIN_SAMPLES = 30 };

typedef struct walk {
    check_report *report;
    const check_options *options;
    const qmi_backend *backend;
    int fd;
    uint64_t step, start;
    record now; /* place of the current step */
    target target;
    qmi_device *qmi_bench_device; /* all threads; NULL unless timing */
} walk;

static void send_record(walk *w, const record *r)
{
    const char *at = (const char *)r;
    size_t left = sizeof *r;
    while (left != 0) {
        ssize_t n = write(w->fd, at, left);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            exit(3); /* the parent is gone */
        at += n;
        left -= (size_t)n;
    }
}

/* The child keeps its own books too: coverage and timing depend on them. */
static void publish(walk *w, record_kind kind)
{
    w->now.kind = kind;
    send_record(w, &w->now);
    check_options silent = *w->options;
    silent.quiet = true;
    w->report->options = &silent;
    report_add(w->report, &w->now);
    w->report->options = w->options;
    w->now.v = (verdict){0};
    w->now.t = (timing){0};
}

static void fail_here(walk *w, unsigned check, const char *text)
{
    verdict_fail(&w->now.v, check, "%s", text);
    publish(w, RECORD_FAILURE);
}

static void skip_here(walk *w, const char *text)
{
    snprintf(w->now.v.text, sizeof w->now.v.text, "%s", text);
    publish(w, RECORD_SKIP);
}

/* Counts a step; false when an earlier child has done it. */
static bool take_step(walk *w)
{
    w->now.step = w->step++;
    if (w->now.step < w->start)
        return false;
    w->now.kind = RECORD_BEGIN;
    send_record(w, &w->now);
    return true;
}

static void set_text(char *dst, size_t capacity, const char *text)
{
    snprintf(dst, capacity, "%s", text != NULL ? text : "");
}

static bool wanted(const char *filter, const char *name)
{
    return filter == NULL || strcmp(filter, name) == 0;
}

static bool has_any(const char *name, const char *const *parts, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strstr(name, parts[i]) != NULL)
            return true;
    return false;
}

static bool case_wanted(const walk *w, const check_case *c)
{
    const check_options *o = w->options;
    return (o->n_filters == 0 || has_any(c->name, o->filters, o->n_filters)) &&
           !has_any(c->name, o->excepted, o->n_excepted);
}

/* ---- one case ---- */

/* Problem of the current case, made when its first step is taken: building one
 * may be what kills the child. */
static const problem *need_problem(
    walk *w, problem **p, const check_case *c, bool *broken)
{
    if (*p != NULL || *broken)
        return *p;
    qmi_error err = {0};
    qmoe_status status =
        problem_create(p, (qmi_op_kind)w->now.op, c, w->options->seed, &err);
    if (status != QMOE_OK) {
        *broken = true;
        fail_here(w, CHECK_HARNESS, err.text);
    }
    return *p;
}

static void time_variant(
    walk *w, const problem *p, size_t i_variant, double *reference_median)
{
    const qmi_backend *reference = qmi_backend_reference();
    double budget = 1e-3 * (double)w->options->time_budget_ms;
    sample_summary s;
    qmi_error err = {0};
    if (*reference_median == 0) {
        target t;
        if (target_open(&t, reference, 0, &err) != QMOE_OK)
            return;
        if (qmi_bench_variant(&s, reference, t.devices[0], 0, p, budget,
                REFERENCE_SAMPLES, &err) == QMOE_OK)
            *reference_median = s.median;
        target_close(&t);
    }
    if (qmi_bench_variant(&s, w->backend, w->qmi_bench_device, i_variant, p,
            budget, MIN_SAMPLES, &err) != QMOE_OK) {
        fail_here(w, CHECK_STATUS, err.text);
        return;
    }
    check_cost cost = p->op->cost(p);
    w->now.t = (timing){
        .seconds = s,
        .gigabytes = cost.bytes / s.median / 1e9,
        .gigaflops = cost.flops / s.median / 1e9,
        .reference_ratio = *reference_median / s.median,
    };
    publish(w, RECORD_TIMING);
}

static bool is_clean(const walk *w)
{
    return report_tally(w->report, w->now.backend, w->now.device, w->now.op,
               w->now.variant)
               .n_failed == 0;
}

/* After a fault in a kernel, a CUDA context fails every call of the process. */
static void end_if_lost(walk *w)
{
    qmi_error err = {0};
    for (int pass = 0; pass < N_PASSES; pass++) {
        if (w->backend->sync(w->target.devices[pass], &err) == QMOE_OK)
            continue;
        w->now.kind = RECORD_LOST;
        send_record(w, &w->now);
        fflush(NULL);
        _exit(0);
    }
}

/* Whether a variant ran on the current case, in this child or in one that died
 * on it: its records are the last. */
static bool case_ran(const walk *w)
{
    for (size_t i = w->report->n; i-- != 0;) {
        const record *r = &w->report->records[i];
        if (strcmp(r->name, w->now.name) != 0 || r->op != w->now.op ||
            r->device != w->now.device || r->bench != w->now.bench)
            return false;
        if (r->v.failed != 0 || !r->v.skipped)
            return true;
    }
    return false;
}

/* A case that every variant declines is not checked, which may be only because
 * the backend has no kernels for an optional format. */
static void check_case_ran(
    walk *w, problem **p, const check_case *c, bool broken)
{
    w->now.variant[0] = '\0';
    if (w->options->variant != NULL || w->options->list || !take_step(w) ||
        case_ran(w))
        return;
    const bool optional =
        c->weight != NULL && (c->weight->traits & KIND_OPTIONAL) != 0;
    if (!optional || need_problem(w, p, c, &broken) == NULL ||
        check_bindable(*p, &w->target))
        fail_here(w, CHECK_COVERAGE, "no variant ran on the case");
}

static void walk_case(walk *w, const check_case *c, bool bench)
{
    size_t n = 0;
    const qmi_variant *variants =
        w->backend->variants(w->target.devices[0], (qmi_op_kind)w->now.op, &n);
    problem *p = NULL;
    bool broken = false;
    double reference_median = 0;
    set_text(w->now.name, sizeof w->now.name, c->name);
    set_text(w->now.format, sizeof w->now.format,
        c->weight != NULL ? c->weight->name : "");
    w->now.bench = bench;
    for (size_t i = 0; i < n; i++) {
        set_text(w->now.variant, sizeof w->now.variant, variants[i].name);
        if (!wanted(w->options->variant, variants[i].name) || !take_step(w) ||
            need_problem(w, &p, c, &broken) == NULL)
            continue;
        if (w->options->list) {
            w->now.v.skipped = !check_supported(p, &w->target, i);
            publish(w, RECORD_LISTED);
            continue;
        }
        check_run(&w->now.v, p, &w->target, i);
        bool ran = !w->now.v.skipped;
        bool refused = (w->now.v.failed & CHECK_STATUS) != 0;
        publish(w, RECORD_RESULT);
        if (refused)
            end_if_lost(w);
        if (bench && ran && is_clean(w))
            time_variant(w, p, i, &reference_median);
    }
    check_case_ran(w, &p, c, broken);
    problem_destroy(p);
    w->now.name[0] = w->now.format[0] = '\0';
    w->now.bench = false;
}

/* ---- one operation ---- */

/* Where a variant was selected, it must have run; where none and no case was,
 * each must have. */
static void check_coverage(walk *w, size_t n_selected)
{
    size_t n = 0;
    const qmi_variant *variants =
        w->backend->variants(w->target.devices[0], (qmi_op_kind)w->now.op, &n);
    if (n_selected == 0 || w->options->list || !take_step(w))
        return;
    tally all =
        report_tally(w->report, w->now.backend, w->now.device, w->now.op, NULL);
    bool selected = false;
    for (size_t i = 0; i < n && w->options->variant != NULL; i++)
        selected = selected || wanted(w->options->variant, variants[i].name);
    if (selected && all.n_passed + all.n_failed == 0) {
        fail_here(w, CHECK_COVERAGE, "the variant ran on no selected case");
        return;
    }
    for (size_t i = 0; i < n && w->options->n_filters == 0; i++) {
        tally t = report_tally(w->report, w->now.backend, w->now.device,
            w->now.op, variants[i].name);
        if (!wanted(w->options->variant, variants[i].name) ||
            t.n_passed + t.n_failed != 0)
            continue;
        set_text(w->now.variant, sizeof w->now.variant, variants[i].name);
        fail_here(w, CHECK_COVERAGE, "the variant ran on no case");
        w->now.variant[0] = '\0';
    }
}

static size_t walk_cases(walk *w, bool bench)
{
    case_list list = {0};
    size_t n_selected = 0;
    check_op_of((qmi_op_kind)w->now.op)->list(&list, bench);
    for (size_t i = 0; i < list.n; i++) {
        if (!case_wanted(w, &list.cases[i]))
            continue;
        n_selected++;
        walk_case(w, &list.cases[i], bench);
    }
    case_list_free(&list);
    return n_selected;
}

static void walk_op(walk *w, int op)
{
    size_t n = 0;
    w->now.op = op;
    w->backend->variants(w->target.devices[0], (qmi_op_kind)op, &n);
    if (n == 0) {
        if (take_step(w))
            skip_here(w, "the backend does not provide the operation");
        return;
    }
    size_t n_selected = walk_cases(w, false);
    if (w->options->bench)
        n_selected += walk_cases(w, true);
    check_coverage(w, n_selected);
}

/* ---- devices ---- */

static void walk_device(walk *w, int index)
{
    qmi_error err = {0};
    w->now.device = index;
    w->now.op = -1;
    qmoe_status status = target_open(&w->target, w->backend, index, &err);
    if (status == QMOE_OK && w->options->bench) {
        int n = w->options->n_threads;
        const qmi_device_options options = {
            .n_threads = n != 0 ? n : (int)sysconf(_SC_NPROCESSORS_ONLN)};
        status = w->backend->device_open(
            &w->qmi_bench_device, index, &options, &err);
    }
    if (status != QMOE_OK) {
        if (take_step(w))
            fail_here(w, CHECK_STATUS, err.text);
    } else {
        for (int op = 0; op < QMI_OP_COUNT; op++)
            if (w->options->op < 0 || w->options->op == op)
                walk_op(w, op);
    }
    if (w->qmi_bench_device != NULL)
        w->backend->device_close(w->qmi_bench_device);
    w->qmi_bench_device = NULL;
    target_close(&w->target);
}

static void walk_devices(walk *w)
{
    int n = 0;
    char reason[256] = "";
    qmoe_status status = w->backend->probe(&n, reason, sizeof reason);
    const char *text = reason[0] != '\0' ? reason : "no device";
    bool missing = w->options->device >= n;
    if (status != QMOE_OK || n == 0 || missing) {
        if (!take_step(w))
            return;
        if (status != QMOE_OK)
            fail_here(w, CHECK_STATUS, text);
        else if (w->options->backend != NULL)
            fail_here(
                w, CHECK_COVERAGE, n != 0 ? "there is no such device" : text);
        else
            skip_here(w, n != 0 ? "there is no such device" : text);
        return;
    }
    for (int i = 0; i < n; i++)
        if (w->options->device < 0 || w->options->device == i)
            walk_device(w, i);
}

void walk_backend(
    check_report *report, const qmi_backend *backend, int fd, uint64_t start)
{
    walk w = {
        .report = report,
        .options = report->options,
        .backend = backend,
        .fd = fd,
        .start = start,
        .now = {.device = -1, .op = -1},
    };
    set_text(w.now.backend, sizeof w.now.backend, backend->name);
    if (backend->api != QMI_BACKEND_API) {
        if (take_step(&w))
            fail_here(&w, CHECK_STATUS, "the backend is of another version");
    } else {
        walk_devices(&w);
    }
    const record end = {.kind = RECORD_END};
    send_record(&w, &end);
}
