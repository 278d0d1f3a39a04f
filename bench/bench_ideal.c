/* SPDX-License-Identifier: Apache-2.0
 * The ideal uncompressed model (bench_ideal.h).  In: a model and where its
 * matrices come from.  Out: the same model, whose experts of a block share one
 * bf16 matrix, and whose other compressed weights are bf16.  All else is the
 * model's own and is not copied.  Whatever failed, qmi_bench_ideal_free takes what was
 * made. */
#include "bench_ideal.h"

#include <string.h>

#include "alloc.h"

static const qmi_weight *find(const qmoe_model *model, const char *name)
{
    for (size_t i = 0; i < model->n_weights; i++)
        if (strcmp(model->weights[i].name, name) == 0)
            return &model->weights[i];
    return NULL;
}

/* Matrix 0 of `from`, rounded to bf16, into a new block. */
static qmoe_status copy_matrix(
    uint16_t **out, const qmi_weight *from, qmi_error *err)
{
    const size_t n_cols = (size_t)from->n_cols;
    /* Untrusted until it was checked, like every matrix. */
    QMI_TRY(qmi_weight_check(from, 0, err));
    float *row = qmi_calloc(n_cols, sizeof *row, "a row", err);
    uint16_t *block = qmi_calloc(
        (size_t)from->n_rows * n_cols, sizeof *block, "a shared matrix", err);
    if (row == NULL || block == NULL) {
        qmi_free(row);
        qmi_free(block);
        return QMOE_E_NOMEM;
    }
    for (int64_t r = 0; r < from->n_rows; r++) {
        qmi_weight_decode(from, 0, r, 1, row);
        for (size_t c = 0; c < n_cols; c++)
            block[(size_t)r * n_cols + c] = qmi_f32_to_bf16(row[c]);
    }
    qmi_free(row);
    *out = block;
    return QMOE_OK;
}

/* Turns one stack of the copied table into n_mats times the same matrix. */
static qmoe_status share(qmi_bench_ideal *ideal, size_t index,
    const qmoe_model *original, qmi_error *err)
{
    qmi_weight *w = &ideal->model.weights[index];
    const qmi_weight *from = find(original, w->name);
    if (from == NULL || from->n_rows != w->n_rows || from->n_cols != w->n_cols)
        return qmi_fail(err, QMOE_E_INVALID,
            "the original has no '%s' of the same shape", w->name);
    const uint64_t n_bytes =
        (uint64_t)w->n_rows * (uint64_t)w->n_cols * sizeof(uint16_t);
    /* Kept in `blocks` at once, so that a failure below frees it. */
    QMI_TRY(copy_matrix(&ideal->blocks[index], from, err));
    const void **mats =
        qmi_calloc((size_t)w->n_mats, sizeof *mats, "an expert list", err);
    _Atomic(uint8_t) *checked = qmi_calloc(
        (size_t)w->n_mats, sizeof *checked, "marks of matrices", err);
    if (mats == NULL || checked == NULL) {
        qmi_free(mats);
        qmi_free((void *)checked);
        return QMOE_E_NOMEM;
    }
    /* Every expert has one address, which caches take as one matrix.  It comes
     * from a checked one: without marks every use would look through it. */
    for (int64_t e = 0; e < w->n_mats; e++) {
        mats[e] = ideal->blocks[index];
        atomic_store(&checked[e], 1);
    }
    *w = (qmi_weight){
        .format = qmi_format_dense(QMI_BF16),
        .name = w->name,
        .n_mats = w->n_mats,
        .n_rows = w->n_rows,
        .n_cols = w->n_cols,
        .parts[0].n_bytes = n_bytes * (uint64_t)w->n_mats,
        .mats = mats,
        .checked = checked,
        .role = w->role,
    };
    if (w->role == QMOE_ROLE_EXPERTS)
        ideal->n_bytes += n_bytes;
    return QMOE_OK;
}

qmoe_status qmi_bench_ideal_make(qmi_bench_ideal *out, const qmoe_model *model,
    const qmoe_model *original, qmi_error *err)
{
    const size_t n = model->n_weights;
    /* A copy of the struct: lists other than the weights are shared with the
     * model. */
    *out = (qmi_bench_ideal){.model = *model};
    /* The name that reports show. */
    out->model.expert_format = qmi_format_dense(QMI_BF16)->name;
    out->blocks = qmi_calloc(n, sizeof *out->blocks, "shared matrices", err);
    out->model.weights =
        qmi_calloc(n, sizeof *model->weights, "the weight table", err);
    qmoe_status status = QMOE_E_NOMEM;
    if (out->blocks != NULL && out->model.weights != NULL) {
        memcpy(out->model.weights, model->weights, n * sizeof *model->weights);
        status = QMOE_OK;
    }
    for (size_t i = 0; i < n && status == QMOE_OK; i++)
        if (model->weights[i].role == QMOE_ROLE_EXPERTS ||
            !model->weights[i].format->dense)
            status = share(out, i, original, err);
    if (status != QMOE_OK)
        qmi_bench_ideal_free(out);
    return status;
}

void qmi_bench_ideal_free(qmi_bench_ideal *ideal)
{
    for (size_t i = 0; ideal->blocks != NULL && i < ideal->model.n_weights;
         i++) {
        if (ideal->blocks[i] == NULL || ideal->model.weights == NULL)
            continue;
        /* The stack was replaced unless its list could not be made. */
        if (ideal->model.weights[i].mats != NULL &&
            ideal->model.weights[i].mats[0] == ideal->blocks[i]) {
            qmi_free(ideal->model.weights[i].mats);
            qmi_free((void *)ideal->model.weights[i].checked);
        }
        qmi_free(ideal->blocks[i]);
    }
    qmi_free(ideal->blocks);
    qmi_free(ideal->model.weights);
    *ideal = (qmi_bench_ideal){0};
}
