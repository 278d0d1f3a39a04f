/* SPDX-License-Identifier: Apache-2.0
 * In: a compressed model.  Out: a plain Hugging Face checkpoint in bf16 or f32.
 * The tensors are listed and cut into shards first, since a shard's name holds
 * their number, then written as a stream.  Decoding runs on all threads;
 * writing is in the order of the list, so the bytes do not depend on their
 * number. */
#include "export_job.h"

#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "expert_names.h"
#include "parallel.h"
#include "safetensors_writer.h"

/* 5 GB (docs/publish.md, section 2). */
static const uint64_t default_shard_bytes = UINT64_C(5000000000);

/* Elements converted at a time. */
enum { PIECE = 1 << 16 };

/* A tensor to write: one of the model's own, or a matrix of a stack; the other
 * pointer is NULL. */
typedef struct entry {
    const qmi_tensor *tensor;
    const qmi_weight *stack;
    int64_t expert;
    int shard;
} entry;

/* The list grows with the number of experts, an entry each; data is never
 * kept. */
typedef struct exporter {
    qmi_export *e;
    qmi_dtype dtype;
    entry *entries;
    size_t n, capacity;
    int n_shards;
    uint64_t shard_bytes; /* so far, of the last */
    cJSON *index, *map;
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

/* Tensors may be of any dtype, so elements follow from bytes. */
static uint64_t n_elements(const entry *n)
{
    if (n->tensor == NULL)
        return (uint64_t)n->stack->n_rows * (uint64_t)n->stack->n_cols;
    uint64_t bits = qmi_dtype_bits(n->tensor->dtype);
    return n->tensor->n_bytes * 8 / bits;
}

static uint64_t target_bytes(const exporter *x, const entry *n)
{
    return n_elements(n) * qmi_dtype_bits(target_dtype(x, n)) / 8;
}

static qmoe_status add(exporter *x, entry new_entry)
{
    uint64_t limit = x->e->options.shard_bytes;
    uint64_t n_bytes = target_bytes(x, &new_entry);
    if (x->n == x->capacity) {
        size_t capacity = 2 * x->capacity + 256;
        entry *grown = qmi_regrow(x->entries, x->n, capacity, sizeof *grown,
            "the tensor list", x->e->err);
        if (grown == NULL)
            return QMOE_E_NOMEM;
        x->entries = grown;
        x->capacity = capacity;
    }
    /* A tensor larger than a shard gets one of its own: shard_bytes is 0 only
     * while a shard is empty. */
    if (x->n_shards == 0 ||
        (x->shard_bytes != 0 && x->shard_bytes + n_bytes > limit)) {
        x->n_shards++;
        x->shard_bytes = 0;
    }
    x->shard_bytes += n_bytes;
    new_entry.shard = x->n_shards;
    x->entries[x->n++] = new_entry;
    return QMOE_OK;
}

/* Plain tensors in file order, then matrices by stack and expert: the order
 * decides names and bytes. */
static qmoe_status list_tensors(exporter *x)
{
    const qmoe_model *m = x->e->model;
    for (size_t f = 0; f < qmi_checkpoint_file_count(m->checkpoint); f++) {
        const qmi_tensor_file *file = qmi_checkpoint_file(m->checkpoint, f);
        for (size_t i = 0; i < qmi_tensor_file_count(file); i++) {
            const qmi_tensor *t = qmi_tensor_file_at(file, i);
            if (!qmi_export_is_stacked(x->e, t->name))
                QMI_TRY(add(x, (entry){.tensor = t}));
        }
    }
    for (size_t i = 0; i < m->n_weights; i++) {
        const qmi_weight *w = &m->weights[i];
        for (int64_t mat = 0; w->role == QMOE_ROLE_EXPERTS && mat < w->n_mats;
             mat++)
            QMI_TRY(add(x, (entry){.stack = w, .expert = mat}));
    }
    return QMOE_OK;
}

/* ---- values ---- */

/* n values to dst, in the target's dtype. bf16 is rounded to nearest even
 * (qmi_f32_to_bf16), which is exact for levels and scales that are bf16
 * numbers. */
static void narrow(uint8_t *dst, const float *src, size_t n, qmi_dtype dtype)
{
    if (dtype == QMI_F32) {
        memcpy(dst, src, n * sizeof *src);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t half = qmi_f32_to_bf16(src[i]);
        memcpy(dst + 2 * i, &half, sizeof half);
    }
}

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
        narrow(out, wide, n, x->dtype);
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
        narrow(*out + (size_t)row * n_cols * size, wide, (size_t)rows * n_cols,
            x->dtype);
    }
    qmi_free(wide);
    qmi_matrix_release(x->e->model, w, n->expert);
    /* What was decoded so far is freed by the caller, also when cancelled. */
    return qmi_check_cancel(err);
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
                writer, index + i, all[i].data, target_bytes(x, item), e->err);
        e->done +=
            qmi_weight_bytes(item->stack) / (uint64_t)item->stack->n_mats;
        qmi_free(all[i].data);
    }
    qmi_free(all);
    return status;
}

