/* SPDX-License-Identifier: Apache-2.0
 * qmoe bench attention: attention on the CPU over long contexts.  In: sizes and
 * lists.  Out: a table, or one JSON document of the same numbers.  The tool
 * only reads options and prints; bench/bench_attention.c measures. */
#include "bench.h"

static const char help[] =
    "Usage: qmoe bench attention [options]\n"
    "\n"
    "Times causal attention on the CPU: the last tokens of a sequence over "
    "all of\n"
    "its keys.  Every call takes another sequence, so keys and values come "
    "from\n"
    "memory.  Lists are separated by commas.\n"
    "\n"
    "Columns:\n"
    "  Gmac/s     1e9 multiply-adds per second, median of all samples\n"
    "  p10, p90   its spread\n"
    "  GB/s       bytes of keys and values per second, each counted once\n"
    "  % mem      that in percent of the memory bandwidth\n"
    "\n"
    "Options:\n"
    "  --keys N,...         keys of a sequence (default 1024,4096,16384)\n"
    "  --queries N          new tokens of a sequence (default 1: decoding)\n"
    "  --heads N            heads (default 12)\n"
    "  --kv-heads N         heads of keys and values, shared by as many heads\n"
    "                       of queries each (default: as many as heads)\n"
    "  --kv-type TYPE       keys and values as f32 (default), f16 or q8\n"
    "  --width N            width of a head (default 64)\n"
    "  --all-variants       every implementation, not only the preferred one\n"
    "  --cold-bytes SIZE    keys and values in memory (default 0.6e9 bytes)\n"
    "  --repeat N           samples of each result (default 9)\n"
    "  --sample-ms N        length of a sample (default 30)\n"
    "  --thread-time        count processor time instead of wall time, for a\n"
    "                       busy machine; one thread only\n"
    "  -t, --threads N,...  CPU threads (default 1)\n"
    "  --json               print one JSON document\n"
    "  -h, --help           print this text\n"
    "\n"
    "Examples:\n"
    "  qmoe bench attention --threads 1,2\n"
    "  qmoe bench attention --queries 2048 --keys 2048 --all-variants\n";

/* More than anybody reads; lists live on the stack. */
enum { MAX_LIST = 64 };

static void print_table(const qmoe_bench_attention_report *r)
{
    cli_bench_print_machine(&r->device);
    cli_bench_print_bandwidth(r->bandwidth, r->n_bandwidth);
    printf("%d heads of width %d, %d of keys in %s\n", r->n_heads, r->d_head,
        r->n_kv_heads, r->kv_type);
    printf("%-12s %7s %7s %3s %8s %8s %8s %7s %6s\n", "variant", "queries",
        "keys", "thr", "Gmac/s", "p10", "p90", "GB/s", "% mem");
    for (size_t i = 0; i < r->n_results; i++) {
        const qmoe_bench_attention_result *a = &r->results[i];
        printf("%-12s %7d %7d %3d %8.2f %8.2f %8.2f %7.2f %6.1f\n", a->variant,
            a->n_queries, a->n_keys, a->threads, a->gmacs_per_s, a->p10, a->p90,
            a->gbytes_per_s, 100 * a->bandwidth_share);
    }
}

static cJSON *json_result(const qmoe_bench_attention_result *a)
{
    cJSON *json = cJSON_CreateObject();
    cli_json_text(json, "variant", a->variant);
    cli_json_count(json, "queries", (uint64_t)a->n_queries);
    cli_json_count(json, "keys", (uint64_t)a->n_keys);
    cli_json_count(json, "threads", (uint64_t)a->threads);
    cli_json_real(json, "gmacs_per_s", a->gmacs_per_s);
    cli_json_real(json, "p10", a->p10);
    cli_json_real(json, "p90", a->p90);
    cli_json_real(json, "gbytes_per_s", a->gbytes_per_s);
    cli_json_real(json, "bandwidth_share", a->bandwidth_share);
    return json;
}

