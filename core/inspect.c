/* SPDX-License-Identifier: Apache-2.0
 * What a model holds, and whether it is intact. */
#include "model.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "hash.h"

/* Rows decoded at a time. */
enum { CHUNK_ROWS = 64 };

size_t qmoe_model_weight_count(const qmoe_model *model)
{
    return model->n_weights;
}

qmoe_status qmoe_model_weight(
    const qmoe_model *model, size_t index, qmoe_weight_info *out)
{
    if (index >= model->n_weights)
        return QMOE_E_INVALID;
    const qmi_weight *w = &model->weights[index];
    *out = (qmoe_weight_info){
        .name = w->name,
        .format = w->format->name,
        .n_matrices = w->n_mats,
        .n_rows = w->n_rows,
        .n_cols = w->n_cols,
        .n_weights =
            (uint64_t)w->n_mats * (uint64_t)w->n_rows * (uint64_t)w->n_cols,
        .n_bytes = qmi_weight_bytes(w),
        .is_expert = w->is_expert,
        .rotation = w->rotation,
    };
    return QMOE_OK;
}

/* Visits decoded rows of a matrix in chunks. */
static qmoe_status scan_matrix(const qmoe_model *model, const qmi_weight *w,
    int64_t mat, float *rows, uint64_t counts[3], qmi_error *err)
{
    QMI_TRY(qmi_weight_check(w, mat, err));
    for (int64_t row = 0; row < w->n_rows; row += CHUNK_ROWS) {
        int64_t n = w->n_rows - row < CHUNK_ROWS ? w->n_rows - row : CHUNK_ROWS;
        qmi_weight_decode(w, mat, row, n, rows);
        for (int64_t i = 0; i < n * w->n_cols; i++)
            counts[rows[i] == 0 ? 0 : rows[i] < 0 ? 1 : 2]++;
    }
    if (w->fetch != NULL)
        qmi_checkpoint_release(model->checkpoint, qmi_weight_dense(w, mat),
            qmi_weight_bytes(w) / (uint64_t)w->n_mats);
    return QMOE_OK;
}

static double entropy(const uint64_t counts[3])
{
    double total = (double)counts[0] + (double)counts[1] + (double)counts[2];
    double bits = 0;
    for (int i = 0; i < 3; i++)
        if (counts[i] != 0)
            bits -= (double)counts[i] / total * log2((double)counts[i] / total);
    return bits;
}

qmoe_status qmoe_model_weight_stats(
    qmoe_model *model, size_t index, qmoe_weight_stats *out)
{
    qmi_error *err = &model->context->error;
    *out = (qmoe_weight_stats){0};
    if (index >= model->n_weights)
        return qmi_fail(err, QMOE_E_INVALID, "no weight %zu", index);
    /* As stored: that is what can be skipped, and what the compressor counts. */
    qmi_weight stored = model->weights[index];
    stored.rotation = 0;
    const qmi_weight *w = &stored;
    float *rows = qmi_calloc(
        (size_t)(CHUNK_ROWS * w->n_cols), sizeof *rows, "decoded rows", err);
    if (rows == NULL)
        return QMOE_E_NOMEM;
    uint64_t counts[3] = {0};
    qmoe_status status = QMOE_OK;
    for (int64_t mat = 0; status == QMOE_OK && mat < w->n_mats; mat++)
        status = scan_matrix(model, w, mat, rows, counts, err);
    qmi_free(rows);
    QMI_TRY(status);
    out->n_zeros = counts[0];
    out->entropy_bits = w->format->ternary ? entropy(counts) : 0;
    return QMOE_OK;
}

/* ---- verify ---- */

typedef struct verification {
    qmoe_model *model;
    qmoe_verify_report *report;
    uint64_t done, total; /* bytes */
    qmi_error *err;
} verification;

static void note_bad(verification *v, const char *name)
{
    snprintf(v->report->first_bad, sizeof v->report->first_bad, "%s", name);
}

