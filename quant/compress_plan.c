/* SPDX-License-Identifier: Apache-2.0
 * What a job will take, and whether this machine can do it. */
#include "compress_job.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <time.h>

#include <cblas.h>

#include "alloc.h"
#include "hash.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- sizes ---- */

/* Bytes of one stack in the target format; exact for fixed formats.  The
 * dictionary's rate at the paper's sparsity is about 0.75 bit per weight and
 * up to 1 on narrow or less sparse matrices: 1 is assumed. */
uint64_t qmi_job_stack_bytes(const qmi_format *format, const qmi_weight *w)
{
    uint64_t total = 0;
    for (int i = 0; i < format->n_parts; i++) {
        int64_t shape[3];
        int rank =
            format->parts[i].shape(shape, w->n_mats, w->n_rows, w->n_cols);
        uint64_t n = qmi_dtype_bits(format->parts[i].dtype);
        if (format->variable && i == format->variable_part)
            n = (uint64_t)w->n_mats * (uint64_t)w->n_rows * (uint64_t)w->n_cols;
        else
            for (int j = 0; j < rank; j++)
                n *= (uint64_t)shape[j];
        total += n / 8;
    }
    return total;
}

/* Of all tensors: more than the files have where names share data. */
static uint64_t tensor_bytes(const qmi_checkpoint *source)
{
    uint64_t n_bytes = 0;
    for (size_t f = 0; f < qmi_checkpoint_file_count(source); f++) {
        const qmi_tensor_file *file = qmi_checkpoint_file(source, f);
        for (size_t i = 0; i < qmi_tensor_file_count(file); i++)
            n_bytes += qmi_tensor_file_at(file, i)->n_bytes;
    }
    return n_bytes;
}

void qmi_job_plan_sizes(qmi_job *job)
{
    qmoe_compress_report *r = job->report;
    const qmoe_model *m = job->model;
    const qmi_format *format = qmi_format_find(job->recipe.quantiser->format);
    uint64_t source_experts = 0, target_experts = 0;
    for (size_t f = 0; f < qmi_checkpoint_file_count(m->checkpoint); f++)
        r->source_bytes +=
            qmi_tensor_file_bytes(qmi_checkpoint_file(m->checkpoint, f));
    for (size_t i = 0; i < m->n_weights; i++) {
        const qmi_weight *w = &m->weights[i];
        uint64_t n =
            (uint64_t)w->n_mats * (uint64_t)w->n_rows * (uint64_t)w->n_cols;
        r->total_weights += n;
        if (!w->is_expert)
            continue;
        r->expert_weights += n;
        r->n_matrices += (uint64_t)w->n_mats;
        source_experts += qmi_weight_bytes(w);
        target_experts += qmi_job_stack_bytes(format, w);
    }
    r->n_experts = r->n_matrices / QMI_N_KINDS;
    if (job->recipe.bits > 0)
        target_experts =
            (uint64_t)(job->recipe.bits / 8 * (double)r->expert_weights);
    uint64_t copied = tensor_bytes(m->checkpoint);
    if (copied < r->source_bytes)
        copied = r->source_bytes;
    r->planned_output_bytes = copied - source_experts + target_experts;
}

static uint64_t state_bytes(const qmi_job *job)
{
    uint64_t n = job->report->n_encoder_tokens + job->report->n_decoder_tokens;
    return job->calibrated
               ? n * (uint64_t)job->model->config.d_model * sizeof(float)
               : 0;
}

/* ---- memory ---- */

/* What the process needs beside experts in work: one chunk of activations,
 * token lists, libraries. */
static uint64_t fixed_bytes(const qmi_job *job)
{
    enum { BASE = 64 << 20, CHUNK_TOKENS = 4096 };
    const qmi_config *c = &job->model->config;
    uint64_t inner = (uint64_t)(c->n_heads * c->d_kv);
    uint64_t per_token = 8 * inner + 4 * (uint64_t)c->d_model +
                         (uint64_t)c->d_ff + (uint64_t)c->n_experts;
    uint64_t bytes = BASE;
    if (!job->calibrated)
        return bytes;
    bytes += CHUNK_TOKENS * per_token * sizeof(float);
    bytes +=
        24 * (job->report->n_encoder_tokens + job->report->n_decoder_tokens);
    if (job->options.work_dir == NULL)
        bytes += state_bytes(job);
    return bytes;
}

