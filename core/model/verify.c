/* SPDX-License-Identifier: Apache-2.0
 * Whether a model is intact: config.json, the small files, then the shards
 * (verify_tensors.c).  In: a directory.  Out: every fault, in the order of the
 * files whichever thread found it when; the first is the error.  What is broken
 * is noted, and the rest is looked at all the same; a model that cannot be
 * opened is looked at file by file.  A failure that says nothing of the files,
 * like no memory, ends the verification. */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "cancel.h"
#include "digest.h"
#include "verify_job.h"

/* ---- faults ---- */

/* A file's own: everything else is a failure of the machine or a wish of the
 * user. */
static bool is_fault(qmoe_status status)
{
    return status == QMOE_E_FORMAT || status == QMOE_E_CHECKSUM ||
           status == QMOE_E_IO;
}

/* A copy of a name, which may be NULL. */
static bool copy_name(char **out, const char *name, qmi_error *err)
{
    *out = name != NULL ? qmi_strdup(name, err) : NULL;
    return name == NULL || *out != NULL;
}

static bool add_fault(
    qmi_verification *v, const qmi_fault *fault, const qmi_error *error)
{
    if (v->n_faults == v->fault_capacity) {
        size_t capacity = v->n_faults == 0 ? 8 : 2 * v->n_faults;
        qmi_fault *grown = qmi_regrow(v->faults, v->n_faults, capacity,
            sizeof *grown, "the list of faults", &v->failure);
        if (grown == NULL)
            return false;
        v->faults = grown;
        v->fault_capacity = capacity;
    }
    qmi_fault *to = &v->faults[v->n_faults];
    /* Names follow below: a copy that fails must find an entry to clean up. */
    *to = (qmi_fault){
        .file = fault->file, .place = fault->place, .error = *error};
    v->n_faults++;
    return copy_name(&to->name, fault->name, &v->failure) &&
           copy_name(&to->tensor, fault->tensor, &v->failure);
}

/* OK after a fault: the verification goes on. */
qmoe_status qmi_verify_note(qmi_verification *v, qmoe_status status,
    const qmi_fault *fault, const qmi_error *error)
{
    if (status == QMOE_OK || status == QMOE_E_CANCELLED)
        return status;
    pthread_mutex_lock(&v->lock);
    if (!is_fault(status))
        v->failure = *error;
    else
        status = add_fault(v, fault, error) ? QMOE_OK : QMOE_E_NOMEM;
    pthread_mutex_unlock(&v->lock);
    return status;
}

/* Of config.json and the other small files, in the order of the calls. */
static qmoe_status note_small(qmi_verification *v, qmoe_status status,
    const char *name, const qmi_error *error)
{
    const qmi_fault fault = {.place = v->n_faults, .name = (char *)name};
    return qmi_verify_note(v, status, &fault, error);
}

/* By file, then by place in it: the order does not depend on threads. */
static int compare_faults(const void *a, const void *b)
{
    const qmi_fault *x = a, *y = b;
    if (x->file != y->file)
        return x->file < y->file ? -1 : 1;
    return x->place < y->place ? -1 : x->place > y->place;
}

static bool has_fault(const qmi_verification *v, const char *name)
{
    for (size_t i = 0; i < v->n_faults; i++)
        if (v->faults[i].name != NULL && strcmp(v->faults[i].name, name) == 0)
            return true;
    return false;
}

/* ---- config.json and small files ---- */

static qmoe_status load_config(qmi_verification *v)
{
    qmi_error error = {0};
    v->config_path = qmi_path_join(v->directory, "config.json", &v->failure);
    if (v->config_path == NULL)
        return QMOE_E_NOMEM;
    /* Read again, though the model has read it: a broken one must be looked at,
     * too. */
    qmoe_status status = qmi_json_load(&v->config, v->config_path, &error);
    if (status == QMOE_E_NOT_FOUND)
        return QMOE_OK; /* opening says more */
    v->compressed = cJSON_IsObject(
        cJSON_GetObjectItemCaseSensitive(v->config, "quantization_config"));
    return note_small(v, status, "config.json", &error);
}

