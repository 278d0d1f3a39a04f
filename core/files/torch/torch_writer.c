/* SPDX-License-Identifier: Apache-2.0
 * In: declarations of tensors and integers, then the tensors' bytes in that
 * order.  Out: a file that torch.load reads, also with weights_only: the pickle
 * of a dict, in protocol 2, and the tensors' data as members of a zip archive
 * (zip_writer.c).  Each tensor has a storage of its own, numbered in order.
 * The pickle is complete before the first byte of data is written. */
#include "torch_writer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "text.h"
#include "zip_writer.h"

enum { BATCH = 1000 /* items set at once, as pickle does */ };

struct qmi_torch_writer {
    qmi_zip_writer *zip;
    qmi_text pickle;
    size_t n_items;
    uint64_t *n_bytes; /* [capacity] of each tensor */
    size_t n_tensors, capacity;
    bool started;
    bool memo[2]; /* names that were said once and can be recalled */
    size_t at;    /* tensor being filled */
    uint64_t n_written;
};

/* ---- pickle ---- */

/* What can be recalled; the number is its place in the memo. */
enum { REBUILD, ORDERED };

static void put(qmi_text *t, const char *bytes, size_t n)
{
    qmi_text_bytes(t, bytes, n);
}

static void put_op(qmi_text *t, char op)
{
    put(t, &op, 1);
}

/* The pickle's numbers are little endian. */
static void put_little(qmi_text *t, uint64_t value, int n)
{
    for (int i = 0; i < n; i++)
        put_op(t, (char)(value >> (8 * i) & 0xff));
}

static void put_string(qmi_text *t, const char *text)
{
    put_op(t, 'X');
    put_little(t, strlen(text), 4);
    put(t, text, strlen(text));
}

/* The shortest form, as pickle chooses it. */
static void put_integer(qmi_text *t, int64_t value)
{
    if (value >= 0 && value <= 0xff) {
        put_op(t, 'K');
        put_little(t, (uint64_t)value, 1);
    } else if (value >= 0 && value <= 0xffff) {
        put_op(t, 'M');
        put_little(t, (uint64_t)value, 2);
    } else if (value >= INT32_MIN && value <= INT32_MAX) {
        put_op(t, 'J');
        put_little(t, (uint64_t)value, 4);
    } else {
        /* LONG1 with eight bytes: every int64 fits. */
        put(t, "\x8a\x08", 2);
        put_little(t, (uint64_t)value, 8);
    }
}

static void put_tuple(qmi_text *t, const int64_t *values, int n)
{
    /* For up to three values there is an opcode each; more need a mark. */
    static const char ends[] = {')', '\x85', '\x86', '\x87'};
    if (n > 3)
        put_op(t, '(');
    for (int i = 0; i < n; i++)
        put_integer(t, values[i]);
    put_op(t, n > 3 ? 't' : ends[n]);
}

/* "module\nname" the first time, later from the memo: thousands of tensors name
 * the same function. */
static void put_global(qmi_torch_writer *w, int place, const char *name)
{
    qmi_text *t = &w->pickle;
    if (!w->memo[place]) {
        put_op(t, 'c');
        put(t, name, strlen(name));
        put_op(t, '\n');
    }
    put_op(t, w->memo[place] ? 'h' : 'q');
    put_op(t, (char)place);
    w->memo[place] = true;
}

static const char *storage_name(qmi_dtype dtype)
{
    switch (dtype) {
    case QMI_BOOL:
        return "torch\nBoolStorage";
    case QMI_U8:
        return "torch\nByteStorage";
    case QMI_I8:
        return "torch\nCharStorage";
    case QMI_I16:
        return "torch\nShortStorage";
    case QMI_I32:
        return "torch\nIntStorage";
    case QMI_I64:
        return "torch\nLongStorage";
    case QMI_F16:
        return "torch\nHalfStorage";
    case QMI_BF16:
        return "torch\nBFloat16Storage";
    case QMI_F32:
        return "torch\nFloatStorage";
    case QMI_F64:
        return "torch\nDoubleStorage";
    default:
        /* Other dtypes are not written. */
        return NULL;
    }
}

