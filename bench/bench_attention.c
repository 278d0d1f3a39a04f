/* SPDX-License-Identifier: Apache-2.0
 * qmoe_bench_attention.  In: a shape, lists of key and thread counts.  Out: a
 * result per thread count, key count and variant.  Keys and values of many
 * sequences lie back to back in two buffers, and every call takes the next
 * sequence, so that none is still in a cache.  Variants are timed in turn, so
 * that all see the same machine. */
#include "qmoe/bench.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "bench_bandwidth.h"
#include "bench_setting.h"
#include "cancel.h"
#include "context.h"
#include "kv_rows.h"
#include "place.h"

/* Bounds that keep products of them within 64 bits. */
enum {
    MAX_VARIANTS = 8,
    MAX_HEADS = 1024,
    MAX_THREADS = 1024,
    MAX_KEYS = 1 << 20
};

static const int usual_keys[] = {1024, 4096, 16384}, one_thread[] = {1};
/* Many times the largest caches of processors today. */
static const uint64_t usual_cold_bytes = 600 * 1000 * 1000;

typedef struct contender {
    const qmi_variant *variant;
    int64_t next, n_calls; /* sequence, calls per sample */
    double samples[QMI_BENCH_MAX_ROUNDS];
} contender;

typedef struct bench {
    qmoe_context *context;
    qmi_error *err;
    qmoe_bench_attention_options options; /* defaults filled in */
    qmoe_bench_attention_report *report;
    qmi_place place;
    qmi_device *device;
    qmi_kv_type kv_type;
    int threads; /* of the device */
    /* Of the key count at hand. */
    qmi_buffer *q, *dst, *k, *v, *spans;
    int n_keys;
    int64_t n_sequences;
    contender contenders[MAX_VARIANTS];
    size_t n_contenders;
    uint64_t n_done;
} bench;

/* Of the queries, of a key. */
static int64_t query_width(const bench *b)
{
    return (int64_t)b->options.n_heads * b->options.d_head;
}

static int64_t key_width(const bench *b)
{
    return (int64_t)b->options.n_kv_heads * b->options.d_head;
}

/* Of one sequence. */
static double key_bytes(const bench *b)
{
    return 2.0 * (double)b->n_keys *
           (double)qmi_kv_row_bytes(b->kv_type, key_width(b));
}

/* Pairs of a query and a key that it sees.  The queries are the last of the
 * sequence: the last sees all keys, each before it one less. */
static double n_pairs(const bench *b)
{
    const double n = b->options.n_queries;
    return n * ((double)b->n_keys - (n - 1) / 2);
}

static qmi_op operation(const bench *b, int64_t sequence)
{
    const qmoe_bench_attention_options *o = &b->options;
    return (qmi_op){
        .kind = QMI_OP_ATTENTION,
        .u.attention =
            {
                .dst = {b->dst, 0},
                .q = {b->q, 0},
                .k = {b->k, 0},
                .v = {b->v, 0},
                .spans = {b->spans,
                    (uint64_t)sequence * sizeof(qmi_attention_span)},
                .n_spans = 1,
                .n_queries = o->n_queries,
                .n_heads = o->n_heads,
                .n_kv_heads = o->n_kv_heads,
                .kv_type = b->kv_type,
                .d_key = o->d_head,
                .d_value = o->d_head,
                .max_keys = b->n_keys,
                .scale = 0.125f,
                .causal = true,
            },
    };
}

/* ---- operands ---- */

/* Knuth's multiplicative hash: values of -1 to 1, the same on every machine. */
static float made_up(uint64_t i)
{
    return (float)(i * 2654435761u % 2001) * 1e-3f - 1.0f;
}

static qmoe_status fill(bench *b, qmi_buffer **out, uint64_t n_rows,
    int64_t width, qmi_kv_type type, uint64_t seed)
{
    const uint64_t row_bytes = qmi_kv_row_bytes(type, width);
    QMI_TRY(b->place.backend->buffer_alloc(
        out, b->device, n_rows * row_bytes, b->err));
    float *row = qmi_calloc((size_t)width, sizeof *row, "a row", b->err);
    if (row == NULL)
        return QMOE_E_NOMEM;
    uint8_t *to = qmi_host_pointer((qmi_view){*out, 0});
    /* Written by this thread, so the pages are there before anything is
     * timed. */
    for (uint64_t r = 0; r < n_rows; r++, to += row_bytes) {
        for (int64_t i = 0; i < width; i++)
            row[i] = made_up(seed++);
        qmi_kv_pack(to, type, row, width);
    }
    qmi_free(row);
    return qmi_check_cancel(b->err);
}

