/* SPDX-License-Identifier: Apache-2.0
 * In: what a container found in a file.  Out: tensors by number, by name and by
 * address; the container's own ways to fetch and give back.  Names live as long
 * as the file, in few blocks: a large model has hundreds of thousands of
 * them. */
#include "tensor_file.h"

#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "views.h"

/* ---- storage ---- */

/* Blocks double in size, so there are few. */
typedef struct qmi_text_block {
    struct qmi_text_block *next;
    size_t used, capacity;
    char text[];
} text_block;

/* The container fills the rest. */
qmoe_status qmi_tensor_file_create(qmi_tensor_file **out,
    const qmi_container *container, const char *path, qmi_error *err)
{
    *out = NULL;
    qmi_tensor_file *file = qmi_calloc(1, sizeof *file, "a tensor file", err);
    if (file == NULL)
        return QMOE_E_NOMEM;
    file->container = container;
    file->path = qmi_strdup(path, err);
    if (file->path == NULL) {
        qmi_free(file);
        return QMOE_E_NOMEM;
    }
    *out = file;
    return QMOE_OK;
}

/* Strings lie one behind the other: an allocation for each would cost more than
 * the text. */
const char *qmi_tensor_file_keep(
    qmi_tensor_file *file, const char *text, qmi_error *err)
{
    size_t n = strlen(text) + 1;
    text_block *block = file->texts;
    /* Blocks are never moved: names point into them. */
    if (block == NULL || n > block->capacity - block->used) {
        size_t capacity = block == NULL ? 4096 : 2 * block->capacity;
        if (capacity < n)
            capacity = n;
        block = qmi_calloc(sizeof *block + capacity, 1, "header text", err);
        if (block == NULL)
            return NULL;
        block->capacity = capacity;
        block->next = file->texts;
        file->texts = block;
    }
    char *copy = block->text + block->used;
    memcpy(copy, text, n);
    block->used += n;
    return copy;
}

static qmoe_status read_source(
    const void *file, const void *data, uint64_t n_bytes, qmi_error *err)
{
    return qmi_tensor_file_read(file, data, n_bytes, err);
}

qmoe_status qmi_tensor_file_add_views(
    qmi_tensor_file *file, qmi_views **out, qmi_error *err)
{
    QMI_TRY(qmi_views_create(out, read_source, file, err));
    (*out)->next = file->views;
    file->views = *out;
    return QMOE_OK;
}

void qmi_tensor_file_close(qmi_tensor_file *file)
{
    if (file == NULL)
        return;
    /* Before the map goes: `own` may refer to it. */
    if (file->container->close != NULL)
        file->container->close(file);
    while (file->views != NULL) {
        qmi_views *next = file->views->next;
        qmi_views_destroy(file->views);
        file->views = next;
    }
    qmi_map_close(&file->map);
    while (file->texts != NULL) {
        text_block *next = file->texts->next;
        qmi_free(file->texts);
        file->texts = next;
    }
    qmi_free(file->tensors);
    qmi_free(file->by_name);
    qmi_free(file->metadata);
    qmi_free(file->path);
    qmi_free(file);
}

/* ---- indices ---- */