static qmoe_status verify_tensor(
    verification *v, const qmi_tensor_file *file, const qmi_tensor *t)
{
    char key[512], hex[17];
    snprintf(key, sizeof key, "xxh3:%s", t->name);
    const char *expected = qmi_tensor_file_metadata(file, key);
    QMI_TRY(
        qmi_progress(v->model->context, "verify", t->name, v->done, v->total));
    v->done += t->n_bytes;
    if (expected == NULL && v->model->quantization == NULL) {
        v->report->n_without_checksum++;
        return QMOE_OK;
    }
    qmi_hash_hex(hex, qmi_hash64(t->data, t->n_bytes));
    v->report->n_tensors++;
    v->report->n_bytes += t->n_bytes;
    if (expected != NULL && strcmp(expected, hex) == 0)
        return QMOE_OK;
    note_bad(v, t->name);
    return qmi_fail(v->err, QMOE_E_CHECKSUM,
        "%s: tensor '%s': checksum %s, expected %s", qmi_tensor_file_path(file),
        t->name, hex, expected != NULL ? expected : "one (none is stored)");
}

/* Size and header hash that config.json records for a file. */
static qmoe_status verify_file(verification *v, const qmi_tensor_file *file)
{
    const char *path = qmi_tensor_file_path(file);
    const char *slash = strrchr(path, '/');
    const char *name = slash != NULL ? slash + 1 : path;
    const char *config = qmi_checkpoint_config_path(v->model->checkpoint);
    const cJSON *files =
        cJSON_GetObjectItemCaseSensitive(v->model->quantization, "files");
    const cJSON *entry = cJSON_GetObjectItemCaseSensitive(files, name);
    const char *expected = NULL;
    int64_t n_bytes = 0;
    char hex[17];
    if (!cJSON_IsObject(entry))
        return qmi_fail(v->err, QMOE_E_FORMAT,
            "%s: quantization_config.files has no '%s'", config, name);
    QMI_TRY(qmi_json_int(&n_bytes, entry, "bytes", true, 0, 0, (int64_t)1 << 53,
        config, v->err));
    QMI_TRY(
        qmi_json_string(&expected, entry, "header_xxh3", "", config, v->err));
    qmi_hash_hex(hex, qmi_tensor_file_header_hash(file));
    if ((uint64_t)n_bytes == qmi_tensor_file_bytes(file) &&
        strcmp(expected, hex) == 0)
        return QMOE_OK;
    note_bad(v, name);
    return qmi_fail(v->err, QMOE_E_CHECKSUM,
        "%s: header checksum %s and %" PRIu64
        " bytes, but config.json records %s and %" PRId64,
        path, hex, qmi_tensor_file_bytes(file), expected, n_bytes);
}

static qmoe_status verify_files(verification *v)
{
    const qmi_checkpoint *checkpoint = v->model->checkpoint;
    for (size_t f = 0; f < qmi_checkpoint_file_count(checkpoint); f++) {
        const qmi_tensor_file *file = qmi_checkpoint_file(checkpoint, f);
        if (v->model->quantization != NULL)
            QMI_TRY(verify_file(v, file));
        for (size_t i = 0; i < qmi_tensor_file_count(file); i++) {
            const qmi_tensor *t = qmi_tensor_file_at(file, i);
            QMI_TRY(verify_tensor(v, file, t));
            if (!t->is_view)
                qmi_tensor_file_release(file, t->data, t->n_bytes);
        }
    }
    return QMOE_OK;
}

static qmoe_status verify_rows(verification *v, const qmi_weight *w)
{
    float *rows = qmi_calloc(
        (size_t)(CHUNK_ROWS * w->n_cols), sizeof *rows, "decoded rows", v->err);
    if (rows == NULL)
        return QMOE_E_NOMEM;
    uint64_t counts[3] = {0};
    qmoe_status status = QMOE_OK;
    for (int64_t mat = 0; status == QMOE_OK && mat < w->n_mats; mat++) {
        status = scan_matrix(v->model, w, mat, rows, counts, v->err);
        v->report->n_rows_decoded += (uint64_t)w->n_rows;
    }
    qmi_free(rows);
    if (status == QMOE_E_FORMAT)
        note_bad(v, w->name);
    return status;
}

qmoe_status qmoe_model_verify(qmoe_model *model, qmoe_verify_report *report)
{
    *report = (qmoe_verify_report){0};
    verification v = {
        .model = model, .report = report, .err = &model->context->error};
    const qmi_checkpoint *checkpoint = model->checkpoint;
    for (size_t f = 0; f < qmi_checkpoint_file_count(checkpoint); f++)
        v.total += qmi_tensor_file_bytes(qmi_checkpoint_file(checkpoint, f));
    QMI_TRY(verify_files(&v));
    for (size_t i = 0; i < model->n_weights; i++)
        if (!model->weights[i].format->dense)
            QMI_TRY(verify_rows(&v, &model->weights[i]));
    return QMOE_OK;
}
