/* SPDX-License-Identifier: Apache-2.0
 * qmoe bench kernels: products in every format.  In: lists of shapes, batches,
 * formats, threads.  Out: a table, JSON or CSV of the same results.  The tool
 * only reads options and prints; bench/bench_kernels.c measures.  What was not
 * measured is "-", empty or absent, never 0. */
#include "bench.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "Usage: qmoe bench kernels [options]\n"
    "\n"
    "Times products W x with random weights in every format: the six expert\n"
    "shapes of the paper, 1, 8 and 32 tokens, hot (every call uses the same\n"
    "matrix, from the cache) and cold (every call uses another matrix, from\n"
    "memory).  Dense bf16 and f32 are measured in alternation.  Every\n"
    "result is checked before it is timed.  Lists are separated by commas.\n"
    "\n"
    "Columns:\n"
    "  Gw/s       1e9 weights times tokens per second, median of all samples\n"
    "  p10, p90   its spread\n"
    "  GB/s       bytes of packed weights per second\n"
    "  % mem      that in percent of the memory bandwidth (host: reads; GPU:\n"
    "             bytes read and written by a copy)\n"
    "  x bf16     speed relative to bf16 in the same setting\n"
    "  x cublas   ... to a bf16 product by cuBLAS\n"
    "  x paper    ... to the paper's design\n"
    "\n"
    "Options:\n"
    "  --shape RxC,...      rows x columns (default: the paper's six)\n"
    "  --batch N,...        tokens (default 1,8,32)\n"
    "  --format F,...       {formats}, bf16, f32, f16\n"
    "                       (default: all but f16)\n"
    "  --variant V          only this implementation\n"
    "  --all-variants       every implementation, not only the preferred one,\n"
    "                       and the baseline cublas-bf16, whose inputs are "
    "bf16\n"
    "  --cache hot|cold     only one of the two\n"
    "  --cold-bytes SIZE    packed weights per format (default 0.6e9 bytes); "
    "on\n"
    "                       a GPU at least 4 times its cache\n"
    "  --repeat N           samples of each result (default 9)\n"
    "  --sample-ms N        length of a sample (default 30)\n"
    "  --thread-time        count processor time instead of wall time, for a\n"
    "                       busy machine; one CPU thread only\n"
    "  -b, --backend NAME   cpu, opencl, cuda, reference or auto (default "
    "cpu)\n"
    "  --device D           device of the backend (default: the first)\n"
    "  -t, --threads N,...  CPU threads (default 1)\n"
    "  --json               print one JSON document\n"
    "  --csv                print a table for spreadsheets\n"
    "  -h, --help           print this text\n"
    "\n"
    "Examples:\n"
    "  qmoe bench kernels --format {default},bf16 --cache cold\n"
    "  qmoe bench kernels --shape 768x3072 --threads 1,2 --json "
    ">kernels.json\n";

enum { MAX_LIST = 64 };

/* What the options say, as words; and the lists they become. */
typedef struct request {
    const char *shapes, *batches, *threads, *formats, *cache;
    const char *device;
    uint64_t n_rounds, sample_ms;
    bool as_json, as_csv;
    qmoe_bench_shape shape_list[MAX_LIST];
    int batch_list[MAX_LIST], thread_list[MAX_LIST];
    const char *format_list[MAX_LIST];
    char *format_text; /* what format_list points into */
    qmoe_bench_kernels_options options;
} request;

/* ---- lists ---- */

static cli_exit fail_list(const char *option, const char *text)
{
    return cli_bench_fail_list(&cli_verb_bench_kernels, option, text);
}

static cli_exit take_numbers(
    int *out, size_t *n, const char *option, const char *text)
{
    return cli_bench_take_numbers(
        out, n, MAX_LIST, &cli_verb_bench_kernels, option, text);
}