static qmoe_status check_small_files(qmi_verification *v)
{
    qmi_error error = {0};
    const cJSON *files = qmi_digest_files(v->config), *entry = NULL;
    qmoe_status status = qmi_digest_check_config(
        &v->report->has_digest, v->config_path, v->config, &error);
    QMI_TRY(note_small(v, status, "config.json", &error));
    cJSON_ArrayForEach(entry, files)
    {
        /* Shards have checksums of their own, tensor by tensor. */
        if (qmi_digest_is_shard(entry))
            continue;
        status =
            qmi_digest_check_small(v->directory, v->config_path, entry, &error);
        QMI_TRY(note_small(v, status, entry->string, &error));
    }
    return QMOE_OK;
}

/* What models would read, but was put there later. */
static qmoe_status check_foreign_files(qmi_verification *v)
{
    const cJSON *files = qmi_digest_files(v->config);
    qmi_error error = {0};
    for (int i = 0; v->report->has_digest && i <= QMI_N_TOKENIZER_FILES; i++) {
        const char *name = i < QMI_N_TOKENIZER_FILES ? qmi_tokenizer_files[i]
                                                     : "model.safetensors";
        qmoe_status status =
            qmi_digest_check_foreign(v->directory, files, name, &error);
        QMI_TRY(note_small(v, status, name, &error));
    }
    return QMOE_OK;
}

/* Files that nothing is known about, and that nobody reads. */
static void name_others(const qmi_verification *v)
{
    const cJSON *files = qmi_digest_files(v->config);
    struct dirent **entries = NULL;
    /* Without a digest every file is unknown, and naming all would say
     * nothing. */
    int n = v->report->has_digest
                ? scandir(v->directory, &entries, NULL, alphasort)
                : 0;
    for (int i = 0; i < n; i++) {
        const char *name = entries[i]->d_name;
        /* Hidden files are those of other programs. */
        if (name[0] != '.' && strcmp(name, "config.json") != 0 &&
            cJSON_GetObjectItemCaseSensitive(files, name) == NULL &&
            !has_fault(v, name))
            qmi_message(v->hooks,
                "%s/%s: config.json does not record it; not checked",
                v->directory, name);
        free(entries[i]);
    }
    free(entries);
}

/* ---- shards ---- */

static qmoe_status reserve_shards(qmi_verification *v, size_t n)
{
    v->shards =
        qmi_calloc(n, sizeof *v->shards, "a list of shards", &v->failure);
    return v->shards != NULL ? QMOE_OK : QMOE_E_NOMEM;
}

