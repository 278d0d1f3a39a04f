/* SPDX-License-Identifier: Apache-2.0
 * In: a file.  Out: its tensors and metadata, with the data where they lie in
 * the map.  The header is walked entry by entry, never as a tree: each value is
 * read as what the format requires there or refused, so neither nesting nor
 * bulk in a hostile header costs memory.  Behind this door tensors tile the
 * data: no gap, no overlap, no rest. */
#include "safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "hash.h"
#include "hints.h"
#include "json.h"

/* The limit of the format's own library. */
enum { LENGTH_BYTES = 8, MAX_HEADER_BYTES = 100000000 };

/* State of opening; `data` is the file after the header. */
typedef struct parser {
    qmi_tensor_file *file;
    qmi_json_cursor cursor;
    size_t tensor_capacity, metadata_capacity;
    const uint8_t *data;
    uint64_t n_data_bytes;
    uint64_t total_bytes; /* of the entries so far */
    bool has_metadata;
    qmi_error *err;
} parser;

/* ---- storage ---- */

/* `items` with room for one more than `n`; NULL when out of memory. */
static void *make_room(
    void *items, size_t n, size_t *capacity, size_t size, qmi_error *err)
{
    if (n < *capacity)
        return items;
    /* Doubling: how many entries there are is known at the end. */
    size_t wanted = *capacity == 0 ? 16 : 2 * *capacity;
    void *grown = qmi_regrow(items, n, wanted, size, "the tensor list", err);
    if (grown != NULL)
        *capacity = wanted;
    return grown;
}

/* ---- walking the header ---- */

/* The cursor stands where reading stopped. */
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
    /* A comma before the bracket is caught by the next number. */
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

/* Each field once, in any order. */
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
    /* Noted before the value is read: a second one is refused in any case. */
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

/* An entry is an object with exactly three members. */
static qmoe_status take_fields(parser *p, fields *f)
{
    cJSON *key = NULL;
    *f = (fields){.seen = 0};
    if (!qmi_json_take(&p->cursor, '{'))
        return qmi_fail(
            p->err, QMOE_E_FORMAT, "the header entry is not an object");
    QMI_TRY(next_key(p, true, &key));
    /* Each key is freed before the next is taken. */
    while (key != NULL) {
        qmoe_status status = take_field(p, f, key->valuestring);
        cJSON_Delete(key);
        QMI_TRY(status);
        QMI_TRY(next_key(p, false, &key));
    }
    if (f->seen == SEEN_ALL)
        return QMOE_OK;
    const char *missing = "data_offsets";
    if ((f->seen & SEEN_SHAPE) == 0)
        missing = "shape";
    if ((f->seen & SEEN_DTYPE) == 0)
        missing = "dtype";
    return qmi_fail(p->err, QMOE_E_FORMAT, "%s is missing", missing);
}

static qmoe_status check_size(
    const fields *f, uint64_t *n_bytes, qmi_error *err)
{
    uint64_t n_elements = 1, n_bits = 0;
    /* Both products are checked: shape and size come from the file. */
    for (int i = 0; i < f->rank; i++)
        if (!qmi_mul_u64(n_elements, f->shape[i], &n_elements))
            return qmi_fail(
                err, QMOE_E_FORMAT, "the element count of its shape overflows");
    if (!qmi_mul_u64(n_elements, qmi_dtype_bits(f->dtype), &n_bits))
        return qmi_fail(
            err, QMOE_E_FORMAT, "the byte count of its shape overflows");
    /* Dtypes of less than a byte exist. */
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
    /* Offsets and shape say the same thing twice; they must agree. */
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
    qmi_tensor_file *file = p->file;
    qmi_tensor *tensors = make_room(file->tensors, file->n_tensors,
        &p->tensor_capacity, sizeof *tensors, p->err);
    if (tensors == NULL)
        return QMOE_E_NOMEM;
    file->tensors = tensors;
    /* Kept only behind all checks. */
    const char *kept = qmi_tensor_file_keep(file, name, p->err);
    if (kept == NULL)
        return QMOE_E_NOMEM;
    qmi_tensor *t = &tensors[file->n_tensors];
    *t = (qmi_tensor){
        .name = kept,
        /* The place in the header, until the checkpoint numbers its files:
         * breaks ties between empty tensors. */
        .file = (uint32_t)file->n_tensors++,
        .dtype = f.dtype,
        .rank = f.rank,
        .data = p->data + f.offsets[0],
        .n_bytes = n_bytes,
    };
    for (int i = 0; i < f.rank; i++)
        t->shape[i] = (int64_t)f.shape[i];
    return QMOE_OK;
}

/* ---- __metadata__ ---- */