/* As cli_bench_take_numbers, in pairs: "RxC,RxC". */
static cli_exit take_shapes(request *r)
{
    const char *p = r->shapes;
    size_t n = 0;
    if (p == NULL)
        return CLI_OK;
    do {
        qmoe_bench_shape *s = &r->shape_list[n];
        if (n == MAX_LIST || !cli_bench_take_number(&s->rows, &p) ||
            *p++ != 'x' || !cli_bench_take_number(&s->cols, &p))
            return fail_list("shape", r->shapes);
        n++;
    } while (*p == ',' && p++);
    r->options.n_shapes = n;
    return *p == '\0' ? CLI_OK : fail_list("shape", r->shapes);
}

static cli_exit take_formats(request *r)
{
    size_t n = 0;
    if (r->formats == NULL)
        return CLI_OK;
    /* strtok writes into its text, and argv is not ours. */
    r->format_text = cli_grow(NULL, strlen(r->formats) + 1);
    strcpy(r->format_text, r->formats);
    for (char *p = strtok(r->format_text, ","); p != NULL;
         p = strtok(NULL, ",")) {
        if (n == MAX_LIST)
            return fail_list("format", r->formats);
        r->format_list[n++] = p;
    }
    r->options.n_formats = n;
    /* Commas alone name no format. */
    return n != 0 ? CLI_OK : fail_list("format", r->formats);
}

/* Both are measured unless one is named. */
static cli_exit take_cache(request *r)
{
    if (r->cache == NULL)
        return CLI_OK;
    if (strcmp(r->cache, "hot") == 0)
        r->options.cache = QMOE_BENCH_HOT;
    else if (strcmp(r->cache, "cold") == 0)
        r->options.cache = QMOE_BENCH_COLD;
    else
        return cli_fail(CLI_USAGE,
            "bench kernels: --cache: '%s' is neither hot nor cold", r->cache);
    return CLI_OK;
}

/* Stops at the first mistake, so that one line names it. */
static cli_exit take_request(request *r)
{
    qmoe_bench_kernels_options *o = &r->options;
    cli_exit code = take_shapes(r);
    if (code == CLI_OK)
        code = take_numbers(r->batch_list, &o->n_batches, "batch", r->batches);
    if (code == CLI_OK)
        code =
            take_numbers(r->thread_list, &o->n_threads, "threads", r->threads);
    if (code == CLI_OK)
        code = take_formats(r);
    if (code == CLI_OK)
        code = take_cache(r);
    const cli_idle rules[] = {
        {r->as_json, "csv", "--json and --csv exclude each other"},
        {o->variant != NULL, "all-variants", "--variant names the only one"},
        {o->cache == QMOE_BENCH_HOT, "cold-bytes",
            "--cache hot takes one matrix"},
    };
    if (code == CLI_OK)
        code = cli_refuse_idle(
            &cli_verb_bench_kernels, rules, sizeof rules / sizeof *rules);
    /* Pointers into `r`, which outlives the measurement; lists of length 0 mean
     * the library's defaults. */
    o->shapes = r->shape_list;
    o->batches = r->batch_list;
    o->threads = r->thread_list;
    o->formats = r->format_list;
    o->device_name = r->device;
    o->n_rounds = (int)r->n_rounds;
    o->sample_ms = (double)r->sample_ms;
    return code;
}

/* ---- output ---- */

static const char *cache_name(const qmoe_bench_kernel *k)
{
    return k->hot ? "hot" : "cold";
}

/* 0: the partner was not measured in this setting. */
static void print_ratio(int width, double ratio)
{
    if (ratio > 0)
        printf(" %*.2f", width, ratio);
    else
        printf(" %*s", width, "-");
}

/* Widths fit the longest names; a table is for reading, --json and --csv are
 * for programs. */
