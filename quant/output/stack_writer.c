/* SPDX-License-Identifier: Apache-2.0
 * In: encoded matrices in their order, or what an earlier process left in the
 * file.  Out: one shard, in which each part has its matrices in their order.
 * Places of fixed parts follow from the number of the matrix; those of the
 * variable part from the running offsets, which therefore are kept in memory
 * and written last. */
#include "stack_writer.h"

#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "hash.h"

struct qmi_stack_writer {
    qmi_st_writer *file;
    const qmi_format *format;
    int64_t n_mats, n_rows, n_cols, n_done;
    uint64_t *offsets; /* [n_mats + 1] running elements, variable formats */
};

/* Bytes of part `i` that belong to one matrix of a fixed-size part. */
static uint64_t matrix_bytes(const qmi_stack_writer *w, int i)
{
    const qmi_part_spec *spec = &w->format->parts[i];
    int64_t shape[3];
    int rank = spec->shape(shape, 1, w->n_rows, w->n_cols);
    uint64_t n = qmi_dtype_bits(spec->dtype);
    for (int j = 0; j < rank; j++)
        n *= (uint64_t)shape[j];
    return n / 8;
}

/* Offsets are not a matrix's own bytes: the writer makes them. */
static bool is_offsets(const qmi_format *format, int part)
{
    return format->variable && part == format->offsets_part;
}

static bool is_variable(const qmi_format *format, int part)
{
    return format->variable && part == format->variable_part;
}

static uint64_t element_bytes(const qmi_format *format, int part)
{
    return qmi_dtype_bits(format->parts[part].dtype) / 8;
}

/* Where matrix `i` begins in a part; of those that are written, since offsets
 * of others are not known yet. */
static uint64_t part_begin(const qmi_stack_writer *w, int part, int64_t i)
{
    return is_variable(w->format, part)
               ? w->offsets[i] * element_bytes(w->format, part)
               : matrix_bytes(w, part) * (uint64_t)i;
}

/* Their numbers in the file are those of the format's parts. */
qmoe_status qmi_stack_declare(
    qmi_st_writer *file, const qmi_stack_plan *plan, qmi_error *err)
{
    for (int i = 0; i < plan->format->n_parts; i++) {
        const qmi_part_spec *spec = &plan->format->parts[i];
        int64_t shape[3];
        /* Names come from our own architectures and are shorter. */
        char full[512];
        int rank = spec->shape(shape, plan->n_mats, plan->n_rows, plan->n_cols);
        snprintf(full, sizeof full, "%s.%s", plan->name, spec->suffix);
        QMI_TRY(
            qmi_st_writer_declare(file, full, spec->dtype, shape, rank, err));
    }
    return QMOE_OK;
}

static qmoe_status start(
    qmi_stack_writer *w, const qmi_stack_plan *plan, qmi_error *err)
{
    w->offsets = qmi_calloc(
        (size_t)w->n_mats + 1, sizeof *w->offsets, "expert offsets", err);
    if (w->offsets == NULL)
        return QMOE_E_NOMEM;
    QMI_TRY(qmi_st_writer_metadata(w->file, "format", "qmoe", err));
    return qmi_stack_declare(w->file, plan, err);
}

qmoe_status qmi_stack_writer_create(qmi_stack_writer **out, qmi_new_file *file,
    const qmi_stack_plan *plan, qmi_error *err)
{
    qmi_st_writer *shard = NULL;
    *out = NULL;
    QMI_TRY(qmi_st_writer_create(&shard, file, err));
    qmi_stack_writer *w = qmi_calloc(1, sizeof *w, "a stack writer", err);
    if (w == NULL) {
        qmi_st_writer_destroy(shard);
        return QMOE_E_NOMEM;
    }
    w->file = shard;
    w->format = plan->format;
    w->n_mats = plan->n_mats;
    w->n_rows = plan->n_rows;
    w->n_cols = plan->n_cols;
    qmoe_status status = start(w, plan, err);
    if (status != QMOE_OK) {
        qmi_stack_writer_destroy(w);
        return status;
    }
    *out = w;
    return QMOE_OK;
}

void qmi_stack_writer_destroy(qmi_stack_writer *w)
{
    if (w == NULL)
        return;
    qmi_st_writer_destroy(w->file);
    qmi_free(w->offsets);
    qmi_free(w);
}

