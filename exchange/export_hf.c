/* SPDX-License-Identifier: Apache-2.0
 * In: a compressed model.  Out: a plain Hugging Face checkpoint in bf16 or f32.
 * The tensors are listed first, then written as a stream (shards.h).  Decoding
 * runs on all threads; writing is in the order of the list, so the bytes do not
 * depend on their number. */
#include "export_job.h"

#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "expert_names.h"
#include "parallel.h"
#include "shards.h"

/* Elements converted at a time. */
enum { PIECE = 1 << 16 };

/* A tensor to write: one of the model's own, or a matrix of a compressed
 * weight; the other pointer is NULL. */
typedef struct entry {
    const qmi_tensor *tensor;
    const qmi_weight *stack;
    int64_t expert;
} entry;

/* The list grows with the number of experts, an entry each; data is never
 * kept. */
typedef struct exporter {
    qmi_export *e;
    qmi_dtype dtype;
    entry *entries;
    size_t n, capacity;
} exporter;

/* ---- the list ---- */

/* Integers are copied as they are; they have no narrower form. */
static bool is_float(qmi_dtype dtype)
{
    return qmi_format_dense(dtype) != NULL;
}

static qmi_dtype target_dtype(const exporter *x, const entry *n)
{
    return n->tensor != NULL && !is_float(n->tensor->dtype) ? n->tensor->dtype
                                                            : x->dtype;
}

static qmoe_status add(exporter *x, entry new_entry)
{
    if (x->n == x->capacity) {
        size_t capacity = 2 * x->capacity + 256;
        entry *grown = qmi_regrow(x->entries, x->n, capacity, sizeof *grown,
            "the tensor list", x->e->err);
        if (grown == NULL)
            return QMOE_E_NOMEM;
        x->entries = grown;
        x->capacity = capacity;
    }
    x->entries[x->n++] = new_entry;
    return QMOE_OK;
}

/* Plain tensors in file order, then matrices by weight and expert: the order
 * decides names and bytes. */
static qmoe_status list_tensors(exporter *x)
{
    const qmoe_model *m = x->e->model;
    for (size_t f = 0; f < qmi_checkpoint_file_count(m->checkpoint); f++) {
        const qmi_tensor_file *file = qmi_checkpoint_file(m->checkpoint, f);
        for (size_t i = 0; i < qmi_tensor_file_count(file); i++) {
            const qmi_tensor *t = qmi_tensor_file_at(file, i);
            if (!qmi_export_is_part(x->e, t->name))
                QMI_TRY(add(x, (entry){.tensor = t}));
        }
    }
    for (size_t i = 0; i < m->n_weights; i++) {
        const qmi_weight *w = &m->weights[i];
        for (int64_t mat = 0; !w->format->dense && mat < w->n_mats; mat++)
            QMI_TRY(add(x, (entry){.stack = w, .expert = mat}));
    }
    return QMOE_OK;
}

/* ---- values ---- */

static qmoe_status write_tensor(
    exporter *x, const qmi_tensor *t, qmi_st_writer *writer, size_t index)
{
    qmi_error *err = x->e->err;
    unsigned size = qmi_dtype_bits(t->dtype) / 8;
    QMI_TRY(qmi_checkpoint_fetch(
        x->e->model->checkpoint, t->data, t->n_bytes, err));
    if (!is_float(t->dtype) || t->dtype == x->dtype)
        return qmi_st_writer_write(writer, index, t->data, t->n_bytes, err);
    /* In pieces: the embedding of a large model would take gigabytes in f32. */
    float *wide = qmi_calloc(PIECE, sizeof *wide, "a piece of a tensor", err);
    uint8_t *out = qmi_calloc(PIECE, sizeof *wide, "a piece of a tensor", err);
    qmoe_status status = wide != NULL && out != NULL ? QMOE_OK : QMOE_E_NOMEM;
    uint64_t n_left = t->n_bytes / size;
    const uint8_t *from = t->data;
    /* `from` stays inside the tensor: n_left counts its elements. */
    while (status == QMOE_OK && n_left != 0) {
        size_t n = n_left < PIECE ? (size_t)n_left : PIECE;
        qmi_widen(wide, from, t->dtype, n);
        qmi_narrow(out, wide, x->dtype, n);
        status = qmi_st_writer_write(
            writer, index, out, n * qmi_dtype_bits(x->dtype) / 8, err);
        from += n * size;
        n_left -= n;
    }
    qmi_free(wide);
    qmi_free(out);
    return status;
}

/* A whole matrix in the target's dtype (qmi_free). */
static qmoe_status decode(
    const exporter *x, const entry *n, uint8_t **out, qmi_error *err)
{
    /* A few rows at a time bound the f32 copy, and a wish to end is heard
     * between them. */
    enum { ROWS = 64 };
    const qmi_weight *w = n->stack;
    size_t size = qmi_dtype_bits(x->dtype) / 8;
    size_t n_cols = (size_t)w->n_cols;
    /* Reading here makes a disk that fails an error of this matrix. */
    QMI_TRY(qmi_matrix_fetch(x->e->model, w, n->expert, err));
    *out = qmi_calloc((size_t)w->n_rows * n_cols, size, "a matrix", err);
    float *wide = qmi_calloc(ROWS * n_cols, sizeof *wide, "rows", err);
    if (*out == NULL || wide == NULL) {
        qmi_free(wide);
        return QMOE_E_NOMEM;
    }
    for (int64_t row = 0; row < w->n_rows && !qmi_cancelled(err); row += ROWS) {
        int64_t rows = w->n_rows - row < ROWS ? w->n_rows - row : ROWS;
        qmi_weight_decode(w, n->expert, row, rows, wide);
        qmi_narrow(*out + (size_t)row * n_cols * size, wide, x->dtype,
            (size_t)rows * n_cols);
    }
    qmi_free(wide);
    qmi_matrix_release(x->e->model, w, n->expert);
    /* What was decoded so far is freed by the caller, also when cancelled. */
    return qmi_check_cancel(err);
}