static qmoe_status open_shard(qmi_verification *v, const cJSON *entry)
{
    qmi_error error = {0};
    qmi_tensor_file *shard = NULL;
    const qmi_fault fault = {.file = v->n_shards + 1, .name = entry->string};
    char *path = qmi_path_join(v->directory, entry->string, &v->failure);
    if (path == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status = qmi_safetensors_open(&shard, path, &error);
    if (status == QMOE_E_NOT_FOUND)
        status = qmi_fail(&error, QMOE_E_FORMAT,
            "%s: missing, but config.json records it", path);
    /* NULL takes its place: numbers of shards are places in the list. */
    qmi_free(path);
    v->shards[v->n_shards++] = shard;
    return qmi_verify_note(v, status, &fault, &error);
}

/* Without a model: those that config.json names. */
static qmoe_status open_shards(qmi_verification *v)
{
    const cJSON *files = qmi_digest_files(v->config), *entry = NULL;
    QMI_TRY(reserve_shards(v, (size_t)cJSON_GetArraySize(files)));
    cJSON_ArrayForEach(entry, files)
    {
        if (qmi_digest_is_shard(entry) && qmi_is_plain_name(entry->string))
            QMI_TRY(open_shard(v, entry));
    }
    return QMOE_OK;
}

static qmoe_status list_shards(qmi_verification *v)
{
    if (v->model == NULL)
        return open_shards(v);
    const qmi_checkpoint *checkpoint = v->model->checkpoint;
    const size_t n = qmi_checkpoint_file_count(checkpoint);
    QMI_TRY(reserve_shards(v, n));
    for (; v->n_shards < n; v->n_shards++)
        v->shards[v->n_shards] = qmi_checkpoint_file(checkpoint, v->n_shards);
    return QMOE_OK;
}

/* ---- all of it ---- */

static qmoe_status look(qmi_verification *v)
{
    /* Without the digest's check, which comes below fault by fault. */
    qmoe_status opened =
        qmi_model_open(&v->model, v->hooks, v->directory, false);
    /* Later calls overwrite the context's error. */
    const qmi_error why = v->hooks->error;
    if (opened == QMOE_E_NOMEM)
        return note_small(v, opened, NULL, &why);
    QMI_TRY(load_config(v));
    QMI_TRY(check_small_files(v));
    QMI_TRY(check_foreign_files(v));
    QMI_TRY(list_shards(v));
    /* Threads run here; all other steps are this thread's. */
    QMI_TRY(qmi_verify_shards(v));
    name_others(v);
    v->report->compressed = v->compressed;
    /* Most often one of the faults found is the reason. */
    return v->n_faults != 0 ? QMOE_OK : note_small(v, opened, NULL, &why);
}

/* Tells of all faults; the first is the error. */
static qmoe_status tell(
    qmi_verification *v, qmoe_fault_fn *on_fault, void *user)
{
    v->report->n_faults = v->n_faults;
    if (v->n_faults == 0)
        return QMOE_OK;
    qsort(v->faults, v->n_faults, sizeof *v->faults, compare_faults);
    for (size_t i = 0; on_fault != NULL && i < v->n_faults; i++) {
        const qmi_fault *f = &v->faults[i];
        const qmoe_fault fault = {.file = f->name,
            .tensor = f->tensor,
            .text = f->error.text,
            .status = f->error.status};
        on_fault(user, &fault);
    }
    const qmi_error *first = &v->faults[0].error;
    v->failure = *first;
    return first->status;
}

static void clean_up(qmi_verification *v)
{
    /* With a model, the shards are its checkpoint's. */
    for (size_t i = 0; v->model == NULL && i < v->n_shards; i++)
        qmi_tensor_file_close((qmi_tensor_file *)v->shards[i]);
    qmi_free(v->shards);
    for (size_t i = 0; i < v->n_faults; i++) {
        qmi_free(v->faults[i].name);
        qmi_free(v->faults[i].tensor);
    }
    qmi_free(v->faults);
    qmoe_model_close(v->model);
    cJSON_Delete(v->config);
    qmi_free(v->config_path);
    pthread_mutex_destroy(&v->lock);
}

qmoe_status qmoe_verify(qmoe_context *context, qmoe_verify_report *report,
    const char *directory, qmoe_fault_fn *on_fault, void *user)
{
    if (report != NULL)
        *report = (qmoe_verify_report){0};
    qmi_hooks *hooks = qmi_hooks_of(context);
    QMI_TRY(
        qmi_call_begin(hooks, __func__, report == NULL || directory == NULL));
    qmi_verification v = {
        .hooks = hooks, .directory = directory, .report = report};
    /* Empty, with the same wish to end; the context gets its text last. */
    v.failure = qmi_error_beside(&hooks->error);
    pthread_mutex_init(&v.lock, NULL);
    qmoe_status status = look(&v);
    if (status == QMOE_OK)
        status = tell(&v, on_fault, user);
    clean_up(&v);
    if (status != QMOE_OK && v.failure.status == status)
        hooks->error = v.failure;
    return qmi_call_end(hooks, status);
}
