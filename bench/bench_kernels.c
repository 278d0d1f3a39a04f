/* SPDX-License-Identifier: Apache-2.0
 * Timing of products (bench_kernels.h). */
#include "bench_kernels.h"

#include <stdlib.h>
#include <time.h>

#include "alloc.h"
#include "bench_weights.h"
#include "bench_bandwidth.h"

enum { MAX_CONTENDERS = 32, MAX_ROUNDS = 101, N_FORMATS = 8 };

static const int64_t shapes[][2] = {
    {768, 3072},
    {3072, 768},
    {1024, 4096},
    {4096, 1024},
    {2080, 6144},
    {6144, 2080},
};
static const int64_t batches[] = {1, 8, 32};

typedef struct contender {
    const qmi_weight *weight;
    const qmi_variant *variant;
    int64_t next_mat;
    double samples[MAX_ROUNDS]; /* seconds per call */
    int64_t n_calls;            /* per sample */
} contender;

typedef struct bench {
    const qmi_backend *backend;
    bench_options options;
    qmi_device *device;
    bench_stack stacks[N_FORMATS]; /* of the current shape */
    size_t n_stacks;
    qmi_buffer *src, *dst; /* of the current shape */
    contender contenders[MAX_CONTENDERS];
    size_t n_contenders;
    bench_report *report;
    size_t capacity;
} bench;