/* A span per sequence: a call takes another by its offset alone. */
static qmoe_status make_spans(bench *b)
{
    const uint64_t n = (uint64_t)b->n_sequences;
    QMI_TRY(b->place.backend->buffer_alloc(
        &b->spans, b->device, n * sizeof(qmi_attention_span), b->err));
    qmi_attention_span *spans = qmi_host_pointer((qmi_view){b->spans, 0});
    for (uint64_t i = 0; i < n; i++)
        spans[i] = (qmi_attention_span){
            .q_len = b->options.n_queries,
            .k_begin = (int32_t)(i * (uint64_t)b->n_keys),
            .k_len = b->n_keys,
            .q_pos = b->n_keys - b->options.n_queries,
        };
    return QMOE_OK;
}

static void free_operands(bench *b)
{
    qmi_buffer **const all[] = {&b->q, &b->dst, &b->k, &b->v, &b->spans};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        b->place.backend->buffer_free(b->device, *all[i]);
        *all[i] = NULL;
    }
}

static qmoe_status make_operands(bench *b)
{
    const uint64_t n_queries = (uint64_t)b->options.n_queries;
    /* Rounded up: at least the bytes that were asked for. */
    b->n_sequences =
        (int64_t)((double)b->options.cold_bytes / key_bytes(b)) + 1;
    const uint64_t n_rows = (uint64_t)b->n_sequences * (uint64_t)b->n_keys;
    /* Rows are numbered in 32 bits. */
    if (n_rows > INT32_MAX)
        return qmi_fail(b->err, QMOE_E_INVALID,
            "%" PRIu64 " bytes of keys and values are too many for this shape",
            b->options.cold_bytes);
    QMI_TRY(fill(b, &b->q, n_queries, query_width(b), QMI_KV_F32, 1));
    QMI_TRY(fill(b, &b->dst, n_queries, query_width(b), QMI_KV_F32, 2));
    QMI_TRY(fill(b, &b->k, n_rows, key_width(b), b->kv_type, 3));
    QMI_TRY(fill(b, &b->v, n_rows, key_width(b), b->kv_type, 4));
    return make_spans(b);
}

/* ---- timing ---- */

/* Seconds of one call; `next` goes on from sample to sample. */
static qmoe_status call(bench *b, contender *c, double *seconds)
{
    const double begin = qmi_bench_now(b->options.thread_time);
    for (int64_t i = 0; i < c->n_calls; i++) {
        QMI_TRY(qmi_check_cancel(b->err));
        const qmi_op op = operation(b, c->next);
        QMI_TRY(c->variant->run(b->device, &op, b->err));
        c->next = (c->next + 1) % b->n_sequences;
    }
    *seconds =
        (qmi_bench_now(b->options.thread_time) - begin) / (double)c->n_calls;
    return QMOE_OK;
}

/* Doubling until a quarter of a sample is reached: from there the clock is
 * exact enough to scale up. */
static qmoe_status choose_n_calls(bench *b, contender *c)
{
    const double wanted = 1e-3 * b->options.sample_ms;
    double seconds = 0;
    for (c->n_calls = 1;; c->n_calls *= 2) {
        QMI_TRY(call(b, c, &seconds));
        if (seconds * (double)c->n_calls >= wanted / 4)
            break;
    }
    c->n_calls = (int64_t)(wanted / seconds) + 1;
    return QMOE_OK;
}

/* The first that takes the shape is the one a session would run. */
static void choose_variants(bench *b)
{
    const qmi_op op = operation(b, 0);
    size_t n = 0;
    const qmi_variant *all =
        b->place.backend->variants(b->device, QMI_OP_ATTENTION, &n);
    b->n_contenders = 0;
    for (size_t i = 0; i < n && b->n_contenders < MAX_VARIANTS; i++)
        if (all[i].supports(b->device, &op) &&
            (b->options.all_variants || b->n_contenders == 0))
            b->contenders[b->n_contenders++] = (contender){.variant = &all[i]};
}

