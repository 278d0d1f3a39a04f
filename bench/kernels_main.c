/* SPDX-License-Identifier: Apache-2.0
 * Command line around bench_kernels: a table, or JSON with --json. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_kernels.h"
#include "cpu.h"

static const char usage[] =
    "Usage: bench-kernels [--shape RxC] [--batch N] [--threads N]\n"
    "       [--format F] [--variant V | --all] [--cache hot|cold]\n"
    "       [--rounds N] [--sample-ms N] [--cpu-time] [--json]\n";

static bool parse(bench_options *o, bool *json, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i];
        if (strcmp(name, "--json") == 0) {
            *json = true;
            continue;
        }
        if (strcmp(name, "--cpu-time") == 0) {
            o->cpu_time = true;
            continue;
        }
        if (strcmp(name, "--all") == 0) {
            o->all_variants = true;
            continue;
        }
        if (++i == argc)
            return false;
        const char *value = argv[i];
        long long rows, cols;
        if (strcmp(name, "--shape") == 0 &&
            sscanf(value, "%lldx%lld", &rows, &cols) == 2) {
            o->rows = rows;
            o->cols = cols;
        } else if (strcmp(name, "--batch") == 0)
            o->batch = atoll(value);
        else if (strcmp(name, "--threads") == 0)
            o->threads = atoi(value);
        else if (strcmp(name, "--format") == 0)
            o->format = value;
        else if (strcmp(name, "--variant") == 0)
            o->variant = value;
        else if (strcmp(name, "--cache") == 0)
            o->cache = strcmp(value, "hot") == 0 ? 1 : 2;
        else if (strcmp(name, "--rounds") == 0)
            o->n_rounds = atoi(value);
        else if (strcmp(name, "--sample-ms") == 0)
            o->sample_ms = atof(value);
        else
            return false;
    }
    return true;
}

static void print_table(const bench_report *r)
{
    printf("memory read: %.1f GB/s\n", r->read_gbytes_per_s);
    printf("%-13s %-22s %-10s %5s %3s %-4s %8s %8s %8s %7s\n", "format",
        "variant", "shape", "batch", "thr", "from", "Gw/s", "p10", "p90",
        "GB/s");
    for (size_t i = 0; i < r->n_results; i++) {
        const bench_result *b = &r->results[i];
        char shape[48];
        snprintf(shape, sizeof shape, "%lldx%lld", (long long)b->rows,
            (long long)b->cols);
        printf("%-13s %-22s %-10s %5lld %3d %-4s %8.2f %8.2f %8.2f %7.2f\n",
            b->format, b->variant, shape, (long long)b->batch, b->threads,
            b->hot ? "hot" : "cold", b->gweights_per_s, b->p10, b->p90,
            b->gbytes_per_s);
    }
}

static void print_json(const bench_report *r)
{
    printf(
        "{\"read_gbytes_per_s\": %.3f, \"results\": [", r->read_gbytes_per_s);
    for (size_t i = 0; i < r->n_results; i++) {
        const bench_result *b = &r->results[i];
        printf("%s\n{\"format\": \"%s\", \"variant\": \"%s\", \"rows\": %lld, "
               "\"cols\": %lld, \"batch\": %lld, \"threads\": %d, "
               "\"cache\": \"%s\", \"gweights_per_s\": %.4f, \"p10\": %.4f, "
               "\"p90\": %.4f, \"gbytes_per_s\": %.4f}",
            i != 0 ? "," : "", b->format, b->variant, (long long)b->rows,
            (long long)b->cols, (long long)b->batch, b->threads,
            b->hot ? "hot" : "cold", b->gweights_per_s, b->p10, b->p90,
            b->gbytes_per_s);
    }
    printf("\n]}\n");
}

int main(int argc, char **argv)
{
    bench_options options = {0};
    bench_report report;
    qmi_error err = {0};
    bool json = false;
    if (!parse(&options, &json, argc, argv)) {
        fputs(usage, stderr);
        return 2;
    }
    if (bench_kernels(&report, qmi_backend_cpu(), &options, &err) != QMOE_OK) {
        fprintf(stderr, "bench-kernels: %s\n", err.text);
        return 1;
    }
    if (json)
        print_json(&report);
    else
        print_table(&report);
    bench_report_free(&report);
    return 0;
}
