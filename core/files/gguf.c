/* SPDX-License-Identifier: Apache-2.0
 * In: a file.  Out: its values and tensors, where they lie in the map.  The
 * header is read through a cursor that never passes the end of the file, from
 * front to back: values, then tensors, whose data follow.  Texts and arrays
 * stay in the map: each was walked once, so that later walks need no checks. */
#include "gguf.h"

#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "hash.h"
#include "hints.h"
#include "json.h"

enum { MAX_RANK = 4, DEFAULT_ALIGNMENT = 32 };

/* The least that a value and a tensor take in the header. */
enum { LEAST_VALUE_BYTES = 14, LEAST_TENSOR_BYTES = 33 };

typedef struct header {
    qmi_gguf_value *values; /* [n_values], by key */
    size_t n_values;
    const qmi_gguf_type **types; /* [n_tensors], in order of the tensors */
} header;

typedef struct parser {
    qmi_tensor_file *file;
    header *header;
    const uint8_t *at, *end; /* what is not yet read */
    uint64_t n_values, n_tensors, alignment;
    qmi_error *err;
} parser;

/* ---- the cursor ---- */

static uint64_t rest(const parser *p)
{
    return (uint64_t)(p->end - p->at);
}

static qmoe_status fail_beyond(parser *p, const char *what)
{
    return qmi_fail(
        p->err, QMOE_E_FORMAT, "%s goes beyond the file (truncated?)", what);
}

static qmoe_status take_u32(parser *p, uint32_t *out, const char *what)
{
    if (rest(p) < sizeof *out)
        return fail_beyond(p, what);
    *out = qmi_load_u32(p->at);
    p->at += sizeof *out;
    return QMOE_OK;
}

static qmoe_status take_u64(parser *p, uint64_t *out, const char *what)
{
    if (rest(p) < sizeof *out)
        return fail_beyond(p, what);
    *out = qmi_load_u64(p->at);
    p->at += sizeof *out;
    return QMOE_OK;
}

static qmoe_status take_text(parser *p, qmi_gguf_text *out, const char *what)
{
    QMI_TRY(take_u64(p, &out->n, what));
    if (out->n > rest(p))
        return fail_beyond(p, what);
    out->bytes = (const char *)p->at;
    p->at += out->n;
    return QMOE_OK;
}

/* A key or the name of a tensor: a text that errors and tables can hold. */
static qmoe_status take_name(parser *p, const char **out, const char *what)
{
    enum { MAX_NAME = 4096 };
    char name[MAX_NAME + 1];
    qmi_gguf_text text = {0};
    QMI_TRY(take_text(p, &text, what));
    if (text.n == 0 || text.n > MAX_NAME)
        return qmi_fail(p->err, QMOE_E_FORMAT, "%s has %llu bytes, not 1 to %d",
            what, (unsigned long long)text.n, MAX_NAME);
    if (!qmi_utf8_valid(text.bytes, (size_t)text.n) ||
        memchr(text.bytes, '\0', (size_t)text.n) != NULL)
        return qmi_fail(
            p->err, QMOE_E_FORMAT, "%s is not UTF-8 without NUL", what);
    memcpy(name, text.bytes, (size_t)text.n);
    name[text.n] = '\0';
    *out = qmi_tensor_file_keep(p->file, name, p->err);
    return *out != NULL ? QMOE_OK : QMOE_E_NOMEM;
}

/* ---- values ---- */

/* Bytes of a number of each kind; 0 for those that have no fixed size. */
static const uint8_t kind_bytes[QMI_GGUF_N_KINDS] = {[QMI_GGUF_U8] = 1,
    [QMI_GGUF_I8] = 1,
    [QMI_GGUF_U16] = 2,
    [QMI_GGUF_I16] = 2,
    [QMI_GGUF_U32] = 4,
    [QMI_GGUF_I32] = 4,
    [QMI_GGUF_F32] = 4,
    [QMI_GGUF_BOOL] = 1,
    [QMI_GGUF_U64] = 8,
    [QMI_GGUF_I64] = 8,
    [QMI_GGUF_F64] = 8};

