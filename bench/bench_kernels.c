/* SPDX-License-Identifier: Apache-2.0
 * qmoe_bench_kernels: shapes, formats, settings.  In: lists of what to combine.
 * Out: a result for each combination that the backend can run.  A result is
 * checked before it is timed; contenders of one setting are timed in turn;
 * stacks of one shape exist at a time, since they are large. */
#include "qmoe/bench.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "bench_bandwidth.h"
#include "bench_results.h"
#include "bench_setting.h"
#include "bench_weights.h"
#include "context.h"
#include "place.h"

enum {
    MAX_CONTENDERS = 64,
    MAX_FORMATS = QMI_N_FORMATS,
    MAX_BATCH = 1024,
    MAX_THREADS = 1024,
    MAX_SIDE = 1 << 20,
    MAX_WEIGHTS = 1 << 28
};

/* Rows and columns of wi and wo of base, large and c-2048: the paper's
 * shapes. */
static const qmoe_bench_shape paper_shapes[] = {
    {768, 3072},
    {3072, 768},
    {1024, 4096},
    {4096, 1024},
    {2080, 6144},
    {6144, 2080},
};
static const int paper_batches[] = {1, 8, 32}, one_thread[] = {1};

/* A stack of one format, as the host and the device have it. */
typedef struct stack {
    qmi_bench_stack host;
    qmi_bound_weight bound;
    bool is_bound;
    qmi_bench_expected expected;
    qmi_bench_expected expected_bf16; /* of rounded inputs; empty without any */
} stack;

typedef struct bench {
    qmoe_context *context;
    qmi_error *err;
    qmoe_bench_kernels_options options; /* defaults filled in */
    const qmi_format *formats[MAX_FORMATS];
    size_t n_formats;
    qmi_place chosen;
    qmi_bench_place place;
    int threads;               /* of the open device */
    stack stacks[MAX_FORMATS]; /* of the current shape */
    size_t n_stacks;
    qmi_bench_contender contenders[MAX_CONTENDERS];
    size_t n_contenders;
    uint64_t n_done, n_settings;
    qmoe_bench_kernels_report *report;
    size_t capacity;
} bench;

/* ---- what others compute instead ---- */

static const qmi_variant *baselines(const bench *b, size_t *n)
{
    const qmi_backend *backend = b->place.backend;
    *n = 0;
    return backend->baselines != NULL
               ? backend->baselines(b->place.device, QMI_OP_LINEAR, n)
               : NULL;
}

/* Asked for by name or with everything: they cost another set of expected
 * results. */
static bool wants_baselines(const bench *b)
{
    size_t n = 0;
    const qmi_variant *all = baselines(b, &n);
    const char *wanted = b->options.variant;
    bool named = b->options.all_variants && wanted == NULL;
    for (size_t i = 0; i < n && wanted != NULL; i++)
        named = named || strcmp(wanted, all[i].name) == 0;
    return n != 0 && named;
}

/* The inputs rounded to bf16, on the device and, in x, as float32. */
static qmoe_status round_inputs(bench *b, float *x, uint64_t n)
{
    qmi_bench_place *p = &b->place;
    uint16_t *rounded = qmi_calloc(n, sizeof *rounded, "inputs", b->err);
    if (rounded == NULL)
        return QMOE_E_NOMEM;
    /* What is expected is computed from the rounded inputs, or the comparison
     * would measure the rounding. */
    for (uint64_t i = 0; i < n; i++)
        rounded[i] = qmi_f32_to_bf16(x[i]);
    qmi_widen(x, rounded, QMI_BF16, n);
    qmoe_status status =
        p->backend->buffer_alloc(&p->src_bf16, p->device, n * 2, b->err);
    if (status == QMOE_OK)
        status = p->backend->buffer_write(
            p->device, (qmi_view){p->src_bf16, 0}, rounded, n * 2, b->err);
    qmi_free(rounded);
    return status;
}

static qmoe_status prepare_baselines(bench *b, float *x, uint64_t n, int most)
{
    if (!wants_baselines(b))
        return QMOE_OK;
    QMI_TRY(round_inputs(b, x, n));
    for (size_t i = 0; i < b->n_stacks; i++) {
        stack *s = &b->stacks[i];
        /* The one format that the baselines take. */
        if (strcmp(s->host.weight.format->name, "bf16") == 0)
            QMI_TRY(qmi_bench_expected_make(
                &s->expected_bf16, &s->host.weight, x, most, b->err));
    }
    return QMOE_OK;
}

