/* SPDX-License-Identifier: Apache-2.0
 * Reader of one file of torch.save.  In: what the pickle claims and what the
 * archive holds.  Out: tensors whose places, shapes and strides lie in their
 * storages, and integers by name.  The two are joined here: a storage has
 * exactly the bytes that the pickle says, and a tensor stays within its
 * storage.  Tensors in C order stay in the map; the others become views
 * (views.h). */
#include "torch_file.h"

#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "hash.h"
#include "json.h"
#include "torch_pickle.h"
#include "torch_zip.h"
#include "views.h"

_Static_assert((int)QMI_PICKLE_MAX_RANK == (int)QMI_MAX_RANK, "one rank");
_Static_assert((int)QMI_VIEW_RANK == (int)QMI_MAX_RANK, "one rank");

enum {
    /* At most 1 GiB of instructions; the data is not in them. */
    MAX_PICKLE_BYTES = 1 << 30,
    MAX_VERSION = 10,
    /* Names that share data cost nothing here, but each is written in full
     * where a checkpoint is copied. */
    MAX_SHARING = 64,
};

typedef struct integer {
    const char *name;
    int64_t value;
} integer;

/* What a tensor file of this container owns beyond the common. */
typedef struct torch_own {
    integer *integers; /* by name */
    size_t n_integers;
} torch_own;

static torch_own *own_of(const qmi_tensor_file *file)
{
    return file->own;
}

/* What is needed only until the file is open. */
typedef struct opening {
    qmi_tensor_file *file;
    torch_own *own;
    qmi_views *views;
    qmi_zip zip;
    qmi_pickle pickle;
    uint64_t total_bytes; /* of the tensors so far */
    qmi_error *err;
} opening;

/* ---- small members ---- */

static bool is_text(
    const opening *o, const qmi_zip_member *member, const char *text)
{
    return member->n_bytes == strlen(text) &&
           memcmp(o->file->map.data + member->offset, text,
               (size_t)member->n_bytes) == 0;
}

static qmoe_status check_version(const opening *o)
{
    const qmi_zip_member *member = qmi_zip_find(&o->zip, "version", 7);
    /* Files from before this member have none. */
    if (member == NULL)
        return QMOE_OK;
    const uint8_t *p = o->file->map.data + member->offset;
    uint64_t n = member->n_bytes;
    int version = 0;
    if (n > 0 && p[n - 1] == '\n')
        n--;
    /* Four digits and more are refused by their length: `version` stays 0. */
    for (uint64_t i = 0; i < n && n <= 3; i++)
        version = p[i] >= '0' && p[i] <= '9' ? 10 * version + p[i] - '0' : 9999;
    if (version < 1 || version > MAX_VERSION)
        return qmi_fail(o->err, QMOE_E_UNSUPPORTED,
            "member 'version' is not a number from 1 to %d", MAX_VERSION);
    return QMOE_OK;
}

static qmoe_status check_byte_order(const opening *o)
{
    const qmi_zip_member *member = qmi_zip_find(&o->zip, "byteorder", 9);
    /* Likewise: without the member the writer's machine is taken as little
     * endian. */
    if (member == NULL || is_text(o, member, "little"))
        return QMOE_OK;
    return qmi_fail(o->err, QMOE_E_UNSUPPORTED,
        "member 'byteorder' is not 'little'%s",
        is_text(o, member, "big")
            ? " but 'big'; big-endian weights are not read"
            : "");
}

static qmoe_status read_pickle(opening *o)
{
    const qmi_zip_member *member = qmi_zip_find(&o->zip, "data.pkl", 8);
    if (member == NULL)
        return qmi_fail(o->err, QMOE_E_FORMAT,
            "the archive has no member 'data.pkl': not a file of torch.save");
    if (member->n_bytes > MAX_PICKLE_BYTES)
        return qmi_fail(o->err, QMOE_E_FORMAT,
            "member 'data.pkl' has %llu bytes, more than %d",
            (unsigned long long)member->n_bytes, MAX_PICKLE_BYTES);
    const uint8_t *data = o->file->map.data + member->offset;
    qmoe_status status =
        qmi_pickle_read(&o->pickle, data, (size_t)member->n_bytes, o->err);
    if (status != QMOE_OK)
        return qmi_error_prefix(o->err, status, "data.pkl");
    /* Instructions and directory together: everything but the data. */
    const uint64_t hashes[2] = {qmi_hash64(data, (size_t)member->n_bytes),
        qmi_hash64(o->file->map.data + o->zip.directory_offset,
            (size_t)o->zip.directory_bytes)};
    o->file->header_hash = qmi_hash64(hashes, sizeof hashes);
    return QMOE_OK;
}