static void put_storage(
    qmi_torch_writer *w, const char *type, uint64_t n_elements)
{
    qmi_text *t = &w->pickle;
    char key[24];
    /* The storage's number is its member's name, data/<key>. */
    snprintf(key, sizeof key, "%zu", w->n_tensors);
    put_op(t, '(');
    put_string(t, "storage");
    put_op(t, 'c');
    put(t, type, strlen(type));
    put_op(t, '\n');
    put_string(t, key);
    put_string(t, "cpu");
    put_integer(t, (int64_t)n_elements);
    put(t, "tQ", 2);
}

static void put_tensor(qmi_torch_writer *w, const char *type,
    const int64_t *shape, int rank, uint64_t n_elements)
{
    qmi_text *t = &w->pickle;
    int64_t strides[8];
    int64_t stride = 1;
    /* Strides of C order; a dimension of 0 or 1 does not change them, as in
     * torch. */
    for (int i = rank - 1; i >= 0; i--) {
        strides[i] = stride;
        stride *= shape[i] > 1 ? shape[i] : 1;
    }
    put_global(w, REBUILD, "torch._utils\n_rebuild_tensor_v2");
    put_op(t, '(');
    put_storage(w, type, n_elements);
    put_integer(t, 0); /* the storage is the tensor's own */
    put_tuple(t, shape, rank);
    put_tuple(t, strides, rank);
    put_op(t, '\x89'); /* no gradient */
    put_global(w, ORDERED, "collections\nOrderedDict");
    put(t, ")RtR", 4); /* no hooks */
}

static void begin_item(qmi_torch_writer *w, const char *name)
{
    /* A mark opens a batch and 'u' sets its items in the dict. */
    if (w->n_items % BATCH == 0)
        put(&w->pickle, w->n_items != 0 ? "u(" : "(", w->n_items != 0 ? 2 : 1);
    w->n_items++;
    put_string(&w->pickle, name);
}

/* ---- items ---- */

static qmoe_status refuse_late(const qmi_torch_writer *w, qmi_error *err)
{
    return w->started ? qmi_fail(err, QMOE_E_INVALID,
                            "items must be declared before the first write")
                      : QMOE_OK;
}

/* Elements and bytes; false when they are out of range. */
static bool measure(qmi_dtype dtype, const int64_t *shape, int rank,
    uint64_t *n_elements, uint64_t *n_bytes)
{
    *n_elements = 1;
    /* 8 is the most dimensions that readers of ours take. */
    if (rank < 0 || rank > 8)
        return false;
    for (int i = 0; i < rank; i++)
        if (shape[i] < 0 ||
            !qmi_mul_u64(*n_elements, (uint64_t)shape[i], n_elements))
            return false;
    return qmi_mul_u64(*n_elements, qmi_dtype_bits(dtype) / 8, n_bytes) &&
           *n_bytes <= INT64_MAX;
}

qmoe_status qmi_torch_writer_tensor(qmi_torch_writer *w, const char *name,
    qmi_dtype dtype, const int64_t *shape, int rank, qmi_error *err)
{
    uint64_t n_elements = 0, n_bytes = 0;
    const char *type = storage_name(dtype);
    QMI_TRY(refuse_late(w, err));
    if (type == NULL)
        return qmi_fail(err, QMOE_E_UNSUPPORTED,
            "tensor '%.200s': a PyTorch file cannot hold %s", name,
            qmi_dtype_name(dtype));
    if (!measure(dtype, shape, rank, &n_elements, &n_bytes))
        return qmi_fail(
            err, QMOE_E_INVALID, "tensor '%.200s': a bad shape", name);
    if (w->n_tensors == w->capacity) {
        size_t capacity = 2 * w->capacity + 64;
        uint64_t *grown = qmi_regrow(w->n_bytes, w->n_tensors, capacity,
            sizeof *grown, "the tensor list", err);
        if (grown == NULL)
            return QMOE_E_NOMEM;
        w->n_bytes = grown;
        w->capacity = capacity;
    }
    /* Last, when nothing can fail any more but the text itself. */
    begin_item(w, name);
    put_tensor(w, type, shape, rank, n_elements);
    w->n_bytes[w->n_tensors++] = n_bytes;
    return w->pickle.failed ? QMOE_E_NOMEM : QMOE_OK;
}

qmoe_status qmi_torch_writer_integer(
    qmi_torch_writer *w, const char *name, int64_t value, qmi_error *err)
{
    QMI_TRY(refuse_late(w, err));
    begin_item(w, name);
    put_integer(&w->pickle, value);
    return w->pickle.failed ? QMOE_E_NOMEM : QMOE_OK;
}

/* ---- data ---- */