static qmoe_status take_kind(parser *p, qmi_gguf_kind *out)
{
    uint32_t kind = 0;
    QMI_TRY(take_u32(p, &kind, "its kind"));
    if (kind >= QMI_GGUF_N_KINDS)
        return qmi_fail(p->err, QMOE_E_FORMAT, "no kind of value has number %u",
            (unsigned)kind);
    *out = (qmi_gguf_kind)kind;
    return QMOE_OK;
}

/* Steps over the items. */
static qmoe_status take_items(parser *p, qmi_gguf_value *v)
{
    uint64_t n_bytes = 0;
    v->data = p->at;
    if (v->kind == QMI_GGUF_STRING) {
        qmi_gguf_text text = {0};
        for (uint64_t i = 0; i < v->n; i++)
            QMI_TRY(take_text(p, &text, v->is_array ? "an item" : "its text"));
        return QMOE_OK;
    }
    if (!qmi_mul_u64(v->n, kind_bytes[v->kind], &n_bytes) || n_bytes > rest(p))
        return fail_beyond(p, "its value");
    p->at += n_bytes;
    for (uint64_t i = 0; v->kind == QMI_GGUF_BOOL && i < v->n; i++)
        if (v->data[i] > 1)
            return qmi_fail(p->err, QMOE_E_FORMAT, "%u is no truth value",
                (unsigned)v->data[i]);
    return QMOE_OK;
}

static qmoe_status take_content(parser *p, qmi_gguf_value *v)
{
    QMI_TRY(take_kind(p, &v->kind));
    v->n = 1;
    v->is_array = v->kind == QMI_GGUF_ARRAY;
    if (v->is_array) {
        QMI_TRY(take_kind(p, &v->kind));
        if (v->kind == QMI_GGUF_ARRAY)
            return qmi_fail(p->err, QMOE_E_UNSUPPORTED, "an array of arrays");
        QMI_TRY(take_u64(p, &v->n, "its length"));
    }
    return take_items(p, v);
}

static int compare_values(const void *a, const void *b)
{
    return strcmp(
        ((const qmi_gguf_value *)a)->key, ((const qmi_gguf_value *)b)->key);
}

static qmoe_status take_values(parser *p)
{
    header *h = p->header;
    /* Before memory is asked for: the file must have room for so many. */
    if (p->n_values > rest(p) / LEAST_VALUE_BYTES)
        return qmi_fail(p->err, QMOE_E_FORMAT,
            "%llu values are more than the file has room for",
            (unsigned long long)p->n_values);
    h->values = qmi_calloc(
        (size_t)p->n_values, sizeof *h->values, "the values of a file", p->err);
    if (h->values == NULL)
        return QMOE_E_NOMEM;
    for (; h->n_values < p->n_values; h->n_values++) {
        qmi_gguf_value *v = &h->values[h->n_values];
        QMI_TRY(take_name(p, &v->key, "a key"));
        qmoe_status status = take_content(p, v);
        if (status != QMOE_OK)
            return qmi_error_prefix(p->err, status, "key '%.200s'", v->key);
    }
    if (h->n_values > 1)
        qsort(h->values, h->n_values, sizeof *h->values, compare_values);
    for (size_t i = 1; i < h->n_values; i++)
        if (strcmp(h->values[i - 1].key, h->values[i].key) == 0)
            return qmi_fail(p->err, QMOE_E_FORMAT,
                "key '%.200s' is there twice", h->values[i].key);
    return QMOE_OK;
}

/* ---- tensors ---- */