/* ---- storages ---- */

/* The key was checked to be digits, at most 20 (torch_rebuild.c). */
static qmoe_status find_storage(
    const opening *o, const qmi_pickle_storage *s, const qmi_zip_member **out)
{
    char name[32] = "data/";
    memcpy(name + 5, s->key.text, s->key.n_bytes);
    const qmi_zip_member *member =
        qmi_zip_find(&o->zip, name, 5 + s->key.n_bytes);
    uint64_t n_bytes = 0;
    if (member == NULL)
        return qmi_fail(o->err, QMOE_E_FORMAT,
            "its storage, member '%.31s', is missing in the archive", name);
    /* Both ways: no storage that is longer than the pickle knows, either. */
    if (!qmi_mul_u64(s->n_elements, qmi_dtype_bits(s->dtype) / 8, &n_bytes) ||
        n_bytes != member->n_bytes)
        return qmi_fail(o->err, QMOE_E_FORMAT,
            "its storage, member '%.31s', has %llu bytes, not %llu elements "
            "of %s",
            name, (unsigned long long)member->n_bytes,
            (unsigned long long)s->n_elements, qmi_dtype_name(s->dtype));
    *out = member;
    return QMOE_OK;
}

/* ---- tensors ---- */

/* Elements of the tensor, and the distance of the last from the first. */
static bool measure(
    const qmi_pickle_tensor *p, uint64_t *n_elements, uint64_t *span)
{
    *n_elements = 1;
    *span = 0;
    /* First, because an empty tensor has no last element. */
    for (int i = 0; i < p->rank; i++)
        if (p->shape[i] == 0) {
            *n_elements = 0;
            return true;
        }
    /* Every sum and product is checked: all of it comes from the file. */
    for (int i = 0; i < p->rank; i++) {
        uint64_t reach = 0;
        if (!qmi_mul_u64(*n_elements, p->shape[i], n_elements) ||
            !qmi_mul_u64(p->shape[i] - 1, p->strides[i], &reach) ||
            !qmi_add_u64(*span, reach, span))
            return false;
    }
    return true;
}

static bool is_contiguous(const qmi_pickle_tensor *p)
{
    /* From the last dimension to the first; strides of dimensions of one
     * element mean nothing. */
    uint64_t expected = 1;
    for (int i = p->rank - 1; i >= 0; i--) {
        if (p->shape[i] != 1 && p->strides[i] != expected)
            return false;
        expected *= p->shape[i];
    }
    return true;
}

typedef struct extent {
    uint64_t n_elements, span, n_bytes, begin; /* begin: byte in the storage */
} extent;

static qmoe_status check_extent(opening *o, const qmi_pickle_tensor *p,
    const qmi_zip_member *storage, extent *x)
{
    uint64_t element = qmi_dtype_bits(p->dtype) / 8, end = 0;
    *x = (extent){0};
    if (!measure(p, &x->n_elements, &x->span) ||
        !qmi_mul_u64(x->n_elements, element, &x->n_bytes))
        return qmi_fail(o->err, QMOE_E_FORMAT, "its size overflows");
    /* An empty tensor uses nothing, wherever it points. */
    uint64_t used = x->n_elements == 0 ? 0 : x->span + 1;
    if (!qmi_mul_u64(p->offset, element, &x->begin) ||
        !qmi_mul_u64(used, element, &end) ||
        !qmi_add_u64(end, x->begin, &end) || end > storage->n_bytes)
        return qmi_fail(o->err, QMOE_E_FORMAT,
            "its offset, shape and strides lead beyond its storage of %llu "
            "bytes",
            (unsigned long long)storage->n_bytes);
    /* More elements than the storage has: some must be the same, by a stride of
     * 0. */
    if (x->n_bytes > storage->n_bytes)
        return qmi_fail(o->err, QMOE_E_FORMAT,
            "it repeats elements of its storage (an expanded tensor)");
    /* Sums over all tensors so far, so that the bound holds while the list
     * grows. */
    o->total_bytes += x->n_bytes;
    if (o->total_bytes / MAX_SHARING > o->file->map.n_bytes)
        return qmi_fail(o->err, QMOE_E_FORMAT,
            "up to it, tensors that share data have %d times the bytes of the "
            "file",
            MAX_SHARING);
    return QMOE_OK;
}

