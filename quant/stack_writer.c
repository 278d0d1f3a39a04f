/* SPDX-License-Identifier: Apache-2.0
 * Shard writer of "ternary-dict" stacks. */
#include "stack_writer.h"

#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "parallel.h"
#include "safetensors_writer.h"
#include "ternary_dict.h"

struct qmi_stack_writer {
    qmi_st_writer *file;
    int64_t n_mats, n_rows, n_cols, n_done;
    uint64_t *expert_offsets; /* [n_mats + 1] */
    uint32_t *row_offsets;    /* [n_rows + 1] of the current matrix */
    uint16_t *row_codes;      /* [n_rows, widest]: codewords before packing */
    int64_t widest;           /* most codewords a row can have */
};

static qmoe_status declare_parts(
    qmi_stack_writer *w, const char *name, qmi_error *err)
{
    const qmi_format *format = &qmi_format_ternary_dict;
    QMI_TRY(qmi_st_writer_metadata(w->file, "format", "qmoe", err));
    for (int i = 0; i < format->n_parts; i++) {
        int64_t shape[3];
        char full[512];
        int rank =
            format->parts[i].shape(shape, w->n_mats, w->n_rows, w->n_cols);
        snprintf(full, sizeof full, "%s.%s", name, format->parts[i].suffix);
        QMI_TRY(qmi_st_writer_declare(
            w->file, full, format->parts[i].dtype, shape, rank, err));
    }
    return QMOE_OK;
}

static qmoe_status allocate(qmi_stack_writer *w, qmi_error *err)
{
    w->expert_offsets = qmi_calloc((size_t)w->n_mats + 1,
        sizeof *w->expert_offsets, "expert offsets", err);
    w->row_offsets = qmi_calloc(
        (size_t)w->n_rows + 1, sizeof *w->row_offsets, "row offsets", err);
    w->row_codes = qmi_calloc((size_t)(w->n_rows * w->widest),
        sizeof *w->row_codes, "codewords", err);
    if (w->expert_offsets == NULL || w->row_offsets == NULL ||
        w->row_codes == NULL)
        return QMOE_E_NOMEM;
    return QMOE_OK;
}

qmoe_status qmi_stack_writer_create(qmi_stack_writer **out, const char *path,
    const char *name, int64_t n_mats, int64_t n_rows, int64_t n_cols,
    qmi_error *err)
{
    *out = NULL;
    qmi_stack_writer *w = qmi_calloc(1, sizeof *w, "a stack writer", err);
    if (w == NULL)
        return QMOE_E_NOMEM;
    w->n_mats = n_mats;
    w->n_rows = n_rows;
    w->n_cols = n_cols;
    w->widest = (n_cols + 1) / 2;
    qmoe_status status = QMOE_E_NOMEM;
    if (qmi_dict_generic() == NULL)
        qmi_fail(err, status, "out of memory: the dictionary");
    else
        status = allocate(w, err);
    if (status == QMOE_OK)
        status = qmi_st_writer_create(&w->file, path, err);
    if (status == QMOE_OK)
        status = declare_parts(w, name, err);
    if (status != QMOE_OK) {
        qmi_stack_writer_destroy(w);
        return status;
    }
    *out = w;
    return QMOE_OK;
}

void qmi_stack_writer_destroy(qmi_stack_writer *w)
{
    if (w == NULL)
        return;
    qmi_st_writer_destroy(w->file);
    qmi_free(w->expert_offsets);
    qmi_free(w->row_offsets);
    qmi_free(w->row_codes);
    qmi_free(w);
}

/* Encodes all rows, then moves their codewords together.  Returns their
 * number. */
static uint64_t encode_rows(
    qmi_stack_writer *w, const qmi_ternary_matrix *matrix, int n_threads)
{
    const qmi_dict *dict = qmi_dict_generic();
    uint32_t *lengths = w->row_offsets + 1;
    QMI_PARALLEL_FOR(n_threads)
    for (int64_t r = 0; r < w->n_rows; r++)
        lengths[r] =
            (uint32_t)qmi_dict_encode_row(dict, w->row_codes + r * w->widest,
                matrix->codes + r * w->n_cols, w->n_cols);
    uint64_t n = 0;
    for (int64_t r = 0; r < w->n_rows; r++) {
        memmove(w->row_codes + n, w->row_codes + r * w->widest,
            lengths[r] * sizeof *w->row_codes);
        n += lengths[r];
        w->row_offsets[r + 1] = (uint32_t)n;
    }
    return n;
}

qmoe_status qmi_stack_writer_add(qmi_stack_writer *w,
    const qmi_ternary_matrix *matrix, int n_threads, qmi_error *err)
{
    if (w->n_done == w->n_mats || matrix->n_rows != w->n_rows ||
        matrix->n_cols != w->n_cols)
        return qmi_fail(err, QMOE_E_INVALID,
            "matrix does not fit the stack it is added to");
    if ((uint64_t)w->n_rows * (uint64_t)w->widest > UINT32_MAX)
        return qmi_fail(err, QMOE_E_UNSUPPORTED,
            "a matrix of %lld x %lld needs more than 2^32 codewords",
            (long long)w->n_rows, (long long)w->n_cols);
    uint64_t n = encode_rows(w, matrix, n_threads);
    w->expert_offsets[w->n_done + 1] = w->expert_offsets[w->n_done] + n;
    w->n_done++;
    QMI_TRY(qmi_st_writer_write(w->file, QMI_TD_ROW_OFFSETS, w->row_offsets,
        (size_t)(w->n_rows + 1) * sizeof *w->row_offsets, err));
    QMI_TRY(qmi_st_writer_write(w->file, QMI_TD_LEVELS, matrix->levels,
        (size_t)w->n_rows * 2 * sizeof *matrix->levels, err));
    return qmi_st_writer_write(
        w->file, QMI_TD_CODES, w->row_codes, n * sizeof *w->row_codes, err);
}

qmoe_status qmi_stack_writer_finish(qmi_stack_writer *w, uint64_t *header_hash,
    uint64_t *file_bytes, qmi_error *err)
{
    QMI_TRY(
        qmi_st_writer_write(w->file, QMI_TD_EXPERT_OFFSETS, w->expert_offsets,
            (size_t)(w->n_mats + 1) * sizeof *w->expert_offsets, err));
    return qmi_st_writer_finish(w->file, header_hash, file_bytes, err);
}
