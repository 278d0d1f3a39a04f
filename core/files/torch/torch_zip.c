/* SPDX-License-Identifier: Apache-2.0
 * Strict reader of the zip archives that torch.save writes.  In: the bytes of a
 * file.  Out: its members by name, each with a place inside the file.  The end
 * record must end the file and the directory must end where it begins: then
 * there is one reading of the file and not several, whatever other programs
 * would find in it.  No two members share a byte or a name, and every offset
 * was compared with the file before it was used. */
#include "torch_zip.h"

#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "dtype.h"
#include "hints.h"

/* Sizes of the records without their variable parts (APPNOTE, section 4.3). */
enum {
    LOCAL_BYTES = 30,
    ENTRY_BYTES = 46,
    END_BYTES = 22,
    LOCATOR_BYTES = 20,
    END64_BYTES = 56,
    MAX_MEMBERS = 1 << 22,
    MAX_NAME_BYTES = 1024,
};

static const uint8_t local_mark[4] = {'P', 'K', 3, 4};
static const uint8_t entry_mark[4] = {'P', 'K', 1, 2};
static const uint8_t end_mark[4] = {'P', 'K', 5, 6};
static const uint8_t locator_mark[4] = {'P', 'K', 6, 7};
static const uint8_t end64_mark[4] = {'P', 'K', 6, 6};

typedef struct archive {
    const uint8_t *data;
    uint64_t n_bytes;
    uint64_t directory, directory_end; /* offsets */
    uint64_t n_entries;
    qmi_zip *zip;
    const uint8_t *top; /* "name/" of the first member */
    uint32_t top_bytes;
    qmi_error *err;
} archive;

/* Callers have made sure that four bytes are there. */
static bool has_mark(const archive *a, uint64_t offset, const uint8_t mark[4])
{
    return memcmp(a->data + offset, mark, 4) == 0;
}

/* ---- the end of the archive ---- */

static qmoe_status fail_not_zip(const archive *a)
{
    /* The first bytes of the old format: a pickle of a magic number. */
    static const uint8_t legacy[] = {0x80, 2, 0x8a, 10};
    if (a->n_bytes >= sizeof legacy &&
        memcmp(a->data, legacy, sizeof legacy) == 0)
        return qmi_fail(a->err, QMOE_E_UNSUPPORTED,
            "the legacy PyTorch format from before version 1.6; load it with "
            "PyTorch and save it again");
    if (a->n_bytes == 0)
        return qmi_fail(a->err, QMOE_E_FORMAT,
            "not a PyTorch (zip) file, but an empty one (an unfinished "
            "download?)");
    if (a->n_bytes >= 8 && memcmp(a->data, "PYTORCH1", 8) == 0)
        return qmi_fail(a->err, QMOE_E_UNSUPPORTED,
            "the preview format PYTORCH1; load it with PyTorch and save it "
            "again");
    if (a->n_bytes >= 4 && has_mark(a, 0, local_mark))
        return qmi_fail(a->err, QMOE_E_FORMAT,
            "the archive has no end record at the end of the file (an "
            "unfinished download, or something follows it?)");
    const char *hint = qmi_hint_contents(a->data, a->n_bytes);
    return qmi_fail(a->err, QMOE_E_FORMAT, "not a PyTorch (zip) file%s%s",
        hint != NULL ? ", but " : "", hint != NULL ? hint : "");
}

/* The ZIP64 end record, which lies right before its locator. */
static qmoe_status read_end64(archive *a, uint64_t locator)
{
    uint64_t at = qmi_load_u64(a->data + locator + 8);
    /* The first comparison keeps the difference in the second from wrapping. */
    if (locator < END64_BYTES || at > locator - END64_BYTES ||
        !has_mark(a, at, end64_mark))
        return qmi_fail(a->err, QMOE_E_FORMAT,
            "the ZIP64 locator does not lead to a ZIP64 end record");
    const uint8_t *p = a->data + at;
    /* The record says its own size without the first 12 bytes. */
    if (qmi_load_u64(p + 4) != locator - at - 12)
        return qmi_fail(a->err, QMOE_E_FORMAT,
            "the ZIP64 end record does not end at its locator");
    if (qmi_load_u32(a->data + locator + 4) != 0 ||
        qmi_load_u32(a->data + locator + 16) > 1 || qmi_load_u32(p + 16) != 0 ||
        qmi_load_u32(p + 20) != 0 ||
        qmi_load_u64(p + 24) != qmi_load_u64(p + 32))
        return qmi_fail(
            a->err, QMOE_E_FORMAT, "the archive is spread over several disks");
    a->n_entries = qmi_load_u64(p + 32);
    a->directory = qmi_load_u64(p + 48);
    a->directory_end = at;
    uint64_t end = 0;
    /* The directory lies right before the record that describes it. */
    if (!qmi_add_u64(a->directory, qmi_load_u64(p + 40), &end) || end != at)
        return qmi_fail(a->err, QMOE_E_FORMAT,
            "the directory does not end where the ZIP64 end record begins");
    return QMOE_OK;
}