/* Dimensions to C order, and how many bytes they take. */
static qmoe_status take_shape(
    parser *p, qmi_tensor *t, const qmi_gguf_type **type)
{
    uint64_t dims[MAX_RANK], n_elements = 1;
    uint32_t rank = 0, id = 0;
    QMI_TRY(take_u32(p, &rank, "its rank"));
    if (rank < 1 || rank > MAX_RANK)
        return qmi_fail(p->err, QMOE_E_FORMAT, "%u dimensions, not 1 to %d",
            (unsigned)rank, MAX_RANK);
    for (uint32_t i = 0; i < rank; i++) {
        QMI_TRY(take_u64(p, &dims[i], "its shape"));
        if (!qmi_mul_u64(n_elements, dims[i], &n_elements) ||
            n_elements > INT64_MAX / 8 || dims[i] > INT64_MAX)
            return qmi_fail(p->err, QMOE_E_FORMAT,
                "the element count of its shape overflows");
    }
    QMI_TRY(take_u32(p, &id, "its type"));
    *type = qmi_gguf_type_find(id);
    if (*type == NULL)
        return qmi_fail(p->err, QMOE_E_UNSUPPORTED,
            "no known type of numbers has id %u", (unsigned)id);
    if ((*type)->n_bytes == 0)
        return qmi_fail(p->err, QMOE_E_UNSUPPORTED,
            "numbers of type %s are not supported", (*type)->name);
    if (dims[0] % (*type)->n_elements != 0)
        return qmi_fail(p->err, QMOE_E_FORMAT,
            "rows of %llu elements are not whole blocks of %u of type %s",
            (unsigned long long)dims[0], (*type)->n_elements, (*type)->name);
    t->n_bytes = n_elements / (*type)->n_elements * (*type)->n_bytes;
    t->dtype = (*type)->decode != NULL ? QMI_U8 : (*type)->dtype;
    t->rank = (int)rank;
    for (uint32_t i = 0; i < rank; i++)
        t->shape[rank - 1 - i] = (int64_t)dims[i];
    if ((*type)->decode != NULL)
        t->shape[rank - 1] =
            (int64_t)(dims[0] / (*type)->n_elements * (*type)->n_bytes);
    return QMOE_OK;
}

/* What sorting moves together. */
typedef struct placed {
    qmi_tensor tensor;
    const qmi_gguf_type *type;
    uint64_t offset; /* in the data */
} placed;

static qmoe_status take_tensor(parser *p, placed *out)
{
    QMI_TRY(take_name(p, &out->tensor.name, "the name of a tensor"));
    qmoe_status status = take_shape(p, &out->tensor, &out->type);
    if (status == QMOE_OK)
        status = take_u64(p, &out->offset, "its offset");
    if (status != QMOE_OK)
        qmi_error_prefix(p->err, status, "tensor '%.200s'", out->tensor.name);
    return status;
}

/* Empty tensors before others at the same place. */
static int compare_placed(const void *a, const void *b)
{
    const placed *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    if (x->tensor.n_bytes != y->tensor.n_bytes)
        return x->tensor.n_bytes < y->tensor.n_bytes ? -1 : 1;
    return strcmp(x->tensor.name, y->tensor.name);
}

/* The next multiple of the alignment; false: it is beyond any file. */
static bool align(const parser *p, uint64_t n, uint64_t *out)
{
    if (!qmi_add_u64(n, p->alignment - 1, out))
        return false;
    *out &= ~(p->alignment - 1);
    return true;
}

/* Each tensor begins where the one before it ends, but for padding.  So no byte
 * belongs to two, and a file cut short or pasted together is noticed. */
static qmoe_status place_tensors(
    parser *p, placed *all, const uint8_t *data, uint64_t n_data_bytes)
{
    uint64_t expected = 0, end = 0;
    for (uint64_t i = 0; i < p->n_tensors; i++) {
        qmi_tensor *t = &all[i].tensor;
        if (all[i].offset != expected)
            return qmi_fail(p->err, QMOE_E_FORMAT,
                "tensor '%.200s': its data begin at %llu, not at %llu, where "
                "those before it end",
                t->name, (unsigned long long)all[i].offset,
                (unsigned long long)expected);
        if (expected > n_data_bytes || t->n_bytes > n_data_bytes - expected)
            return qmi_fail(p->err, QMOE_E_FORMAT,
                "tensor '%.200s': its %llu bytes go beyond the file "
                "(truncated?)",
                t->name, (unsigned long long)t->n_bytes);
        t->data = data + expected;
        end = expected + t->n_bytes;
        if (!align(p, end, &expected))
            return fail_beyond(p, "the padding of a tensor");
    }
    if (end < n_data_bytes && n_data_bytes > expected)
        return qmi_fail(p->err, QMOE_E_FORMAT,
            "%llu extra bytes after the data of the last tensor",
            (unsigned long long)(n_data_bytes - end));
    return QMOE_OK;
}