/* ---- one setting ---- */

/* Those of `variants` that are asked for and take the stack. */
static qmoe_status add_variants(bench *b, const qmi_bench_contender *like,
    int batch, const qmi_variant *variants, size_t n)
{
    const char *wanted = b->options.variant;
    /* Variants come best first, so the first is the one a session would run. */
    const bool first_only = !b->options.all_variants && wanted == NULL;
    const qmi_op op = qmi_bench_product(&b->place, like, 0, batch);
    for (size_t i = 0; i < n; i++) {
        if (wanted != NULL && strcmp(wanted, variants[i].name) != 0)
            continue;
        if (!variants[i].supports(b->place.device, &op))
            continue;
        if (b->n_contenders == MAX_CONTENDERS)
            return qmi_fail(b->err, QMOE_E_INTERNAL, "too many variants");
        b->contenders[b->n_contenders] = *like;
        b->contenders[b->n_contenders++].variant = &variants[i];
        if (first_only)
            break;
    }
    return QMOE_OK;
}

static qmoe_status add_contenders(bench *b, const stack *s, int batch)
{
    const qmi_bench_contender one = {
        .weight = &s->bound, .expected = &s->expected};
    const qmi_bench_contender other = {.weight = &s->bound,
        .expected = &s->expected_bf16,
        .is_baseline = true};
    size_t n = 0;
    const qmi_variant *variants =
        b->place.backend->variants(b->place.device, QMI_OP_LINEAR, &n);
    QMI_TRY(add_variants(b, &one, batch, variants, n));
    /* Only stacks of bf16 have a baseline. */
    if (s->expected_bf16.value == NULL)
        return QMOE_OK;
    variants = baselines(b, &n);
    return add_variants(b, &other, batch, variants, n);
}

static qmoe_status run_setting(
    bench *b, const qmoe_bench_shape *shape, int batch, bool hot)
{
    char item[96];
    /* Ratios compare results of one setting: they begin here. */
    const size_t first = b->report->n_results;
    snprintf(item, sizeof item, "%" PRId64 "x%" PRId64 " batch %d %s",
        shape->rows, shape->cols, batch, hot ? "hot" : "cold");
    QMI_TRY(qmi_progress(
        &b->context->hooks, "bench", item, b->n_done++, b->n_settings));
    b->n_contenders = 0;
    /* All formats of the setting together, so that they are timed in turn. */
    for (size_t i = 0; i < b->n_stacks; i++)
        QMI_TRY(add_contenders(b, &b->stacks[i], batch));
    QMI_TRY(qmi_bench_run_setting(
        &b->place, b->contenders, b->n_contenders, batch, hot, b->err));
    const qmoe_bench_kernel setting = {
        .batch = batch, .threads = b->threads, .hot = hot};
    for (size_t i = 0; i < b->n_contenders; i++)
        QMI_TRY(qmi_bench_add_result(b->report, &b->capacity, &b->contenders[i],
            b->place.n_rounds, &setting, b->err));
    qmi_bench_add_ratios(b->report, first);
    return QMOE_OK;
}

/* ---- one shape ---- */

/* Whatever was made; the device is still open. */
static void free_shape(bench *b)
{
    const qmi_backend *backend = b->place.backend;
    for (size_t i = 0; i < b->n_stacks; i++) {
        stack *s = &b->stacks[i];
        if (s->is_bound)
            backend->weight_unbind(b->place.device, &s->bound);
        qmi_bench_expected_free(&s->expected);
        qmi_bench_expected_free(&s->expected_bf16);
        qmi_bench_stack_free(&s->host);
        *s = (stack){0};
    }
    b->n_stacks = 0;
    /* Absent ones are NULL, which buffer_free takes. */
    backend->buffer_free(b->place.device, b->place.src);
    backend->buffer_free(b->place.device, b->place.dst);
    backend->buffer_free(b->place.device, b->place.src_bf16);
    qmi_free(b->place.result);
    b->place.src = b->place.dst = b->place.src_bf16 = NULL;
    b->place.result = NULL;
}

