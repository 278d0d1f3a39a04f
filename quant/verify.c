/* SPDX-License-Identifier: Apache-2.0
 * Whether a model is intact.  The work is cut into units, in the order of the
 * files: a compressed stack with all its tensors, or any other tensor.  Threads
 * take unit after unit; data are read by system calls through small buffers,
 * since faulting in the pages of a map costs more than the checksum.
 *
 * Rows are not decoded: what the check of a format accepts can be decoded
 * without further tests (core/weight.h), and checking is far cheaper. */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "available_memory.h"
#include "hash.h"
#include "matrix_range.h"
#include "model.h"
#include "parallel.h"

typedef struct unit {
    const qmi_tensor_file *file; /* of the tensor */
    const qmi_tensor *tensor;    /* NULL: a stack */
    const qmi_weight *weight;    /* compressed; NULL: a tensor */
} unit;

typedef struct verification {
    qmoe_model *model;
    qmoe_verify_report *report;
    unit *units; /* [n_units] */
    size_t n_units;
    bool forget;    /* keep the system's file cache for others */
    uint64_t total; /* bytes */
    _Atomic(uint64_t) done, n_tensors, n_bytes, n_without_checksum, n_rows;
    atomic_bool stop;     /* somebody asked for it */
    atomic_size_t broken; /* the first unit known to be; n_units: none */
    pthread_mutex_t lock; /* of `error` and report->first_bad */
    qmi_error error;      /* of unit `broken` */
    qmi_error *err;       /* the context's */
} verification;

/* One thread at one unit. */
typedef struct visitor {
    verification *v;
    const char *item; /* for the progress line */
    qmi_hasher *hasher;
    char bad[sizeof((qmoe_verify_report *)0)->first_bad];
    qmi_error error;
} visitor;

/* ---- progress ---- */

/* Progress is shown, and cancelling asked for, by the calling thread alone. */
static qmoe_status tick(visitor *a)
{
    verification *v = a->v;
    if (qmi_thread() == 0 && !atomic_load(&v->stop) &&
        qmi_progress(v->model->context, "verify", a->item,
            atomic_load(&v->done), v->total) != QMOE_OK)
        atomic_store(&v->stop, true);
    return atomic_load(&v->stop) ? QMOE_E_CANCELLED : QMOE_OK;
}

/* ---- tensors ---- */

static void note_bad(visitor *a, const char *name)
{
    snprintf(a->bad, sizeof a->bad, "%s", name);
}

static qmoe_status add_piece(void *user, const void *piece, size_t n_bytes)
{
    visitor *a = user;
    qmi_hasher_add(a->hasher, piece, n_bytes);
    atomic_fetch_add(&a->v->done, n_bytes);
    return tick(a);
}

