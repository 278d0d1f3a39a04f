/* SPDX-License-Identifier: Apache-2.0
 * In: a directory.  Out: its config.json and all its tensors by name.  All
 * weight files are mapped when it is opened, and their tensors gathered in one
 * sorted table, so that finding one among the hundred thousands of a large
 * model does not depend on how they are sharded.  Behind this door every tensor
 * that an index promises is there, in one file only. */
#include "checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "alloc.h"
#include "hints.h"
#include "texts.h"
#include "torch_file.h"

/* Ways to keep weights, the preferred first: where both are there, a copy in
 * the older format must not win. */
typedef struct layout {
    const char *name;
    bool is_index;
    qmoe_status (*open)(
        qmi_tensor_file **out, const char *path, qmi_error *err);
} layout;

static const layout layouts[] = {
    {"model.safetensors", false, qmi_safetensors_open},
    {"model.safetensors.index.json", true, qmi_safetensors_open},
    {"pytorch_model.bin", false, qmi_torch_open},
    {"pytorch_model.bin.index.json", true, qmi_torch_open},
};
enum { N_LAYOUTS = sizeof layouts / sizeof *layouts };

struct qmi_checkpoint {
    char *directory;
    char *beside; /* where the tokenizer's files are; NULL: `directory` */
    char *config_path;
    cJSON *config;
    const layout *layout;
    qmi_tensor_file **files;
    size_t n_files;
    const qmi_tensor **by_name;
    size_t n_tensors;
};

/* ---- one file ---- */

/* Every rule of the container's format is checked before this returns. */
static qmoe_status open_file(
    qmi_checkpoint *c, const char *name, qmi_error *err)
{
    char *path = qmi_path_join(c->directory, name, err);
    if (path == NULL)
        return QMOE_E_NOMEM;
    qmi_tensor_file *file = NULL;
    qmoe_status status = c->layout->open(&file, path, err);
    qmi_free(path);
    if (status != QMOE_OK)
        return status;
    qmi_tensor_file_set_index(file, (uint32_t)c->n_files);
    c->files[c->n_files++] = file;
    return QMOE_OK;
}

/* For all files at once: pointers to them are kept. */
static qmoe_status reserve_files(qmi_checkpoint *c, size_t n, qmi_error *err)
{
    c->files = qmi_calloc(n, sizeof *c->files, "the file list", err);
    return c->files == NULL ? QMOE_E_NOMEM : QMOE_OK;
}

/* ---- shards ---- */

typedef struct shards {
    const char *path;   /* of the index, for errors */
    const cJSON *map;   /* tensor name -> file name */
    const char **names; /* sorted, without duplicates */
    size_t n;
} shards;

/* Names from an index must not lead out of the directory. */
bool qmi_is_plain_name(const char *name)
{
    return name[0] != '\0' && strcmp(name, ".") != 0 &&
           strcmp(name, "..") != 0 && strpbrk(name, "/\\") == NULL;
}

/* Names are borrowed from the index, which outlives them here. */
static qmoe_status gather_names(shards *s, qmi_error *err)
{
    size_t n = (size_t)cJSON_GetArraySize(s->map);
    s->names = qmi_calloc(n, sizeof *s->names, "the shard list", err);
    if (s->names == NULL)
        return QMOE_E_NOMEM;
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, s->map)
    {
        const char *name = cJSON_GetStringValue(item);
        if (name == NULL)
            return qmi_fail(err, QMOE_E_FORMAT,
                "%s: weight_map: the shard of tensor '%.200s' is not a string",
                s->path, item->string);
        if (!qmi_is_plain_name(name))
            return qmi_fail(err, QMOE_E_FORMAT,
                "%s: weight_map: shard '%.200s' is not a plain file name",
                s->path, name);
        s->names[s->n++] = name;
    }
    qsort(s->names, s->n, sizeof *s->names, qmi_texts_compare);
    size_t n_unique = 0;
    /* Equal names are neighbours after sorting. */
    for (size_t i = 0; i < s->n; i++)
        if (i == 0 || strcmp(s->names[i], s->names[n_unique - 1]) != 0)
            s->names[n_unique++] = s->names[i];
    s->n = n_unique;
    return QMOE_OK;
}

/* Every tensor the index promises must be where it says. */
static qmoe_status check_map(
    const qmi_checkpoint *c, const shards *s, qmi_error *err)
{
    /* Names were gathered from this very map, so each is found. */
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, s->map)
    {
        const char *name = item->valuestring;
        const char **found =
            bsearch(&name, s->names, s->n, sizeof *s->names, qmi_texts_compare);
        const qmi_tensor_file *file = c->files[found - s->names];
        if (qmi_tensor_file_find(file, item->string) == NULL)
            return qmi_fail(err, QMOE_E_FORMAT,
                "%s: weight_map: tensor '%.200s' is missing in shard '%.200s'",
                s->path, item->string, name);
    }
    return QMOE_OK;
}

