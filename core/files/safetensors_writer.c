/* SPDX-License-Identifier: Apache-2.0
 * In: declarations, then data in any interleaving.  Out: one safetensors file
 * with a checksum per tensor (docs/format.md, section 3).  The first write
 * fixes the layout: the header is printed once with the longest text each open
 * number can have, and so much space is left before the data.  What the final
 * header does not need of it is filled with spaces, as the format allows.
 * Until it is finished, a new file has no valid header and is refused by every
 * reader. */
#include "safetensors_writer.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "alloc.h"
#include "descriptor.h"
#include "hash.h"
#include "json.h"
#include "safetensors.h"
#include "text.h"
#include "texts.h"

/* Data begins at a multiple of a cache line.  The header's limit is that of the
 * format's own library. */
enum { LENGTH_BYTES = 8, ALIGNMENT = 64, MAX_HEADER_BYTES = 100000000 };

/* Readers refuse numbers from here on. */
static const uint64_t number_limit = UINT64_C(1) << 53;

static const char checksum_prefix[] = "xxh3:";

typedef struct item {
    char *name;
    qmi_dtype dtype;
    int rank;
    int64_t shape[QMI_MAX_RANK];
    bool open;
    uint64_t row_bits; /* of an open tensor: one step of shape[0] */
    uint64_t n_bytes;  /* declared; of an open tensor: most allowed */
    uint64_t begin, n_written;
    qmi_hasher *hasher; /* while partly written */
    uint64_t hash;      /* of what is written, when `hasher` is NULL */
} item;

typedef struct pair {
    char *key, *value;
} pair;

struct qmi_st_writer {
    char *path;
    int fd;
    bool laid_out, finished;
    item *items;
    size_t n_items, item_capacity;
    pair *pairs;
    size_t n_pairs, pair_capacity;
    uint64_t data_begin; /* in the file */
};

/* ---- header text ---- */

static void put_metadata(qmi_text *t, const qmi_st_writer *w)
{
    const char *comma = "";
    qmi_text_string(t, "\"__metadata__\":{");
    for (size_t i = 0; i < w->n_pairs; i++) {
        qmi_text_string(t, comma);
        qmi_text_string(t, "\"");
        qmi_text_json(t, w->pairs[i].key);
        qmi_text_string(t, "\":\"");
        qmi_text_json(t, w->pairs[i].value);
        qmi_text_string(t, "\"");
        comma = ",";
    }
    /* Checksums as they are at this moment: 16 digits in any case, so their
     * length is known before. */
    for (size_t i = 0; i < w->n_items; i++) {
        char hex[17];
        qmi_hash_hex(hex, w->items[i].hash);
        qmi_text_string(t, comma);
        qmi_text_string(t, "\"");
        qmi_text_string(t, checksum_prefix);
        qmi_text_json(t, w->items[i].name);
        qmi_text_string(t, "\":\"");
        qmi_text_string(t, hex);
        qmi_text_string(t, "\"");
        comma = ",";
    }
    qmi_text_string(t, "}");
}

/* `longest`: open numbers as long as they can become. */
static void put_item(qmi_text *t, const item *x, bool longest)
{
    qmi_text_string(t, ",\"");
    qmi_text_json(t, x->name);
    qmi_text_string(t, "\":{\"dtype\":\"");
    qmi_text_string(t, qmi_dtype_name(x->dtype));
    qmi_text_string(t, "\",\"shape\":[");
    for (int i = 0; i < x->rank; i++) {
        if (i != 0)
            qmi_text_string(t, ",");
        /* UINT64_MAX has the longest text of all. */
        qmi_text_number(t,
            x->open && i == 0 && longest ? UINT64_MAX : (uint64_t)x->shape[i]);
    }
    qmi_text_string(t, "],\"data_offsets\":[");
    qmi_text_number(t, x->begin);
    qmi_text_string(t, ",");
    uint64_t end = x->begin + (longest ? x->n_bytes : x->n_written);
    qmi_text_number(t, x->open && longest ? UINT64_MAX : end);
    qmi_text_string(t, "]}");
}