static double now(const bench *b)
{
    struct timespec t;
    clock_gettime(
        b->options.cpu_time ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- one setting ---- */

static qmi_op make_op(
    const bench *b, const qmi_bound_weight *bound, int64_t mat, int64_t batch)
{
    return (qmi_op){
        .kind = QMI_OP_LINEAR,
        .u.linear =
            {
                .dst = {b->dst, 0},
                .src = {b->src, 0},
                .weight = bound,
                .mat = mat,
                .n_tokens = batch,
                .alpha = 1.0f,
            },
    };
}

static qmoe_status call(bench *b, contender *c, int64_t n_calls, int64_t batch,
    bool hot, qmi_error *err)
{
    qmi_bound_weight bound;
    QMI_TRY(b->backend->weight_bind(&bound, b->device, c->weight, err));
    qmoe_status status = QMOE_OK;
    for (int64_t i = 0; i < n_calls && status == QMOE_OK; i++) {
        const int64_t mat = hot ? 0 : c->next_mat;
        const qmi_op op = make_op(b, &bound, mat, batch);
        status = c->variant->run(b->device, &op, err);
        c->next_mat = (c->next_mat + 1) % c->weight->n_mats;
    }
    if (status == QMOE_OK)
        status = b->backend->sync(b->device, err);
    b->backend->weight_unbind(b->device, &bound);
    return status;
}

static qmoe_status find_n_calls(
    bench *b, contender *c, int64_t batch, bool hot, qmi_error *err)
{
    double seconds = 0;
    for (c->n_calls = 1;; c->n_calls *= 2) {
        const double begin = now(b);
        QMI_TRY(call(b, c, c->n_calls, batch, hot, err));
        seconds = now(b) - begin;
        if (seconds >= 1e-3 * b->options.sample_ms / 4)
            break;
    }
    const double wanted = 1e-3 * b->options.sample_ms / seconds;
    c->n_calls = (int64_t)((double)c->n_calls * wanted) + 1;
    return QMOE_OK;
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static qmoe_status add_result(
    bench *b, contender *c, int64_t batch, bool hot, qmi_error *err)
{
    bench_report *report = b->report;
    if (report->n_results == b->capacity) {
        const size_t more = b->capacity != 0 ? 2 * b->capacity : 64;
        bench_result *grown = qmi_regrow(
            report->results, b->capacity, more, sizeof *grown, "results", err);
        if (grown == NULL)
            return QMOE_E_NOMEM;
        report->results = grown;
        b->capacity = more;
    }
    const qmi_weight *w = c->weight;
    const int n = b->options.n_rounds;
    const double macs = (double)w->n_rows * (double)w->n_cols * (double)batch;
    const double n_bytes = (double)qmi_weight_bytes(w) / (double)w->n_mats;
    qsort(c->samples, (size_t)n, sizeof *c->samples, compare_doubles);
    report->results[report->n_results++] = (bench_result){
        .format = w->format->name,
        .variant = c->variant->name,
        .rows = w->n_rows,
        .cols = w->n_cols,
        .batch = batch,
        .threads = b->options.threads,
        .hot = hot,
        .gweights_per_s = 1e-9 * macs / c->samples[n / 2],
        .p10 = 1e-9 * macs / c->samples[n - 1 - n / 10],
        .p90 = 1e-9 * macs / c->samples[n / 10],
        .gbytes_per_s = 1e-9 * n_bytes / c->samples[n / 2],
    };
    return QMOE_OK;
}

static void add_contenders(bench *b, const qmi_weight *w, int64_t batch)
{
    const qmi_bound_weight bound = {.host = w};
    const qmi_op op = make_op(b, &bound, 0, batch);
    const char *wanted = b->options.variant;
    size_t n = 0;
    const qmi_variant *variants =
        b->backend->variants(b->device, QMI_OP_LINEAR, &n);
    for (size_t i = 0; i < n && b->n_contenders < MAX_CONTENDERS; i++) {
        if (wanted != NULL && strcmp(wanted, variants[i].name) != 0)
            continue;
        if (!variants[i].supports(b->device, &op))
            continue;
        b->contenders[b->n_contenders++] =
            (contender){.weight = w, .variant = &variants[i]};
        if (!b->options.all_variants)
            break;
    }
}

static qmoe_status run_setting(
    bench *b, int64_t batch, bool hot, qmi_error *err)
{
    b->n_contenders = 0;
    for (size_t i = 0; i < b->n_stacks; i++)
        add_contenders(b, &b->stacks[i].weight, batch);
    for (size_t i = 0; i < b->n_contenders; i++)
        QMI_TRY(find_n_calls(b, &b->contenders[i], batch, hot, err));
    for (int round = 0; round < b->options.n_rounds; round++)
        for (size_t i = 0; i < b->n_contenders; i++) {
            contender *c = &b->contenders[i];
            const double begin = now(b);
            QMI_TRY(call(b, c, c->n_calls, batch, hot, err));
            c->samples[round] = (now(b) - begin) / (double)c->n_calls;
        }
    for (size_t i = 0; i < b->n_contenders; i++)
        QMI_TRY(add_result(b, &b->contenders[i], batch, hot, err));
    return QMOE_OK;
}

/* ---- one shape ---- */

static bool wants_format(const bench_options *o, const qmi_format *format)
{
    if (o->format != NULL)
        return strcmp(o->format, format->name) == 0;
    return !format->dense || format->dtype != QMI_F16;
}

static qmoe_status make_stacks(
    bench *b, int64_t rows, int64_t cols, qmi_error *err)
{
    const qmi_format *format;
    for (size_t i = 0; (format = qmi_format_at(i)) != NULL; i++) {
        if (!wants_format(&b->options, format) || b->n_stacks == N_FORMATS)
            continue;
        qmoe_status status = bench_stack_make(&b->stacks[b->n_stacks], format,
            rows, cols, b->options.cold_bytes, err);
        if (status == QMOE_E_UNSUPPORTED && b->options.format == NULL)
            continue; /* a format that no stack can be made of yet */
        QMI_TRY(status);
        b->n_stacks++;
    }
    return QMOE_OK;
}

static qmoe_status make_buffers(
    bench *b, int64_t rows, int64_t cols, qmi_error *err)
{
    const int64_t most = b->options.batch != 0 ? b->options.batch : 32;
    const uint64_t n = (uint64_t)(most * cols);
    QMI_TRY(b->backend->buffer_alloc(&b->src, b->device, n * 4, err));
    QMI_TRY(b->backend->buffer_alloc(
        &b->dst, b->device, (uint64_t)(most * rows) * 4, err));
    float *x = qmi_calloc(n, sizeof *x, "inputs", err);
    if (x == NULL)
        return QMOE_E_NOMEM;
    for (uint64_t i = 0; i < n; i++)
        x[i] = (float)(i * 2654435761u % 2001) * 1e-3f - 1.0f;
    qmoe_status status = b->backend->buffer_write(
        b->device, (qmi_view){b->src, 0}, x, n * 4, err);
    qmi_free(x);
    return status;
}

static void free_shape(bench *b)
{
    for (size_t i = 0; i < b->n_stacks; i++)
        bench_stack_free(&b->stacks[i]);
    b->n_stacks = 0;
    b->backend->buffer_free(b->device, b->src);
    b->backend->buffer_free(b->device, b->dst);
    b->src = b->dst = NULL;
}

static qmoe_status run_shape(
    bench *b, int64_t rows, int64_t cols, qmi_error *err)
{
    const bench_options *o = &b->options;
    QMI_TRY(make_stacks(b, rows, cols, err));
    QMI_TRY(make_buffers(b, rows, cols, err));
    for (size_t i = 0; i < sizeof batches / sizeof *batches; i++) {
        const int64_t batch = o->batch != 0 ? o->batch : batches[i];
        if (o->cache != 2)
            QMI_TRY(run_setting(b, batch, true, err));
        if (o->cache != 1)
            QMI_TRY(run_setting(b, batch, false, err));
        if (o->batch != 0)
            break;
    }
    return QMOE_OK;
}

static qmoe_status run_shapes(bench *b, qmi_error *err)
{
    const bench_options *o = &b->options;
    const size_t n = o->rows != 0 ? 1 : sizeof shapes / sizeof *shapes;
    for (size_t i = 0; i < n; i++) {
        const int64_t rows = o->rows != 0 ? o->rows : shapes[i][0];
        const int64_t cols = o->rows != 0 ? o->cols : shapes[i][1];
        qmoe_status status = run_shape(b, rows, cols, err);
        free_shape(b);
        QMI_TRY(status);
    }
    return QMOE_OK;
}

static bench_options with_defaults(const bench_options *given)
{
    bench_options o = *given;
    o.threads = o.threads != 0 ? o.threads : 1;
    o.n_rounds = o.n_rounds != 0 ? o.n_rounds : 9;
    o.n_rounds = o.n_rounds < MAX_ROUNDS ? o.n_rounds : MAX_ROUNDS;
    o.sample_ms = o.sample_ms > 0 ? o.sample_ms : 30;
    o.cold_bytes = o.cold_bytes != 0 ? o.cold_bytes : 600 * 1000 * 1000;
    return o;
}

qmoe_status bench_kernels(bench_report *out, const qmi_backend *backend,
    const bench_options *options, qmi_error *err)
{
    *out = (bench_report){0};
    bench *b = qmi_calloc(1, sizeof *b, "a bench", err);
    if (b == NULL)
        return QMOE_E_NOMEM;
    b->backend = backend;
    b->options = with_defaults(options);
    b->report = out;
    const qmi_device_options device = {.n_threads = b->options.threads};
    if (b->options.cpu_time && b->options.threads != 1) {
        qmi_free(b);
        return qmi_fail(
            err, QMOE_E_INVALID, "a thread's time is that of one thread");
    }
    qmoe_status status = backend->device_open(&b->device, 0, &device, err);
    if (status == QMOE_OK)
        status = bench_read_bandwidth(&out->read_gbytes_per_s,
            b->options.threads, b->options.cpu_time, err);
    if (status == QMOE_OK)
        status = run_shapes(b, err);
    if (b->device != NULL)
        backend->device_close(b->device);
    qmi_free(b);
    if (status != QMOE_OK)
        bench_report_free(out);
    return status;
}

void bench_report_free(bench_report *report)
{
    qmi_free(report->results);
    *report = (bench_report){0};
}