/* One more stack; a format the backend does not take is left out. */
static qmoe_status add_stack(bench *b, const qmi_format *format,
    const qmoe_bench_shape *shape, const float *x, int most)
{
    /* A GPU copies what it binds, so on the host all copies may be one. */
    stack *s = &b->stacks[b->n_stacks++];
    QMI_TRY(qmi_bench_stack_make(&s->host, format, shape->rows, shape->cols,
        b->options.cold_bytes,
        b->report->device.is_gpu ? QMI_BENCH_ALIASED : QMI_BENCH_IN_MEMORY,
        b->err));
    qmoe_status status = b->place.backend->weight_bind(
        &s->bound, b->place.device, &s->host.weight, b->err);
    /* Not every backend has every format: such a one is left out and is no
     * error. */
    if (status == QMOE_E_UNSUPPORTED) {
        qmi_bench_stack_free(&s->host);
        b->n_stacks--;
        return QMOE_OK;
    }
    s->is_bound = status == QMOE_OK;
    if (status == QMOE_OK)
        status = qmi_bench_expected_make(
            &s->expected, &s->host.weight, x, most, b->err);
    return status;
}

/* Inputs for the largest batch; smaller ones use the beginning. */
static qmoe_status make_shape(
    bench *b, const qmoe_bench_shape *shape, float *x, int most)
{
    qmi_bench_place *p = &b->place;
    const uint64_t n_x = (uint64_t)(most * shape->cols);
    const uint64_t n_y = (uint64_t)(most * shape->rows);
    p->result = qmi_calloc(n_y, sizeof *p->result, "results", b->err);
    if (p->result == NULL)
        return QMOE_E_NOMEM;
    QMI_TRY(p->backend->buffer_alloc(&p->src, p->device, n_x * 4, b->err));
    QMI_TRY(p->backend->buffer_alloc(&p->dst, p->device, n_y * 4, b->err));
    /* Knuth's multiplicative hash: values of -1 to 1, the same on every
     * machine. */
    for (uint64_t i = 0; i < n_x; i++)
        x[i] = (float)(i * 2654435761u % 2001) * 1e-3f - 1.0f;
    QMI_TRY(p->backend->buffer_write(
        p->device, (qmi_view){p->src, 0}, x, n_x * 4, b->err));
    for (size_t i = 0; i < b->n_formats; i++)
        QMI_TRY(add_stack(b, b->formats[i], shape, x, most));
    return prepare_baselines(b, x, n_x, most);
}

static int largest_batch(const qmoe_bench_kernels_options *o)
{
    int most = 0;
    for (size_t i = 0; i < o->n_batches; i++)
        most = o->batches[i] > most ? o->batches[i] : most;
    return most;
}