static qmoe_status add_view(
    opening *o, const qmi_pickle_tensor *p, const extent *x, size_t tensor)
{
    uint64_t element = qmi_dtype_bits(p->dtype) / 8;
    /* From the first element used to the last: that is what has to be read. */
    qmi_file_view v = {
        .source = o->file->tensors[tensor].data,
        .source_bytes = (x->span + 1) * element,
        .n_bytes = x->n_bytes,
        .rank = p->rank,
        .element_bytes = (int)element,
        .address = &o->file->tensors[tensor].data,
    };
    for (int i = 0; i < p->rank; i++) {
        v.shape[i] = p->shape[i];
        v.strides[i] = p->strides[i];
    }
    o->file->tensors[tensor].is_view = true;
    return qmi_views_add(o->views, &v, o->err);
}

static qmoe_status add_tensor(
    opening *o, const char *name, const qmi_pickle_tensor *p)
{
    const qmi_zip_member *storage = NULL;
    extent x;
    QMI_TRY(find_storage(o, &o->pickle.storages[p->storage], &storage));
    QMI_TRY(check_extent(o, p, storage, &x));
    size_t index = o->file->n_tensors++;
    qmi_tensor *t = &o->file->tensors[index];
    *t = (qmi_tensor){
        .name = name,
        .dtype = p->dtype,
        .rank = p->rank,
        .data = o->file->map.data + storage->offset + x.begin,
        .n_bytes = x.n_bytes,
    };
    for (int i = 0; i < p->rank; i++)
        t->shape[i] = (int64_t)p->shape[i];
    /* Empty tensors need no order. */
    if (x.n_elements == 0 || is_contiguous(p))
        return QMOE_OK;
    return add_view(o, p, &x, index);
}

/* ---- items ---- */

static qmoe_status check_name(const opening *o, qmi_slice name)
{
    /* Names become keys of JSON and parts of messages. */
    if (name.n_bytes != 0 && memchr(name.text, 0, name.n_bytes) == NULL &&
        qmi_utf8_valid(name.text, name.n_bytes))
        return QMOE_OK;
    return qmi_fail(o->err, QMOE_E_FORMAT,
        "the name of an item is empty, not UTF-8 or holds a NUL");
}

static qmoe_status reserve(opening *o)
{
    size_t n = o->pickle.n_items, n_tensors = 0;
    /* One count, two arrays of exactly the right size. */
    for (size_t i = 0; i < n; i++)
        n_tensors += o->pickle.items[i].tensor != NULL;
    o->file->tensors = qmi_calloc(
        n_tensors, sizeof *o->file->tensors, "the tensor list", o->err);
    o->own->integers = qmi_calloc(
        n - n_tensors, sizeof *o->own->integers, "the integers", o->err);
    return o->file->tensors == NULL || o->own->integers == NULL ? QMOE_E_NOMEM
                                                                : QMOE_OK;
}

/* The name as a text that lives as long as the file. */
static qmoe_status keep_name(opening *o, const char **out, qmi_slice name)
{
    /* A NUL behind it: names lie in the pickle without one. */
    char text[QMI_PICKLE_MAX_STRING + 1];
    QMI_TRY(check_name(o, name));
    memcpy(text, name.text, name.n_bytes);
    text[name.n_bytes] = '\0';
    *out = qmi_tensor_file_keep(o->file, text, o->err);
    return *out == NULL ? QMOE_E_NOMEM : QMOE_OK;
}

static qmoe_status add_item(opening *o, const qmi_pickle_item *item)
{
    const char *name = NULL;
    QMI_TRY(keep_name(o, &name, item->name));
    if (item->tensor == NULL) {
        o->own->integers[o->own->n_integers++] = (integer){name, item->integer};
        return QMOE_OK;
    }
    qmoe_status status = add_tensor(o, name, item->tensor);
    if (status != QMOE_OK)
        qmi_error_prefix(o->err, status, "tensor '%.200s'", name);
    return status;
}