/* The order is that of the declarations, which callers keep the same: files are
 * equal byte for byte. */
static qmoe_status print_header(
    qmi_text *t, const qmi_st_writer *w, bool longest, qmi_error *err)
{
    *t = (qmi_text){.err = err};
    qmi_text_string(t, "{");
    put_metadata(t, w);
    for (size_t i = 0; i < w->n_items; i++)
        put_item(t, &w->items[i], longest);
    qmi_text_string(t, "}");
    return t->failed ? QMOE_E_NOMEM : QMOE_OK;
}

/* ---- create, destroy ---- */

qmoe_status qmi_st_writer_create(
    qmi_st_writer **out, qmi_new_file *file, qmi_error *err)
{
    qmi_st_writer *w = qmi_calloc(1, sizeof *w, "a file writer", err);
    *out = w;
    if (w == NULL) {
        qmi_new_file_close(file);
        return QMOE_E_NOMEM;
    }
    w->fd = file->fd;
    w->path = file->path;
    /* The writer closes it from here on. */
    *file = (qmi_new_file){.fd = -1};
    return QMOE_OK;
}

void qmi_st_writer_destroy(qmi_st_writer *w)
{
    if (w == NULL)
        return;
    if (w->fd >= 0)
        close(w->fd);
    for (size_t i = 0; i < w->n_items; i++) {
        qmi_hasher_destroy(w->items[i].hasher);
        qmi_free(w->items[i].name);
    }
    for (size_t i = 0; i < w->n_pairs; i++) {
        qmi_free(w->pairs[i].key);
        qmi_free(w->pairs[i].value);
    }
    qmi_free(w->items);
    qmi_free(w->pairs);
    qmi_free(w->path);
    qmi_free(w);
}

/* ---- declarations ---- */

/* Lengths and places are fixed by then. */
static qmoe_status refuse_late(const qmi_st_writer *w, qmi_error *err)
{
    if (!w->laid_out && !w->finished)
        return QMOE_OK;
    return qmi_fail(err, QMOE_E_INVALID,
        "%s: tensors and metadata must be declared before the first write",
        w->path);
}

static qmoe_status check_text(
    const qmi_st_writer *w, const char *value, qmi_error *err)
{
    if (qmi_utf8_valid(value, strlen(value)))
        return QMOE_OK;
    return qmi_fail(
        err, QMOE_E_INVALID, "%s: '%.200s' is not UTF-8", w->path, value);
}

/* Sizes of `x` from its dtype and shape. */
static bool measure(item *x)
{
    uint64_t n_elements = 1, n_bits = 0;
    /* An open dimension is left out: its length follows from the data. */
    for (int i = x->open ? 1 : 0; i < x->rank; i++) {
        if (x->shape[i] < 0 || (uint64_t)x->shape[i] >= number_limit ||
            !qmi_mul_u64(n_elements, (uint64_t)x->shape[i], &n_elements))
            return false;
    }
    if (!qmi_mul_u64(n_elements, qmi_dtype_bits(x->dtype), &n_bits))
        return false;
    x->row_bits = n_bits;
    x->n_bytes = x->open ? number_limit - 1 : n_bits / 8;
    return x->open || (n_bits % 8 == 0 && x->n_bytes < number_limit);
}

