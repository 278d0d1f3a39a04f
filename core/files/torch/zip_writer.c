/* SPDX-License-Identifier: Apache-2.0
 * In: members with their sizes, then their bytes.  Out: a zip archive of stored
 * members as torch.save writes it: data at multiples of 64 bytes, ZIP64 fields
 * where numbers need them, a date that never changes.  Members are written
 * once, in order; the checksum in a local header is filled in when its member
 * is complete.  So equal members give equal files. */
#include "zip_writer.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "alloc.h"
#include "crc32.h"
#include "descriptor.h"

enum {
    ALIGNMENT = 64,
    LOCAL_BYTES = 30,
    MAX_NAME = 256,
    MAX_RECORD = LOCAL_BYTES + MAX_NAME + 20 + 4 + ALIGNMENT,
    VERSION = 45, /* of the format: with ZIP64 */
    DATE = 0x21,  /* 1980-01-01: files have equal bytes whenever written */
    CRC_AT = 14   /* in a local header */
};

static const uint64_t mask32 = 0xffffffff, mask16 = 0xffff;
/* Sizes and offsets from here on take ZIP64 fields; tests lower it, to see them
 * without files of 4 GiB. */
static uint64_t limit32 = 0xffffffff;

void qmi_zip_writer_wide_from(uint64_t limit)
{
    limit32 = limit < mask32 ? limit : mask32;
}

typedef struct member {
    char *name;
    uint64_t offset, n_bytes;
    uint32_t crc;
} member;

struct qmi_zip_writer {
    char *path;
    char top[128];
    int fd;
    uint64_t end; /* of what is written */
    member *members;
    size_t n_members, capacity;
    uint64_t left; /* bytes the current member still takes */
    uint8_t *buffer;
    size_t n_buffered;
    qmi_crc32 crc;
};

enum { BUFFER_BYTES = 1 << 20 };

/* ---- bytes ---- */

typedef struct record {
    uint8_t bytes[MAX_RECORD];
    size_t n;
} record;

/* The format's numbers are little endian. */
static void put(record *r, uint64_t value, int n)
{
    for (int i = 0; i < n; i++)
        r->bytes[r->n++] = (uint8_t)(value >> (8 * i));
}

static void put_text(record *r, const char *text)
{
    memcpy(r->bytes + r->n, text, strlen(text));
    r->n += strlen(text);
}

static qmoe_status write_at(const qmi_zip_writer *w, const void *data,
    uint64_t n_bytes, uint64_t offset, qmi_error *err)
{
    return qmi_write_at(w->fd, data, n_bytes, offset)
               ? QMOE_OK
               : qmi_fail_errno(err, "%s", w->path);
}

static qmoe_status flush(qmi_zip_writer *w, qmi_error *err)
{
    /* In pieces that can be cancelled; on failure the buffer is as it was. */
    QMI_TRY(
        qmi_write_long(w->fd, w->buffer, w->n_buffered, w->end, w->path, err));
    w->end += w->n_buffered;
    w->n_buffered = 0;
    return QMOE_OK;
}

static qmoe_status append(
    qmi_zip_writer *w, const void *data, uint64_t n_bytes, qmi_error *err)
{
    /* The buffer keeps small records together; large data goes past it. */
    if (n_bytes > BUFFER_BYTES - w->n_buffered)
        QMI_TRY(flush(w, err));
    if (n_bytes > BUFFER_BYTES) {
        QMI_TRY(qmi_write_long(w->fd, data, n_bytes, w->end, w->path, err));
        w->end += n_bytes;
        return QMOE_OK;
    }
    memcpy(w->buffer + w->n_buffered, data, (size_t)n_bytes);
    w->n_buffered += (size_t)n_bytes;
    return QMOE_OK;
}

/* Where the next byte will be: what is in the file and what waits. */
static uint64_t position(const qmi_zip_writer *w)
{
    return w->end + w->n_buffered;
}

/* ---- members ---- */

/* Summed up and written at a time: what can be cancelled in between. */
enum { PIECE_BYTES = 4 << 20 };

/* What local and directory headers have in common, up to the lengths. */
static void put_common(record *r, const member *m, bool wide)
{
    put(r, VERSION, 2);
    put(r, 0, 2); /* flags */
    put(r, 0, 2); /* stored */
    put(r, 0, 2); /* time */
    put(r, DATE, 2);
    put(r, m->crc, 4);
    put(r, wide ? mask32 : m->n_bytes, 4);
    put(r, wide ? mask32 : m->n_bytes, 4);
    put(r, strlen(m->name), 2);
}