/* ---- shards ---- */

/* The name that the tensor has in an uncompressed checkpoint. */
static void entry_name(char *name, size_t capacity, const entry *n)
{
    if (n->tensor != NULL) {
        snprintf(name, capacity, "%s", n->tensor->name);
        return;
    }
    qmi_expert_tensor(name, capacity, n->stack->source, n->expert);
}

static qmoe_status declare(
    exporter *x, const entry *n, qmi_st_writer *writer, const char *file)
{
    char name[640];
    entry_name(name, sizeof name, n);
    const char *full = n->tensor != NULL ? n->tensor->name : name;
    if (n->tensor != NULL) {
        QMI_TRY(qmi_st_writer_declare(writer, full, target_dtype(x, n),
            n->tensor->shape, n->tensor->rank, x->e->err));
    } else {
        const int64_t shape[2] = {n->stack->n_rows, n->stack->n_cols};
        QMI_TRY(
            qmi_st_writer_declare(writer, full, x->dtype, shape, 2, x->e->err));
    }
    if (cJSON_AddStringToObject(x->map, full, file) == NULL)
        return qmi_fail(x->e->err, QMOE_E_NOMEM, "out of memory: the index");
    return QMOE_OK;
}

static qmoe_status write_entries(
    exporter *x, size_t first, size_t last, qmi_st_writer *writer)
{
    /* As many matrices at once as there are threads: memory is bounded by
     * them. */
    size_t step = (size_t)x->e->hooks->n_threads;
    for (size_t i = first; i < last;) {
        char name[640];
        size_t n = 1;
        entry_name(name, sizeof name, &x->entries[i]);
        QMI_TRY(
            qmi_progress(x->e->hooks, "export", name, x->e->done, x->e->total));
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

static qmoe_status fill_shard(exporter *x, size_t first, size_t last,
    qmi_st_writer *writer, const char *file)
{
    uint64_t hash = 0, n_bytes = 0;
    /* What transformers asks of a file before it reads it. */
    QMI_TRY(qmi_st_writer_metadata(writer, "format", "pt", x->e->err));
    for (size_t i = first; i < last; i++)
        QMI_TRY(declare(x, &x->entries[i], writer, file));
    QMI_TRY(write_entries(x, first, last, writer));
    QMI_TRY(qmi_st_writer_finish(writer, &hash, &n_bytes, x->e->err));
    x->e->report->output_bytes += n_bytes;
    x->e->report->n_files++;
    return QMOE_OK;
}

/* Entries [first, last) have the shard's number. */
static qmoe_status write_shard(exporter *x, size_t first, size_t last)
{
    char name[64];
    qmi_new_file file;
    qmi_st_writer *writer = NULL;
    snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors",
        x->entries[first].shard, x->n_shards);
    QMI_TRY(qmi_output_create(&x->e->output, &file, name, x->e->err));
    qmoe_status status = qmi_st_writer_create(&writer, &file, x->e->err);
    if (status == QMOE_OK)
        status = fill_shard(x, first, last, writer, name);
    qmi_st_writer_destroy(writer);
    return status;
}

static qmoe_status write_shards(exporter *x)
{
    /* Entries of a shard are neighbours in the list. */
    for (size_t first = 0; first < x->n;) {
        size_t last = first;
        while (last < x->n && x->entries[last].shard == x->entries[first].shard)
            last++;
        QMI_TRY(write_shard(x, first, last));
        first = last;
    }
    return QMOE_OK;
}

/* total_size is what loaders of Hugging Face expect; it counts data without
 * headers. */
static qmoe_status write_index(exporter *x)
{
    uint64_t total = 0;
    for (size_t i = 0; i < x->n; i++)
        total += target_bytes(x, &x->entries[i]);
    cJSON *metadata = cJSON_AddObjectToObject(x->index, "metadata");
    cJSON_AddNumberToObject(metadata, "total_size", (double)total);
    char *text = cJSON_Print(x->index);
    if (metadata == NULL || text == NULL) {
        cJSON_free(text);
        return qmi_fail(x->e->err, QMOE_E_NOMEM, "out of memory: the index");
    }
    qmoe_status status = qmi_output_write(&x->e->output,
        "model.safetensors.index.json", text, strlen(text), x->e->err);
    cJSON_free(text);
    return status;
}

static qmoe_status run(exporter *x)
{
    x->index = cJSON_CreateObject();
    x->map = cJSON_AddObjectToObject(x->index, "weight_map");
    if (x->map == NULL)
        return qmi_fail(x->e->err, QMOE_E_NOMEM, "out of memory: the index");
    QMI_TRY(list_tensors(x));
    QMI_TRY(write_shards(x));
    QMI_TRY(write_index(x));
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
    if (e->options.shard_bytes == 0)
        e->options.shard_bytes = default_shard_bytes;
    qmoe_status status = run(&x);
    cJSON_Delete(x.index);
    qmi_free(x.entries);
    return status;
}