/* The numbers of the table, unrounded, after what they were measured on. */
static void print_json(const qmoe_bench_attention_report *r)
{
    cJSON *json = cJSON_CreateObject();
    cli_bench_add_machine(json, &r->device, NULL);
    cli_json_count(json, "heads", (uint64_t)r->n_heads);
    cli_json_count(json, "kv_heads", (uint64_t)r->n_kv_heads);
    cli_json_text(json, "kv_type", r->kv_type);
    cli_json_count(json, "width", (uint64_t)r->d_head);
    cli_bench_add_bandwidth(json, r->bandwidth, r->n_bandwidth);
    cJSON *list = cJSON_AddArrayToObject(json, "results");
    for (size_t i = 0; i < r->n_results; i++)
        cJSON_AddItemToArray(list, json_result(&r->results[i]));
    cli_json_print(json);
}

static cli_exit measure(
    const qmoe_bench_attention_options *o, const cli_session *s, bool as_json)
{
    qmoe_bench_attention_report report;
    const qmoe_status status = qmoe_bench_attention(s->context, &report, o);
    if (status != QMOE_OK)
        return cli_fail_status(s, status);
    cli_clear_progress();
    if (as_json)
        print_json(&report);
    else
        print_table(&report);
    qmoe_bench_attention_free(&report);
    return CLI_OK;
}

static cli_exit run(int argc, char **argv)
{
    /* Bounds that keep sizes and times far from overflow; the library checks
     * what fits memory. */
    enum { MAX_ROUNDS = 101, MAX_SAMPLE_MS = 60000, MAX_SIDE = 1024 };
    int keys[MAX_LIST], thread_counts[MAX_LIST];
    const char *key_text = NULL, *thread_text = NULL;
    uint64_t n_queries = 1, n_heads = 12, width = 64, n_rounds = 9;
    uint64_t n_kv_heads = 0, sample_ms = 30;
    bool as_json = false;
    qmoe_bench_attention_options o = {.size = sizeof o};
    const cli_verb *verb = &cli_verb_bench_attention;
    const cli_option table[] = {
        {"keys", 0, CLI_TEXT, &key_text, 0, 0},
        {"queries", 0, CLI_COUNT, &n_queries, 1, INT32_MAX},
        {"heads", 0, CLI_COUNT, &n_heads, 1, MAX_SIDE},
        {"kv-heads", 0, CLI_COUNT, &n_kv_heads, 1, MAX_SIDE},
        {"kv-type", 0, CLI_TEXT, &o.kv_type, 0, 0},
        {"width", 0, CLI_COUNT, &width, 1, MAX_SIDE},
        {"all-variants", 0, CLI_SET, &o.all_variants, 0, 0},
        {"cold-bytes", 0, CLI_SIZE, &o.cold_bytes, 0, 0},
        {"repeat", 0, CLI_COUNT, &n_rounds, 1, MAX_ROUNDS},
        {"sample-ms", 0, CLI_COUNT, &sample_ms, 1, MAX_SAMPLE_MS},
        {"thread-time", 0, CLI_SET, &o.thread_time, 0, 0},
        {"threads", 't', CLI_TEXT, &thread_text, 0, 0},
        {"json", 0, CLI_SET, &as_json, 0, 0},
    };
    cli_session s = {0};
    cli_exit code;
    if (!cli_parse(&code, NULL, NULL, verb, argc, argv, table,
            sizeof table / sizeof *table))
        return code;
    code = cli_bench_take_numbers(
        keys, &o.n_keys, MAX_LIST, verb, "keys", key_text);
    if (code == CLI_OK)
        code = cli_bench_take_numbers(thread_counts, &o.n_threads, MAX_LIST,
            verb, "threads", thread_text);
    /* Lists stay on this stack until the measurement has ended. */
    o.keys = keys;
    o.threads = thread_counts;
    o.n_queries = (int)n_queries;
    o.n_heads = (int)n_heads;
    o.n_kv_heads = (int)n_kv_heads;
    o.d_head = (int)width;
    o.n_rounds = (int)n_rounds;
    o.sample_ms = (double)sample_ms;
    if (code == CLI_OK)
        code = cli_open_context(&s, 0);
    if (code == CLI_OK)
        code = measure(&o, &s, as_json);
    cli_close(&s);
    return code;
}

const cli_verb cli_verb_bench_attention = {
    "bench attention", "attention over long contexts", help, run};