/* MemAvailable of /proc/meminfo; 0 when unknown. */
static uint64_t available_memory(void)
{
    unsigned long long kib = 0;
    char line[128];
    FILE *file = fopen("/proc/meminfo", "r");
    if (file == NULL)
        return 0;
    while (fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
            break;
    fclose(file);
    return kib * 1024;
}

/* As many experts at once as there are threads and memory for. */
static qmoe_status plan_memory(qmi_job *job)
{
    uint64_t fixed = fixed_bytes(job);
    uint64_t each = qmi_expert_pass_worker_bytes(job->model, job->calibrated);
    uint64_t limit = job->options.memory_limit != 0 ? job->options.memory_limit
                                                    : available_memory();
    int n = job->context->n_threads;
    if (n > job->options.group_size)
        n = job->options.group_size;
    while (n > 1 && limit != 0 && fixed + (uint64_t)n * each > limit)
        n--;
    job->n_workers = n;
    job->report->planned_memory_bytes = fixed + (uint64_t)n * each;
    if (limit == 0 || job->report->planned_memory_bytes <= limit)
        return QMOE_OK;
    return qmi_fail(job->err, QMOE_E_NOMEM,
        "one expert at a time needs %llu MB of memory, %s is %llu MB%s",
        (unsigned long long)(job->report->planned_memory_bytes >> 20) + 1,
        job->options.memory_limit != 0 ? "the limit" : "available",
        (unsigned long long)(limit >> 20),
        job->calibrated && job->options.work_dir == NULL
            ? "; a work directory would hold the token states"
            : "");
}

/* ---- disk ---- */

/* Free bytes where `path` is or will be; 0 when unknown. */
static uint64_t free_disk(const char *path)
{
    char parent[4096];
    struct statvfs vfs;
    snprintf(parent, sizeof parent, "%s", path);
    char *slash = strrchr(parent, '/');
    if (slash == NULL)
        snprintf(parent, sizeof parent, ".");
    else
        slash[slash == parent] = '\0';
    if (statvfs(parent, &vfs) != 0)
        return 0;
    return (uint64_t)vfs.f_bavail * vfs.f_frsize;
}

static qmoe_status plan_disk(qmi_job *job, const char *output)
{
    qmoe_compress_report *r = job->report;
    uint64_t space = free_disk(output);
    r->planned_disk_bytes = r->planned_output_bytes;
    if (job->options.work_dir != NULL)
        r->planned_disk_bytes += state_bytes(job);
    if (space == 0 || job->options.resume || job->options.dry_run ||
        r->planned_output_bytes <= space)
        return QMOE_OK;
    return qmi_fail(job->err, QMOE_E_NO_SPACE,
        "%s: about %llu MB are needed, %llu MB are free", output,
        (unsigned long long)(r->planned_output_bytes >> 20) + 1,
        (unsigned long long)(space >> 20));
}

/* ---- time ---- */

/* Multiply-adds per second of one thread, from a short product. */
static double measured_rate(void)
{
    enum { N = 384, ROUNDS = 4 };
    float *a = qmi_calloc(3 * N * N, sizeof *a, "a measurement", NULL);
    if (a == NULL)
        return 1e10;
    for (int i = 0; i < 2 * N * N; i++)
        a[i] = (float)(i % 7) * 0.125f;
    double best = INFINITY;
    for (int i = 0; i < ROUNDS; i++) {
        double begin = now();
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, N, N, N, 1, a, N,
            a + N * N, N, 0, a + 2 * N * N, N);
        best = fmin(best, now() - begin);
    }
    qmi_free(a);
    return (double)N * N * N / best;
}

/* Multiply-adds: second moments in double count twice, a sweep costs
 * rows * cols^2, a factorisation cols^3.  Trials of formats are another sweep
 * over the tokens, with some experts quantised twice. */
static double total_work(const qmi_job *job)
{
    const qmi_config *c = &job->model->config;
    const qmoe_compress_report *r = job->report;
    double d = (double)c->d_model, f = (double)c->d_ff;
    double tokens = (double)r->n_encoder_tokens + (double)r->n_decoder_tokens;
    double sparse = (double)r->n_experts / (double)c->n_experts;
    double dense = (double)r->total_weights - (double)r->expert_weights;
    double trials = (double)qmi_job_n_trials(job) / (double)c->n_experts;
    double moments = tokens * sparse * (d * d + f * f);
    double work = tokens * dense + tokens * sparse * 4 * d * f;
    work *= trials > 0 ? 2 : 1;
    work += moments * (1 + trials);
    if (job->recipe.quantiser->needs_hessian)
        work +=
            (double)r->n_experts * (1 + QMI_N_SIZES * trials) *
            (f * d * d + d * f * f + 2 * (d * d * d + f * f * f)) *
            (1 + job->recipe.quantiser->pass_time * job->recipe.quant.passes);
    return work + 32 * (double)r->expert_weights;
}

static void plan_time(qmi_job *job)
{
    enum { COPY_RATE = 500000000 }; /* bytes/s of reading and writing */
    qmoe_compress_report *r = job->report;
    r->planned_seconds =
        total_work(job) / measured_rate() / job->n_workers +
        (double)(r->source_bytes + r->planned_output_bytes) / COPY_RATE;
}

qmoe_status qmi_job_plan(qmi_job *job, const char *output)
{
    qmoe_compress_report *r = job->report;
    const qmi_calibration *c = &job->calibration;
    r->n_samples = c->sets[QMI_ENCODER].n_sequences;
    r->n_encoder_tokens = (uint64_t)c->sets[QMI_ENCODER].n_tokens;
    r->n_decoder_tokens = (uint64_t)c->sets[QMI_DECODER].n_tokens;
    r->n_skipped_documents = c->n_skipped;
    QMI_TRY(plan_memory(job));
    QMI_TRY(plan_disk(job, output));
    plan_time(job);
    return QMOE_OK;
}

uint64_t qmi_job_fingerprint(const qmi_job *job)
{
    const qmi_recipe *r = &job->recipe;
    char text[512];
    int n = snprintf(text, sizeof text,
        "qmoe %s; source %016llx; calibration %016llx; %s %s; damping %a; "
        "levels %d; p0 %a; rotation %d %u; passes %d; bits %a",
        qmoe_version(),
        (unsigned long long)qmi_source_fingerprint(job->model->checkpoint),
        (unsigned long long)job->calibration.hash, r->quantiser->method,
        r->quantiser->format, r->quant.damping, r->quant.fit_levels, r->p0,
        (int)job->rotation, r->quant.rotation_seed, r->quant.passes, r->bits);
    /* Another device rounds otherwise, and may route otherwise. */
    const qmoe_device_info *info = &job->place.info;
    if (job->calibrated && strcmp(info->backend, "cpu") != 0)
        n += snprintf(text + n, sizeof text - (size_t)n, "; %s %s",
            info->backend, info->name);
    return qmi_hash64(text, (size_t)n);
}