static void make_local(record *r, const member *m)
{
    bool wide = m->n_bytes >= limit32;
    size_t n_fixed = LOCAL_BYTES + strlen(m->name) + (wide ? 20 : 0) + 4;
    /* What is missing up to the next multiple of ALIGNMENT goes into an extra
     * field. */
    size_t padding =
        (ALIGNMENT - (m->offset + n_fixed) % ALIGNMENT) % ALIGNMENT;
    r->n = 0;
    put(r, 0x04034b50, 4);
    put_common(r, m, wide);
    put(r, (wide ? 20 : 0) + 4 + padding, 2);
    put_text(r, m->name);
    /* Field 1, ZIP64: both sizes. */
    if (wide) {
        put(r, 1, 2);
        put(r, 16, 2);
        put(r, m->n_bytes, 8);
        put(r, m->n_bytes, 8);
    }
    /* The field that torch.save pads with: "FB" and as many Z. */
    put_text(r, "FB");
    put(r, padding, 2);
    memset(r->bytes + r->n, 'Z', padding);
    r->n += padding;
}

/* The checksum of the member that is complete, in the file or the buffer. */
static qmoe_status fill_crc(qmi_zip_writer *w, qmi_error *err)
{
    /* Called before the first member, too. */
    if (w->n_members == 0)
        return QMOE_OK;
    member *m = &w->members[w->n_members - 1];
    record r = {.n = 0};
    m->crc = qmi_crc32_value(&w->crc);
    put(&r, m->crc, 4);
    uint64_t at = m->offset + CRC_AT;
    /* The header has not left the buffer yet. */
    if (at >= w->end) {
        memcpy(w->buffer + (at - w->end), r.bytes, r.n);
        return QMOE_OK;
    }
    /* A part may still be in the buffer: write that first. */
    QMI_TRY(flush(w, err));
    return write_at(w, r.bytes, r.n, at, err);
}

static qmoe_status complete(qmi_zip_writer *w, qmi_error *err)
{
    /* Sizes are in the header already, so they must come true. */
    if (w->left != 0)
        return qmi_fail(err, QMOE_E_INVALID, "%s: member '%s' is not complete",
            w->path, w->members[w->n_members - 1].name);
    return fill_crc(w, err);
}

qmoe_status qmi_zip_writer_begin(
    qmi_zip_writer *w, const char *name, uint64_t n_bytes, qmi_error *err)
{
    record r;
    char full[MAX_NAME];
    QMI_TRY(complete(w, err));
    if (w->n_members == w->capacity) {
        size_t capacity = 2 * w->capacity + 64;
        member *grown = qmi_regrow(w->members, w->n_members, capacity,
            sizeof *grown, "the archive's members", err);
        if (grown == NULL)
            return QMOE_E_NOMEM;
        w->members = grown;
        w->capacity = capacity;
    }
    /* Cut at the array's end: members of ours have short names. */
    snprintf(full, sizeof full, "%s/%s", w->top, name);
    member *m = &w->members[w->n_members];
    *m = (member){.offset = position(w), .n_bytes = n_bytes};
    m->name = qmi_strdup(full, err);
    if (m->name == NULL)
        return QMOE_E_NOMEM;
    w->n_members++;
    qmi_crc32_start(&w->crc);
    w->left = n_bytes;
    /* Its checksum is still zero. */
    make_local(&r, m);
    return append(w, r.bytes, r.n, err);
}

qmoe_status qmi_zip_writer_write(
    qmi_zip_writer *w, const void *data, uint64_t n_bytes, qmi_error *err)
{
    if (n_bytes > w->left)
        return qmi_fail(err, QMOE_E_INVALID,
            "%s: more data than the member was to have", w->path);
    const uint8_t *from = data;
    while (n_bytes != 0) {
        const uint64_t n = n_bytes < PIECE_BYTES ? n_bytes : PIECE_BYTES;
        qmi_crc32_add(&w->crc, from, n);
        QMI_TRY(append(w, from, n, err));
        w->left -= n;
        from += n;
        n_bytes -= n;
    }
    return QMOE_OK;
}

/* ---- the directory ---- */

