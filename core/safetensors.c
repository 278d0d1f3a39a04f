/* SPDX-License-Identifier: Apache-2.0
 * Reader of one safetensors file.  The header is walked entry by entry, never
 * as a tree: each value is read as what the format requires there or refused,
 * so neither nesting nor bulk in a hostile header costs memory. */
#include "safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "hash.h"
#include "json.h"

enum { LENGTH_BYTES = 8, MAX_HEADER_BYTES = 100000000 };

/* Strings of the header; blocks double in size, so there are few. */
typedef struct text_block {
    struct text_block *next;
    size_t used, capacity;
    char text[];
} text_block;

typedef struct entry {
    qmi_tensor tensor;
    uint32_t order; /* in the header; breaks ties between empty tensors */
} entry;

typedef struct pair {
    const char *key, *value;
} pair;

struct qmi_safetensors {
    char *path;
    qmi_map map;
    text_block *texts;
    entry *entries; /* by offset */
    size_t n_entries;
    const qmi_tensor **by_name;
    pair *metadata; /* by key */
    size_t n_metadata;
    uint64_t header_hash;
};

/* State of opening; `data` is the file after the header. */
typedef struct parser {
    qmi_safetensors *file;
    qmi_json_cursor cursor;
    size_t entry_capacity, metadata_capacity;
    const uint8_t *data;
    uint64_t n_data_bytes;
    uint64_t total_bytes; /* of the entries so far */
    bool has_metadata;
    qmi_error *err;
} parser;

/* ---- storage ---- */