static qmoe_status open_shards(qmi_checkpoint *c, shards *s, qmi_error *err)
{
    QMI_TRY(gather_names(s, err));
    QMI_TRY(reserve_files(c, s->n, err));
    /* Opened one by one, each with every check of its format. */
    for (size_t i = 0; i < s->n; i++) {
        qmoe_status status = open_file(c, s->names[i], err);
        if (status == QMOE_E_NOT_FOUND)
            return qmi_fail(err, QMOE_E_FORMAT,
                "%s: weight_map: shard '%.200s' is missing in the directory "
                "(an unfinished download?)",
                s->path, s->names[i]);
        QMI_TRY(status);
    }
    return check_map(c, s, err);
}

/* The index is needed until everything that it promises was found. */
static qmoe_status open_index(
    qmi_checkpoint *c, const char *path, qmi_error *err)
{
    cJSON *index = NULL;
    shards s = {.path = path};
    QMI_TRY(qmi_json_load(&index, path, err));
    qmoe_status status = QMOE_OK;
    s.map = cJSON_GetObjectItemCaseSensitive(index, "weight_map");
    if (!cJSON_IsObject(s.map) || s.map->child == NULL)
        status = qmi_fail(err, QMOE_E_FORMAT,
            "%s: weight_map is not an object that names tensors", path);
    else
        status = open_shards(c, &s, err);
    qmi_free(s.names);
    cJSON_Delete(index);
    return status;
}

/* ---- which files ---- */

/* *found: something of that name is there.  What it is, opening will tell. */
static qmoe_status look_for(
    const qmi_checkpoint *c, const char *name, bool *found, qmi_error *err)
{
    struct stat info;
    char *path = qmi_path_join(c->directory, name, err);
    if (path == NULL)
        return QMOE_E_NOMEM;
    *found = stat(path, &info) == 0;
    qmi_free(path);
    return QMOE_OK;
}

