/* SPDX-License-Identifier: Apache-2.0
 * Counts and prints results (report.h). */
#include "report.h"

#include <stdio.h>
#include <stdlib.h>

#include <cjson/cJSON.h>

static const char *op_text(int op)
{
    return op < 0 ? "-" : qmi_op_name((qmi_op_kind)op);
}

void reproducer(char *text, size_t capacity, const record *r, uint64_t seed)
{
    size_t used = (size_t)snprintf(text, capacity, "qmoe-check");
#define APPEND(...)                                                            \
    used += (size_t)snprintf(text + used, capacity - used, __VA_ARGS__)
    if (strcmp(r->backend, "-") != 0)
        APPEND(" --backend %s", r->backend);
    if (r->device >= 0 && used < capacity)
        APPEND(" --device %d", r->device);
    if (r->op >= 0 && used < capacity)
        APPEND(" --op %s", op_text(r->op));
    if (r->variant[0] != '\0' && used < capacity)
        APPEND(" --variant %s", r->variant);
    if (r->name[0] != '\0' && used < capacity)
        APPEND(" --case '%s'", r->name);
    if (r->bench && used < capacity)
        APPEND(" --bench");
    if (used < capacity)
        APPEND(" --seed %llu", (unsigned long long)seed);
#undef APPEND
}

/* "cpu/0 linear blas" */
static void place_text(char *text, size_t capacity, const record *r)
{
    char device[16] = "";
    if (r->device >= 0)
        snprintf(device, sizeof device, "/%d", r->device);
    snprintf(text, capacity, "%s%s %s%s%s", r->backend, device, op_text(r->op),
        r->variant[0] != '\0' ? " " : "", r->variant);
}

static void print_failure(const check_report *report, const record *r)
{
    char place[96], command[512];
    place_text(place, sizeof place, r);
    reproducer(command, sizeof command, r, report->options->seed);
    fprintf(report->options->json ? stderr : stdout,
        "FAIL %s %s: %s\n     reproduce: %s\n", place, r->name, r->v.text,
        command);
}

static void count(check_report *report, const record *r)
{
    if (r->kind == RECORD_LISTED)
        report->n_listed++;
    else if (r->kind == RECORD_TIMING)
        return;
    else if (r->v.failed != 0)
        report->n_failed++;
    else if (r->kind == RECORD_SKIP || r->v.skipped)
        report->n_skipped++;
    else
        report->n_passed++;
}

void report_add(check_report *report, const record *r)
{
    if (report->n == report->capacity) {
        size_t capacity = report->capacity != 0 ? 2 * report->capacity : 64;
        record *grown = check_calloc(capacity, sizeof *grown);
        if (report->n != 0)
            memcpy(grown, report->records, report->n * sizeof *grown);
        free(report->records);
        report->records = grown;
        report->capacity = capacity;
    }
    report->records[report->n++] = *r;
    count(report, r);
    if (r->v.failed != 0 && !report->options->quiet)
        print_failure(report, r);
}

void report_free(check_report *report)
{
    free(report->records);
    report->records = NULL;
    report->n = report->capacity = 0;
}

static bool is_of(const record *r, const char *backend, int device, int op,
    const char *variant)
{
    return r->op == op && r->device == device &&
           strcmp(r->backend, backend) == 0 &&
           (variant == NULL || strcmp(r->variant, variant) == 0);
}

tally report_tally(const check_report *report, const char *backend, int device,
    int op, const char *variant)
{
    tally sum = {0};
    for (size_t i = 0; i < report->n; i++) {
        const record *r = &report->records[i];
        if (r->kind != RECORD_RESULT || !is_of(r, backend, device, op, variant))
            continue;
        sum.n_failed += r->v.failed != 0;
        sum.n_skipped += r->v.failed == 0 && r->v.skipped;
        sum.n_passed += r->v.failed == 0 && !r->v.skipped;
        if (r->v.worst > sum.worst)
            sum.worst = r->v.worst;
    }
    return sum;
}

/* ---- tables ---- */

/* Is there no earlier result of the same place? */
static bool is_first_of_place(const check_report *report, size_t i)
{
    const record *r = &report->records[i];
    for (size_t j = 0; j < i; j++) {
        const record *s = &report->records[j];
        if (s->kind == RECORD_RESULT &&
            is_of(s, r->backend, r->device, r->op, r->variant))
            return false;
    }
    return true;
}

/* The weight formats a variant skipped, once each. */
static void print_skipped_formats(const check_report *report, const record *of)
{
    char seen[256] = "", quoted[32];
    for (size_t i = 0; i < report->n; i++) {
        const record *r = &report->records[i];
        const char *format = r->format[0] != '\0' ? r->format : "some shapes";
        if (r->kind != RECORD_RESULT || !r->v.skipped ||
            !is_of(r, of->backend, of->device, of->op, of->variant) ||
            strlen(seen) + sizeof quoted > sizeof seen)
            continue;
        snprintf(quoted, sizeof quoted, " %s", format);
        snprintf(quoted + strlen(quoted), 2, ";");
        if (strstr(seen, quoted) == NULL)
            strcat(seen, quoted);
    }
    if (seen[0] != '\0')
        printf("  (not supported:%s)", seen);
}

static void print_tallies(const check_report *report)
{
    for (size_t i = 0; i < report->n; i++) {
        const record *r = &report->records[i];
        if (r->kind != RECORD_RESULT || !is_first_of_place(report, i))
            continue;
        char place[96];
        place_text(place, sizeof place, r);
        tally t =
            report_tally(report, r->backend, r->device, r->op, r->variant);
        printf("%-32s %5zu passed %5zu failed %5zu skipped", place, t.n_passed,
            t.n_failed, t.n_skipped);
        if (t.worst > 0)
            printf("  error <= %.2f of bound", t.worst);
        print_skipped_formats(report, r);
        printf("\n");
    }
    for (size_t i = 0; i < report->n; i++)
        if (report->records[i].kind == RECORD_SKIP)
            printf("skip %s %s: %s\n", report->records[i].backend,
                op_text(report->records[i].op), report->records[i].v.text);
}