static size_t matrix_bytes(const exporter *x, const entry *n)
{
    return (size_t)(n->stack->n_rows * n->stack->n_cols) *
           qmi_dtype_bits(x->dtype) / 8;
}

/* What one of the matrices decoded at the same time became. */
typedef struct decoded {
    uint8_t *data;
    qmoe_status status;
    qmi_error error;
} decoded;

typedef struct group {
    const exporter *x;
    size_t first;
    decoded *all;
} group;

static void decode_item(void *user, int64_t item, int thread)
{
    const group *g = user;
    decoded *d = &g->all[item];
    (void)thread;
    /* An error of its own per item: several threads fail at the same time. */
    d->error = qmi_error_beside(g->x->e->err);
    d->status = decode(
        g->x, &g->x->entries[g->first + (size_t)item], &d->data, &d->error);
}

/* Decodes entries [first, first + n) at the same time. */
static qmoe_status write_matrices(
    exporter *x, size_t first, size_t n, qmi_st_writer *writer, size_t index)
{
    qmi_export *e = x->e;
    decoded *all = qmi_calloc(n, sizeof *all, "matrices", e->err);
    if (all == NULL)
        return QMOE_E_NOMEM;
    group g = {.x = x, .first = first, .all = all};
    const qmi_loop loop = {.n_threads = e->hooks->n_threads,
        .n_items = (int64_t)n,
        .work = decode_item,
        .user = &g};
    qmoe_status status = qmi_parallel(&loop, e->err);
    /* In order: the first failure in the order of the list is told, and results
     * behind it are only freed. */
    for (size_t i = 0; i < n; i++) {
        const entry *item = &x->entries[first + i];
        if (status == QMOE_OK && all[i].status != QMOE_OK)
            status = qmi_fail(e->err, all[i].status, "%s", all[i].error.text);
        if (status == QMOE_OK)
            status = qmi_st_writer_write(
                writer, index + i, all[i].data, matrix_bytes(x, item), e->err);
        e->done +=
            qmi_weight_bytes(item->stack) / (uint64_t)item->stack->n_mats;
        qmi_free(all[i].data);
    }
    qmi_free(all);
    return status;
}

/* ---- shards ---- */

/* Matrices get the names that they have in an uncompressed checkpoint. */
static void describe(const void *user, size_t i, qmi_shard_tensor *out)
{
    const exporter *x = user;
    const entry *n = &x->entries[i];
    *out = (qmi_shard_tensor){.dtype = target_dtype(x, n)};
    if (n->tensor != NULL) {
        out->name = n->tensor->name;
        out->rank = n->tensor->rank;
        memcpy(out->shape, n->tensor->shape, sizeof out->shape);
        return;
    }
    out->name = n->stack->name;
    if (n->stack->source != NULL) {
        out->name = out->text;
        qmi_expert_tensor(
            out->text, sizeof out->text, n->stack->source, n->expert);
    }
    out->rank = 2;
    out->shape[0] = n->stack->n_rows;
    out->shape[1] = n->stack->n_cols;
}

static qmoe_status write_entries(
    void *user, size_t first, size_t last, qmi_st_writer *writer)
{
    exporter *x = user;
    /* As many matrices at once as there are threads: memory is bounded by
     * them. */
    size_t step = (size_t)x->e->hooks->n_threads;
    for (size_t i = first; i < last;) {
        qmi_shard_tensor t;
        size_t n = 1;
        describe(x, i, &t);
        QMI_TRY(qmi_progress(
            x->e->hooks, "export", t.name, x->e->done, x->e->total));
        if (x->entries[i].tensor != NULL) {
            QMI_TRY(write_tensor(x, x->entries[i].tensor, writer, i - first));
        } else {
            n = last - i < step ? last - i : step;
            /* A group never crosses a shard, and only matrices follow a matrix
             * in the list. */
            QMI_TRY(write_matrices(x, i, n, writer, i - first));
        }
        i += n;
    }
    return QMOE_OK;
}

static qmoe_status run(exporter *x)
{
    QMI_TRY(list_tensors(x));
    const qmi_shard_list list = {.n = x->n,
        .shard_bytes = x->e->options.shard_bytes,
        .describe = describe,
        .write = write_entries,
        .user = x};
    qmi_shard_report shards;
    QMI_TRY(qmi_shards_write(&list, &x->e->output, &shards, x->e->err));
    x->e->report->output_bytes = shards.n_bytes;
    x->e->report->n_files = shards.n_files;
    x->e->report->n_tensors = x->n;
    return qmi_export_config(
        x->e, x->dtype == QMI_F32 ? "float32" : "bfloat16");
}

qmoe_status qmi_export_hf(qmi_export *e)
{
    exporter x = {.e = e, .dtype = QMI_BF16};
    const char *dtype = e->options.dtype;
    if (dtype != NULL && strcmp(dtype, "f32") == 0)
        x.dtype = QMI_F32;
    else if (dtype != NULL && strcmp(dtype, "bf16") != 0)
        return qmi_fail(e->err, QMOE_E_INVALID,
            "a checkpoint is written as bf16 or f32, not '%s'", dtype);
    qmoe_status status = run(&x);
    qmi_free(x.entries);
    return status;
}