static qmoe_status read_end(archive *a)
{
    /* No comment is allowed, so the record is at one place only. */
    if (a->n_bytes < END_BYTES ||
        !has_mark(a, a->n_bytes - END_BYTES, end_mark))
        return fail_not_zip(a);
    uint64_t at = a->n_bytes - END_BYTES;
    const uint8_t *p = a->data + at;
    if (qmi_load_u16(p + 20) != 0)
        return qmi_fail(
            a->err, QMOE_E_FORMAT, "the archive announces a comment");
    if (at >= LOCATOR_BYTES && has_mark(a, at - LOCATOR_BYTES, locator_mark))
        return read_end64(a, at - LOCATOR_BYTES);
    if (qmi_load_u16(p + 4) != 0 || qmi_load_u16(p + 6) != 0 ||
        qmi_load_u16(p + 8) != qmi_load_u16(p + 10))
        return qmi_fail(
            a->err, QMOE_E_FORMAT, "the archive is spread over several disks");
    a->n_entries = qmi_load_u16(p + 10);
    a->directory = qmi_load_u32(p + 16);
    a->directory_end = at;
    /* Both are 32-bit numbers, so the sum fits. */
    if (a->directory + qmi_load_u32(p + 12) != at)
        return qmi_fail(a->err, QMOE_E_FORMAT,
            "the directory does not end where the end record begins");
    return QMOE_OK;
}

/* ---- one member ---- */

typedef struct entry {
    uint64_t stored, n_bytes, local; /* local: offset of the local header */
    const uint8_t *name, *extra;
    uint32_t name_bytes, extra_bytes;
} entry;

/* Fields that did not fit their 32 bits, in the order of the format. */
static qmoe_status read_extra64(const archive *a, entry *e)
{
    uint64_t *const fields[] = {&e->n_bytes, &e->stored, &e->local};
    const uint8_t *p = e->extra, *end = e->extra + e->extra_bytes;
    bool found = false;
    /* Fields of other programs are skipped. */
    while (end - p >= 4) {
        uint32_t id = qmi_load_u16(p), n = qmi_load_u16(p + 2);
        p += 4;
        if (n > (size_t)(end - p))
            return qmi_fail(a->err, QMOE_E_FORMAT,
                "an extra field goes beyond its directory entry");
        const uint8_t *field = p, *field_end = p + n;
        p += n;
        /* The first field of this kind counts; a second one would be another
         * reading. */
        if (id != 1 || found)
            continue;
        found = true;
        /* Only numbers that are all ones in the entry are in the field. */
        for (size_t i = 0; i < 3; i++) {
            if (*fields[i] != UINT32_MAX)
                continue;
            if (field_end - field < 8)
                return qmi_fail(
                    a->err, QMOE_E_FORMAT, "a ZIP64 extra field is too short");
            *fields[i] = qmi_load_u64(field);
            field += 8;
        }
    }
    return QMOE_OK;
}

static qmoe_status check_method(
    const archive *a, uint32_t flags, uint32_t method)
{
    /* Encryption, strong encryption, masked headers. */
    if ((flags & 0x2041) != 0)
        return qmi_fail(a->err, QMOE_E_UNSUPPORTED,
            "it is encrypted; only plain members are read");
    if (method != 0)
        return qmi_fail(a->err, QMOE_E_UNSUPPORTED,
            "it is compressed (%s%u); only stored members are read",
            method == 8 ? "deflate, method " : "method ", method);
    return QMOE_OK;
}