static qmoe_status keep_tensors(parser *p, const placed *all)
{
    qmi_tensor_file *file = p->file;
    size_t n = (size_t)p->n_tensors;
    file->tensors =
        qmi_calloc(n, sizeof *file->tensors, "the tensor list", p->err);
    p->header->types =
        qmi_calloc(n, sizeof *p->header->types, "the tensor list", p->err);
    if (file->tensors == NULL || p->header->types == NULL)
        return QMOE_E_NOMEM;
    for (size_t i = 0; i < n; i++) {
        file->tensors[i] = all[i].tensor;
        p->header->types[i] = all[i].type;
    }
    file->n_tensors = n;
    return qmi_tensor_file_index(file, p->err);
}

/* The data begin at the next multiple of the alignment after the header. */
static qmoe_status find_data(parser *p, placed *all)
{
    const qmi_map *map = &p->file->map;
    uint64_t begin = 0;
    for (uint64_t i = 0; i < p->n_tensors; i++)
        QMI_TRY(take_tensor(p, &all[i]));
    p->file->header_hash = qmi_hash64(map->data, (size_t)(p->at - map->data));
    if (!align(p, (uint64_t)(p->at - map->data), &begin) ||
        (begin > map->n_bytes && p->n_tensors != 0))
        return fail_beyond(p, "the padding of the header");
    if (begin > map->n_bytes)
        begin = map->n_bytes; /* without tensors there is no padding */
    if (p->n_tensors > 1)
        qsort(all, (size_t)p->n_tensors, sizeof *all, compare_placed);
    QMI_TRY(place_tensors(p, all, map->data + begin, map->n_bytes - begin));
    return keep_tensors(p, all);
}

