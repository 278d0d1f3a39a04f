/* SPDX-License-Identifier: Apache-2.0
 * The compressor's flow: open the source, copy what is not an expert, quantise
 * and write one stack of experts after the other, seal.  Weights are read once
 * in order and dropped from memory behind the reading point. */
#include "qmoe/quant.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "alloc.h"
#include "manifest.h"
#include "parallel.h"
#include "safetensors_writer.h"
#include "stack_writer.h"
#include "ternary.h"

#define FORMAT "ternary-dict"
#define METHOD "rtn"

typedef struct job {
    qmoe_context *context;
    qmoe_model *model;
    qmi_output output;
    qmi_manifest *manifest;
    qmoe_compress_report *report;
    int n_files, n_files_done;
    double error_sum, square_sum; /* over all expert weights */
    uint64_t n_zeros;
    qmi_error *err;
} job;

/* ---- names ---- */

/* Length of "<...>.mlp.experts" in a stack name "<...>.mlp.experts.wi". */
static size_t prefix_length(const qmi_weight *stack)
{
    return (size_t)(strrchr(stack->name, '.') - stack->name);
}

/* True for "<prefix>.expert_<e>.<kind>.weight" of any stack. */
static bool is_expert_tensor(const qmoe_model *model, const char *name)
{
    static const char expert[] = ".expert_";
    for (size_t i = 0; i < model->n_weights; i++) {
        const qmi_weight *w = &model->weights[i];
        if (!w->is_expert)
            continue;
        size_t n = prefix_length(w);
        if (strncmp(name, w->name, n) == 0 &&
            strncmp(name + n, expert, sizeof expert - 1) == 0)
            return true;
    }
    return false;
}

static void file_name(char name[64], const job *j, int number)
{
    snprintf(name, 64, "model-%05d-of-%05d.safetensors", number, j->n_files);
}

static qmoe_status report_progress(const job *j, const char *item)
{
    uint64_t expert_weights = j->report->expert_weights;
    uint64_t total = 0;
    for (size_t i = 0; i < j->model->n_weights; i++) {
        const qmi_weight *w = &j->model->weights[i];
        if (w->is_expert)
            total +=
                (uint64_t)w->n_mats * (uint64_t)w->n_rows * (uint64_t)w->n_cols;
    }
    return qmi_progress(j->context, "quantize", item, expert_weights, total);
}

/* ---- the part that is copied ---- */

typedef qmoe_status (*visit_fn)(job *j, const qmi_tensor *t,
    qmi_st_writer *writer, size_t index, const char *file);

static qmoe_status declare_tensor(job *j, const qmi_tensor *t,
    qmi_st_writer *writer, size_t index, const char *file)
{
    (void)index;
    QMI_TRY(qmi_st_writer_declare(
        writer, t->name, t->dtype, t->shape, t->rank, j->err));
    return qmi_manifest_add_tensor(j->manifest, t->name, file, j->err);
}

static qmoe_status copy_tensor(job *j, const qmi_tensor *t,
    qmi_st_writer *writer, size_t index, const char *file)
{
    (void)file;
    QMI_TRY(qmi_st_writer_write(writer, index, t->data, t->n_bytes, j->err));
    qmi_map_done_with(t->data, t->n_bytes);
    return QMOE_OK;
}

/* Calls `visit` for every tensor that is not an expert's, in file order. */
static qmoe_status each_plain_tensor(
    job *j, qmi_st_writer *writer, const char *file, visit_fn visit)
{
    const qmi_checkpoint *source = j->model->checkpoint;
    size_t index = 0;
    for (size_t f = 0; f < qmi_checkpoint_file_count(source); f++) {
        const qmi_safetensors *from = qmi_checkpoint_file(source, f);
        for (size_t i = 0; i < qmi_safetensors_count(from); i++) {
            const qmi_tensor *t = qmi_safetensors_at(from, i);
            if (!is_expert_tensor(j->model, t->name))
                QMI_TRY(visit(j, t, writer, index++, file));
        }
    }
    return QMOE_OK;
}