static void print_timings(const check_report *report)
{
    int width = 0;
    for (size_t i = 0; i < report->n; i++) {
        int length = (int)strlen(report->records[i].name);
        if (report->records[i].kind == RECORD_TIMING && length > width)
            width = length;
    }
    if (width != 0)
        printf("\n%-28s %-*s %10s %10s %10s %7s %8s %8s %9s\n", "variant",
            width, "case", "median us", "p10 us", "p90 us", "samples", "GB/s",
            "GFLOP/s", "x refer.");
    for (size_t i = 0; i < report->n; i++) {
        const record *r = &report->records[i];
        if (r->kind != RECORD_TIMING)
            continue;
        char place[96];
        place_text(place, sizeof place, r);
        printf("%-28s %-*s %10.2f %10.2f %10.2f %7zu %8.2f %8.2f %9.2f\n",
            place, width, r->name, 1e6 * r->t.seconds.median,
            1e6 * r->t.seconds.p10, 1e6 * r->t.seconds.p90, r->t.seconds.n,
            r->t.gigabytes, r->t.gigaflops, r->t.reference_ratio);
    }
}

static void print_list(const check_report *report)
{
    for (size_t i = 0; i < report->n; i++) {
        const record *r = &report->records[i];
        if (r->kind != RECORD_LISTED)
            continue;
        char place[96];
        place_text(place, sizeof place, r);
        printf("%s %s%s\n", place, r->name,
            r->v.skipped ? "  (skip: not supported)" : "");
    }
}

/* ---- JSON ---- */

static const char *status_text(const record *r)
{
    if (r->v.failed != 0)
        return "fail";
    if (r->kind == RECORD_LISTED)
        return r->v.skipped ? "listed, not supported" : "listed";
    return r->kind == RECORD_SKIP || r->v.skipped ? "skip" : "pass";
}

static cJSON *place_json(const record *r)
{
    cJSON *item = cJSON_CreateObject();
    cJSON_AddStringToObject(item, "backend", r->backend);
    if (r->device >= 0)
        cJSON_AddNumberToObject(item, "device", r->device);
    if (r->op >= 0)
        cJSON_AddStringToObject(item, "op", op_text(r->op));
    if (r->variant[0] != '\0')
        cJSON_AddStringToObject(item, "variant", r->variant);
    if (r->name[0] != '\0')
        cJSON_AddStringToObject(item, "case", r->name);
    return item;
}

static cJSON *result_json(const check_report *report, const record *r)
{
    cJSON *item = place_json(r);
    cJSON_AddStringToObject(item, "status", status_text(r));
    if (r->v.text[0] != '\0')
        cJSON_AddStringToObject(item, "text", r->v.text);
    if (r->v.worst > 0)
        cJSON_AddNumberToObject(item, "error_of_bound", r->v.worst);
    if (r->v.failed != 0) {
        char text[512];
        check_names(text, sizeof text, r->v.failed);
        cJSON_AddStringToObject(item, "checks", text);
        reproducer(text, sizeof text, r, report->options->seed);
        cJSON_AddStringToObject(item, "reproduce", text);
    }
    return item;
}

static cJSON *timing_json(const record *r)
{
    cJSON *item = place_json(r);
    cJSON_AddNumberToObject(item, "samples", (double)r->t.seconds.n);
    cJSON_AddNumberToObject(item, "median_seconds", r->t.seconds.median);
    cJSON_AddNumberToObject(item, "p10_seconds", r->t.seconds.p10);
    cJSON_AddNumberToObject(item, "p90_seconds", r->t.seconds.p90);
    cJSON_AddNumberToObject(item, "gigabytes_per_second", r->t.gigabytes);
    cJSON_AddNumberToObject(item, "gigaflops_per_second", r->t.gigaflops);
    cJSON_AddNumberToObject(item, "reference_ratio", r->t.reference_ratio);
    return item;
}

static void print_json(const check_report *report)
{
    cJSON *root = cJSON_CreateObject();
    cJSON_AddNumberToObject(root, "seed", (double)report->options->seed);
    cJSON_AddNumberToObject(root, "passed", (double)report->n_passed);
    cJSON_AddNumberToObject(root, "failed", (double)report->n_failed);
    cJSON_AddNumberToObject(root, "skipped", (double)report->n_skipped);
    cJSON *results = cJSON_AddArrayToObject(root, "results");
    cJSON *timings = cJSON_AddArrayToObject(root, "timings");
    for (size_t i = 0; i < report->n; i++) {
        const record *r = &report->records[i];
        if (r->kind == RECORD_TIMING)
            cJSON_AddItemToArray(timings, timing_json(r));
        else
            cJSON_AddItemToArray(results, result_json(report, r));
    }
    char *text = cJSON_Print(root);
    if (text != NULL)
        printf("%s\n", text);
    cJSON_free(text);
    cJSON_Delete(root);
}

void report_print(check_report *report)
{
    if (report->options->json) {
        print_json(report);
    } else if (report->options->list) {
        print_list(report);
        printf("%zu listed\n", report->n_listed);
    } else {
        print_tallies(report);
        print_timings(report);
    }
    /* Standard output holds nothing but the document in JSON mode. */
    fflush(stdout);
    if (!report->options->list)
        fprintf(report->options->json ? stderr : stdout,
            "%zu passed, %zu failed, %zu skipped\n", report->n_passed,
            report->n_failed, report->n_skipped);
}
