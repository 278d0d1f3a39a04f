/* SPDX-License-Identifier: Apache-2.0
 * bench-opencl: the OpenCL backend's products beside the CPU backend's and
 * beside CLBlast's dense product of the same shape, in turn, in one run.  In: a
 * shape, a batch, a format.  Out: a line per contender: 1e9 multiply-adds per
 * second, median and spread.  For a comparison on one processor:
 * POCL_MAX_PTHREAD_COUNT=1 taskset -c 0.  A program for developers: it checks
 * no results, which qmoe-check does. */
#define CL_TARGET_OPENCL_VERSION 120

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "bench_weights.h"
#include "clock.h"
#include "cpu.h"
#include "registry.h"
#ifdef QMB_CLBLAST
#include <clblast_c.h>
#endif

enum { MAX_ROUNDS = 200 };

static const char usage[] =
    "Usage: bench-opencl [--shape RxC] [--batch N] [--threads N] [--device N]\n"
    "       [--format F] [--cache hot|cold] [--repeat N] [--sample-ms N]\n";

typedef struct options {
    int64_t rows, cols, batch;
    int threads, device, rounds;
    double sample_ms;
    bool hot;
    const char *format;
} options;

/* A backend with its device and activations. */
typedef struct place {
    const qmi_backend *backend;
    qmi_device *device;
    qmi_buffer *src, *dst;
} place;

typedef struct contender {
    char name[64];
    const place *place;
    qmi_bound_weight bound;
    const qmi_weight *weight; /* NULL: CLBlast */
    int64_t n_mats, next, n_calls;
    double samples[MAX_ROUNDS];
} contender;

/* ---- CLBlast ---- */

#ifdef QMB_CLBLAST
static struct {
    cl_context context;
    cl_command_queue queue;
    cl_mem a, x, y;
} dense;

/* On the first device of the first platform; what was made is the process's. */
static bool open_clblast(const options *o, int64_t n_mats)
{
    cl_platform_id platform;
    cl_device_id device;
    cl_int status = CL_SUCCESS;
    const size_t n = (size_t)(n_mats * o->rows * o->cols) * 4;
    if (clGetPlatformIDs(1, &platform, NULL) != CL_SUCCESS ||
        clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, NULL) !=
            CL_SUCCESS)
        return false;
    dense.context = clCreateContext(NULL, 1, &device, NULL, NULL, &status);
    if (status != CL_SUCCESS)
        return false;
    dense.queue = clCreateCommandQueue(dense.context, device, 0, &status);
    dense.a = clCreateBuffer(dense.context, CL_MEM_READ_WRITE, n, NULL, NULL);
    dense.x = clCreateBuffer(dense.context, CL_MEM_READ_WRITE,
        (size_t)(o->batch * o->cols) * 4, NULL, NULL);
    dense.y = clCreateBuffer(dense.context, CL_MEM_READ_WRITE,
        (size_t)(o->batch * o->rows) * 4, NULL, NULL);
    /* Values that stay finite; a dense product's time does not depend on
     * them. */
    const float one = 1.0f / 64;
    clEnqueueFillBuffer(dense.queue, dense.a, &one, 4, 0, n, 0, NULL, NULL);
    clEnqueueFillBuffer(dense.queue, dense.x, &one, 4, 0,
        (size_t)(o->batch * o->cols) * 4, 0, NULL, NULL);
    return dense.a != NULL && dense.x != NULL && dense.y != NULL &&
           clFinish(dense.queue) == CL_SUCCESS;
}

/* y = x A^T, or A x. */
static bool run_clblast(const options *o, int64_t mat)
{
    const size_t rows = (size_t)o->rows, cols = (size_t)o->cols;
    const size_t at = (size_t)mat * rows * cols;
    CLBlastStatusCode status =
        o->batch == 1 ? CLBlastSgemv(CLBlastLayoutRowMajor, CLBlastTransposeNo,
                            rows, cols, 1.0f, dense.a, at, cols, dense.x, 0, 1,
                            0.0f, dense.y, 0, 1, &dense.queue, NULL)
                      : CLBlastSgemm(CLBlastLayoutRowMajor, CLBlastTransposeNo,
                            CLBlastTransposeYes, (size_t)o->batch, rows, cols,
                            1.0f, dense.x, 0, cols, dense.a, at, cols, 0.0f,
                            dense.y, 0, rows, &dense.queue, NULL);
    return status == CLBlastSuccess;
}

/* CLBlast only enqueues. */
static bool finish_clblast(void)
{
    return clFinish(dense.queue) == CL_SUCCESS;
}
#else
static bool open_clblast(const options *o, int64_t n_mats)
{
    (void)o;
    (void)n_mats;
    return false;
}
static bool run_clblast(const options *o, int64_t mat)
{
    (void)o;
    (void)mat;
    return false;
}
static bool finish_clblast(void)
{
    return false;
}
#endif