static int compare_integers(const void *a, const void *b)
{
    return strcmp(((const integer *)a)->name, ((const integer *)b)->name);
}

/* Once the tensors are indexed: a name may belong to one thing only. */
static qmoe_status index_integers(const opening *o)
{
    integer *integers = o->own->integers;
    size_t n = o->own->n_integers;
    if (n > 1)
        qsort(integers, n, sizeof *integers, compare_integers);
    for (size_t i = 1; i < n; i++)
        if (compare_integers(&integers[i - 1], &integers[i]) == 0)
            return qmi_fail(o->err, QMOE_E_FORMAT,
                "two integers have the name '%.200s'", integers[i].name);
    for (size_t i = 0; i < n; i++)
        if (qmi_tensor_file_find(o->file, integers[i].name) != NULL)
            return qmi_fail(o->err, QMOE_E_FORMAT,
                "a tensor and an integer have the name '%.200s'",
                integers[i].name);
    return QMOE_OK;
}

/* ---- the file ---- */

/* Each step relies on those before it: the archive, its marks, the pickle, the
 * storages, the names. */
static qmoe_status parse(opening *o)
{
    const qmi_map *map = &o->file->map;
    QMI_TRY(qmi_zip_read(&o->zip, map->data, map->n_bytes, o->err));
    QMI_TRY(check_version(o));
    QMI_TRY(check_byte_order(o));
    QMI_TRY(read_pickle(o));
    QMI_TRY(reserve(o));
    for (size_t i = 0; i < o->pickle.n_items; i++)
        QMI_TRY(add_item(o, &o->pickle.items[i]));
    QMI_TRY(qmi_views_place(o->views, map->n_bytes, o->err));
    QMI_TRY(qmi_tensor_file_index(o->file, o->err));
    return index_integers(o);
}

static qmoe_status fill(qmi_tensor_file *file, qmi_error *err)
{
    opening o = {.file = file, .err = err};
    o.own = qmi_calloc(1, sizeof *o.own, "a PyTorch file", err);
    /* Set before anything else can fail: closing the file frees it. */
    file->own = o.own;
    if (o.own == NULL)
        return QMOE_E_NOMEM;
    QMI_TRY(qmi_tensor_file_add_views(file, &o.views, err));
    QMI_TRY(qmi_map_open(&file->map, file->path, err));
    qmoe_status status = parse(&o);
    qmi_zip_free(&o.zip);
    qmi_pickle_free(&o.pickle);
    if (status != QMOE_OK)
        qmi_error_prefix(err, status, "%s", file->path);
    return status;
}

/* ---- as a container ---- */

static void close_own(qmi_tensor_file *file)
{
    torch_own *own = own_of(file);
    /* A file that failed to open may have none. */
    if (own == NULL)
        return;
    qmi_free(own->integers);
    qmi_free(own);
}

static const qmi_container container = {
    .fetch = qmi_tensor_file_read,
    .close = close_own,
};

qmoe_status qmi_torch_open(
    qmi_tensor_file **out, const char *path, qmi_error *err)
{
    qmi_tensor_file *file = NULL;
    *out = NULL;
    QMI_TRY(qmi_tensor_file_create(&file, &container, path, err));
    qmoe_status status = fill(file, err);
    if (status != QMOE_OK) {
        qmi_tensor_file_close(file);
        return status;
    }
    *out = file;
    return QMOE_OK;
}

/* ---- integers ---- */

size_t qmi_torch_integer_count(const qmi_tensor_file *file)
{
    return own_of(file)->n_integers;
}

const char *qmi_torch_integer_name(const qmi_tensor_file *file, size_t index)
{
    return own_of(file)->integers[index].name;
}

int64_t qmi_torch_integer_at(const qmi_tensor_file *file, size_t index)
{
    return own_of(file)->integers[index].value;
}

bool qmi_torch_integer(
    const qmi_tensor_file *file, const char *name, int64_t *out)
{
    const torch_own *own = own_of(file);
    const integer wanted = {.name = name};
    const integer *found = bsearch(&wanted, own->integers, own->n_integers,
        sizeof *own->integers, compare_integers);
    *out = found == NULL ? 0 : found->value;
    return found != NULL;
}
