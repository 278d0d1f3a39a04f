/* SPDX-License-Identifier: Apache-2.0
 * What a model holds.  In: an open model.  Out: a description per weight, and
 * on demand the share of zeros and the entropy of its values.  Descriptions
 * read no weights.  Values are counted as they are stored, chunk by chunk, so
 * memory does not grow with the matrix. */
#include "model.h"

#include <math.h>

#include "alloc.h"
#include "cancel.h"

/* Rows decoded at a time. */
enum { CHUNK_ROWS = 64 };

size_t qmoe_model_weight_count(const qmoe_model *model)
{
    return model != NULL ? model->n_weights : 0;
}

qmoe_status qmoe_model_weight(
    const qmoe_model *model, size_t index, qmoe_weight_info *out)
{
    if (out == NULL)
        return QMOE_E_INVALID;
    *out = (qmoe_weight_info){0};
    /* The list ends with an error, so that callers may count up to it. */
    if (model == NULL || index >= model->n_weights)
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
        .role = w->role,
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
        QMI_TRY(qmi_check_cancel(err));
        qmi_weight_decode(w, mat, row, n, rows);
        for (int64_t i = 0; i < n * w->n_cols; i++)
            /* Three symbols: zero, below, above.  For ternary rows these are
             * the three levels. */
            counts[rows[i] == 0 ? 0 : rows[i] < 0 ? 1 : 2]++;
    }
    /* Made or converted for this count alone: a model larger than memory must
     * be countable. */
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
        /* 0 log 0 is 0. */
        if (counts[i] != 0)
            bits -= (double)counts[i] / total * log2((double)counts[i] / total);
    return bits;
}

static qmoe_status count(
    qmoe_model *model, size_t index, qmoe_weight_stats *out)
{
    qmi_error *err = &model->hooks->error;
    if (index >= model->n_weights)
        return qmi_fail(err, QMOE_E_INVALID, "no weight %zu", index);
    /* As stored: that is what can be skipped, and what the compressor
     * counts. */
    qmi_weight stored = model->weights[index];
    /* A rotated row has no zeros in the model's own columns. */
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

qmoe_status qmoe_model_weight_stats(
    qmoe_model *model, size_t index, qmoe_weight_stats *out)
{
    if (out != NULL)
        *out = (qmoe_weight_stats){0};
    QMI_TRY(qmi_model_call_begin(model, __func__, out == NULL));
    return qmi_model_call_end(model, count(model, index, out));
}