static qmoe_status fill_item(const qmi_st_writer *w, item *x, const char *name,
    qmi_dtype dtype, const int64_t *shape, int rank, qmi_error *err)
{
    QMI_TRY(check_text(w, name, err));
    if (strcmp(name, "__metadata__") == 0 || qmi_dtype_bits(dtype) == 0 ||
        rank < 0 || rank > QMI_MAX_RANK)
        return qmi_fail(err, QMOE_E_INVALID,
            "%s: tensor '%.200s': reserved name, unknown dtype or rank not "
            "in 0..%d",
            w->path, name, QMI_MAX_RANK);
    *x = (item){.dtype = dtype, .rank = rank};
    for (int i = 0; i < rank; i++)
        x->shape[i] = shape[i];
    x->open = rank > 0 && shape[0] == -1;
    if (!measure(x))
        return qmi_fail(err, QMOE_E_INVALID,
            "%s: tensor '%.200s': a bad shape, too large or not a whole "
            "number of bytes",
            w->path, name);
    /* The checksum of a tensor that never gets a byte. */
    x->hash = qmi_hash64("", 0);
    x->name = qmi_strdup(name, err);
    return x->name == NULL ? QMOE_E_NOMEM : QMOE_OK;
}

qmoe_status qmi_st_writer_declare(qmi_st_writer *w, const char *name,
    qmi_dtype dtype, const int64_t *shape, int rank, qmi_error *err)
{
    QMI_TRY(refuse_late(w, err));
    /* Nothing could be placed behind a tensor of unknown size. */
    if (w->n_items != 0 && w->items[w->n_items - 1].open)
        return qmi_fail(err, QMOE_E_INVALID,
            "%s: tensor '%.200s' follows one of open length", w->path, name);
    if (w->n_items == w->item_capacity) {
        size_t capacity = 2 * w->item_capacity + 16;
        item *grown = qmi_regrow(w->items, w->n_items, capacity, sizeof *grown,
            "the tensor list", err);
        if (grown == NULL)
            return QMOE_E_NOMEM;
        w->items = grown;
        w->item_capacity = capacity;
    }
    QMI_TRY(fill_item(w, &w->items[w->n_items], name, dtype, shape, rank, err));
    w->n_items++;
    return QMOE_OK;
}

qmoe_status qmi_st_writer_metadata(
    qmi_st_writer *w, const char *key, const char *value, qmi_error *err)
{
    QMI_TRY(refuse_late(w, err));
    QMI_TRY(check_text(w, key, err));
    QMI_TRY(check_text(w, value, err));
    if (strncmp(key, checksum_prefix, sizeof checksum_prefix - 1) == 0)
        return qmi_fail(err, QMOE_E_INVALID,
            "%s: metadata key '%.200s' is reserved for checksums", w->path,
            key);
    if (w->n_pairs == w->pair_capacity) {
        size_t capacity = 2 * w->pair_capacity + 16;
        pair *grown = qmi_regrow(
            w->pairs, w->n_pairs, capacity, sizeof *grown, "the metadata", err);
        if (grown == NULL)
            return QMOE_E_NOMEM;
        w->pairs = grown;
        w->pair_capacity = capacity;
    }
    pair copy = {qmi_strdup(key, err), qmi_strdup(value, err)};
    if (copy.key == NULL || copy.value == NULL) {
        qmi_free(copy.key);
        qmi_free(copy.value);
        return QMOE_E_NOMEM;
    }
    w->pairs[w->n_pairs++] = copy;
    return QMOE_OK;
}

/* ---- layout ---- */

/* Names and keys each among themselves: readers refuse a file with two
 * alike. */
static qmoe_status check_unique(const qmi_st_writer *w, qmi_error *err)
{
    size_t n = w->n_items > w->n_pairs ? w->n_items : w->n_pairs;
    const char **texts = qmi_calloc(n, sizeof *texts, "a list of names", err);
    if (texts == NULL)
        return QMOE_E_NOMEM;
    for (size_t i = 0; i < w->n_items; i++)
        texts[i] = w->items[i].name;
    const char *repeated = qmi_texts_repeated(texts, w->n_items);
    if (repeated == NULL) {
        for (size_t i = 0; i < w->n_pairs; i++)
            texts[i] = w->pairs[i].key;
        repeated = qmi_texts_repeated(texts, w->n_pairs);
    }
    qmi_free(texts);
    if (repeated == NULL)
        return QMOE_OK;
    return qmi_fail(err, QMOE_E_INVALID, "%s: '%.200s' is declared twice",
        w->path, repeated);
}