static qmoe_status take_pair(parser *p, const char *key)
{
    qmi_tensor_file *file = p->file;
    cJSON *value = qmi_json_take_string(&p->cursor);
    if (value == NULL)
        return qmi_fail(p->err, QMOE_E_FORMAT,
            "__metadata__ is not a map of strings: value of '%.200s'", key);
    qmoe_status status = QMOE_E_NOMEM;
    qmi_string_pair *pairs = make_room(file->metadata, file->n_metadata,
        &p->metadata_capacity, sizeof *pairs, p->err);
    if (pairs == NULL)
        goto cleanup;
    file->metadata = pairs;
    qmi_string_pair kept = {qmi_tensor_file_keep(file, key, p->err), NULL};
    if (kept.key != NULL)
        /* Borrowed text goes with `value`. */
        kept.value = qmi_tensor_file_keep(file, value->valuestring, p->err);
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

/* Errors of the metadata name their key themselves. */
static qmoe_status take_entry(parser *p, const char *name)
{
    if (strcmp(name, "__metadata__") == 0)
        return take_metadata(p);
    qmoe_status status = take_tensor(p, name);
    if (status != QMOE_OK)
        qmi_error_prefix(p->err, status, "tensor '%.200s'", name);
    return status;
}

/* Trailing white space is allowed, as writers pad with it. */
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

/* By place in the file, so that one walk sees every gap and overlap. */
static int compare_offsets(const void *a, const void *b)
{
    const qmi_tensor *x = a, *y = b;
    if (x->data != y->data)
        return x->data < y->data ? -1 : 1;
    /* An empty tensor may lie where another begins, not inside it. */
    if (x->n_bytes != y->n_bytes)
        return x->n_bytes < y->n_bytes ? -1 : 1;
    return x->file < y->file ? -1 : x->file > y->file;
}

/* Sorts by offset and requires data without gap, overlap or rest. */
static qmoe_status check_tiling(parser *p)
{
    qmi_tensor_file *file = p->file;
    const uint8_t *expected = p->data;
    if (file->n_tensors > 1)
        qsort(file->tensors, file->n_tensors, sizeof *file->tensors,
            compare_offsets);
    for (size_t i = 0; i < file->n_tensors; i++) {
        const qmi_tensor *t = &file->tensors[i];
        if (t->data < expected)
            return qmi_fail(p->err, QMOE_E_FORMAT,
                "tensor '%.200s': its data overlap those of tensor '%.200s'",
                t->name, file->tensors[i - 1].name);
        if (t->data > expected)
            return qmi_fail(p->err, QMOE_E_FORMAT,
                "tensor '%.200s': a gap of %zu bytes before its data", t->name,
                (size_t)(t->data - expected));
        expected = t->data + t->n_bytes;
    }
    /* Cannot be negative: no tensor ends beyond the data (check_range). */
    uint64_t rest = p->n_data_bytes - (uint64_t)(expected - p->data);
    if (rest != 0)
        return qmi_fail(p->err, QMOE_E_FORMAT,
            "%llu extra bytes after the data of the last tensor",
            (unsigned long long)rest);
    return QMOE_OK;
}

/* ---- the file ---- */

/* From the outside inwards: length, text, entries, tiling. */
static qmoe_status parse_file(qmi_tensor_file *file, qmi_error *err)
{
    const qmi_map *map = &file->map;
    const char *hint = qmi_hint_contents(map->data, map->n_bytes);
    if (hint != NULL)
        return qmi_fail(
            err, QMOE_E_FORMAT, "not a safetensors file, but %s", hint);
    if (map->n_bytes < LENGTH_BYTES)
        return qmi_fail(err, QMOE_E_FORMAT,
            "%llu bytes are too few for a safetensors file, which begins "
            "with 8 bytes of header length",
            (unsigned long long)map->n_bytes);
    /* Compared before it is used for anything. */
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
    /* Once for the whole header: the cursor relies on it. */
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
    /* Only now: names are compared by a sorted index. */
    QMI_TRY(qmi_tensor_file_index(file, err));
    file->header_hash = qmi_hash64(map->data, (size_t)(LENGTH_BYTES + length));
    return QMOE_OK;
}

/* No release of its own: a paging hint is enough for a map. */
static const qmi_container container = {.fetch = qmi_tensor_file_read};

qmoe_status qmi_safetensors_open(
    qmi_tensor_file **out, const char *path, qmi_error *err)
{
    *out = NULL;
    qmi_tensor_file *file = NULL;
    QMI_TRY(qmi_tensor_file_create(&file, &container, path, err));
    qmoe_status status = qmi_map_open(&file->map, path, err);
    if (status == QMOE_OK) {
        status = parse_file(file, err);
        /* Paths are put in front in one place. */
        if (status != QMOE_OK)
            qmi_error_prefix(err, status, "%s", path);
    }
    if (status != QMOE_OK) {
        qmi_tensor_file_close(file);
        return status;
    }
    *out = file;
    return QMOE_OK;
}