/* A copy that lives as long as the file; NULL when out of memory. */
static const char *keep_text(
    qmi_safetensors *file, const char *text, qmi_error *err)
{
    size_t n = strlen(text) + 1;
    text_block *block = file->texts;
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

static void free_texts(text_block *block)
{
    while (block != NULL) {
        text_block *next = block->next;
        qmi_free(block);
        block = next;
    }
}

/* `items` with room for one more than `n`; NULL when out of memory. */
static void *make_room(
    void *items, size_t n, size_t *capacity, size_t size, qmi_error *err)
{
    if (n < *capacity)
        return items;
    size_t wanted = *capacity == 0 ? 16 : 2 * *capacity;
    void *grown = qmi_regrow(items, n, wanted, size, "the tensor list", err);
    if (grown != NULL)
        *capacity = wanted;
    return grown;
}

/* ---- walking the header ---- */

static qmoe_status fail_syntax(parser *p)
{
    const uint8_t *at = (const uint8_t *)p->cursor.at;
    return qmi_fail(p->err, QMOE_E_FORMAT,
        "header is not a valid JSON object near byte %zu of the file",
        (size_t)(at - p->file->map.data));
}

/* Steps into or onwards in the object at the cursor: *key is the next key
 * (cJSON_Delete it), the cursor is at its value; NULL at the closing brace. */
static qmoe_status next_key(parser *p, bool first, cJSON **key)
{
    *key = NULL;
    if (qmi_json_take(&p->cursor, '}'))
        return QMOE_OK;
    if (!first && !qmi_json_take(&p->cursor, ','))
        return fail_syntax(p);
    *key = qmi_json_take_string(&p->cursor);
    if (*key == NULL)
        return fail_syntax(p);
    if (qmi_json_take(&p->cursor, ':'))
        return QMOE_OK;
    cJSON_Delete(*key);
    *key = NULL;
    return fail_syntax(p);
}

/* An array of at most `capacity` integers. */
static qmoe_status take_integers(
    parser *p, const char *key, uint64_t *out, int capacity, int *n)
{
    *n = 0;
    if (!qmi_json_take(&p->cursor, '['))
        return qmi_fail(p->err, QMOE_E_FORMAT, "%s is not an array", key);
    if (qmi_json_take(&p->cursor, ']'))
        return QMOE_OK;
    do {
        uint64_t value = 0;
        if (!qmi_json_take_u64(&p->cursor, &value))
            return qmi_fail(p->err, QMOE_E_FORMAT,
                "%s holds something that is not a non-negative integer below "
                "2^53",
                key);
        if (*n == capacity)
            return qmi_fail(p->err, QMOE_E_FORMAT,
                "%s has more than %d entries", key, capacity);
        out[(*n)++] = value;
    } while (qmi_json_take(&p->cursor, ','));
    return qmi_json_take(&p->cursor, ']') ? QMOE_OK : fail_syntax(p);
}

static qmoe_status take_dtype(parser *p, qmi_dtype *out)
{
    cJSON *text = qmi_json_take_string(&p->cursor);
    qmoe_status status = QMOE_OK;
    if (text == NULL)
        return qmi_fail(p->err, QMOE_E_FORMAT, "dtype is not a string");
    *out = qmi_dtype_from_name(text->valuestring);
    if (*out == QMI_DTYPE_COUNT)
        status = qmi_fail(
            p->err, QMOE_E_FORMAT, "unknown dtype '%.40s'", text->valuestring);
    cJSON_Delete(text);
    return status;
}

/* ---- one tensor ---- */

enum { SEEN_DTYPE = 1, SEEN_SHAPE = 2, SEEN_OFFSETS = 4, SEEN_ALL = 7 };

typedef struct fields {
    unsigned seen;
    qmi_dtype dtype;
    uint64_t shape[QMI_MAX_RANK];
    int rank;
    uint64_t offsets[2]; /* begin, end */
} fields;

static qmoe_status take_field(parser *p, fields *f, const char *key)
{
    unsigned field = 0;
    int n = 0;
    if (strcmp(key, "dtype") == 0)
        field = SEEN_DTYPE;
    else if (strcmp(key, "shape") == 0)
        field = SEEN_SHAPE;
    else if (strcmp(key, "data_offsets") == 0)
        field = SEEN_OFFSETS;
    else
        return qmi_fail(p->err, QMOE_E_FORMAT,
            "unknown key '%.40s' beside dtype, shape and data_offsets", key);
    if ((f->seen & field) != 0)
        return qmi_fail(p->err, QMOE_E_FORMAT, "duplicate key '%s'", key);
    f->seen |= field;
    if (field == SEEN_DTYPE)
        return take_dtype(p, &f->dtype);
    if (field == SEEN_SHAPE)
        return take_integers(p, "shape", f->shape, QMI_MAX_RANK, &f->rank);
    QMI_TRY(take_integers(p, "data_offsets", f->offsets, 2, &n));
    if (n != 2)
        return qmi_fail(
            p->err, QMOE_E_FORMAT, "data_offsets is not a pair [begin, end]");
    return QMOE_OK;
}

static qmoe_status take_fields(parser *p, fields *f)
{
    cJSON *key = NULL;
    *f = (fields){.seen = 0};
    if (!qmi_json_take(&p->cursor, '{'))
        return qmi_fail(
            p->err, QMOE_E_FORMAT, "the header entry is not an object");
    QMI_TRY(next_key(p, true, &key));
    while (key != NULL) {
        qmoe_status status = take_field(p, f, key->valuestring);
        cJSON_Delete(key);
        QMI_TRY(status);
        QMI_TRY(next_key(p, false, &key));
    }
    if (f->seen == SEEN_ALL)
        return QMOE_OK;
    return qmi_fail(p->err, QMOE_E_FORMAT, "%s is missing",
        (f->seen & SEEN_DTYPE) == 0   ? "dtype"
        : (f->seen & SEEN_SHAPE) == 0 ? "shape"
                                      : "data_offsets");
}

static qmoe_status check_size(
    const fields *f, uint64_t *n_bytes, qmi_error *err)
{
    uint64_t n_elements = 1, n_bits = 0;
    for (int i = 0; i < f->rank; i++)
        if (!qmi_mul_u64(n_elements, f->shape[i], &n_elements))
            return qmi_fail(
                err, QMOE_E_FORMAT, "the element count of its shape overflows");
    if (!qmi_mul_u64(n_elements, qmi_dtype_bits(f->dtype), &n_bits))
        return qmi_fail(
            err, QMOE_E_FORMAT, "the byte count of its shape overflows");
    if (n_bits % 8 != 0)
        return qmi_fail(err, QMOE_E_FORMAT,
            "%llu elements of %s are not a whole number of bytes",
            (unsigned long long)n_elements, qmi_dtype_name(f->dtype));
    *n_bytes = n_bits / 8;
    return QMOE_OK;
}

static qmoe_status check_range(parser *p, const fields *f, uint64_t n_bytes)
{
    unsigned long long begin = f->offsets[0], end = f->offsets[1];
    if (end < begin)
        return qmi_fail(p->err, QMOE_E_FORMAT,
            "data_offsets [%llu, %llu] end before they begin", begin, end);
    if (end - begin != n_bytes)
        return qmi_fail(p->err, QMOE_E_FORMAT,
            "data_offsets [%llu, %llu] are not the size of its shape, "
            "%llu bytes",
            begin, end, (unsigned long long)n_bytes);
    if (end > p->n_data_bytes)
        return qmi_fail(p->err, QMOE_E_FORMAT,
            "data_offsets [%llu, %llu] end beyond the file, which holds %llu "
            "bytes of data (truncated?)",
            begin, end, (unsigned long long)p->n_data_bytes);
    /* Very many names for the same bytes are refused here, before they cost
     * memory; check_tiling does the rest. */
    p->total_bytes += n_bytes;
    if (p->total_bytes > p->n_data_bytes)
        return qmi_fail(p->err, QMOE_E_FORMAT,
            "data_offsets [%llu, %llu] overlap another tensor (together the "
            "tensors are larger than the data)",
            begin, end);
    return QMOE_OK;
}

static qmoe_status take_tensor(parser *p, const char *name)
{
    fields f;
    uint64_t n_bytes = 0;
    QMI_TRY(take_fields(p, &f));
    QMI_TRY(check_size(&f, &n_bytes, p->err));
    QMI_TRY(check_range(p, &f, n_bytes));
    qmi_safetensors *file = p->file;
    entry *entries = make_room(file->entries, file->n_entries,
        &p->entry_capacity, sizeof *entries, p->err);
    if (entries == NULL)
        return QMOE_E_NOMEM;
    file->entries = entries;
    const char *kept = keep_text(file, name, p->err);
    if (kept == NULL)
        return QMOE_E_NOMEM;
    entry *e = &entries[file->n_entries];
    e->order = (uint32_t)file->n_entries++;
    e->tensor = (qmi_tensor){
        .name = kept,
        .dtype = f.dtype,
        .rank = f.rank,
        .data = p->data + f.offsets[0],
        .n_bytes = n_bytes,
    };
    for (int i = 0; i < f.rank; i++)
        e->tensor.shape[i] = (int64_t)f.shape[i];
    return QMOE_OK;
}

/* ---- __metadata__ ---- */

static qmoe_status take_pair(parser *p, const char *key)
{
    qmi_safetensors *file = p->file;
    cJSON *value = qmi_json_take_string(&p->cursor);
    if (value == NULL)
        return qmi_fail(p->err, QMOE_E_FORMAT,
            "__metadata__ is not a map of strings: value of '%.200s'", key);
    qmoe_status status = QMOE_E_NOMEM;
    pair *pairs = make_room(file->metadata, file->n_metadata,
        &p->metadata_capacity, sizeof *pairs, p->err);
    if (pairs == NULL)
        goto cleanup;
    file->metadata = pairs;
    pair kept = {keep_text(file, key, p->err), NULL};
    if (kept.key != NULL)
        kept.value = keep_text(file, value->valuestring, p->err);
    if (kept.value == NULL)
        goto cleanup;
    pairs[file->n_metadata++] = kept;
    status = QMOE_OK;
cleanup:
    cJSON_Delete(value);
    return status;
}

static qmoe_status take_metadata(parser *p)
{
    cJSON *key = NULL;
    if (p->has_metadata)
        return qmi_fail(p->err, QMOE_E_FORMAT,
            "duplicate name '__metadata__' in the header");
    p->has_metadata = true;
    if (!qmi_json_take(&p->cursor, '{'))
        return qmi_fail(
            p->err, QMOE_E_FORMAT, "__metadata__ is not a map of strings");
    QMI_TRY(next_key(p, true, &key));
    while (key != NULL) {
        qmoe_status status = take_pair(p, key->valuestring);
        cJSON_Delete(key);
        QMI_TRY(status);
        QMI_TRY(next_key(p, false, &key));
    }
    return QMOE_OK;
}

/* ---- the whole header ---- */

static qmoe_status take_entry(parser *p, const char *name)
{
    if (strcmp(name, "__metadata__") == 0)
        return take_metadata(p);
    qmoe_status status = take_tensor(p, name);
    if (status != QMOE_OK)
        qmi_error_prefix(p->err, status, "tensor '%.200s'", name);
    return status;
}

static qmoe_status take_header(parser *p)
{
    cJSON *key = NULL;
    if (!qmi_json_take(&p->cursor, '{'))
        return fail_syntax(p);
    QMI_TRY(next_key(p, true, &key));
    while (key != NULL) {
        qmoe_status status = take_entry(p, key->valuestring);
        cJSON_Delete(key);
        QMI_TRY(status);
        QMI_TRY(next_key(p, false, &key));
    }
    return qmi_json_at_end(&p->cursor) ? QMOE_OK : fail_syntax(p);
}

static int compare_offsets(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    if (x->tensor.data != y->tensor.data)
        return x->tensor.data < y->tensor.data ? -1 : 1;
    /* An empty tensor may lie where another begins, not inside it. */
    if (x->tensor.n_bytes != y->tensor.n_bytes)
        return x->tensor.n_bytes < y->tensor.n_bytes ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

/* Sorts by offset and requires data without gap, overlap or rest. */
static qmoe_status check_tiling(parser *p)
{
    qmi_safetensors *file = p->file;
    const uint8_t *expected = p->data;
    if (file->n_entries > 1)
        qsort(file->entries, file->n_entries, sizeof *file->entries,
            compare_offsets);
    for (size_t i = 0; i < file->n_entries; i++) {
        const qmi_tensor *t = &file->entries[i].tensor;
        if (t->data < expected)
            return qmi_fail(p->err, QMOE_E_FORMAT,
                "tensor '%.200s': its data overlap those of tensor '%.200s'",
                t->name, file->entries[i - 1].tensor.name);
        if (t->data > expected)
            return qmi_fail(p->err, QMOE_E_FORMAT,
                "tensor '%.200s': a gap of %zu bytes before its data", t->name,
                (size_t)(t->data - expected));
        expected = t->data + t->n_bytes;
    }
    uint64_t rest = p->n_data_bytes - (uint64_t)(expected - p->data);
    if (rest != 0)
        return qmi_fail(p->err, QMOE_E_FORMAT,
            "%llu extra bytes after the data of the last tensor",
            (unsigned long long)rest);
    return QMOE_OK;
}

static int compare_names(const void *a, const void *b)
{
    const qmi_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static qmoe_status index_names(parser *p)
{
    qmi_safetensors *file = p->file;
    size_t n = file->n_entries;
    file->by_name =
        qmi_calloc(n, sizeof *file->by_name, "the tensor index", p->err);
    if (file->by_name == NULL)
        return QMOE_E_NOMEM;
    for (size_t i = 0; i < n; i++)
        file->by_name[i] = &file->entries[i].tensor;
    if (n > 1)
        qsort(file->by_name, n, sizeof *file->by_name, compare_names);
    for (size_t i = 1; i < n; i++)
        if (compare_names(&file->by_name[i - 1], &file->by_name[i]) == 0)
            return qmi_fail(p->err, QMOE_E_FORMAT,
                "tensor '%.200s': duplicate name in the header",
                file->by_name[i]->name);
    return QMOE_OK;
}

static int compare_pairs(const void *a, const void *b)
{
    return strcmp(((const pair *)a)->key, ((const pair *)b)->key);
}

static qmoe_status index_metadata(parser *p)
{
    const pair *pairs = p->file->metadata;
    size_t n = p->file->n_metadata;
    if (n > 1)
        qsort(p->file->metadata, n, sizeof *pairs, compare_pairs);
    for (size_t i = 1; i < n; i++)
        if (strcmp(pairs[i - 1].key, pairs[i].key) == 0)
            return qmi_fail(p->err, QMOE_E_FORMAT,
                "duplicate key '%.200s' in __metadata__", pairs[i].key);
    return QMOE_OK;
}

/* ---- the file ---- */

static qmoe_status parse_file(qmi_safetensors *file, qmi_error *err)
{
    const qmi_map *map = &file->map;
    if (map->n_bytes < LENGTH_BYTES)
        return qmi_fail(err, QMOE_E_FORMAT,
            "%llu bytes are too few for a safetensors file, which begins "
            "with 8 bytes of header length",
            (unsigned long long)map->n_bytes);
    uint64_t length = qmi_load_u64(map->data);
    if (length > MAX_HEADER_BYTES)
        return qmi_fail(err, QMOE_E_FORMAT,
            "header length %llu is above the limit of %d",
            (unsigned long long)length, MAX_HEADER_BYTES);
    if (length > map->n_bytes - LENGTH_BYTES)
        return qmi_fail(err, QMOE_E_FORMAT,
            "header length %llu goes beyond the file of %llu bytes",
            (unsigned long long)length, (unsigned long long)map->n_bytes);
    const uint8_t *data = map->data + LENGTH_BYTES + length;
    if (!qmi_utf8_valid(map->data + LENGTH_BYTES, (size_t)length))
        return qmi_fail(err, QMOE_E_FORMAT, "header is not UTF-8");
    parser p = {
        .file = file,
        .cursor = {(const char *)map->data + LENGTH_BYTES, (const char *)data},
        .data = data,
        .n_data_bytes = map->n_bytes - LENGTH_BYTES - length,
        .err = err,
    };
    QMI_TRY(take_header(&p));
    QMI_TRY(check_tiling(&p));
    QMI_TRY(index_names(&p));
    QMI_TRY(index_metadata(&p));
    file->header_hash = qmi_hash64(map->data, (size_t)(LENGTH_BYTES + length));
    return QMOE_OK;
}

qmoe_status qmi_safetensors_open(
    qmi_safetensors **out, const char *path, qmi_error *err)
{
    *out = NULL;
    qmi_safetensors *file =
        qmi_calloc(1, sizeof *file, "a safetensors file", err);
    if (file == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status = QMOE_E_NOMEM;
    file->path = qmi_strdup(path, err);
    if (file->path == NULL)
        goto cleanup;
    status = qmi_map_open(&file->map, path, err);
    if (status != QMOE_OK)
        goto cleanup;
    status = parse_file(file, err);
    if (status != QMOE_OK) {
        qmi_error_prefix(err, status, "%s", path);
        goto cleanup;
    }
    *out = file;
    return QMOE_OK;
cleanup:
    qmi_safetensors_close(file);
    return status;
}

void qmi_safetensors_close(qmi_safetensors *file)
{
    if (file == NULL)
        return;
    qmi_map_close(&file->map);
    free_texts(file->texts);
    qmi_free(file->entries);
    qmi_free(file->by_name);
    qmi_free(file->metadata);
    qmi_free(file->path);
    qmi_free(file);
}

/* ---- questions ---- */

const char *qmi_safetensors_path(const qmi_safetensors *file)
{
    return file->path;
}

size_t qmi_safetensors_count(const qmi_safetensors *file)
{
    return file->n_entries;
}

const qmi_tensor *qmi_safetensors_at(const qmi_safetensors *file, size_t index)
{
    return &file->entries[index].tensor;
}

const qmi_tensor *qmi_safetensors_find(
    const qmi_safetensors *file, const char *name)
{
    const qmi_tensor wanted = {.name = name}, *key = &wanted;
    const qmi_tensor **found = bsearch(&key, file->by_name, file->n_entries,
        sizeof *file->by_name, compare_names);
    return found == NULL ? NULL : *found;
}

const char *qmi_safetensors_metadata(
    const qmi_safetensors *file, const char *key)
{
    const pair wanted = {key, NULL};
    if (file->n_metadata == 0)
        return NULL;
    const pair *found = bsearch(&wanted, file->metadata, file->n_metadata,
        sizeof *file->metadata, compare_pairs);
    return found == NULL ? NULL : found->value;
}

uint64_t qmi_safetensors_header_hash(const qmi_safetensors *file)
{
    return file->header_hash;
}

uint64_t qmi_safetensors_file_bytes(const qmi_safetensors *file)
{
    return file->map.n_bytes;
}

void qmi_safetensors_set_index(qmi_safetensors *file, uint32_t index)
{
    for (size_t i = 0; i < file->n_entries; i++)
        file->entries[i].tensor.file = index;
}

const qmi_map *qmi_safetensors_map(const qmi_safetensors *file)
{
    return &file->map;
}