/* Places every tensor and reserves the space of the header. */
static qmoe_status lay_out(qmi_st_writer *w, qmi_error *err)
{
    uint64_t end = 0;
    qmi_text header;
    if (w->laid_out)
        return QMOE_OK;
    QMI_TRY(check_unique(w, err));
    /* Tensors follow each other without gaps, as readers demand. */
    for (size_t i = 0; i < w->n_items; i++) {
        item *x = &w->items[i];
        x->begin = end;
        if (x->open)
            /* All that is left of the largest file. */
            x->n_bytes = number_limit - 1 - end;
        end += x->n_bytes;
        if (end >= number_limit)
            return qmi_fail(err, QMOE_E_INVALID,
                "%s: tensor '%.200s' goes beyond the largest file", w->path,
                x->name);
    }
    qmoe_status status = print_header(&header, w, true, err);
    uint64_t n = header.n + LENGTH_BYTES + ALIGNMENT - 1;
    qmi_free(header.data);
    QMI_TRY(status);
    /* Up to the next multiple of ALIGNMENT. */
    w->data_begin = n / ALIGNMENT * ALIGNMENT;
    if (w->data_begin - LENGTH_BYTES > MAX_HEADER_BYTES)
        return qmi_fail(err, QMOE_E_INVALID,
            "%s: a header of %" PRIu64 " bytes is above the limit of %d",
            w->path, w->data_begin, MAX_HEADER_BYTES);
    w->laid_out = true;
    return QMOE_OK;
}

/* ---- data ---- */

static qmoe_status write_at(const qmi_st_writer *w, uint64_t offset,
    const void *data, size_t n_bytes, qmi_error *err)
{
    return qmi_write_at(w->fd, data, n_bytes, offset)
               ? QMOE_OK
               : qmi_fail_errno(err, "%s: cannot write", w->path);
}

/* Adds to the running checksum; keeps a hasher only while more is to come. */
static qmoe_status add_to_hash(
    item *x, const void *data, size_t n_bytes, qmi_error *err)
{
    /* Whether this piece is the end of it: of an open tensor nobody knows. */
    bool last = !x->open && x->n_written + n_bytes == x->n_bytes;
    /* A tensor written in one piece needs no state. */
    if (x->hasher == NULL && last && x->n_written == 0) {
        x->hash = qmi_hash64(data, n_bytes);
        return QMOE_OK;
    }
    if (x->hasher == NULL)
        x->hasher = qmi_hasher_create(err);
    if (x->hasher == NULL)
        return QMOE_E_NOMEM;
    qmi_hasher_add(x->hasher, data, n_bytes);
    if (last) {
        x->hash = qmi_hasher_value(x->hasher);
        qmi_hasher_destroy(x->hasher);
        x->hasher = NULL;
    }
    return QMOE_OK;
}

/* The tensor that n_bytes more are for, with the layout fixed. */
static qmoe_status start_write(item **out, qmi_st_writer *w, size_t index,
    uint64_t n_bytes, qmi_error *err)
{
    if (w->finished || index >= w->n_items)
        return qmi_fail(err, QMOE_E_INVALID,
            "%s: a write after the end or to a tensor not declared", w->path);
    /* Here at the latest the layout is fixed. */
    QMI_TRY(lay_out(w, err));
    item *x = &w->items[index];
    /* Without an overflow: n_written never exceeds n_bytes. */
    if (n_bytes > x->n_bytes - x->n_written)
        return qmi_fail(err, QMOE_E_INVALID,
            "%s: tensor '%.200s': more bytes than declared", w->path, x->name);
    *out = x;
    return QMOE_OK;
}

