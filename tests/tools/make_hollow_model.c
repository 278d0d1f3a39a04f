/* SPDX-License-Identifier: Apache-2.0
 * make_hollow_model SYNTH OUT FILLED: a compressed directory with the structure
 * and the apparent size of a published model, on a disk that could not hold it.
 * SYNTH (core/model/synth.h) gives shapes and the dense weights, which are
 * written in full.  Of every pvq stack FILLED matrices, spread evenly and the last one
 * among them, have random codes and scales; all others are holes of the file
 * and decode to zeros.  Checksums are those of these bytes. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "compress_job.h"
#include "pvq.h"
#include "safetensors_writer.h"
#include "side_files.h"

/* SplitMix64 (Steele, Lea and Flood 2014). */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static qmoe_status make_matrix(
    qmi_encoded *out, const qmi_weight *stack, uint64_t seed, qmi_error *err)
{
    const qmi_pvq_shape shape =
        qmi_pvq_shape_of(16, stack->n_rows, stack->n_cols);
    *out = (qmi_encoded){.format = &qmi_format_pvq,
        .n_rows = stack->n_rows,
        .n_cols = stack->n_cols,
        .part_bytes = {
            [QMI_PVQ_CODES] = (size_t)shape.n_tiles * shape.tile_bytes,
            [QMI_PVQ_SCALES] = (size_t)stack->n_rows * 2}};
    for (int i = 0; i < qmi_format_pvq.n_parts; i++) {
        out->parts[i] = qmi_calloc(out->part_bytes[i], 1, "a matrix", err);
        if (out->parts[i] == NULL)
            return QMOE_E_NOMEM;
    }
    uint8_t *codes = out->parts[QMI_PVQ_CODES];
    for (size_t i = 0; i + 8 <= out->part_bytes[QMI_PVQ_CODES]; i += 8) {
        uint64_t value = next_random(&seed);
        memcpy(codes + i, &value, sizeof value);
    }
    uint16_t *scales = (uint16_t *)(void *)out->parts[QMI_PVQ_SCALES];
    for (int64_t r = 0; r < stack->n_rows; r++)
        scales[r] = (uint16_t)(0x3d00 + next_random(&seed) % 128); /* 2^-5 */
    return QMOE_OK;
}

static qmoe_status fill_stack(qmi_stack_writer *writer, const qmi_weight *stack,
    int64_t n_filled, uint64_t seed, qmi_error *err)
{
    int64_t done = 0;
    for (int64_t i = 1; i <= n_filled; i++) {
        qmi_encoded matrix;
        const int64_t at = i * stack->n_mats / n_filled - 1;
        QMI_TRY(qmi_stack_writer_add_hollow(writer, at - done, err));
        qmoe_status status =
            make_matrix(&matrix, stack, seed ^ (uint64_t)at << 32, err);
        if (status == QMOE_OK)
            status = qmi_stack_writer_add(writer, &matrix, err);
        qmi_encoded_free(&matrix);
        QMI_TRY(status);
        done = at + 1;
    }
    return qmi_stack_writer_add_hollow(writer, stack->n_mats - done, err);
}

static qmoe_status record(qmi_job *job, const qmi_weight *stack,
    qmi_stack_writer *writer, const char *file)
{
    uint64_t hash = 0, n_bytes = 0;
    const qmi_stack_recipe recipe = {
        .quantiser = job->recipe.quantiser, .quant = job->recipe.quant};
    QMI_TRY(qmi_stack_writer_finish(writer, &hash, &n_bytes, job->err));
    job->report->output_bytes += n_bytes;
    QMI_TRY(
        qmi_manifest_add_file(job->manifest, file, hash, n_bytes, job->err));
    for (int i = 0; i < qmi_format_pvq.n_parts; i++) {
        char name[512];
        snprintf(name, sizeof name, "%s.%s", stack->name,
            qmi_format_pvq.parts[i].suffix);
        QMI_TRY(qmi_manifest_add_tensor(job->manifest, name, file, job->err));
    }
    return qmi_manifest_add_stack(job->manifest, stack, &recipe, job->err);
}

static qmoe_status write_stack(
    qmi_job *job, const qmi_weight *stack, int64_t n_filled)
{
    char file[64];
    qmi_new_file shard;
    qmi_stack_writer *writer = NULL;
    qmi_job_next_file(job, file);
    QMI_TRY(qmi_output_create(&job->output, &shard, file, job->err));
    const qmi_stack_plan plan = {stack->name, &qmi_format_pvq, stack->n_mats,
        stack->n_rows, stack->n_cols};
    qmoe_status status =
        qmi_stack_writer_create(&writer, &shard, &plan, job->err);
    if (status == QMOE_OK)
        status = fill_stack(writer, stack,
            n_filled < stack->n_mats ? n_filled : stack->n_mats,
            (uint64_t)job->n_files_done, job->err);
    if (status == QMOE_OK)
        status = record(job, stack, writer, file);
    qmi_stack_writer_destroy(writer);
    return status;
}

static qmoe_status write_all(qmi_job *job, const char *out, int64_t n_filled)
{
    const qmi_output_options fresh = {.overwrite = false};
    job->n_files = 1;
    for (size_t i = 0; i < job->model->n_weights; i++)
        job->n_files += job->model->weights[i].role == QMOE_ROLE_EXPERTS;
    QMI_TRY(qmi_output_open(&job->output, out, &fresh, job->err));
    QMI_TRY(qmi_journal_mark(&job->output, "make_hollow_model", job->err));
    const qmi_manifest_source source = qmi_manifest_source_of(job->model);
    QMI_TRY(qmi_manifest_create(
        &job->manifest, &source, &job->recipe, NULL, job->err));
    QMI_TRY(qmi_job_copy_tensors(job));
    QMI_TRY(qmi_copy_side_files(
        &job->output, job->manifest, job->model->checkpoint, NULL, job->err));
    for (size_t i = 0; i < job->model->n_weights; i++)
        if (job->model->weights[i].role == QMOE_ROLE_EXPERTS)
            QMI_TRY(write_stack(job, &job->model->weights[i], n_filled));
    QMI_TRY(qmi_manifest_write(job->manifest, &job->output, job->err));
    return qmi_output_commit(&job->output, job->err);
}

int main(int argc, char **argv)
{
    qmoe_compress_report report = {0};
    qmi_job job = {.report = &report};
    const int64_t n_filled = argc == 4 ? atoll(argv[3]) : 0;
    if (n_filled < 1) {
        fprintf(stderr, "Usage: make_hollow_model SYNTH OUT FILLED\n");
        return 2;
    }
    if (qmoe_context_create(&job.context, NULL) != QMOE_OK) {
        fprintf(stderr, "make_hollow_model: no context\n");
        return 1;
    }
    job.err = &job.context->hooks.error;
    job.recipe.quantiser = qmi_quantiser_find("rtn", "pvq");
    job.recipe.quant.rotation = 32; /* divides 2080 and 6144 */
    qmoe_status status = qmoe_model_open(&job.model, job.context, argv[1]);
    if (status == QMOE_OK)
        status = write_all(&job, argv[2], n_filled);
    if (status == QMOE_OK)
        printf("%" PRIu64 " bytes in %d shards\n", report.output_bytes,
            job.n_files);
    else
        fprintf(stderr, "make_hollow_model: %s\n", job.err->text);
    qmi_manifest_destroy(job.manifest);
    qmi_output_close(&job.output);
    qmoe_model_close(job.model);
    qmoe_context_destroy(job.context);
    return status == QMOE_OK ? 0 : 1;
}