static qmoe_status run_shape(bench *b, const qmoe_bench_shape *shape)
{
    const qmoe_bench_kernels_options *o = &b->options;
    const int most = largest_batch(o);
    float *x =
        qmi_calloc((size_t)(most * shape->cols), sizeof *x, "inputs", b->err);
    if (x == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status = make_shape(b, shape, x, most);
    qmi_free(x);
    for (size_t i = 0; status == QMOE_OK && i < o->n_batches; i++) {
        /* Hot and cold one after the other, on the same stacks. */
        if (o->cache != QMOE_BENCH_COLD)
            status = run_setting(b, shape, o->batches[i], true);
        if (o->cache != QMOE_BENCH_HOT && status == QMOE_OK)
            status = run_setting(b, shape, o->batches[i], false);
    }
    free_shape(b);
    return status;
}

/* ---- all ---- */

/* A device per thread count: its threads are fixed when it is opened. */
static qmoe_status run_threads(bench *b, int threads)
{
    const qmoe_bench_kernels_options *o = &b->options;
    const qmi_device_options device = {.n_threads = threads};
    qmoe_bench_kernels_report *report = b->report;
    b->threads = threads;
    QMI_TRY(b->place.backend->device_open(
        &b->place.device, b->chosen.info.index, &device, b->err));
    qmoe_status status = QMOE_OK;
    /* A GPU's memory is copied, once; a host's is read, by as many threads as
     * the results that are compared with it. */
    if (report->device.is_gpu && report->copy_gbytes_per_s == 0) {
        status = qmi_bench_copy_bandwidth(&report->copy_gbytes_per_s,
            b->place.backend, b->place.device, o->cold_bytes, b->err);
    } else if (!report->device.is_gpu) {
        qmoe_bench_bandwidth *r = &report->bandwidth[report->n_bandwidth++];
        r->threads = threads;
        status = qmi_bench_read_bandwidth(
            &r->gbytes_per_s, threads, o->thread_time, b->err);
    }
    for (size_t i = 0; i < o->n_shapes && status == QMOE_OK; i++)
        status = run_shape(b, &o->shapes[i]);
    b->place.backend->device_close(b->place.device);
    b->place.device = NULL;
    return status;
}

static qmoe_status run_all(bench *b)
{
    const qmoe_bench_kernels_options *o = &b->options;
    qmoe_bench_kernels_report *report = b->report;
    report->device = b->chosen.info;
    report->cold_bytes = o->cold_bytes;
    report->bandwidth =
        qmi_calloc(o->n_threads, sizeof *report->bandwidth, "results", b->err);
    if (report->bandwidth == NULL)
        return QMOE_E_NOMEM;
    /* What the progress counts. */
    b->n_settings = (uint64_t)o->n_threads * o->n_shapes * o->n_batches *
                    (o->cache == QMOE_BENCH_BOTH ? 2 : 1);
    for (size_t i = 0; i < o->n_threads; i++)
        QMI_TRY(run_threads(b, o->threads[i]));
    /* Nothing fits the options: an empty table would look like a result. */
    if (report->n_results == 0)
        return qmi_fail(b->err, QMOE_E_UNSUPPORTED,
            "backend %s has no %s%s%sfor these options", b->place.backend->name,
            o->variant != NULL ? "variant '" : "product ",
            o->variant != NULL ? o->variant : "",
            o->variant != NULL ? "' " : "");
    /* Clocks as they are under this load. */
    if (b->place.backend->facts != NULL)
        QMI_TRY(b->place.backend->facts(
            &report->facts, b->chosen.info.index, b->err));
    return qmi_progress(
        &b->context->hooks, "bench", NULL, b->n_settings, b->n_settings);
}

/* ---- options ---- */

/* Lists come from outside of the library. */
static qmoe_status check_numbers(const bench *b)
{
    const qmoe_bench_kernels_options *o = &b->options;
    if (o->shapes == NULL || o->batches == NULL || o->threads == NULL ||
        (o->formats == NULL && o->n_formats != 0))
        return qmi_fail(b->err, QMOE_E_INVALID, "a list is NULL");
    for (size_t i = 0; i < o->n_shapes; i++) {
        const qmoe_bench_shape s = o->shapes[i];
        /* Sides first, so that the product cannot overflow. */
        if (s.rows < 1 || s.cols < 1 || s.rows > MAX_SIDE ||
            s.cols > MAX_SIDE || s.rows * s.cols > MAX_WEIGHTS)
            return qmi_fail(b->err, QMOE_E_INVALID,
                "shape %" PRId64 "x%" PRId64 " is out of range", s.rows,
                s.cols);
    }
    for (size_t i = 0; i < o->n_batches; i++)
        if (o->batches[i] < 1 || o->batches[i] > MAX_BATCH)
            return qmi_fail(b->err, QMOE_E_INVALID,
                "a batch of %d tokens: must be 1 to %d", o->batches[i],
                MAX_BATCH);
    for (size_t i = 0; i < o->n_threads; i++)
        if (o->threads[i] < 1 || o->threads[i] > MAX_THREADS)
            return qmi_fail(b->err, QMOE_E_INVALID,
                "%d threads: must be 1 to %d", o->threads[i], MAX_THREADS);
    if (o->n_rounds < 1 || o->n_rounds > QMI_BENCH_MAX_ROUNDS)
        return qmi_fail(b->err, QMOE_E_INVALID,
            "%d samples of each result: must be 1 to %d", o->n_rounds,
            QMI_BENCH_MAX_ROUNDS);
    if (!(o->sample_ms > 0 && o->sample_ms <= 60000))
        return qmi_fail(b->err, QMOE_E_INVALID,
            "a sample must last more than 0 and at most 60000 ms");
    return QMOE_OK;
}

static qmoe_status take_formats(bench *b)
{
    const qmoe_bench_kernels_options *o = &b->options;
    const qmi_format *format;
    if (o->n_formats > MAX_FORMATS)
        return qmi_fail(b->err, QMOE_E_INVALID, "too many formats");
    for (size_t i = 0; i < o->n_formats; i++) {
        format = qmi_format_find(o->formats[i]);
        if (format == NULL)
            return qmi_fail(
                b->err, QMOE_E_INVALID, "unknown format '%s'", o->formats[i]);
        b->formats[b->n_formats++] = format;
    }
    if (o->n_formats != 0)
        return QMOE_OK;
    for (size_t i = 0; (format = qmi_format_at(i)) != NULL; i++)
        if (!format->dense || format->dtype != QMI_F16)
            b->formats[b->n_formats++] = format;
    return QMOE_OK;
}

/* 0 stands for "not given". */
static void fill_defaults(qmoe_bench_kernels_options *o)
{
    o->backend = o->backend != NULL ? o->backend : QMI_HOST_BACKEND;
    if (o->n_shapes == 0) {
        o->shapes = paper_shapes;
        o->n_shapes = sizeof paper_shapes / sizeof *paper_shapes;
    }
    if (o->n_batches == 0) {
        o->batches = paper_batches;
        o->n_batches = sizeof paper_batches / sizeof *paper_batches;
    }
    if (o->n_threads == 0) {
        o->threads = one_thread;
        o->n_threads = 1;
    }
    o->n_rounds = o->n_rounds != 0 ? o->n_rounds : 9;
    o->sample_ms = o->sample_ms != 0 ? o->sample_ms : 30;
}

/* Several times the cache, so that it holds next to nothing of what is used
 * again when its turn comes. */
static qmoe_status choose_cold_bytes(bench *b)
{
    enum { LEAST_CACHES = 4, USUAL_CACHES = 8 };
    static const uint64_t usual = 600 * 1000 * 1000;
    uint64_t *n_bytes = &b->options.cold_bytes;
    qmoe_device_facts facts = {0};
    if (b->place.backend->facts != NULL)
        QMI_TRY(b->place.backend->facts(&facts, b->chosen.info.index, b->err));
    /* Twice the least, so that the usual choice is safe. */
    if (*n_bytes == 0)
        *n_bytes = usual > USUAL_CACHES * facts.l2_bytes
                       ? usual
                       : USUAL_CACHES * facts.l2_bytes;
    if (b->options.cache != QMOE_BENCH_HOT &&
        *n_bytes < LEAST_CACHES * facts.l2_bytes)
        return qmi_fail(b->err, QMOE_E_INVALID,
            "%" PRIu64 " bytes are not cold: the device's cache has %" PRIu64
            ", at least %d times as many are needed",
            *n_bytes, facts.l2_bytes, LEAST_CACHES);
    return QMOE_OK;
}

static qmoe_status prepare(bench *b)
{
    const qmoe_bench_kernels_options *o = &b->options;
    QMI_TRY(check_numbers(b));
    QMI_TRY(take_formats(b));
    /* The device decides how much is cold and how calls are timed. */
    QMI_TRY(qmi_place_choose(
        &b->chosen, b->context, o->backend, o->device, o->device_name, b->err));
    b->place.backend = b->chosen.backend;
    QMI_TRY(choose_cold_bytes(b));
    /* Processor time of this thread is the work only where it is done on this
     * thread. */
    const bool host = strcmp(b->place.backend->name, QMI_HOST_BACKEND) == 0 ||
                      strcmp(b->place.backend->name, "reference") == 0;
    for (size_t i = 0; o->thread_time && i < o->n_threads; i++)
        if (o->threads[i] != 1 || !host)
            return qmi_fail(b->err, QMOE_E_INVALID,
                "processor time is measured for one thread of the CPU only");
    b->place.n_rounds = o->n_rounds;
    b->place.sample_seconds = 1e-3 * o->sample_ms;
    b->place.thread_time = o->thread_time;
    /* GPUs are waited for between passes (bench_setting.h). */
    b->place.in_passes = b->chosen.info.is_gpu;
    return QMOE_OK;
}

qmoe_status qmoe_bench_kernels(qmoe_context *context,
    qmoe_bench_kernels_report *out, const qmoe_bench_kernels_options *options)
{
    if (out != NULL)
        *out = (qmoe_bench_kernels_report){0};
    QMI_TRY(qmi_call_begin(qmi_hooks_of(context), __func__, out == NULL));
    bench *b = qmi_calloc(1, sizeof *b, "a bench", &context->hooks.error);
    if (b == NULL)
        return qmi_call_end(&context->hooks, QMOE_E_NOMEM);
    b->context = context;
    b->err = &context->hooks.error;
    b->report = out;
    qmi_copy_options(&b->options, sizeof b->options, options);
    fill_defaults(&b->options);
    qmoe_status status = prepare(b);
    if (status == QMOE_OK)
        status = run_all(b);
    qmi_free(b);
    if (status != QMOE_OK)
        qmoe_bench_kernels_free(out);
    return qmi_call_end(&context->hooks, status);
}

void qmoe_bench_kernels_free(qmoe_bench_kernels_report *report)
{
    if (report == NULL)
        return;
    qmi_free(report->bandwidth);
    qmi_free(report->results);
    *report = (qmoe_bench_kernels_report){0};
}
