/* SPDX-License-Identifier: Apache-2.0
 * The shards of a verification.  In: the open shards and, if it could be
 * opened, the model.  Out: faults, and counts of what was checked.  The work is
 * cut into units, in the order of the files: the header of a shard, a
 * compressed stack with all its tensors, or any other tensor.  Threads take
 * unit after unit; data are read by system calls through small buffers, since
 * faulting in the pages of a map costs more than the checksum.
 *
 * Rows are not decoded: what the check of a format accepts can be decoded
 * without further tests (core/formats/weight.h), and checking is far
 * cheaper. */
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "available_memory.h"
#include "digest.h"
#include "hash.h"
#include "matrix_range.h"
#include "parallel.h"
#include "verify_job.h"

typedef struct unit {
    size_t shard;             /* number of the file */
    const qmi_tensor *tensor; /* NULL: the header, or a stack */
    const qmi_weight *weight; /* compressed; NULL: no stack */
} unit;

typedef struct sweep {
    qmi_verification *v;
    unit *units; /* [n_units] */
    size_t n_units;
    bool forget;                /* keep the system's file cache for others */
    uint64_t total;             /* bytes */
    _Atomic(const char *) item; /* begun last */
    _Atomic(uint64_t) done, n_tensors, n_bytes, n_without_checksum, n_rows;
    atomic_int stop; /* a status: why to end */
} sweep;

/* One thread at one unit. */
typedef struct visitor {
    sweep *s;
    qmi_hasher *hasher;
    bool broken; /* a fault of this unit is noted */
    qmi_error error;
} visitor;

/* ---- progress ---- */

/* Called by the thread that asked for the verification, while the others
 * work. */
static qmoe_status show(void *user)
{
    sweep *s = user;
    return qmi_progress(s->v->hooks, "verify", atomic_load(&s->item),
        atomic_load(&s->done), s->total);
}

/* ---- faults ---- */

const char *qmi_verify_file_name(const qmi_tensor_file *file)
{
    return qmi_last_component(qmi_tensor_file_path(file));
}

/* Notes what is wrong with a tensor or stack that begins at `data`; NULL, NULL:
 * with the header. */
static qmoe_status note(visitor *a, qmoe_status status, size_t shard,
    const char *tensor, const uint8_t *data)
{
    const qmi_tensor_file *file = a->s->v->shards[shard];
    /* `place` orders the faults of one shard. */
    const qmi_fault fault = {
        .file = shard + 1,
        .place = data != NULL ? (uint64_t)(data - file->map.data) : 0,
        .name = (char *)qmi_verify_file_name(file),
        .tensor = (char *)tensor,
    };
    a->broken = a->broken || status != QMOE_OK;
    return qmi_verify_note(a->s->v, status, &fault, &a->error);
}

/* ---- tensors ---- */