static qmoe_status hash_tensor(visitor *a, uint64_t *hash,
    const qmi_tensor_file *file, const qmi_tensor *t)
{
    a->hasher = qmi_hasher_create(&a->error);
    if (a->hasher == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status = qmi_tensor_file_stream(
        file, t->data, t->n_bytes, add_piece, a, &a->error);
    *hash = qmi_hasher_value(a->hasher);
    qmi_hasher_destroy(a->hasher);
    a->hasher = NULL;
    return status;
}

static qmoe_status verify_tensor(
    visitor *a, const qmi_tensor_file *file, const qmi_tensor *t)
{
    verification *v = a->v;
    char key[512], hex[17];
    uint64_t hash = 0;
    snprintf(key, sizeof key, "xxh3:%s", t->name);
    const char *expected = qmi_tensor_file_metadata(file, key);
    a->item = t->name;
    QMI_TRY(tick(a));
    if (expected == NULL && v->model->quantization == NULL) {
        atomic_fetch_add(&v->n_without_checksum, 1);
        atomic_fetch_add(&v->done, t->n_bytes);
        return QMOE_OK;
    }
    QMI_TRY(hash_tensor(a, &hash, file, t));
    qmi_hash_hex(hex, hash);
    atomic_fetch_add(&v->n_tensors, 1);
    atomic_fetch_add(&v->n_bytes, t->n_bytes);
    if (expected != NULL && strcmp(expected, hex) == 0)
        return QMOE_OK;
    note_bad(a, t->name);
    return qmi_fail(&a->error, QMOE_E_CHECKSUM,
        "%s: tensor '%s': checksum %s, expected %s", qmi_tensor_file_path(file),
        t->name, hex, expected != NULL ? expected : "one (none is stored)");
}

/* ---- stacks ---- */

static const qmi_tensor_file *file_of(
    const qmoe_model *model, const qmi_tensor *t)
{
    return qmi_checkpoint_file(model->checkpoint, t->file);
}

/* Calls `visit` for every tensor of a stack. */
static qmoe_status each_part(visitor *a, const qmi_weight *w,
    qmoe_status (*visit)(
        visitor *a, const qmi_tensor_file *file, const qmi_tensor *t))
{
    const qmoe_model *model = a->v->model;
    for (int i = 0; i < w->format->n_parts; i++) {
        char name[512];
        const qmi_tensor *t = NULL;
        snprintf(
            name, sizeof name, "%s.%s", w->name, w->format->parts[i].suffix);
        QMI_TRY(qmi_checkpoint_require(model->checkpoint, &t, name, &a->error));
        QMI_TRY(visit(a, file_of(model, t), t));
    }
    return QMOE_OK;
}

static qmoe_status forget_tensor(
    visitor *a, const qmi_tensor_file *file, const qmi_tensor *t)
{
    if (a->v->forget)
        qmi_tensor_file_forget(file, t->data, t->n_bytes);
    else if (!t->is_view)
        qmi_tensor_file_release(file, t->data, t->n_bytes);
    return QMOE_OK;
}

static qmoe_status check_matrices(visitor *a, const qmi_weight *w)
{
    verification *v = a->v;
    for (int64_t mat = 0; mat < w->n_mats; mat++) {
        qmoe_status status = qmi_weight_check(w, mat, &a->error);
        if (status == QMOE_E_FORMAT)
            note_bad(a, w->name);
        QMI_TRY(status);
        qmi_matrix_release(v->model, w, mat);
        atomic_fetch_add(&v->n_rows, (uint64_t)w->n_rows);
        QMI_TRY(tick(a));
    }
    return QMOE_OK;
}

static qmoe_status verify_unit(visitor *a, const unit *u)
{
    if (u->weight == NULL) {
        QMI_TRY(verify_tensor(a, u->file, u->tensor));
        return forget_tensor(a, u->file, u->tensor);
    }
    QMI_TRY(each_part(a, u->weight, verify_tensor));
    QMI_TRY(check_matrices(a, u->weight));
    return each_part(a, u->weight, forget_tensor);
}

/* ---- units ---- */

/* The compressed weight of which a tensor is a part; NULL: none. */
static const qmi_weight *weight_with(
    const qmoe_model *model, const qmi_tensor *t)
{
    if (model->quantization == NULL)
        return NULL;
    for (size_t i = 0; i < model->n_weights; i++) {
        const qmi_weight *w = &model->weights[i];
        for (int j = 0; !w->format->dense && j < w->format->n_parts; j++)
            if (w->parts[j].data == t->data &&
                w->parts[j].n_bytes == t->n_bytes)
                return w;
    }
    return NULL;
}

static bool has_unit(const verification *v, const qmi_weight *w)
{
    for (size_t i = v->n_units; i-- > 0;)
        if (v->units[i].weight == w)
            return true;
    return false;
}

static void add_units(verification *v, const qmi_tensor_file *file)
{
    for (size_t i = 0; i < qmi_tensor_file_count(file); i++) {
        const qmi_tensor *t = qmi_tensor_file_at(file, i);
        const qmi_weight *w = weight_with(v->model, t);
        v->total += t->n_bytes;
        if (w == NULL)
            v->units[v->n_units++] = (unit){.file = file, .tensor = t};
        else if (!has_unit(v, w))
            v->units[v->n_units++] = (unit){.weight = w};
    }
}

static qmoe_status list_units(verification *v)
{
    const qmi_checkpoint *checkpoint = v->model->checkpoint;
    const size_t n_files = qmi_checkpoint_file_count(checkpoint);
    size_t n_tensors = 0;
    for (size_t f = 0; f < n_files; f++)
        n_tensors += qmi_tensor_file_count(qmi_checkpoint_file(checkpoint, f));
    v->units =
        qmi_calloc(n_tensors, sizeof *v->units, "a list of tensors", v->err);
    if (v->units == NULL)
        return QMOE_E_NOMEM;
    for (size_t f = 0; f < n_files; f++)
        add_units(v, qmi_checkpoint_file(checkpoint, f));
    return QMOE_OK;
}

/* ---- files ---- */

static const char *name_of(const qmi_tensor_file *file)
{
    const char *path = qmi_tensor_file_path(file);
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

/* Size and header hash that config.json records for a file. */
static qmoe_status verify_file(verification *v, const qmi_tensor_file *file)
{
    const char *name = name_of(file);
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
    snprintf(v->report->first_bad, sizeof v->report->first_bad, "%s", name);
    return qmi_fail(v->err, QMOE_E_CHECKSUM,
        "%s: header checksum %s and %" PRIu64
        " bytes, but config.json records %s and %" PRId64,
        qmi_tensor_file_path(file), hex, qmi_tensor_file_bytes(file), expected,
        n_bytes);
}

static qmoe_status verify_files(verification *v)
{
    const qmi_checkpoint *checkpoint = v->model->checkpoint;
    for (size_t f = 0; v->model->quantization != NULL &&
                       f < qmi_checkpoint_file_count(checkpoint);
         f++)
        QMI_TRY(verify_file(v, qmi_checkpoint_file(checkpoint, f)));
    return QMOE_OK;
}

/* ---- all of it ---- */

/* The first broken unit wins, whichever thread is done first. */
static void note_failure(verification *v, size_t number, const visitor *a)
{
    pthread_mutex_lock(&v->lock);
    if (number < atomic_load(&v->broken)) {
        atomic_store(&v->broken, number);
        v->error = a->error;
        snprintf(
            v->report->first_bad, sizeof v->report->first_bad, "%s", a->bad);
    }
    pthread_mutex_unlock(&v->lock);
}

static void visit_unit(verification *v, size_t number)
{
    visitor a = {.v = v};
    if (atomic_load(&v->stop) || number > atomic_load(&v->broken))
        return;
    qmoe_status status = verify_unit(&a, &v->units[number]);
    if (status != QMOE_OK && status != QMOE_E_CANCELLED)
        note_failure(v, number, &a);
}

static qmoe_status visit_units(verification *v)
{
    const int n_threads = v->model->context->n_threads;
    v->forget =
        v->model->quantization != NULL && v->total > qmi_available_memory() / 2;
    atomic_store(&v->broken, v->n_units);
    /* Of a small model the calling thread may see nothing else. */
    QMI_TRY(qmi_progress(v->model->context, "verify", NULL, 0, v->total));
    pthread_mutex_init(&v->lock, NULL);
    QMI_PARALLEL_FOR(n_threads)
    for (size_t i = 0; i < v->n_units; i++)
        visit_unit(v, i);
    pthread_mutex_destroy(&v->lock);
    v->report->n_tensors = atomic_load(&v->n_tensors);
    v->report->n_bytes = atomic_load(&v->n_bytes);
    v->report->n_without_checksum = atomic_load(&v->n_without_checksum);
    v->report->n_rows_checked = atomic_load(&v->n_rows);
    if (atomic_load(&v->stop))
        return QMOE_E_CANCELLED;
    if (atomic_load(&v->broken) == v->n_units)
        return qmi_progress(
            v->model->context, "verify", NULL, v->total, v->total);
    return qmi_fail(v->err, v->error.status, "%s", v->error.text);
}

qmoe_status qmoe_model_verify(qmoe_model *model, qmoe_verify_report *report)
{
    *report = (qmoe_verify_report){0};
    verification v = {
        .model = model, .report = report, .err = &model->context->error};
    QMI_TRY(verify_files(&v));
    qmoe_status status = list_units(&v);
    if (status == QMOE_OK)
        status = visit_units(&v);
    qmi_free(v.units);
    return status;
}