/* A single file is its own list; an index names its shards. */
static qmoe_status open_layout(
    qmi_checkpoint *c, const layout *chosen, qmi_error *err)
{
    c->layout = chosen;
    if (!chosen->is_index) {
        QMI_TRY(reserve_files(c, 1, err));
        return open_file(c, chosen->name, err);
    }
    char *path = qmi_path_join(c->directory, chosen->name, err);
    if (path == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status = open_index(c, path, err);
    qmi_free(path);
    return status;
}

static qmoe_status open_weights(qmi_checkpoint *c, qmi_error *err)
{
    /* The first layout that is there is taken; if it is broken, no other is
     * tried in its place. */
    for (int i = 0; i < N_LAYOUTS; i++) {
        bool found = false;
        QMI_TRY(look_for(c, layouts[i].name, &found, err));
        if (found)
            return open_layout(c, &layouts[i], err);
    }
    return qmi_fail_no_weights(err, c->directory);
}

/* ---- the table of all tensors ---- */

/* By name alone: a name may occur once. */
static int compare_tensors(const void *a, const void *b)
{
    const qmi_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static qmoe_status index_tensors(qmi_checkpoint *c, qmi_error *err)
{
    size_t n = 0;
    for (size_t f = 0; f < c->n_files; f++)
        n += qmi_tensor_file_count(c->files[f]);
    c->by_name = qmi_calloc(n, sizeof *c->by_name, "the tensor index", err);
    if (c->by_name == NULL)
        return QMOE_E_NOMEM;
    /* Pointers to the tensors themselves, which stay where they are. */
    for (size_t f = 0; f < c->n_files; f++)
        for (size_t i = 0; i < qmi_tensor_file_count(c->files[f]); i++)
            c->by_name[c->n_tensors++] = qmi_tensor_file_at(c->files[f], i);
    if (n > 1)
        qsort(c->by_name, n, sizeof *c->by_name, compare_tensors);
    /* Sorted, so doubles are neighbours; the error names both files. */
    for (size_t i = 1; i < n; i++) {
        const qmi_tensor *a = c->by_name[i - 1], *b = c->by_name[i];
        if (strcmp(a->name, b->name) == 0)
            return qmi_fail(err, QMOE_E_FORMAT,
                "tensor '%.200s' is in two files: %s and %s", a->name,
                qmi_tensor_file_path(c->files[a->file]),
                qmi_tensor_file_path(c->files[b->file]));
    }
    return QMOE_OK;
}

/* ---- the directory ---- */

/* config.json before the weights: a directory without it is no model, and that
 * is the clearer error. */
static qmoe_status fill(
    qmi_checkpoint *c, const char *directory, qmi_error *err)
{
    QMI_TRY(qmi_require_directory(directory, err));
    c->directory = qmi_strdup(directory, err);
    if (c->directory == NULL)
        return QMOE_E_NOMEM;
    c->config_path = qmi_path_join(directory, "config.json", err);
    if (c->config_path == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status = qmi_json_load(&c->config, c->config_path, err);
    if (status == QMOE_E_NOT_FOUND)
        return qmi_fail_no_config(err, directory);
    QMI_TRY(status);
    if (!cJSON_IsObject(c->config))
        return qmi_fail(
            err, QMOE_E_FORMAT, "%s: not a JSON object", c->config_path);
    QMI_TRY(open_weights(c, err));
    return index_tensors(c, err);
}

/* For sources that are no directory: `config` and `file` belong to the
 * checkpoint from here on, also after a failure. */
static qmoe_status fill_assembled(qmi_checkpoint *c, const char *name,
    const char *beside, cJSON *config, qmi_tensor_file *file, qmi_error *err)
{
    c->config = config;
    qmoe_status status = reserve_files(c, 1, err);
    if (status != QMOE_OK) {
        qmi_tensor_file_close(file);
        return status;
    }
    c->files[0] = file;
    c->n_files = 1;
    c->directory = qmi_strdup(name, err);
    c->config_path = qmi_strdup(name, err);
    c->beside = qmi_strdup(beside, err);
    if (c->directory == NULL || c->config_path == NULL || c->beside == NULL)
        return QMOE_E_NOMEM;
    return index_tensors(c, err);
}

/* Takes `config` and `file` in any case, so that callers need no way back. */
qmoe_status qmi_checkpoint_assemble(qmi_checkpoint **out, const char *name,
    const char *beside, cJSON *config, qmi_tensor_file *file, qmi_error *err)
{
    *out = NULL;
    qmi_checkpoint *c = qmi_calloc(1, sizeof *c, "a checkpoint", err);
    if (c == NULL) {
        cJSON_Delete(config);
        qmi_tensor_file_close(file);
        return QMOE_E_NOMEM;
    }
    qmoe_status status = fill_assembled(c, name, beside, config, file, err);
    if (status != QMOE_OK) {
        qmi_checkpoint_close(c);
        return status;
    }
    *out = c;
    return QMOE_OK;
}

qmoe_status qmi_checkpoint_open(
    qmi_checkpoint **out, const char *directory, qmi_error *err)
{
    *out = NULL;
    qmi_checkpoint *c = qmi_calloc(1, sizeof *c, "a checkpoint", err);
    if (c == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status = fill(c, directory, err);
    if (status != QMOE_OK) {
        qmi_checkpoint_close(c);
        return status;
    }
    *out = c;
    return QMOE_OK;
}

/* Every member may still be zero. */
void qmi_checkpoint_close(qmi_checkpoint *checkpoint)
{
    if (checkpoint == NULL)
        return;
    for (size_t i = 0; i < checkpoint->n_files; i++)
        qmi_tensor_file_close(checkpoint->files[i]);
    qmi_free(checkpoint->files);
    qmi_free(checkpoint->by_name);
    cJSON_Delete(checkpoint->config);
    qmi_free(checkpoint->config_path);
    qmi_free(checkpoint->directory);
    qmi_free(checkpoint->beside);
    qmi_free(checkpoint);
}

/* ---- questions ---- */

const char *qmi_checkpoint_directory(const qmi_checkpoint *checkpoint)
{
    return checkpoint->directory;
}

const char *qmi_checkpoint_config_path(const qmi_checkpoint *checkpoint)
{
    return checkpoint->config_path;
}

const cJSON *qmi_checkpoint_config(const qmi_checkpoint *checkpoint)
{
    return checkpoint->config;
}

size_t qmi_checkpoint_file_count(const qmi_checkpoint *checkpoint)
{
    return checkpoint->n_files;
}

const qmi_tensor_file *qmi_checkpoint_file(
    const qmi_checkpoint *checkpoint, size_t index)
{
    return checkpoint->files[index];
}

/* A sketch has no checkpoint, and so no tensors. */
const qmi_tensor *qmi_checkpoint_find(
    const qmi_checkpoint *checkpoint, const char *name)
{
    if (checkpoint == NULL)
        return NULL;
    const qmi_tensor wanted = {.name = name}, *key = &wanted;
    const qmi_tensor **found = bsearch(&key, checkpoint->by_name,
        checkpoint->n_tensors, sizeof *checkpoint->by_name, compare_tensors);
    return found == NULL ? NULL : *found;
}

qmoe_status qmi_checkpoint_require(const qmi_checkpoint *checkpoint,
    const qmi_tensor **out, const char *name, qmi_error *err)
{
    *out = qmi_checkpoint_find(checkpoint, name);
    if (*out != NULL)
        return QMOE_OK;
    return qmi_fail(err, QMOE_E_FORMAT, "%s: tensor '%s' is missing",
        checkpoint->directory, name);
}

void qmi_tensor_where(const qmi_checkpoint *checkpoint, const qmi_tensor *t,
    char *text, size_t capacity)
{
    snprintf(text, capacity, "%s: tensor '%.200s'",
        qmi_tensor_file_path(checkpoint->files[t->file]), t->name);
}

const char *qmi_shape_text(
    char *text, size_t capacity, const int64_t *shape, int rank)
{
    /* n may pass the capacity: snprintf says what it would have written. */
    size_t n = (size_t)snprintf(text, capacity, "[");
    for (int i = 0; i < rank && n < capacity; i++)
        n += (size_t)snprintf(text + n, capacity - n, "%s%lld",
            i == 0 ? "" : ", ", (long long)shape[i]);
    if (n < capacity)
        snprintf(text + n, capacity - n, "]");
    return text;
}

qmoe_status qmi_tensor_wrong(const qmi_checkpoint *checkpoint,
    const qmi_tensor *t, const char *expected, qmi_error *err)
{
    char where[512], shape[160];
    qmi_tensor_where(checkpoint, t, where, sizeof where);
    return qmi_fail(err, QMOE_E_FORMAT, "%s: %s %s, expected %s", where,
        qmi_dtype_name(t->dtype),
        qmi_shape_text(shape, sizeof shape, t->shape, t->rank), expected);
}

qmoe_status qmi_checkpoint_cut(qmi_checkpoint *checkpoint, qmi_tensor *out,
    const qmi_tensor *t, const qmi_cut *cut, qmi_error *err)
{
    return qmi_tensor_file_cut(checkpoint->files[t->file], out, t, cut, err);
}

/* A linear search: a checkpoint has some hundreds of files at most. */
static const qmi_tensor_file *holder(
    const qmi_checkpoint *checkpoint, const void *data)
{
    for (size_t i = 0; i < checkpoint->n_files; i++)
        if (qmi_tensor_file_holds(checkpoint->files[i], data))
            return checkpoint->files[i];
    return NULL;
}

qmoe_status qmi_checkpoint_fetch(const qmi_checkpoint *checkpoint,
    const void *data, uint64_t n_bytes, qmi_error *err)
{
    const qmi_tensor_file *file = holder(checkpoint, data);
    if (file != NULL)
        return qmi_tensor_file_fetch(file, data, n_bytes, err);
    return qmi_fail(err, QMOE_E_INVALID, "not a range of a checkpoint file");
}

void qmi_checkpoint_release(
    const qmi_checkpoint *checkpoint, const void *data, uint64_t n_bytes)
{
    const qmi_tensor_file *file = holder(checkpoint, data);
    if (file != NULL)
        qmi_tensor_file_release(file, data, n_bytes);
}

/* Such a checkpoint has one file. */
bool qmi_checkpoint_is_generated(const qmi_checkpoint *checkpoint)
{
    return checkpoint->n_files != 0 &&
           checkpoint->files[0]->container->is_generated;
}

const char *qmi_checkpoint_side_directory(const qmi_checkpoint *checkpoint)
{
    return checkpoint->beside != NULL ? checkpoint->beside
                                      : checkpoint->directory;
}

char *qmi_checkpoint_beside(
    const qmi_checkpoint *checkpoint, const char *name, qmi_error *err)
{
    return qmi_path_join(qmi_checkpoint_side_directory(checkpoint), name, err);
}

/* What lies in a map can be read there: only views have to be fetched. */
qmoe_status qmi_checkpoint_fetch_view(const qmi_checkpoint *checkpoint,
    const void *data, uint64_t n_bytes, qmi_error *err)
{
    for (size_t i = 0; i < checkpoint->n_files; i++)
        if (qmi_tensor_file_holds_view(checkpoint->files[i], data))
            return qmi_tensor_file_fetch(
                checkpoint->files[i], data, n_bytes, err);
    return QMOE_OK;
}