/* Bytes count as they are read, so the progress moves within large tensors. */
static qmoe_status add_piece(void *user, const void *piece, size_t n_bytes)
{
    visitor *a = user;
    qmi_hasher_add(a->hasher, piece, n_bytes);
    atomic_fetch_add(&a->s->done, n_bytes);
    /* A failure of another thread ends this one's reading. */
    return (qmoe_status)atomic_load(&a->s->stop);
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

static qmoe_status check_tensor(
    visitor *a, const qmi_tensor_file *file, const qmi_tensor *t)
{
    sweep *s = a->s;
    char key[512], hex[17];
    uint64_t hash = 0;
    snprintf(key, sizeof key, "xxh3:%s", t->name);
    const char *expected = qmi_tensor_file_metadata(file, key);
    /* A plain checkpoint has none; a compressed one must have one for every
     * tensor. */
    if (expected == NULL && !s->v->compressed) {
        atomic_fetch_add(&s->n_without_checksum, 1);
        atomic_fetch_add(&s->done, t->n_bytes);
        return QMOE_OK;
    }
    QMI_TRY(hash_tensor(a, &hash, file, t));
    qmi_hash_hex(hex, hash);
    atomic_fetch_add(&s->n_tensors, 1);
    atomic_fetch_add(&s->n_bytes, t->n_bytes);
    /* A missing checksum is a fault: removing it must not hide a change. */
    if (expected != NULL && strcmp(expected, hex) == 0)
        return QMOE_OK;
    return qmi_fail(&a->error, QMOE_E_CHECKSUM,
        "%s: tensor '%s': checksum %s, expected %s", qmi_tensor_file_path(file),
        t->name, hex, expected != NULL ? expected : "one (none is stored)");
}

static qmoe_status verify_tensor(visitor *a, size_t shard, const qmi_tensor *t)
{
    atomic_store(&a->s->item, t->name);
    QMI_TRY(qmi_check_cancel(&a->error));
    qmoe_status status = check_tensor(a, a->s->v->shards[shard], t);
    return note(a, status, shard, t->name, t->data);
}

static qmoe_status forget_tensor(visitor *a, size_t shard, const qmi_tensor *t)
{
    const qmi_tensor_file *file = a->s->v->shards[shard];
    /* Larger than half of the memory: what was read once is not worth the file
     * cache of others. */
    if (a->s->forget)
        qmi_tensor_file_forget(file, t->data, t->n_bytes);
    else if (!t->is_view)
        qmi_tensor_file_release(file, t->data, t->n_bytes);
    return QMOE_OK;
}

/* ---- stacks ---- */

/* Calls `visit` for every tensor of a stack. */
static qmoe_status each_part(visitor *a, const qmi_weight *w,
    qmoe_status (*visit)(visitor *a, size_t shard, const qmi_tensor *t))
{
    const qmi_checkpoint *checkpoint = a->s->v->model->checkpoint;
    for (int i = 0; i < w->format->n_parts; i++) {
        char name[512];
        const qmi_tensor *t = NULL;
        snprintf(
            name, sizeof name, "%s.%s", w->name, w->format->parts[i].suffix);
        QMI_TRY(qmi_checkpoint_require(checkpoint, &t, name, &a->error));
        QMI_TRY(visit(a, t->file, t));
    }
    return QMOE_OK;
}

static qmoe_status check_matrices(visitor *a, const qmi_weight *w)
{
    sweep *s = a->s;
    /* Matrix by matrix, each given back: memory does not grow with the
     * stack. */
    for (int64_t mat = 0; mat < w->n_mats; mat++) {
        QMI_TRY(qmi_weight_check(w, mat, &a->error));
        qmi_matrix_release(s->v->model, w, mat);
        atomic_fetch_add(&s->n_rows, (uint64_t)w->n_rows);
        QMI_TRY(qmi_check_cancel(&a->error));
    }
    return QMOE_OK;
}

/* Rows of a stack with a broken tensor would only say so again. */
static qmoe_status verify_stack(visitor *a, const unit *u)
{
    QMI_TRY(each_part(a, u->weight, verify_tensor));
    if (!a->broken) {
        qmoe_status status = check_matrices(a, u->weight);
        QMI_TRY(note(
            a, status, u->shard, u->weight->name, u->weight->parts[0].data));
    }
    return each_part(a, u->weight, forget_tensor);
}

/* ---- units ---- */

static qmoe_status verify_header(visitor *a, size_t shard)
{
    const qmi_verification *v = a->s->v;
    qmoe_status status = qmi_digest_check_shard(v->shards[shard],
        v->config_path, qmi_digest_files(v->config), &a->error);
    return note(a, status, shard, NULL, NULL);
}

static qmoe_status verify_unit(visitor *a, const unit *u)
{
    if (u->weight != NULL)
        return verify_stack(a, u);
    if (u->tensor == NULL)
        return verify_header(a, u->shard);
    QMI_TRY(verify_tensor(a, u->shard, u->tensor));
    return forget_tensor(a, u->shard, u->tensor);
}

/* The compressed weight of which a tensor is a part; NULL: none. */
static const qmi_weight *weight_with(
    const qmoe_model *model, const qmi_tensor *t)
{
    if (model == NULL || model->quantization == NULL)
        return NULL;
    for (size_t i = 0; i < model->n_weights; i++) {
        const qmi_weight *w = &model->weights[i];
        for (int j = 0; !w->format->dense && j < w->format->n_parts; j++)
            /* By address: a weight's parts are tensors of the map. */
            if (w->parts[j].data == t->data &&
                w->parts[j].n_bytes == t->n_bytes)
                return w;
    }
    return NULL;
}

static bool has_unit(const sweep *s, const qmi_weight *w)
{
    /* From the end: parts of one stack are mostly neighbours. */
    for (size_t i = s->n_units; i-- > 0;)
        if (s->units[i].weight == w)
            return true;
    return false;
}

static void add_units(sweep *s, size_t shard)
{
    const qmi_tensor_file *file = s->v->shards[shard];
    if (s->v->compressed)
        /* Only a compressed model records headers. */
        s->units[s->n_units++] = (unit){.shard = shard};
    for (size_t i = 0; i < qmi_tensor_file_count(file); i++) {
        const qmi_tensor *t = qmi_tensor_file_at(file, i);
        const qmi_weight *w = weight_with(s->v->model, t);
        s->total += t->n_bytes;
        if (w == NULL)
            s->units[s->n_units++] = (unit){.shard = shard, .tensor = t};
        else if (!has_unit(s, w))
            s->units[s->n_units++] = (unit){.shard = shard, .weight = w};
    }
}

/* A shard that could not be opened is NULL: it is noted already. */
static qmoe_status list_units(sweep *s)
{
    qmi_verification *v = s->v;
    size_t n = 0;
    for (size_t i = 0; i < v->n_shards; i++)
        if (v->shards[i] != NULL)
            /* One for the header; stacks only make it fewer. */
            n += 1 + qmi_tensor_file_count(v->shards[i]);
    s->units =
        qmi_calloc(n, sizeof *s->units, "a list of tensors", &v->failure);
    if (s->units == NULL)
        return QMOE_E_NOMEM;
    for (size_t i = 0; i < v->n_shards; i++)
        if (v->shards[i] != NULL)
            add_units(s, i);
    return QMOE_OK;
}

static void visit_unit(void *user, int64_t item, int thread)
{
    sweep *s = user;
    visitor a = {.s = s, .error = qmi_error_beside(&s->v->hooks->error)};
    (void)thread;
    /* Units that have not begun are left out after a failure. */
    if (atomic_load(&s->stop) != QMOE_OK)
        return;
    qmoe_status status = verify_unit(&a, &s->units[item]);
    if (status != QMOE_OK)
        atomic_store(&s->stop, status);
}

static qmoe_status visit_units(sweep *s)
{
    qmi_verification *v = s->v;
    const qmi_loop loop = {
        .n_threads = v->hooks->n_threads,
        .n_items = (int64_t)s->n_units,
        .work = visit_unit,
        .watch = show,
        .user = s,
    };
    /* Half: the rest is for what else runs. */
    s->forget = v->compressed && s->total > qmi_available_memory() / 2;
    /* A small model is done before the loop shows anything. */
    QMI_TRY(show(s));
    /* Faults are no failures: the loop ends early only for those. */
    const qmoe_status status = qmi_parallel(&loop, &v->failure);
    v->report->n_tensors = atomic_load(&s->n_tensors);
    v->report->n_bytes = atomic_load(&s->n_bytes);
    v->report->n_without_checksum = atomic_load(&s->n_without_checksum);
    v->report->n_rows_checked = atomic_load(&s->n_rows);
    /* A thread's failure says more than the loop's. */
    QMI_TRY((qmoe_status)atomic_load(&s->stop));
    QMI_TRY(status);
    return v->n_faults != 0
               ? QMOE_OK
               : qmi_progress(v->hooks, "verify", NULL, s->total, s->total);
}

qmoe_status qmi_verify_shards(qmi_verification *v)
{
    sweep s = {.v = v};
    qmoe_status status = list_units(&s);
    if (status == QMOE_OK)
        status = visit_units(&s);
    qmi_free(s.units);
    return status;
}