/* Where the contents begin: only the local header knows. */
static qmoe_status find_contents(
    const archive *a, const entry *e, qmi_zip_member *out)
{
    /* Members lie before the directory. */
    if (a->directory < LOCAL_BYTES || e->local > a->directory - LOCAL_BYTES ||
        !has_mark(a, e->local, local_mark))
        return qmi_fail(a->err, QMOE_E_FORMAT,
            "its local header is not at offset %llu",
            (unsigned long long)e->local);
    const uint8_t *p = a->data + e->local;
    QMI_TRY(check_method(a, qmi_load_u16(p + 6), qmi_load_u16(p + 8)));
    uint32_t name_bytes = qmi_load_u16(p + 26);
    uint64_t begin = e->local + LOCAL_BYTES + name_bytes + qmi_load_u16(p + 28);
    /* Compared without an addition that could wrap. */
    if (begin > a->directory || e->n_bytes > a->directory - begin)
        return qmi_fail(a->err, QMOE_E_FORMAT,
            "its %llu bytes go beyond the members' part of the file",
            (unsigned long long)e->n_bytes);
    /* Programs that go by local headers must see the same member. */
    if (name_bytes != e->name_bytes ||
        memcmp(p + LOCAL_BYTES, e->name, name_bytes) != 0)
        return qmi_fail(a->err, QMOE_E_FORMAT,
            "its local header has another name than the directory");
    out->offset = begin;
    out->n_bytes = e->n_bytes;
    return QMOE_OK;
}

/* All members lie in the folder of the first. */
static qmoe_status strip_top(archive *a, const entry *e, qmi_zip_member *out)
{
    /* The first member's folder is the archive's. */
    if (a->top == NULL) {
        const uint8_t *slash = memchr(e->name, '/', e->name_bytes);
        if (slash == NULL)
            return qmi_fail(
                a->err, QMOE_E_FORMAT, "it does not lie in a folder");
        a->top = e->name;
        a->top_bytes = (uint32_t)(slash + 1 - e->name);
    }
    if (e->name_bytes <= a->top_bytes ||
        memcmp(e->name, a->top, a->top_bytes) != 0)
        return qmi_fail(a->err, QMOE_E_FORMAT,
            "it does not lie in the folder of the first member");
    out->name = (const char *)e->name + a->top_bytes;
    out->name_bytes = e->name_bytes - a->top_bytes;
    return QMOE_OK;
}

static qmoe_status check_entry(archive *a, entry *e, const uint8_t *p)
{
    qmi_zip_member *member = &a->zip->members[a->zip->n_members];
    /* Both headers say the method: this is the directory's. */
    QMI_TRY(check_method(a, qmi_load_u16(p + 8), qmi_load_u16(p + 10)));
    if (qmi_load_u16(p + 34) != 0)
        return qmi_fail(a->err, QMOE_E_FORMAT, "it lies on another disk");
    QMI_TRY(read_extra64(a, e));
    /* Stored members have one size. */
    if (e->stored != e->n_bytes)
        return qmi_fail(a->err, QMOE_E_FORMAT,
            "it is stored, but its two sizes differ (%llu and %llu)",
            (unsigned long long)e->stored, (unsigned long long)e->n_bytes);
    QMI_TRY(strip_top(a, e, member));
    QMI_TRY(find_contents(a, e, member));
    a->zip->n_members++;
    return QMOE_OK;
}

/* torch.jit.save compresses the program that it puts beside the weights. */
static bool is_program(const entry *e)
{
    static const char folder[] = "/code/";
    const size_t n = sizeof folder - 1;
    for (size_t i = 0; i + n <= e->name_bytes; i++)
        if (memcmp(e->name + i, folder, n) == 0)
            return true;
    return false;
}

/* Reads the entry at *at and steps over it. */
static qmoe_status read_entry(archive *a, uint64_t *at)
{
    /* at never exceeds directory_end, so the difference is not negative. */
    if (a->directory_end - *at < ENTRY_BYTES || !has_mark(a, *at, entry_mark))
        return qmi_fail(a->err, QMOE_E_FORMAT,
            "the directory holds no entry at offset %llu",
            (unsigned long long)*at);
    const uint8_t *p = a->data + *at;
    entry e = {
        .stored = qmi_load_u32(p + 20),
        .n_bytes = qmi_load_u32(p + 24),
        .local = qmi_load_u32(p + 42),
        .name = p + ENTRY_BYTES,
        .name_bytes = qmi_load_u16(p + 28),
        .extra_bytes = qmi_load_u16(p + 30),
    };
    e.extra = e.name + e.name_bytes;
    uint64_t size = (uint64_t)ENTRY_BYTES + e.name_bytes + e.extra_bytes +
                    qmi_load_u16(p + 32);
    /* All variable parts at once: name, extra fields, comment. */
    if (size > a->directory_end - *at)
        return qmi_fail(a->err, QMOE_E_FORMAT,
            "the directory entry at offset %llu goes beyond the directory",
            (unsigned long long)*at);
    if (e.name_bytes == 0 || e.name_bytes > MAX_NAME_BYTES)
        return qmi_fail(a->err, QMOE_E_FORMAT,
            "the directory entry at offset %llu has a name of %u bytes",
            (unsigned long long)*at, (unsigned)e.name_bytes);
    *at += size;
    /* The error of a compressed member is replaced where a better one is
     * known. */
    qmoe_status status = check_entry(a, &e, p);
    if (status == QMOE_E_UNSUPPORTED && is_program(&e))
        status = qmi_fail(a->err, QMOE_E_UNSUPPORTED,
            "the file is a TorchScript program (torch.jit.save), not a state "
            "dict");
    /* Names may be long and hold anything; the error text cleans them. */
    if (status != QMOE_OK)
        qmi_error_prefix(a->err, status, "member '%.*s'",
            (int)(e.name_bytes < 200 ? e.name_bytes : 200),
            (const char *)e.name);
    return status;
}