static qmoe_status copy_into(job *j, qmi_st_writer *writer, const char *name)
{
    uint64_t header_hash = 0, file_bytes = 0;
    QMI_TRY(qmi_st_writer_metadata(writer, "format", "qmoe", j->err));
    QMI_TRY(each_plain_tensor(j, writer, name, declare_tensor));
    QMI_TRY(each_plain_tensor(j, writer, name, copy_tensor));
    QMI_TRY(qmi_st_writer_finish(writer, &header_hash, &file_bytes, j->err));
    j->report->output_bytes += file_bytes;
    return qmi_manifest_add_file(
        j->manifest, name, header_hash, file_bytes, j->err);
}

static qmoe_status copy_plain_tensors(job *j)
{
    char name[64];
    qmi_st_writer *writer = NULL;
    file_name(name, j, ++j->n_files_done);
    char *path = qmi_output_file(&j->output, name, j->err);
    if (path == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status = qmi_st_writer_create(&writer, path, j->err);
    qmi_free(path);
    if (status == QMOE_OK)
        status = copy_into(j, writer, name);
    qmi_st_writer_destroy(writer);
    return status;
}

/* ---- the experts ---- */

/* Work space for one matrix. */
typedef struct matrix_work {
    qmi_ternary_matrix matrix;
    float *rows;            /* [n_rows, n_cols] */
    double *error, *square; /* [n_rows] */
    uint32_t *zeros;
    qmoe_status *status;
} matrix_work;

static void work_free(matrix_work *work)
{
    qmi_free(work->matrix.codes);
    qmi_free(work->matrix.levels);
    qmi_free(work->rows);
    qmi_free(work->error);
    qmi_free(work->square);
    qmi_free(work->zeros);
    qmi_free(work->status);
}

static qmoe_status work_alloc(
    matrix_work *work, const qmi_weight *w, qmi_error *err)
{
    static const char what[] = "a matrix being quantised";
    size_t n_rows = (size_t)w->n_rows;
    size_t n = n_rows * (size_t)w->n_cols;
    *work = (matrix_work){
        .matrix =
            {
                .n_rows = w->n_rows,
                .n_cols = w->n_cols,
                .codes = qmi_calloc(n, 1, what, err),
                .levels = qmi_calloc(2 * n_rows, sizeof(uint16_t), what, err),
            },
        .rows = qmi_calloc(n, sizeof(float), what, err),
        .error = qmi_calloc(n_rows, sizeof(double), what, err),
        .square = qmi_calloc(n_rows, sizeof(double), what, err),
        .zeros = qmi_calloc(n_rows, sizeof(uint32_t), what, err),
        .status = qmi_calloc(n_rows, sizeof(qmoe_status), what, err),
    };
    if (work->matrix.codes != NULL && work->matrix.levels != NULL &&
        work->rows != NULL && work->error != NULL && work->square != NULL &&
        work->zeros != NULL && work->status != NULL)
        return QMOE_OK;
    work_free(work);
    return QMOE_E_NOMEM;
}

static void quantise_row(matrix_work *work, int64_t r)
{
    int64_t n_cols = work->matrix.n_cols;
    const float *row = work->rows + r * n_cols;
    uint8_t *codes = work->matrix.codes + r * n_cols;
    uint16_t *levels = work->matrix.levels + 2 * r;
    work->status[r] = qmi_ternary_rtn_row(codes, levels, row, n_cols, NULL);
    if (work->status[r] != QMOE_OK)
        return;
    const float values[3] = {
        0, qmi_bf16_to_f32(levels[0]), qmi_bf16_to_f32(levels[1])};
    double error = 0, square = 0;
    uint32_t zeros = 0;
    for (int64_t c = 0; c < n_cols; c++) {
        double difference = (double)row[c] - values[codes[c]];
        error += difference * difference;
        square += (double)row[c] * row[c];
        zeros += codes[c] == 0;
    }
    work->error[r] = error;
    work->square[r] = square;
    work->zeros[r] = zeros;
}

static qmoe_status quantise_matrix(
    job *j, matrix_work *work, const qmi_weight *w, int64_t mat)
{
    uint64_t n_weights = (uint64_t)w->n_rows * (uint64_t)w->n_cols;
    qmi_weight_decode(w, mat, 0, w->n_rows, work->rows);
    qmi_map_done_with(qmi_weight_dense(w, mat),
        n_weights * (qmi_dtype_bits(w->format->dtype) / 8));
    QMI_PARALLEL_FOR(j->context->n_threads)
    for (int64_t r = 0; r < w->n_rows; r++)
        quantise_row(work, r);
    for (int64_t r = 0; r < w->n_rows; r++) {
        if (work->status[r] != QMOE_OK)
            return qmi_fail(j->err, work->status[r],
                "%s: '%s', expert %lld, row %lld: weight is not finite",
                qmi_checkpoint_directory(j->model->checkpoint), w->name,
                (long long)mat, (long long)r);
        j->error_sum += work->error[r];
        j->square_sum += work->square[r];
        j->n_zeros += work->zeros[r];
    }
    j->report->expert_weights += n_weights;
    j->report->n_matrices++;
    return QMOE_OK;
}

static qmoe_status write_stack(
    job *j, qmi_stack_writer *writer, const qmi_weight *w)
{
    matrix_work work;
    qmoe_status status = work_alloc(&work, w, j->err);
    if (status != QMOE_OK)
        return status;
    for (int64_t mat = 0; status == QMOE_OK && mat < w->n_mats; mat++) {
        status = report_progress(j, w->name);
        if (status == QMOE_OK)
            status = quantise_matrix(j, &work, w, mat);
        if (status == QMOE_OK)
            status = qmi_stack_writer_add(
                writer, &work.matrix, j->context->n_threads, j->err);
    }
    work_free(&work);
    return status;
}

/* Records the finished shard of a stack. */
static qmoe_status seal_stack(
    job *j, qmi_stack_writer *writer, const qmi_weight *w, const char *file)
{
    const qmi_format *format = qmi_format_find(FORMAT);
    uint64_t header_hash = 0, file_bytes = 0;
    QMI_TRY(qmi_stack_writer_finish(writer, &header_hash, &file_bytes, j->err));
    j->report->output_bytes += file_bytes;
    j->report->expert_bytes += file_bytes;
    QMI_TRY(qmi_manifest_add_file(
        j->manifest, file, header_hash, file_bytes, j->err));
    for (int i = 0; i < format->n_parts; i++) {
        char tensor[512];
        snprintf(
            tensor, sizeof tensor, "%s.%s", w->name, format->parts[i].suffix);
        QMI_TRY(qmi_manifest_add_tensor(j->manifest, tensor, file, j->err));
    }
    return qmi_manifest_add_stack(j->manifest, w, FORMAT, j->err);
}

static qmoe_status compress_stack(job *j, const qmi_weight *w)
{
    char name[64];
    qmi_stack_writer *writer = NULL;
    file_name(name, j, ++j->n_files_done);
    char *path = qmi_output_file(&j->output, name, j->err);
    if (path == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status = qmi_stack_writer_create(
        &writer, path, w->name, w->n_mats, w->n_rows, w->n_cols, j->err);
    qmi_free(path);
    if (status == QMOE_OK)
        status = write_stack(j, writer, w);
    if (status == QMOE_OK)
        status = seal_stack(j, writer, w, name);
    qmi_stack_writer_destroy(writer);
    return status;
}

/* ---- the flow ---- */

static qmoe_status copy_text_files(job *j)
{
    static const char *const names[] = {"spiece.model", "tokenizer.json",
        "tokenizer_config.json", "special_tokens_map.json",
        "generation_config.json"};
    enum { MAX_BYTES = 256 << 20 };
    const char *source = qmi_checkpoint_directory(j->model->checkpoint);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *text = NULL;
        size_t n_bytes = 0;
        char *path = qmi_path_join(source, names[i], j->err);
        if (path == NULL)
            return QMOE_E_NOMEM;
        qmoe_status status =
            qmi_read_file(&text, &n_bytes, path, MAX_BYTES, j->err);
        qmi_free(path);
        if (status == QMOE_E_NOT_FOUND)
            continue;
        if (status == QMOE_OK)
            status =
                qmi_output_write(&j->output, names[i], text, n_bytes, j->err);
        qmi_free(text);
        QMI_TRY(status);
    }
    return QMOE_OK;
}

static qmoe_status write_all(job *j)
{
    QMI_TRY(copy_plain_tensors(j));
    for (size_t i = 0; i < j->model->n_weights; i++)
        if (j->model->weights[i].is_expert)
            QMI_TRY(compress_stack(j, &j->model->weights[i]));
    QMI_TRY(report_progress(j, NULL));
    QMI_TRY(copy_text_files(j));
    QMI_TRY(qmi_manifest_write(j->manifest, &j->output, j->err));
    return qmi_output_commit(&j->output, j->err);
}

static qmoe_status check_source(job *j, const qmoe_compress_options *options)
{
    const qmoe_model *model = j->model;
    const char *source = qmi_checkpoint_directory(model->checkpoint);
    if (model->quantization != NULL)
        return qmi_fail(
            j->err, QMOE_E_UNSUPPORTED, "%s: is already compressed", source);
    if (qmi_config_sparse_count(&model->config) == 0)
        return qmi_fail(j->err, QMOE_E_UNSUPPORTED,
            "%s: has no sparse block, so no experts to compress", source);
    if (!options->without_tokenizer)
        QMI_TRY(qmi_model_need_tokenizer(model, j->err));
    j->n_files = 1;
    for (size_t i = 0; i < model->n_weights; i++)
        j->n_files += model->weights[i].is_expert;
    return QMOE_OK;
}

static void fill_report(job *j)
{
    qmoe_compress_report *r = j->report;
    const qmi_checkpoint *source = j->model->checkpoint;
    for (size_t i = 0; i < qmi_checkpoint_file_count(source); i++)
        r->source_bytes +=
            qmi_safetensors_file_bytes(qmi_checkpoint_file(source, i));
    for (size_t i = 0; i < j->model->n_weights; i++) {
        const qmi_weight *w = &j->model->weights[i];
        r->total_weights +=
            (uint64_t)w->n_mats * (uint64_t)w->n_rows * (uint64_t)w->n_cols;
    }
    r->zeros = (double)j->n_zeros / (double)r->expert_weights;
    r->mean_relative_error =
        j->square_sum > 0 ? j->error_sum / j->square_sum : 0;
}

static qmoe_status compress(
    job *j, const char *output, const qmoe_compress_options *options)
{
    QMI_TRY(check_source(j, options));
    QMI_TRY(
        qmi_manifest_create(&j->manifest, j->model, FORMAT, METHOD, j->err));
    QMI_TRY(qmi_output_open(&j->output, output, options->overwrite, j->err));
    QMI_TRY(write_all(j));
    fill_report(j);
    return QMOE_OK;
}

static qmoe_status check_options(
    const qmoe_compress_options *options, qmi_error *err)
{
    if (options->format != NULL && strcmp(options->format, FORMAT) != 0)
        return qmi_fail(err, QMOE_E_UNSUPPORTED,
            "unknown format '%s' (known: " FORMAT ")", options->format);
    if (options->method != NULL && strcmp(options->method, METHOD) != 0)
        return qmi_fail(err, QMOE_E_UNSUPPORTED,
            "unknown method '%s' (known: " METHOD ")", options->method);
    return QMOE_OK;
}

qmoe_status qmoe_compress(qmoe_context *context, qmoe_compress_report *report,
    const char *source, const char *output,
    const qmoe_compress_options *options)
{
    qmoe_compress_options known = {0};
    struct timespec begin, end;
    job j = {.context = context, .report = report, .err = &context->error};
    j.output.lock = -1;
    *report = (qmoe_compress_report){0};
    if (options != NULL)
        memcpy(&known, options,
            options->size < sizeof known ? options->size : sizeof known);
    QMI_TRY(check_options(&known, j.err));
    clock_gettime(CLOCK_MONOTONIC, &begin);
    QMI_TRY(qmoe_model_open(&j.model, context, source));
    qmoe_status status = compress(&j, output, &known);
    qmi_output_close(&j.output);
    qmi_manifest_destroy(j.manifest);
    qmoe_model_close(j.model);
    clock_gettime(CLOCK_MONOTONIC, &end);
    report->seconds = (double)(end.tv_sec - begin.tv_sec) +
                      1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
    return status;
}