static void add_result(bench *b, contender *c)
{
    qmoe_bench_attention_report *r = b->report;
    const qmi_bench_spread seconds =
        qmi_bench_spread_of(c->samples, (size_t)b->options.n_rounds);
    /* Multiply-adds: one for the score and one for the value per pair and
     * channel. */
    const double gmacs = 2e-9 * n_pairs(b) * (double)query_width(b);
    /* The bandwidth of this thread count was measured last. */
    const double memory = r->bandwidth[r->n_bandwidth - 1].gbytes_per_s;
    const double gbytes_per_s = 1e-9 * key_bytes(b) / seconds.median;
    /* p10 of a speed is p90 of its time. */
    r->results[r->n_results++] = (qmoe_bench_attention_result){
        .variant = c->variant->name,
        .n_queries = b->options.n_queries,
        .n_keys = b->n_keys,
        .threads = b->threads,
        .gmacs_per_s = gmacs / seconds.median,
        .p10 = gmacs / seconds.p90,
        .p90 = gmacs / seconds.p10,
        .gbytes_per_s = gbytes_per_s,
        .bandwidth_share = gbytes_per_s / memory,
    };
}

static qmoe_status time_variants(bench *b)
{
    choose_variants(b);
    for (size_t i = 0; i < b->n_contenders; i++)
        QMI_TRY(choose_n_calls(b, &b->contenders[i]));
    /* Rounds outside, variants inside: a disturbance hits all of them alike. */
    for (int round = 0; round < b->options.n_rounds; round++)
        for (size_t i = 0; i < b->n_contenders; i++) {
            contender *c = &b->contenders[i];
            QMI_TRY(call(b, c, &c->samples[round]));
        }
    for (size_t i = 0; i < b->n_contenders; i++)
        add_result(b, &b->contenders[i]);
    return QMOE_OK;
}

static qmoe_status run_keys(bench *b, int n_keys)
{
    char item[64];
    /* Operands of one key count at a time: the buffers are large. */
    const qmoe_bench_attention_options *o = &b->options;
    snprintf(item, sizeof item, "%d keys, %d threads", n_keys, b->threads);
    QMI_TRY(qmi_progress(&b->context->hooks, "bench", item, b->n_done++,
        o->n_threads * o->n_keys));
    b->n_keys = n_keys;
    qmoe_status status = make_operands(b);
    if (status == QMOE_OK)
        status = time_variants(b);
    free_operands(b);
    return status;
}

/* Bandwidth before the device is opened, so that no thread of it runs. */
static qmoe_status run_threads(bench *b, int threads)
{
    const qmoe_bench_attention_options *o = &b->options;
    const qmi_device_options device = {.n_threads = threads};
    qmoe_bench_bandwidth *r = &b->report->bandwidth[b->report->n_bandwidth++];
    r->threads = b->threads = threads;
    QMI_TRY(qmi_bench_read_bandwidth(
        &r->gbytes_per_s, threads, o->thread_time, b->err));
    QMI_TRY(b->place.backend->device_open(
        &b->device, b->place.info.index, &device, b->err));
    qmoe_status status = QMOE_OK;
    for (size_t i = 0; i < o->n_keys && status == QMOE_OK; i++)
        status = run_keys(b, o->keys[i]);
    b->place.backend->device_close(b->device);
    b->device = NULL;
    return status;
}

static qmoe_status run_all(bench *b)
{
    const qmoe_bench_attention_options *o = &b->options;
    qmoe_bench_attention_report *r = b->report;
    r->device = b->place.info;
    r->n_heads = o->n_heads;
    r->n_kv_heads = o->n_kv_heads;
    r->d_head = o->d_head;
    r->kv_type = qmi_kv_type_name(b->kv_type);
    r->bandwidth =
        qmi_calloc(o->n_threads, sizeof *r->bandwidth, "results", b->err);
    /* Room for every variant of every setting; what is not filled is not
     * counted. */
    r->results = qmi_calloc(o->n_threads * o->n_keys * MAX_VARIANTS,
        sizeof *r->results, "results", b->err);
    if (r->bandwidth == NULL || r->results == NULL)
        return QMOE_E_NOMEM;
    for (size_t i = 0; i < o->n_threads; i++)
        QMI_TRY(run_threads(b, o->threads[i]));
    return qmi_progress(
        &b->context->hooks, "bench", NULL, b->n_done, b->n_done);
}

/* ---- options ---- */

/* 0 stands for "not given". */
static void fill_defaults(qmoe_bench_attention_options *o)
{
    o->n_heads = o->n_heads != 0 ? o->n_heads : 12;
    o->n_kv_heads = o->n_kv_heads != 0 ? o->n_kv_heads : o->n_heads;
    o->d_head = o->d_head != 0 ? o->d_head : 64;
    o->n_queries = o->n_queries != 0 ? o->n_queries : 1;
    if (o->n_keys == 0) {
        o->keys = usual_keys;
        o->n_keys = sizeof usual_keys / sizeof *usual_keys;
    }
    if (o->n_threads == 0) {
        o->threads = one_thread;
        o->n_threads = 1;
    }
    o->n_rounds = o->n_rounds != 0 ? o->n_rounds : 9;
    o->sample_ms = o->sample_ms != 0 ? o->sample_ms : 30;
    o->cold_bytes = o->cold_bytes != 0 ? o->cold_bytes : usual_cold_bytes;
}