static void print_table(const qmoe_bench_kernels_report *r)
{
    cli_bench_print_machine(&r->device);
    cli_bench_print_bandwidth(r->bandwidth, r->n_bandwidth);
    if (r->copy_gbytes_per_s > 0)
        printf("memory copied by the device: %.1f GB/s read and written\n",
            r->copy_gbytes_per_s);
    printf("%-12s %-22s %-10s %5s %3s %-4s %8s %8s %8s %7s %5s %6s %8s %7s\n",
        "format", "variant", "shape", "batch", "thr", "from", "Gw/s", "p10",
        "p90", "GB/s", "% mem", "x bf16", "x cublas", "x paper");
    for (size_t i = 0; i < r->n_results; i++) {
        const qmoe_bench_kernel *k = &r->results[i];
        char shape[48];
        snprintf(shape, sizeof shape, "%" PRId64 "x%" PRId64, k->rows, k->cols);
        printf("%-12s %-22s %-10s %5d %3d %-4s %8.2f %8.2f %8.2f %7.2f",
            k->format, k->variant, shape, k->batch, k->threads, cache_name(k),
            k->gweights_per_s, k->p10, k->p90, k->gbytes_per_s);
        printf(" %5.1f", 100 * k->bandwidth_share);
        print_ratio(6, k->ratio_bf16);
        print_ratio(8, k->ratio_cublas);
        print_ratio(7, k->ratio_paper);
        putchar('\n');
    }
}

/* A header and a line per result, without the machine: for sheets that hold
 * several runs. */
static void print_csv(const qmoe_bench_kernels_report *r)
{
    puts("format,variant,rows,cols,batch,threads,cache,gweights_per_s,p10,p90,"
         "gbytes_per_s,bandwidth_share,ratio_bf16,ratio_cublas,ratio_paper");
    for (size_t i = 0; i < r->n_results; i++) {
        const qmoe_bench_kernel *k = &r->results[i];
        printf("%s,%s,%" PRId64 ",%" PRId64 ",%d,%d,%s,%.6g,%.6g,%.6g,%.6g,",
            k->format, k->variant, k->rows, k->cols, k->batch, k->threads,
            cache_name(k), k->gweights_per_s, k->p10, k->p90, k->gbytes_per_s);
        printf("%.6g", k->bandwidth_share);
        /* Empty: spreadsheets take it for a missing value. */
        const double ratios[] = {
            k->ratio_bf16, k->ratio_cublas, k->ratio_paper};
        for (int j = 0; j < 3; j++)
            if (ratios[j] > 0)
                printf(",%.6g", ratios[j]);
            else
                putchar(',');
        putchar('\n');
    }
}

/* One result; names are those of the columns in the CSV. */
static cJSON *json_kernel(const qmoe_bench_kernel *k)
{
    cJSON *json = cJSON_CreateObject();
    cli_json_text(json, "format", k->format);
    cli_json_text(json, "variant", k->variant);
    cli_json_count(json, "rows", (uint64_t)k->rows);
    cli_json_count(json, "cols", (uint64_t)k->cols);
    cli_json_count(json, "batch", (uint64_t)k->batch);
    cli_json_count(json, "threads", (uint64_t)k->threads);
    cli_json_text(json, "cache", cache_name(k));
    cli_json_real(json, "gweights_per_s", k->gweights_per_s);
    cli_json_real(json, "gbytes_per_s", k->gbytes_per_s);
    cli_json_real(json, "p10", k->p10);
    cli_json_real(json, "p90", k->p90);
    /* Absent where it is not known: readers cannot take it for a zero. */
    if (k->bandwidth_share > 0)
        cli_json_real(json, "bandwidth_share", k->bandwidth_share);
    if (k->ratio_bf16 > 0)
        cli_json_real(json, "ratio_bf16", k->ratio_bf16);
    if (k->ratio_cublas > 0)
        cli_json_real(json, "ratio_cublas", k->ratio_cublas);
    if (k->ratio_paper > 0)
        cli_json_real(json, "ratio_paper", k->ratio_paper);
    return json;
}