/* Fixed formats have nothing of a length of its own. */
uint64_t qmi_encoded_length(const qmi_encoded *encoded)
{
    const qmi_format *format = encoded->format;
    if (!format->variable)
        return 0;
    return encoded->part_bytes[format->variable_part] /
           element_bytes(format, format->variable_part);
}

/* A hash of hashes: bytes that moved from one part to another change it. */
uint64_t qmi_encoded_digest(const qmi_encoded *encoded)
{
    uint64_t hashes[QMI_MAX_PARTS] = {0};
    for (int i = 0; i < encoded->format->n_parts; i++)
        if (!is_offsets(encoded->format, i))
            hashes[i] = qmi_hash64(encoded->parts[i], encoded->part_bytes[i]);
    return qmi_hash64(hashes, sizeof hashes);
}

/* Gives a part of the next matrix to the file, which has it or gets it. */
typedef qmoe_status (*give_fn)(qmi_st_writer *file, size_t part,
    const void *data, size_t n_bytes, qmi_error *err);

static qmoe_status append(qmi_stack_writer *w, const qmi_encoded *encoded,
    give_fn give, qmi_error *err)
{
    const qmi_format *format = w->format;
    if (w->n_done == w->n_mats || encoded->n_rows != w->n_rows ||
        encoded->n_cols != w->n_cols || encoded->format != format)
        return qmi_fail(err, QMOE_E_INVALID,
            "matrix does not fit the stack it is added to");
    /* Every part is checked before its bytes go to the file, so a wrong size
     * cannot shift later matrices. */
    for (int i = 0; i < format->n_parts; i++) {
        if (is_offsets(format, i))
            continue;
        if (!is_variable(format, i) &&
            encoded->part_bytes[i] != matrix_bytes(w, i))
            return qmi_fail(err, QMOE_E_INTERNAL,
                "part '%s' of a compressed matrix has the wrong size",
                format->parts[i].suffix);
        QMI_TRY(give(w->file, (size_t)i, encoded->parts[i],
            encoded->part_bytes[i], err));
    }
    /* Entries behind n_done are not used, so a failure above leaves the writer
     * as it was. */
    w->offsets[w->n_done + 1] =
        w->offsets[w->n_done] + qmi_encoded_length(encoded);
    w->n_done++;
    return QMOE_OK;
}

qmoe_status qmi_stack_writer_add(
    qmi_stack_writer *w, const qmi_encoded *encoded, qmi_error *err)
{
    return append(w, encoded, qmi_st_writer_write, err);
}

/* ---- what an earlier process wrote ---- */

static qmoe_status load_parts(qmi_stack_writer *w, qmi_encoded *out,
    uint64_t length, bool *found, qmi_error *err)
{
    for (int i = 0; i < w->format->n_parts; i++) {
        /* Before the offsets of this matrix are known, its beginning is: the
         * end of the one before. */
        const uint64_t begin = part_begin(w, i, w->n_done);
        uint64_t n_bytes = matrix_bytes(w, i), n_there = 0;
        if (is_offsets(w->format, i))
            continue;
        /* `length` comes from the journal, whose checksum finds accidents
         * only. */
        if (is_variable(w->format, i) &&
            !qmi_mul_u64(length, element_bytes(w->format, i), &n_bytes))
            return QMOE_OK;
        QMI_TRY(
            qmi_st_writer_available(w->file, (size_t)i, begin, &n_there, err));
        /* Asked before memory is: a length that the file cannot hold costs
         * nothing. */
        if (n_bytes > n_there)
            return QMOE_OK;
        out->parts[i] = qmi_calloc(n_bytes, 1, "a compressed expert", err);
        if (out->parts[i] == NULL)
            return QMOE_E_NOMEM;
        out->part_bytes[i] = n_bytes;
        QMI_TRY(qmi_st_writer_read(
            w->file, (size_t)i, out->parts[i], begin, n_bytes, err));
    }
    *found = true;
    return QMOE_OK;
}

qmoe_status qmi_stack_writer_load(qmi_stack_writer *w, qmi_encoded *out,
    uint64_t length, bool *found, qmi_error *err)
{
    *found = false;
    *out = (qmi_encoded){
        .format = w->format, .n_rows = w->n_rows, .n_cols = w->n_cols};
    return load_parts(w, out, length, found, err);
}