static void make_entry(record *r, const member *m)
{
    /* Each number alone: an entry may need one field, both or none. */
    bool wide = m->n_bytes >= limit32, far = m->offset >= limit32;
    const size_t n_fields = (wide ? 16 : 0) + (far ? 8 : 0);
    const size_t extra = n_fields != 0 ? 4 + n_fields : 0;
    r->n = 0;
    put(r, 0x02014b50, 4);
    put(r, VERSION, 2);
    put_common(r, m, wide);
    put(r, extra, 2);
    put(r, 0, 2); /* comment */
    put(r, 0, 2); /* disk */
    put(r, 0, 2);
    put(r, 0, 4);
    put(r, far ? mask32 : m->offset, 4);
    put_text(r, m->name);
    if (extra == 0)
        return;
    put(r, 1, 2);
    put(r, n_fields, 2);
    if (wide) {
        put(r, m->n_bytes, 8);
        put(r, m->n_bytes, 8);
    }
    if (far)
        put(r, m->offset, 8);
}

static void make_end(
    record *r, uint64_t n_members, uint64_t begin, uint64_t end)
{
    uint64_t n_bytes = end - begin;
    /* One of them alone makes the whole record wide. */
    bool wide = n_members >= mask16 || begin >= limit32 || n_bytes >= limit32;
    r->n = 0;
    if (wide) {
        put(r, 0x06064b50, 4);
        /* The size of the rest of the record. */
        put(r, 44, 8);
        put(r, VERSION, 2);
        put(r, VERSION, 2);
        put(r, 0, 8);
        put(r, n_members, 8);
        put(r, n_members, 8);
        put(r, n_bytes, 8);
        put(r, begin, 8);
        put(r, 0x07064b50, 4);
        put(r, 0, 4);
        put(r, end, 8);
        put(r, 1, 4);
    }
    put(r, 0x06054b50, 4);
    put(r, 0, 4);
    /* All ones send readers to the wide record. */
    put(r, wide ? mask16 : n_members, 2);
    put(r, wide ? mask16 : n_members, 2);
    put(r, wide ? mask32 : n_bytes, 4);
    put(r, wide ? mask32 : begin, 4);
    put(r, 0, 2);
}

qmoe_status qmi_zip_writer_finish(
    qmi_zip_writer *w, uint64_t *file_bytes, qmi_error *err)
{
    record r;
    QMI_TRY(complete(w, err));
    uint64_t begin = position(w);
    /* In the order of writing. */
    for (size_t i = 0; i < w->n_members; i++) {
        make_entry(&r, &w->members[i]);
        QMI_TRY(append(w, r.bytes, r.n, err));
    }
    make_end(&r, w->n_members, begin, position(w));
    QMI_TRY(append(w, r.bytes, r.n, err));
    QMI_TRY(flush(w, err));
    /* The archive counts only when it is on disk. */
    if (fsync(w->fd) != 0)
        return qmi_fail_errno(err, "%s", w->path);
    int fd = w->fd;
    /* Before close: it must not be closed twice, even if that fails. */
    w->fd = -1;
    if (close(fd) != 0)
        return qmi_fail_errno(err, "%s", w->path);
    *file_bytes = w->end;
    return QMOE_OK;
}

/* ---- creation ---- */

/* "<name>/" of all members is the file's name without its ending, as in
 * torch.save. */
static void name_top(qmi_zip_writer *w)
{
    snprintf(w->top, sizeof w->top, "%s", qmi_last_component(w->path));
    char *dot = strrchr(w->top, '.');
    if (dot != NULL && dot != w->top)
        *dot = '\0';
}

qmoe_status qmi_zip_writer_create(
    qmi_zip_writer **out, qmi_new_file *file, qmi_error *err)
{
    *out = NULL;
    qmi_zip_writer *w = qmi_calloc(1, sizeof *w, "an archive writer", err);
    uint8_t *buffer = qmi_calloc(BUFFER_BYTES, 1, "a buffer", err);
    /* The file is the writer's, also when it cannot be made. */
    if (w == NULL || buffer == NULL) {
        qmi_free(w);
        qmi_free(buffer);
        qmi_new_file_close(file);
        return QMOE_E_NOMEM;
    }
    *w = (qmi_zip_writer){.fd = file->fd, .path = file->path, .buffer = buffer};
    *file = (qmi_new_file){.fd = -1};
    name_top(w);
    *out = w;
    return QMOE_OK;
}

void qmi_zip_writer_destroy(qmi_zip_writer *w)
{
    if (w == NULL)
        return;
    if (w->fd >= 0)
        close(w->fd);
    for (size_t i = 0; i < w->n_members; i++)
        qmi_free(w->members[i].name);
    qmi_free(w->members);
    qmi_free(w->buffer);
    qmi_free(w->path);
    qmi_free(w);
}