static qmoe_status take_tensors(parser *p)
{
    if (p->n_tensors > rest(p) / LEAST_TENSOR_BYTES)
        return qmi_fail(p->err, QMOE_E_FORMAT,
            "%llu tensors are more than the file has room for",
            (unsigned long long)p->n_tensors);
    placed *all = qmi_calloc(
        (size_t)p->n_tensors, sizeof *all, "the tensor list", p->err);
    if (all == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status = find_data(p, all);
    qmi_free(all);
    return status;
}

/* ---- the file ---- */

static qmoe_status take_start(parser *p)
{
    uint32_t magic = 0, version = 0;
    const char *hint = qmi_hint_contents(p->at, rest(p));
    if (hint != NULL)
        return qmi_fail(p->err, QMOE_E_FORMAT, "not a GGUF file, but %s", hint);
    if (rest(p) < sizeof magic || memcmp(p->at, "GGUF", sizeof magic) != 0)
        return qmi_fail(p->err, QMOE_E_FORMAT, "not a GGUF file");
    QMI_TRY(take_u32(p, &magic, "the header"));
    QMI_TRY(take_u32(p, &version, "the header"));
    if ((version & 0xffffu) == 0 && version != 0)
        return qmi_fail(p->err, QMOE_E_UNSUPPORTED, "a big-endian GGUF file");
    if (version != 2 && version != 3)
        return qmi_fail(p->err, QMOE_E_UNSUPPORTED,
            "version %u of GGUF; versions 2 and 3 are supported",
            (unsigned)version);
    QMI_TRY(take_u64(p, &p->n_tensors, "the header"));
    return take_u64(p, &p->n_values, "the header");
}

static qmoe_status read_alignment(parser *p)
{
    const qmi_gguf_value *v = qmi_gguf_find(p->file, "general.alignment");
    int64_t n = DEFAULT_ALIGNMENT;
    if (v != NULL && (v->is_array || !qmi_gguf_int(v, 0, &n)))
        n = 0;
    if (n <= 0 || (n & (n - 1)) != 0)
        return qmi_fail(p->err, QMOE_E_FORMAT,
            "key 'general.alignment' is no power of two");
    p->alignment = (uint64_t)n;
    return QMOE_OK;
}

static qmoe_status parse_file(qmi_tensor_file *file, qmi_error *err)
{
    const qmi_map *map = &file->map;
    parser p = {.file = file, .header = file->own, .err = err};
    if (map->n_bytes == 0)
        return qmi_fail(err, QMOE_E_FORMAT, "not a GGUF file, but empty");
    p.at = map->data;
    p.end = map->data + map->n_bytes;
    QMI_TRY(take_start(&p));
    QMI_TRY(take_values(&p));
    QMI_TRY(read_alignment(&p));
    return take_tensors(&p);
}

static void close_header(qmi_tensor_file *file)
{
    header *h = file->own;
    if (h == NULL)
        return;
    qmi_free(h->values);
    qmi_free(h->types);
    qmi_free(h);
}

static const qmi_container container = {
    .fetch = qmi_tensor_file_read, .close = close_header};

qmoe_status qmi_gguf_open(
    qmi_tensor_file **out, const char *path, qmi_error *err)
{
    *out = NULL;
    qmi_tensor_file *file = NULL;
    QMI_TRY(qmi_tensor_file_create(&file, &container, path, err));
    file->own = qmi_calloc(1, sizeof(header), "a file's header", err);
    qmoe_status status =
        file->own != NULL ? qmi_map_open(&file->map, path, err) : QMOE_E_NOMEM;
    if (status == QMOE_OK) {
        status = parse_file(file, err);
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

/* ---- questions ---- */

const qmi_gguf_type *qmi_gguf_type_of(
    const qmi_tensor_file *file, const qmi_tensor *tensor)
{
    const header *h = file->own;
    return h->types[tensor - file->tensors];
}

size_t qmi_gguf_count(const qmi_tensor_file *file)
{
    return ((const header *)file->own)->n_values;
}

const qmi_gguf_value *qmi_gguf_at(const qmi_tensor_file *file, size_t index)
{
    return &((const header *)file->own)->values[index];
}

const qmi_gguf_value *qmi_gguf_find(
    const qmi_tensor_file *file, const char *key)
{
    const header *h = file->own;
    const qmi_gguf_value wanted = {.key = key};
    return bsearch(
        &wanted, h->values, h->n_values, sizeof wanted, compare_values);
}

bool qmi_gguf_int(const qmi_gguf_value *value, uint64_t i, int64_t *out)
{
    const uint8_t *p = value->data + i * kind_bytes[value->kind];
    switch (value->kind) {
    case QMI_GGUF_U8:
        *out = *p;
        return true;
    case QMI_GGUF_I8:
        *out = (int8_t)*p;
        return true;
    case QMI_GGUF_U16:
        *out = qmi_load_u16(p);
        return true;
    case QMI_GGUF_I16:
        *out = (int16_t)qmi_load_u16(p);
        return true;
    case QMI_GGUF_U32:
        *out = qmi_load_u32(p);
        return true;
    case QMI_GGUF_I32:
        *out = (int32_t)qmi_load_u32(p);
        return true;
    case QMI_GGUF_U64:
    case QMI_GGUF_I64:
        *out = (int64_t)qmi_load_u64(p);
        return value->kind == QMI_GGUF_I64 || *out >= 0;
    default:
        return false;
    }
}

bool qmi_gguf_real(const qmi_gguf_value *value, uint64_t i, double *out)
{
    float single = 0;
    const uint8_t *p = value->data + i * kind_bytes[value->kind];
    if (value->kind == QMI_GGUF_F64) {
        memcpy(out, p, sizeof *out);
        return true;
    }
    if (value->kind != QMI_GGUF_F32)
        return false;
    memcpy(&single, p, sizeof single);
    *out = (double)single;
    return true;
}

bool qmi_gguf_bool(const qmi_gguf_value *value, uint64_t i, bool *out)
{
    if (value->kind != QMI_GGUF_BOOL)
        return false;
    *out = value->data[i] != 0;
    return true;
}

qmi_gguf_text qmi_gguf_next_text(const uint8_t **at)
{
    const qmi_gguf_text text = {
        (const char *)*at + sizeof text.n, qmi_load_u64(*at)};
    *at += sizeof text.n + text.n;
    return text;
}