qmoe_status qmi_stack_writer_keep(
    qmi_stack_writer *w, const qmi_encoded *encoded, qmi_error *err)
{
    return append(w, encoded, qmi_st_writer_keep, err);
}

/* ---- holes ---- */

/* For hollow models, which tests use: experts of zeros that take no disk. */
qmoe_status qmi_stack_writer_add_hollow(
    qmi_stack_writer *w, int64_t n, qmi_error *err)
{
    if (w->format->variable || n < 0 || n > w->n_mats - w->n_done)
        return qmi_fail(err, QMOE_E_INVALID,
            "hollow matrices do not fit the stack they are added to");
    for (int i = 0; i < w->format->n_parts; i++)
        QMI_TRY(qmi_st_writer_write_hole(
            w->file, (size_t)i, matrix_bytes(w, i) * (uint64_t)n, err));
    w->n_done += n;
    return QMOE_OK;
}

qmoe_status qmi_stack_writer_sync(qmi_stack_writer *w, qmi_error *err)
{
    return qmi_st_writer_sync(w->file, err);
}

/* Reads n_bytes of a part from byte `begin` into new memory. */
static qmoe_status read_part(qmi_stack_writer *w, qmi_part *out, int part,
    uint64_t begin, uint64_t n_bytes, qmi_error *err)
{
    uint8_t *data = qmi_calloc(n_bytes, 1, "a compressed expert", err);
    if (data == NULL)
        return QMOE_E_NOMEM;
    /* Set before it is read, so that _unread frees it after a failure. */
    *out = (qmi_part){data, n_bytes};
    return qmi_st_writer_read(w->file, (size_t)part, data, begin, n_bytes, err);
}

qmoe_status qmi_stack_writer_read(qmi_stack_writer *w, qmi_weight *out,
    int64_t first, int64_t n, qmi_error *err)
{
    const qmi_format *format = w->format;
    *out = (qmi_weight){.format = format,
        .name = "a compressed stack",
        .n_mats = n,
        .n_rows = w->n_rows,
        .n_cols = w->n_cols};
    for (int i = 0; i < format->n_parts; i++) {
        if (is_offsets(format, i))
            continue;
        const uint64_t begin = part_begin(w, i, first);
        /* Offsets up to first + n are known: the matrices are written. */
        const uint64_t n_bytes = part_begin(w, i, first + n) - begin;
        QMI_TRY(read_part(w, &out->parts[i], i, begin, n_bytes, err));
    }
    if (!format->variable)
        return QMOE_OK;
    uint64_t *offsets =
        qmi_calloc((size_t)n + 1, sizeof *offsets, "expert offsets", err);
    if (offsets == NULL)
        return QMOE_E_NOMEM;
    /* A stack of its own begins at 0. */
    for (int64_t i = 0; i <= n; i++)
        offsets[i] = w->offsets[first + i] - w->offsets[first];
    out->parts[format->offsets_part] =
        (qmi_part){offsets, ((uint64_t)n + 1) * sizeof *offsets};
    return QMOE_OK;
}

void qmi_stack_writer_unread(qmi_weight *weight)
{
    for (int i = 0; i < QMI_MAX_PARTS; i++)
        qmi_free((void *)weight->parts[i].data);
    *weight = (qmi_weight){0};
}

/* Counts what the parts hold, not padding and header. */
uint64_t qmi_stack_writer_bytes(const qmi_stack_writer *w)
{
    uint64_t n = 0;
    for (int i = 0; i < w->format->n_parts; i++) {
        if (is_offsets(w->format, i))
            n += (uint64_t)(w->n_mats + 1) * sizeof *w->offsets;
        else if (is_variable(w->format, i))
            n += w->offsets[w->n_mats] * element_bytes(w->format, i);
        else
            n += matrix_bytes(w, i) * (uint64_t)w->n_mats;
    }
    return n;
}

qmoe_status qmi_stack_writer_finish(qmi_stack_writer *w, uint64_t *header_hash,
    uint64_t *file_bytes, qmi_error *err)
{
    if (w->format->variable)
        /* The format's offsets are complete only now. */
        QMI_TRY(qmi_st_writer_write(w->file, (size_t)w->format->offsets_part,
            w->offsets, (size_t)(w->n_mats + 1) * sizeof *w->offsets, err));
    return qmi_st_writer_finish(w->file, header_hash, file_bytes, err);
}