/* ---- timing ---- */

static qmoe_status run_one(
    contender *c, const options *o, int64_t mat, qmi_error *err)
{
    if (c->weight == NULL)
        return run_clblast(o, mat)
                   ? QMOE_OK
                   : qmi_fail(err, QMOE_E_DEVICE, "CLBlast failed");
    const qmi_op op = {
        .kind = QMI_OP_LINEAR,
        .u.linear = {.dst = {c->place->dst, 0},
            .src = {c->place->src, 0},
            .weight = &c->bound,
            .mat = mat,
            .n_tokens = o->batch,
            .alpha = 1.0f},
    };
    return qmi_run(c->place->backend, c->place->device, &op, err);
}

/* n calls and one wait: seconds.  Hot: matrix 0 again and again. */
static qmoe_status sample(
    double *seconds, contender *c, const options *o, int64_t n, qmi_error *err)
{
    const double begin = qmi_seconds();
    for (int64_t i = 0; i < n; i++) {
        QMI_TRY(run_one(c, o, o->hot ? 0 : c->next, err));
        c->next = (c->next + 1) % c->n_mats;
    }
    if (c->weight != NULL)
        QMI_TRY(c->place->backend->sync(c->place->device, err));
    else if (!finish_clblast())
        return qmi_fail(err, QMOE_E_DEVICE, "CLBlast failed");
    *seconds = qmi_seconds() - begin;
    return QMOE_OK;
}