static void print_json(const qmoe_bench_kernels_report *r)
{
    cJSON *json = cJSON_CreateObject();
    /* A document to keep: build and machine come first. */
    cli_bench_add_machine(json, &r->device, &r->facts);
    cli_json_count(json, "cold_bytes", r->cold_bytes);
    if (r->copy_gbytes_per_s > 0)
        cli_json_real(json, "copy_gbytes_per_s", r->copy_gbytes_per_s);
    else
        cJSON_AddNullToObject(json, "copy_gbytes_per_s");
    /* Of the first thread count; a GPU's memory is not read, but copied. */
    if (r->n_bandwidth != 0)
        cli_json_real(json, "read_gbytes_per_s", r->bandwidth[0].gbytes_per_s);
    else
        cJSON_AddNullToObject(json, "read_gbytes_per_s");
    cli_bench_add_bandwidth(json, r->bandwidth, r->n_bandwidth);
    cJSON *list = cJSON_AddArrayToObject(json, "results");
    for (size_t i = 0; i < r->n_results; i++)
        cJSON_AddItemToArray(list, json_kernel(&r->results[i]));
    cli_json_print(json);
}

/* ---- the run ---- */

/* The report has results in the order in which they are printed; a failure
 * in the middle prints none of them. */
static cli_exit measure(const request *r, const cli_session *s)
{
    qmoe_bench_kernels_report report;
    qmoe_status status = qmoe_bench_kernels(s->context, &report, &r->options);
    if (status != QMOE_OK)
        return cli_fail_status(s, status);
    cli_clear_progress();
    if (r->as_json)
        print_json(&report);
    else if (r->as_csv)
        print_csv(&report);
    else
        print_table(&report);
    qmoe_bench_kernels_free(&report);
    return CLI_OK;
}

static cli_exit run(int argc, char **argv)
{
    enum { MAX_ROUNDS = 101, MAX_SAMPLE_MS = 60000 };
    /* The CPU is the default here, unlike elsewhere: it is there on every
     * machine, so results can be compared. */
    request r = {
        .n_rounds = 9,
        .sample_ms = 30,
        .options = {.size = sizeof r.options, .backend = "cpu"},
    };
    qmoe_bench_kernels_options *o = &r.options;
    const cli_option table[] = {
        {"shape", 0, CLI_TEXT, &r.shapes, 0, 0},
        {"batch", 0, CLI_TEXT, &r.batches, 0, 0},
        {"format", 0, CLI_TEXT, &r.formats, 0, 0},
        {"variant", 0, CLI_TEXT, &o->variant, 0, 0},
        {"all-variants", 0, CLI_SET, &o->all_variants, 0, 0},
        {"cache", 0, CLI_TEXT, &r.cache, 0, 0},
        {"cold-bytes", 0, CLI_SIZE, &o->cold_bytes, 0, 0},
        {"repeat", 0, CLI_COUNT, &r.n_rounds, 1, MAX_ROUNDS},
        {"sample-ms", 0, CLI_COUNT, &r.sample_ms, 1, MAX_SAMPLE_MS},
        {"thread-time", 0, CLI_SET, &o->thread_time, 0, 0},
        {"backend", 'b', CLI_TEXT, &o->backend, 0, 0},
        {"device", 0, CLI_TEXT, &r.device, 0, 0},
        {"threads", 't', CLI_TEXT, &r.threads, 0, 0},
        {"json", 0, CLI_SET, &r.as_json, 0, 0},
        {"csv", 0, CLI_SET, &r.as_csv, 0, 0},
    };
    cli_session s = {0};
    cli_exit code;
    if (!cli_parse(&code, NULL, NULL, &cli_verb_bench_kernels, argc, argv,
            table, sizeof table / sizeof *table))
        return code;
    /* After the context's failure cli_close still has a zeroed session. */
    code = take_request(&r);
    if (code == CLI_OK)
        code = cli_open_context(&s, 0);
    if (code == CLI_OK)
        code = measure(&r, &s);
    cli_close(&s);
    free(r.format_text);
    return code;
}

const cli_verb cli_verb_bench_kernels = {
    "bench kernels", "products in every format", help, run};