static int compare_names(const void *a, const void *b)
{
    const qmi_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

/* Every search by name is a binary search in this list. */
static qmoe_status index_names(qmi_tensor_file *file, qmi_error *err)
{
    size_t n = file->n_tensors;
    file->by_name =
        qmi_calloc(n, sizeof *file->by_name, "the tensor index", err);
    if (file->by_name == NULL)
        return QMOE_E_NOMEM;
    for (size_t i = 0; i < n; i++)
        file->by_name[i] = &file->tensors[i];
    if (n > 1)
        qsort(file->by_name, n, sizeof *file->by_name, compare_names);
    /* Sorted, so doubles are neighbours. */
    for (size_t i = 1; i < n; i++)
        if (compare_names(&file->by_name[i - 1], &file->by_name[i]) == 0)
            return qmi_fail(err, QMOE_E_FORMAT,
                "tensor '%.200s': duplicate name in the header",
                file->by_name[i]->name);
    return QMOE_OK;
}

static int compare_pairs(const void *a, const void *b)
{
    return strcmp(
        ((const qmi_string_pair *)a)->key, ((const qmi_string_pair *)b)->key);
}

/* Sorted in place: the order of metadata means nothing. */
static qmoe_status index_metadata(qmi_tensor_file *file, qmi_error *err)
{
    const qmi_string_pair *pairs = file->metadata;
    size_t n = file->n_metadata;
    if (n > 1)
        qsort(file->metadata, n, sizeof *pairs, compare_pairs);
    for (size_t i = 1; i < n; i++)
        if (strcmp(pairs[i - 1].key, pairs[i].key) == 0)
            return qmi_fail(err, QMOE_E_FORMAT,
                "duplicate key '%.200s' in __metadata__", pairs[i].key);
    return QMOE_OK;
}

qmoe_status qmi_tensor_file_index(qmi_tensor_file *file, qmi_error *err)
{
    QMI_TRY(index_names(file, err));
    return index_metadata(file, err);
}

/* The field served as the place in the header until now (safetensors.c). */
void qmi_tensor_file_set_index(qmi_tensor_file *file, uint32_t index)
{
    for (size_t i = 0; i < file->n_tensors; i++)
        file->tensors[i].file = index;
}

/* ---- questions ---- */

const char *qmi_tensor_file_path(const qmi_tensor_file *file)
{
    return file->path;
}

size_t qmi_tensor_file_count(const qmi_tensor_file *file)
{
    return file->n_tensors;
}

const qmi_tensor *qmi_tensor_file_at(const qmi_tensor_file *file, size_t index)
{
    return &file->tensors[index];
}

/* Tensors are compared with a tensor that has nothing but the name. */
const qmi_tensor *qmi_tensor_file_find(
    const qmi_tensor_file *file, const char *name)
{
    const qmi_tensor wanted = {.name = name}, *key = &wanted;
    const qmi_tensor **found = bsearch(&key, file->by_name, file->n_tensors,
        sizeof *file->by_name, compare_names);
    return found == NULL ? NULL : *found;
}

const char *qmi_tensor_file_metadata(
    const qmi_tensor_file *file, const char *key)
{
    const qmi_string_pair wanted = {key, NULL};
    if (file->n_metadata == 0)
        return NULL;
    const qmi_string_pair *found = bsearch(&wanted, file->metadata,
        file->n_metadata, sizeof *file->metadata, compare_pairs);
    return found == NULL ? NULL : found->value;
}

uint64_t qmi_tensor_file_header_hash(const qmi_tensor_file *file)
{
    return file->header_hash;
}

uint64_t qmi_tensor_file_bytes(const qmi_tensor_file *file)
{
    return file->map.n_bytes;
}

/* A list that is searched: there are some for each block at most. */
static qmi_views *views_with(const qmi_tensor_file *file, const void *data)
{
    for (qmi_views *views = file->views; views != NULL; views = views->next)
        if (qmi_views_hold(views, data))
            return views;
    return NULL;
}

bool qmi_tensor_file_holds_view(const qmi_tensor_file *file, const void *data)
{
    return views_with(file, data) != NULL ||
           (file->container->holds_view != NULL &&
               file->container->holds_view(file, data));
}

static bool in_map(const qmi_tensor_file *file, const void *data)
{
    const qmi_map *map = &file->map;
    const uint8_t *p = data;
    /* The end counts as inside: an empty tensor may lie there. */
    return p >= map->data && p <= map->data + map->n_bytes;
}

bool qmi_tensor_file_holds(const qmi_tensor_file *file, const void *data)
{
    return in_map(file, data) || qmi_tensor_file_holds_view(file, data);
}

void qmi_tensor_file_release(
    const qmi_tensor_file *file, const void *data, uint64_t n_bytes)
{
    qmi_views *views = views_with(file, data);
    /* Views are given back as a whole, pages of the map by range. */
    if (views != NULL)
        qmi_views_release(views, data);
    else if (file->container->release != NULL)
        file->container->release(file, data, n_bytes);
    else
        qmi_map_done_with(data, n_bytes);
}

/* Any thread may ask: views and containers lock where they have to. */
qmoe_status qmi_tensor_file_fetch(const qmi_tensor_file *file, const void *data,
    uint64_t n_bytes, qmi_error *err)
{
    const qmi_map *map = &file->map;
    const uint8_t *p = data;
    qmi_views *views = views_with(file, data);
    if (views != NULL)
        return qmi_views_fetch(views, data, err);
    /* The range, not only its first byte. */
    bool in_file = in_map(file, data) &&
                   n_bytes <= map->n_bytes - (uint64_t)(p - map->data);
    if (!in_file && !qmi_tensor_file_holds_view(file, data))
        return qmi_fail(
            err, QMOE_E_INVALID, "%s: not a range of this file", file->path);
    return file->container->fetch(file, data, n_bytes, err);
}