/* ---- all members ---- */

static int compare_offsets(const void *a, const void *b)
{
    const qmi_zip_member *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return x->n_bytes < y->n_bytes ? -1 : x->n_bytes > y->n_bytes;
}

static int compare_text(const char *a, size_t n_a, const char *b, size_t n_b)
{
    int order = memcmp(a, b, n_a < n_b ? n_a : n_b);
    if (order == 0 && n_a != n_b)
        order = n_a < n_b ? -1 : 1;
    return order;
}

static int compare_names(const void *a, const void *b)
{
    const qmi_zip_member *x = a, *y = b;
    return compare_text(x->name, x->name_bytes, y->name, y->name_bytes);
}

/* Neither bytes nor names may be shared; leaves the members in name order. */
static qmoe_status check_members(const archive *a)
{
    qmi_zip_member *m = a->zip->members;
    size_t n = a->zip->n_members;
    /* By place first, then by name: two passes, each over neighbours. */
    qsort(m, n, sizeof *m, compare_offsets);
    for (size_t i = 1; i < n; i++)
        if (m[i].offset < m[i - 1].offset + m[i - 1].n_bytes)
            return qmi_fail(a->err, QMOE_E_FORMAT,
                "members '%.*s' and '%.*s' share bytes",
                (int)m[i - 1].name_bytes, m[i - 1].name, (int)m[i].name_bytes,
                m[i].name);
    qsort(m, n, sizeof *m, compare_names);
    for (size_t i = 1; i < n; i++)
        if (compare_names(&m[i - 1], &m[i]) == 0)
            return qmi_fail(a->err, QMOE_E_FORMAT,
                "two members have the name '%.*s'", (int)m[i].name_bytes,
                m[i].name);
    return QMOE_OK;
}

static qmoe_status read_members(archive *a)
{
    uint64_t at = a->directory;
    /* An entry has at least ENTRY_BYTES: a number above this is a lie, found
     * before memory is asked for. */
    uint64_t most = (a->directory_end - a->directory) / ENTRY_BYTES;
    if (a->n_entries == 0 || a->n_entries > most || a->n_entries > MAX_MEMBERS)
        return qmi_fail(a->err, QMOE_E_FORMAT,
            "%llu members announced in a directory of %llu bytes",
            (unsigned long long)a->n_entries,
            (unsigned long long)(a->directory_end - a->directory));
    a->zip->members = qmi_calloc((size_t)a->n_entries, sizeof *a->zip->members,
        "the archive's directory", a->err);
    if (a->zip->members == NULL)
        return QMOE_E_NOMEM;
    for (uint64_t i = 0; i < a->n_entries; i++)
        QMI_TRY(read_entry(a, &at));
    /* Counted and measured must agree. */
    if (at != a->directory_end)
        return qmi_fail(a->err, QMOE_E_FORMAT,
            "the directory goes on behind its last entry");
    return check_members(a);
}

qmoe_status qmi_zip_read(
    qmi_zip *out, const uint8_t *data, uint64_t n_bytes, qmi_error *err)
{
    archive a = {.data = data, .n_bytes = n_bytes, .zip = out, .err = err};
    *out = (qmi_zip){0};
    QMI_TRY(read_end(&a));
    qmoe_status status = read_members(&a);
    /* Set after a failure as well; qmi_zip_free resets them. */
    out->directory_offset = a.directory;
    out->directory_bytes = a.directory_end - a.directory;
    if (status != QMOE_OK)
        qmi_zip_free(out);
    return status;
}

void qmi_zip_free(qmi_zip *zip)
{
    qmi_free(zip->members);
    *zip = (qmi_zip){0};
}

const qmi_zip_member *qmi_zip_find(
    const qmi_zip *zip, const char *name, size_t name_bytes)
{
    /* Members are in name order (check_members). */
    size_t low = 0, high = zip->n_members;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const qmi_zip_member *m = &zip->members[middle];
        int order = compare_text(name, name_bytes, m->name, m->name_bytes);
        if (order == 0)
            return m;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}