static qmoe_status calibrate(contender *c, const options *o, qmi_error *err)
{
    double seconds = 0;
    /* The first call compiles and pages in. */
    QMI_TRY(sample(&seconds, c, o, 1, err));
    for (c->n_calls = 1;; c->n_calls *= 2) {
        QMI_TRY(sample(&seconds, c, o, c->n_calls, err));
        /* A quarter of a sample is long enough to scale up from. */
        if (seconds * 4e3 >= o->sample_ms)
            break;
    }
    c->n_calls =
        (int64_t)((double)c->n_calls * 1e-3 * o->sample_ms / seconds) + 1;
    return QMOE_OK;
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static qmoe_status run_rounds(
    contender *c, int n, const options *o, qmi_error *err)
{
    for (int i = 0; i < n; i++)
        QMI_TRY(calibrate(&c[i], o, err));
    /* Rounds outside, contenders inside: a disturbance hits both alike. */
    for (int round = 0; round < o->rounds; round++)
        for (int i = 0; i < n; i++) {
            double seconds;
            QMI_TRY(sample(&seconds, &c[i], o, c[i].n_calls, err));
            c[i].samples[round] = seconds / (double)c[i].n_calls;
        }
    const double macs = 1e-9 * (double)(o->rows * o->cols * o->batch);
    for (int i = 0; i < n; i++) {
        double *s = c[i].samples;
        /* The slow end of the times is the low end of the speeds. */
        qsort(s, (size_t)o->rounds, sizeof *s, compare_doubles);
        printf("%-22s %5lldx%-5lld batch %2lld %-4s %8.2f (%.2f-%.2f)\n",
            c[i].name, (long long)o->rows, (long long)o->cols,
            (long long)o->batch, o->hot ? "hot" : "cold",
            macs / s[o->rounds / 2], macs / s[o->rounds - 1 - o->rounds / 10],
            macs / s[o->rounds / 10]);
    }
    return QMOE_OK;
}

/* ---- contenders ---- */

static qmoe_status open_place(place *out, const qmi_backend *backend,
    int device, const options *o, qmi_error *err)
{
    const qmi_device_options settings = {.n_threads = o->threads};
    const uint64_t n = (uint64_t)(o->batch * o->cols);
    *out = (place){.backend = backend};
    QMI_TRY(backend->device_open(&out->device, device, &settings, err));
    QMI_TRY(backend->buffer_alloc(&out->src, out->device, n * 4, err));
    QMI_TRY(backend->buffer_alloc(
        &out->dst, out->device, (uint64_t)(o->batch * o->rows) * 4, err));
    float *x = qmi_calloc(n, sizeof *x, "inputs", err);
    if (x == NULL)
        return QMOE_E_NOMEM;
    for (uint64_t i = 0; i < n; i++)
        /* Knuth's multiplicative hash: values of -1 to 1, the same on every
         * machine. */
        x[i] = (float)(i * 2654435761u % 2001) * 1e-3f - 1.0f;
    const qmi_view view = {out->src, 0};
    qmoe_status status =
        backend->buffer_write(out->device, view, x, n * 4, err);
    qmi_free(x);
    return status;
}

static qmoe_status compare_format(const qmi_format *format, const place *places,
    const options *o, qmi_error *err)
{
    qmi_bench_stack stack = {0};
    contender *c = qmi_calloc(2, sizeof *c, "contenders", err);
    if (c == NULL)
        return QMOE_E_NOMEM;
    /* Beyond the caches of processors. */
    const uint64_t n_bytes = format->dense ? 300000000 : 200000000;
    qmoe_status status = qmi_bench_stack_make(
        &stack, format, o->rows, o->cols, n_bytes, QMI_BENCH_IN_MEMORY, err);
    for (int i = 0; i < 2 && status == QMOE_OK; i++) {
        const place *p = &places[i];
        snprintf(c[i].name, sizeof c[i].name, "%s/%s", p->backend->name,
            format->name);
        c[i].place = p;
        c[i].weight = &stack.weight;
        c[i].n_mats = stack.weight.n_mats;
        status =
            p->backend->weight_bind(&c[i].bound, p->device, &stack.weight, err);
    }
    if (status == QMOE_OK)
        status = run_rounds(c, 2, o, err);
    /* Also after a failure: what was bound is unbound. */
    for (int i = 0; i < 2; i++)
        if (c[i].bound.host != NULL)
            c[i].place->backend->weight_unbind(c[i].place->device, &c[i].bound);
    qmi_bench_stack_free(&stack);
    qmi_free(c);
    /* Not every backend has every format: such a one is left out. */
    return status == QMOE_E_UNSUPPORTED ? QMOE_OK : status;
}

static qmoe_status compare_all(
    const qmi_backend *opencl, const options *o, qmi_error *err)
{
    place places[2] = {{0}};
    const qmi_format *format;
    QMI_TRY(open_place(&places[0], qmi_backend_cpu(), 0, o, err));
    QMI_TRY(open_place(&places[1], opencl, o->device, o, err));
    contender *clblast = qmi_calloc(1, sizeof *clblast, "contenders", err);
    if (clblast == NULL)
        return QMOE_E_NOMEM;
    snprintf(clblast->name, sizeof clblast->name, "CLBlast/f32");
    clblast->n_mats = 300000000 / (o->rows * o->cols * 4) + 2;
    /* Without CLBlast, or without a device for it, its line is missing. */
    if (open_clblast(o, clblast->n_mats))
        QMI_TRY(run_rounds(clblast, 1, o, err));
    qmi_free(clblast);
    for (size_t i = 0; (format = qmi_format_at(i)) != NULL; i++)
        if (o->format == NULL || strcmp(o->format, format->name) == 0)
            QMI_TRY(compare_format(format, places, o, err));
    return QMOE_OK;
}

static bool parse(options *o, int argc, char **argv)
{
    /* Pairs of name and value; what is not known ends with the usage. */
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        long long rows, cols;
        if (strcmp(name, "--shape") == 0 &&
            sscanf(value, "%lldx%lld", &rows, &cols) == 2) {
            o->rows = rows;
            o->cols = cols;
        } else if (strcmp(name, "--batch") == 0)
            o->batch = atoll(value);
        else if (strcmp(name, "--threads") == 0)
            o->threads = atoi(value);
        else if (strcmp(name, "--device") == 0)
            o->device = atoi(value);
        else if (strcmp(name, "--format") == 0)
            o->format = value;
        else if (strcmp(name, "--cache") == 0)
            o->hot = strcmp(value, "hot") == 0;
        else if (strcmp(name, "--repeat") == 0)
            o->rounds = atoi(value);
        else if (strcmp(name, "--sample-ms") == 0)
            o->sample_ms = atof(value);
        else
            return false;
    }
    return argc % 2 == 1 && o->rows > 0 && o->cols > 0 && o->batch > 0 &&
           o->rounds > 0 && o->rounds <= MAX_ROUNDS;
}

int main(int argc, char **argv)
{
    options o = {.rows = 2080,
        .cols = 6144,
        .batch = 1,
        .threads = 1,
        .rounds = 15,
        .sample_ms = 15};
    const qmi_backend *builtin[] = {qmi_backend_cpu()}, *opencl;
    qmi_registry *registry = NULL;
    qmi_error err = {0};
    if (!parse(&o, argc, argv)) {
        fputs(usage, stderr);
        return 2;
    }
    qmoe_status status = qmi_registry_create(&registry, builtin, 1, NULL, &err);
    if (status == QMOE_OK)
        status = qmi_registry_find(registry, &opencl, "opencl", &err);
    if (status == QMOE_OK)
        status = compare_all(opencl, &o, &err);
    if (status != QMOE_OK)
        fprintf(stderr, "bench-opencl: %s\n", err.text);
    return status != QMOE_OK;
}