/* Lists come from outside of the library. */
static qmoe_status check_lists(const bench *b)
{
    const qmoe_bench_attention_options *o = &b->options;
    if (o->keys == NULL || o->threads == NULL)
        return qmi_fail(b->err, QMOE_E_INVALID, "a list is NULL");
    /* All queries are among the keys. */
    for (size_t i = 0; i < o->n_keys; i++)
        if (o->keys[i] < o->n_queries || o->keys[i] > MAX_KEYS)
            return qmi_fail(b->err, QMOE_E_INVALID,
                "%d keys are out of range: %d (the queries) to %d are possible",
                o->keys[i], o->n_queries, MAX_KEYS);
    for (size_t i = 0; i < o->n_threads; i++) {
        if (o->threads[i] < 1 || o->threads[i] > MAX_THREADS)
            return qmi_fail(b->err, QMOE_E_INVALID,
                "%d threads are out of range: 1 to %d are possible",
                o->threads[i], MAX_THREADS);
        if (o->thread_time && o->threads[i] != 1)
            return qmi_fail(b->err, QMOE_E_INVALID,
                "thread_time needs one thread of the CPU");
    }
    return QMOE_OK;
}

static qmoe_status check_options(bench *b)
{
    const qmoe_bench_attention_options *o = &b->options;
    if (o->n_heads < 1 || o->n_heads > MAX_HEADS || o->d_head < 1 ||
        o->d_head > MAX_HEADS)
        return qmi_fail(b->err, QMOE_E_INVALID,
            "%d heads of width %d are out of range: 1 to %d are possible",
            o->n_heads, o->d_head, MAX_HEADS);
    if (o->n_kv_heads < 1 || o->n_heads % o->n_kv_heads != 0)
        return qmi_fail(b->err, QMOE_E_INVALID,
            "%d heads cannot share %d heads of keys and values evenly",
            o->n_heads, o->n_kv_heads);
    if (o->n_queries < 1)
        return qmi_fail(b->err, QMOE_E_INVALID,
            "%d queries are out of range: at least 1 is needed", o->n_queries);
    if (o->n_rounds < 1 || o->n_rounds > QMI_BENCH_MAX_ROUNDS)
        return qmi_fail(b->err, QMOE_E_INVALID,
            "%d rounds are out of range: 1 to %d are possible", o->n_rounds,
            QMI_BENCH_MAX_ROUNDS);
    if (!(o->sample_ms > 0 && o->sample_ms <= 60000))
        return qmi_fail(b->err, QMOE_E_INVALID,
            "samples of %g ms are out of range", o->sample_ms);
    QMI_TRY(qmi_kv_type_find(&b->kv_type, o->kv_type, b->err));
    return check_lists(b);
}

qmoe_status qmoe_bench_attention(qmoe_context *context,
    qmoe_bench_attention_report *out,
    const qmoe_bench_attention_options *options)
{
    if (out != NULL)
        *out = (qmoe_bench_attention_report){0};
    QMI_TRY(qmi_call_begin(qmi_hooks_of(context), __func__, out == NULL));
    qmi_hooks *hooks = &context->hooks;
    /* On the heap: samples of all variants are too large for a stack. */
    bench *b = qmi_calloc(1, sizeof *b, "a bench", &hooks->error);
    if (b == NULL)
        return qmi_call_end(hooks, QMOE_E_NOMEM);
    b->context = context;
    b->err = &hooks->error;
    b->report = out;
    qmi_copy_options(&b->options, sizeof b->options, options);
    fill_defaults(&b->options);
    qmoe_status status = check_options(b);
    if (status == QMOE_OK)
        status = qmi_place_choose(
            &b->place, context, QMI_HOST_BACKEND, 0, NULL, b->err);
    if (status == QMOE_OK)
        status = run_all(b);
    qmi_free(b);
    if (status != QMOE_OK)
        qmoe_bench_attention_free(out);
    return qmi_call_end(hooks, status);
}

void qmoe_bench_attention_free(qmoe_bench_attention_report *report)
{
    if (report == NULL)
        return;
    qmi_free(report->bandwidth);
    qmi_free(report->results);
    *report = (qmoe_bench_attention_report){0};
}
