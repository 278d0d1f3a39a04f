/* SPDX-License-Identifier: Apache-2.0
 * In: a text file of any size.  Out: one document after the other: a line, or
 * the "text" of a line that is a JSON record.  One block of the file and one
 * line are in memory at a time.  What is not UTF-8 is refused with its line
 * number; blank documents are left out. */
#include "documents.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "json.h"

/* The line limit keeps a file that is not text (or has lost its line ends)
 * from filling memory. */
enum { BLOCK_BYTES = 64 * 1024, MAX_LINE_BYTES = 64 * 1000 * 1000 };

struct qmi_documents {
    FILE *file;
    char *path;
    char *where; /* "path:line" of the current line */
    size_t where_bytes;
    uint64_t line_number; /* of the current line, from 1 */
    cJSON *record;        /* owner of a JSON document's text */
    char *line;           /* the current line, NUL-terminated */
    size_t line_bytes, line_capacity;
    size_t block_next, block_end; /* unread part of `block` */
    char block[BLOCK_BYTES];
};

void qmi_documents_close(qmi_documents *documents)
{
    if (documents == NULL)
        return;
    if (documents->file != NULL)
        fclose(documents->file);
    cJSON_Delete(documents->record);
    qmi_free(documents->line);
    qmi_free(documents->where);
    qmi_free(documents->path);
    qmi_free(documents);
}

qmoe_status qmi_documents_open(
    qmi_documents **out, const char *path, qmi_error *err)
{
    *out = NULL;
    qmi_documents *documents =
        qmi_calloc(1, sizeof *documents, "a document reader", err);
    if (documents == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status = QMOE_E_NOMEM;
    documents->where_bytes = strlen(path) + sizeof ":18446744073709551615";
    documents->where = qmi_calloc(documents->where_bytes, 1, "a path", err);
    documents->path = qmi_strdup(path, err);
    if (documents->where == NULL || documents->path == NULL)
        goto fail;
    documents->file = fopen(path, "rb");
    if (documents->file == NULL) {
        status = qmi_fail_errno(err, "%s", path);
        goto fail;
    }
    *out = documents;
    return QMOE_OK;

fail:
    qmi_documents_close(documents);
    return status;
}

static qmoe_status read_block(qmi_documents *d, qmi_error *err)
{
    /* fread need not set it. */
    errno = 0;
    d->block_next = 0;
    d->block_end = fread(d->block, 1, sizeof d->block, d->file);
    if (ferror(d->file))
        return qmi_fail_errno(err, "%s", d->path);
    return QMOE_OK;
}

static qmoe_status append_to_line(
    qmi_documents *d, const char *bytes, size_t n, qmi_error *err)
{
    /* Without an overflow: line_bytes never exceeds the limit. */
    if (n > MAX_LINE_BYTES - d->line_bytes)
        return qmi_fail(err, QMOE_E_FORMAT,
            "%s: a line is longer than %d bytes", d->where, MAX_LINE_BYTES);
    size_t needed = d->line_bytes + n + 1;
    if (needed > d->line_capacity) {
        /* Doubling up to the limit: a long line is copied a few times at
         * most. */
        size_t capacity = 2 * d->line_capacity;
        if (capacity > MAX_LINE_BYTES + 1)
            capacity = MAX_LINE_BYTES + 1;
        if (capacity < needed)
            capacity = needed;
        char *line = qmi_regrow(
            d->line, d->line_bytes, capacity, 1, "a line of text", err);
        if (line == NULL)
            return QMOE_E_NOMEM;
        d->line = line;
        d->line_capacity = capacity;
    }
    memcpy(d->line + d->line_bytes, bytes, n);
    d->line_bytes += n;
    d->line[d->line_bytes] = '\0';
    return QMOE_OK;
}

/* Reads the next line without its end; *found is false at the file's end. */
static qmoe_status read_line(qmi_documents *d, bool *found, qmi_error *err)
{
    *found = false;
    d->line_bytes = 0;
    d->line_number++;
    snprintf(d->where, d->where_bytes, "%s:%llu", d->path,
        (unsigned long long)d->line_number);
    /* A line may reach over any number of blocks. */
    for (;;) {
        if (d->block_next == d->block_end)
            QMI_TRY(read_block(d, err));
        /* The end of the file. */
        if (d->block_end == 0)
            return QMOE_OK;
        /* Also an empty line is one. */
        *found = true;
        const char *start = d->block + d->block_next;
        size_t left = d->block_end - d->block_next;
        const char *end = memchr(start, '\n', left);
        size_t n = end != NULL ? (size_t)(end - start) : left;
        QMI_TRY(append_to_line(d, start, n, err));
        d->block_next += n + (end != NULL ? 1 : 0);
        if (end != NULL)
            return QMOE_OK;
    }
}

static void trim_line(qmi_documents *d)
{
    /* Files from other systems end lines with both. */
    while (d->line_bytes != 0 && d->line[d->line_bytes - 1] == '\r')
        d->line[--d->line_bytes] = '\0';
    /* A byte order mark would hide the brace of a record. */
    static const char mark[] = "\xef\xbb\xbf";
    size_t n_mark = sizeof mark - 1;
    if (d->line_number != 1 || d->line_bytes < n_mark ||
        memcmp(d->line, mark, n_mark) != 0)
        return;
    d->line_bytes -= n_mark;
    memmove(d->line, d->line + n_mark, d->line_bytes + 1);
}

/* White space of C, without the locale. */
static bool is_blank(const char *text, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i++) {
        char c = text[i];
        if (c != ' ' && !(c >= '\t' && c <= '\r'))
            return false;
    }
    return true;
}

static qmoe_status read_record(
    qmi_documents *d, const char **text, size_t *n_bytes, qmi_error *err)
{
    QMI_TRY(qmi_json_parse(&d->record, d->line, d->line_bytes, d->where, err));
    QMI_TRY(qmi_json_string(text, d->record, "text", NULL, d->where, err));
    if (*text == NULL)
        return qmi_fail(err, QMOE_E_FORMAT,
            "%s: the record has no string member \"text\"", d->where);
    *n_bytes = strlen(*text);
    return QMOE_OK;
}

static qmoe_status read_document(
    qmi_documents *d, const char **text, size_t *n_bytes, qmi_error *err)
{
    trim_line(d);
    const size_t n_valid = qmi_utf8_prefix(d->line, d->line_bytes);
    if (n_valid != d->line_bytes)
        return qmi_fail(err, QMOE_E_FORMAT,
            "%s: not UTF-8 text from byte %zu of the line", d->where, n_valid);
    if (d->line_bytes != 0 && d->line[0] == '{')
        return read_record(d, text, n_bytes, err);
    *text = d->line;
    *n_bytes = d->line_bytes;
    return QMOE_OK;
}

qmoe_status qmi_documents_next(qmi_documents *documents, const char **text,
    size_t *n_bytes, qmi_error *err)
{
    *text = NULL;
    *n_bytes = 0;
    for (;;) {
        /* The text handed out last was inside the record. */
        cJSON_Delete(documents->record);
        documents->record = NULL;
        const char *found_text = NULL;
        size_t found_bytes = 0;
        bool found = false;
        QMI_TRY(read_line(documents, &found, err));
        if (!found)
            return QMOE_OK;
        QMI_TRY(read_document(documents, &found_text, &found_bytes, err));
        if (is_blank(found_text, found_bytes))
            continue;
        *text = found_text;
        *n_bytes = found_bytes;
        return QMOE_OK;
    }
}