qmoe_status qmi_st_writer_write(qmi_st_writer *w, size_t index,
    const void *data, size_t n_bytes, qmi_error *err)
{
    item *x = NULL;
    QMI_TRY(start_write(&x, w, index, n_bytes, err));
    if (n_bytes == 0)
        return QMOE_OK;
    QMI_TRY(qmi_write_long(w->fd, data, n_bytes,
        w->data_begin + x->begin + x->n_written, w->path, err));
    QMI_TRY(add_to_hash(x, data, n_bytes, err));
    /* After the data is written: a failed write can be repeated from the same
     * place. */
    x->n_written += n_bytes;
    return QMOE_OK;
}

/* The file is made longer and nothing is written: what lies between reads as
 * zeros. */
qmoe_status qmi_st_writer_write_hole(
    qmi_st_writer *w, size_t index, uint64_t n_bytes, qmi_error *err)
{
    static const uint8_t zeros[1 << 16];
    item *x = NULL;
    struct stat info;
    QMI_TRY(start_write(&x, w, index, n_bytes, err));
    uint64_t end = w->data_begin + x->begin + x->n_written + n_bytes;
    /* The file may reach further already, since tensors are filled in any
     * order. */
    if (fstat(w->fd, &info) != 0 ||
        ((uint64_t)info.st_size < end && ftruncate(w->fd, (off_t)end) != 0))
        return qmi_fail_errno(err, "%s: cannot be extended", w->path);
    /* Hashed as zeros, since readers see them. */
    while (n_bytes != 0) {
        size_t n = n_bytes < sizeof zeros ? (size_t)n_bytes : sizeof zeros;
        QMI_TRY(add_to_hash(x, zeros, n, err));
        x->n_written += n;
        n_bytes -= n;
    }
    return QMOE_OK;
}

/* ---- continued files ---- */

qmoe_status qmi_st_writer_read(qmi_st_writer *w, size_t index, void *dst,
    uint64_t begin, uint64_t n_bytes, qmi_error *err)
{
    /* `begin` is within what was written: callers read their own matrices. */
    uint64_t offset = w->data_begin + w->items[index].begin + begin;
    int64_t n = qmi_read_at(w->fd, dst, n_bytes, offset);
    if (n < 0)
        return qmi_fail_errno(err, "%s: cannot read", w->path);
    if ((uint64_t)n < n_bytes)
        return qmi_fail(err, QMOE_E_FORMAT,
            "%s: tensor '%.200s': shorter than recorded", w->path,
            w->items[index].name);
    return QMOE_OK;
}

/* What an earlier process wrote, whole or not. */
qmoe_status qmi_st_writer_available(qmi_st_writer *w, size_t index,
    uint64_t begin, uint64_t *n_bytes, qmi_error *err)
{
    struct stat info;
    *n_bytes = 0;
    QMI_TRY(lay_out(w, err));
    if (fstat(w->fd, &info) != 0)
        return qmi_fail_errno(err, "%s: cannot read", w->path);
    const item *x = &w->items[index];
    const uint64_t size = (uint64_t)info.st_size;
    const uint64_t first = w->data_begin + x->begin;
    /* The file may end inside this tensor, or before it. */
    const uint64_t there = size > first ? size - first : 0;
    const uint64_t n = there < x->n_bytes ? there : x->n_bytes;
    *n_bytes = n > begin ? n - begin : 0;
    return QMOE_OK;
}

/* Bytes that were checked by the caller: only the checksum has to catch up. */
qmoe_status qmi_st_writer_keep(qmi_st_writer *w, size_t index, const void *data,
    size_t n_bytes, qmi_error *err)
{
    item *x = NULL;
    QMI_TRY(start_write(&x, w, index, n_bytes, err));
    if (n_bytes != 0)
        QMI_TRY(add_to_hash(x, data, n_bytes, err));
    x->n_written += n_bytes;
    return QMOE_OK;
}

qmoe_status qmi_st_writer_sync(qmi_st_writer *w, qmi_error *err)
{
    /* Data and size; times do not matter. */
    if (fdatasync(w->fd) != 0)
        return qmi_fail_errno(err, "%s: cannot write to disk", w->path);
    return QMOE_OK;
}

/* ---- finish ---- */