static qmoe_status add_small(
    qmi_zip_writer *zip, const char *name, const char *text, qmi_error *err)
{
    QMI_TRY(qmi_zip_writer_begin(zip, name, strlen(text), err));
    return qmi_zip_writer_write(zip, text, strlen(text), err);
}

static qmoe_status start(qmi_torch_writer *w, qmi_error *err)
{
    qmi_text *t = &w->pickle;
    w->started = true;
    /* Closes the last batch, then the pickle. */
    put(t, w->n_items != 0 ? "u." : ".", w->n_items != 0 ? 2 : 1);
    if (t->failed)
        return QMOE_E_NOMEM;
    QMI_TRY(qmi_zip_writer_begin(w->zip, "data.pkl", t->n, err));
    QMI_TRY(qmi_zip_writer_write(w->zip, t->data, t->n, err));
    return add_small(w->zip, "byteorder", "little", err);
}

/* Opens the members of tensors that are next, up to one that takes data.  Empty
 * tensors have members, too: readers look for each storage. */
static qmoe_status next_tensor(qmi_torch_writer *w, qmi_error *err)
{
    while (w->at < w->n_tensors) {
        char name[32];
        snprintf(name, sizeof name, "data/%zu", w->at);
        QMI_TRY(qmi_zip_writer_begin(w->zip, name, w->n_bytes[w->at], err));
        w->n_written = 0;
        if (w->n_bytes[w->at] != 0)
            break;
        w->at++;
    }
    return QMOE_OK;
}

qmoe_status qmi_torch_writer_write(
    qmi_torch_writer *w, const void *data, uint64_t n_bytes, qmi_error *err)
{
    const uint8_t *from = data;
    if (!w->started) {
        QMI_TRY(start(w, err));
        QMI_TRY(next_tensor(w, err));
    }
    /* A call may fill several tensors, or a part of one. */
    while (n_bytes != 0) {
        if (w->at == w->n_tensors)
            return qmi_fail(err, QMOE_E_INVALID, "more data than was declared");
        uint64_t n = w->n_bytes[w->at] - w->n_written;
        n = n < n_bytes ? n : n_bytes;
        QMI_TRY(qmi_zip_writer_write(w->zip, from, n, err));
        from += n;
        n_bytes -= n;
        w->n_written += n;
        if (w->n_written == w->n_bytes[w->at]) {
            w->at++;
            QMI_TRY(next_tensor(w, err));
        }
    }
    return QMOE_OK;
}

qmoe_status qmi_torch_writer_finish(
    qmi_torch_writer *w, uint64_t *file_bytes, qmi_error *err)
{
    *file_bytes = 0;
    /* A file without data still needs its pickle. */
    QMI_TRY(qmi_torch_writer_write(w, "", 0, err));
    if (w->at != w->n_tensors)
        return qmi_fail(err, QMOE_E_INVALID, "less data than was declared");
    /* As torch.save writes it. */
    QMI_TRY(add_small(w->zip, "version", "3\n", err));
    return qmi_zip_writer_finish(w->zip, file_bytes, err);
}

/* ---- creation ---- */

qmoe_status qmi_torch_writer_create(
    qmi_torch_writer **out, qmi_new_file *file, bool ordered, qmi_error *err)
{
    qmi_zip_writer *zip = NULL;
    *out = NULL;
    QMI_TRY(qmi_zip_writer_create(&zip, file, err));
    qmi_torch_writer *w = qmi_calloc(1, sizeof *w, "a file writer", err);
    if (w == NULL) {
        qmi_zip_writer_destroy(zip);
        return QMOE_E_NOMEM;
    }
    w->zip = zip;
    w->pickle.err = err;
    /* Protocol 2. */
    put(&w->pickle, "\x80\x02", 2);
    if (ordered) {
        put_global(w, ORDERED, "collections\nOrderedDict");
        put(&w->pickle, ")R", 2);
    } else {
        put_op(&w->pickle, '}');
    }
    if (w->pickle.failed) {
        qmi_torch_writer_destroy(w);
        return QMOE_E_NOMEM;
    }
    *out = w;
    return QMOE_OK;
}

void qmi_torch_writer_destroy(qmi_torch_writer *w)
{
    if (w == NULL)
        return;
    qmi_zip_writer_destroy(w->zip);
    free(w->pickle.data);
    qmi_free(w->n_bytes);
    qmi_free(w);
}