/* Requires `x` complete; fixes its open length and checksum. */
static qmoe_status complete(const qmi_st_writer *w, item *x, qmi_error *err)
{
    uint64_t n_bits = 8 * x->n_written;
    bool whole = x->n_written == x->n_bytes;
    if (x->open)
        /* A whole number of rows. */
        whole = n_bits == 0 || (x->row_bits != 0 && n_bits % x->row_bits == 0);
    if (!whole)
        return qmi_fail(err, QMOE_E_INVALID,
            "%s: tensor '%.200s' is incomplete: %" PRIu64 " bytes written",
            w->path, x->name, x->n_written);
    if (x->open)
        x->shape[0] = n_bits == 0 ? 0 : (int64_t)(n_bits / x->row_bits);
    /* Of an open tensor: nobody knew which piece was its last. */
    if (x->hasher != NULL)
        x->hash = qmi_hasher_value(x->hasher);
    return QMOE_OK;
}

static void store_length(char out[LENGTH_BYTES], uint64_t value)
{
    for (int i = 0; i < LENGTH_BYTES; i++)
        out[i] = (char)(value >> (8 * i) & 0xff);
}

/* The stored header: length, text, spaces up to the data. */
static qmoe_status write_header(
    const qmi_st_writer *w, uint64_t *hash, qmi_error *err)
{
    qmi_text header;
    size_t n = (size_t)w->data_begin;
    char *block = NULL;
    qmoe_status status = print_header(&header, w, false, err);
    if (status != QMOE_OK)
        goto cleanup;
    if (header.n > n - LENGTH_BYTES) {
        status = qmi_fail(
            err, QMOE_E_INTERNAL, "%s: the header outgrew its space", w->path);
        goto cleanup;
    }
    block = qmi_calloc(n, 1, "a header", err);
    if (block == NULL) {
        status = QMOE_E_NOMEM;
        goto cleanup;
    }
    /* Little endian, whatever the machine. */
    store_length(block, n - LENGTH_BYTES);
    memset(block + LENGTH_BYTES, ' ', n - LENGTH_BYTES);
    memcpy(block + LENGTH_BYTES, header.data, header.n);
    *hash = qmi_hash64(block, n);
    status = write_at(w, 0, block, n, err);
cleanup:
    qmi_free(block);
    qmi_free(header.data);
    return status;
}

/* A file system may report a full disk no earlier than here. */
static qmoe_status sync_and_close(qmi_st_writer *w, qmi_error *err)
{
    if (fsync(w->fd) != 0)
        return qmi_fail_errno(err, "%s: cannot write to disk", w->path);
    /* Before close: it must not be closed twice, even if that fails. */
    int fd = w->fd;
    w->fd = -1;
    if (close(fd) != 0)
        return qmi_fail_errno(err, "%s: cannot close", w->path);
    return QMOE_OK;
}

qmoe_status qmi_st_writer_finish(qmi_st_writer *w, uint64_t *header_hash,
    uint64_t *file_bytes, qmi_error *err)
{
    uint64_t hash = 0, n_bytes = 0;
    *header_hash = 0;
    *file_bytes = 0;
    if (w->finished)
        return qmi_fail(err, QMOE_E_INVALID, "%s: finished before", w->path);
    QMI_TRY(lay_out(w, err));
    for (size_t i = 0; i < w->n_items; i++) {
        QMI_TRY(complete(w, &w->items[i], err));
        n_bytes += w->items[i].n_written;
    }
    /* The data is complete; a file without this header is refused. */
    QMI_TRY(write_header(w, &hash, err));
    /* A continued file may hold bytes of a group that was not recorded. */
    if (ftruncate(w->fd, (off_t)(w->data_begin + n_bytes)) != 0)
        return qmi_fail_errno(err, "%s: cannot truncate", w->path);
    w->finished = true;
    QMI_TRY(sync_and_close(w, err));
    *header_hash = hash;
    *file_bytes = w->data_begin + n_bytes;
    return QMOE_OK;
}
