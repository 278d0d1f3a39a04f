/* SPDX-License-Identifier: Apache-2.0
 * Streaming writer of one safetensors file.  Tensors are declared first, then
 * their data is written in that order; the last one may have an open first
 * dimension, whose length follows from the data.  A checksum per tensor
 * (XXH3-64, "xxh3:<name>" in __metadata__, 16 lower-case hex digits) is
 * computed on the way.  The header is written at the end into space reserved
 * at the start, so data is written once and never moved.
 *
 * The file is for the caller to put in place and, when it stays unfinished, to
 * remove. */
#ifndef QMI_SAFETENSORS_WRITER_H
#define QMI_SAFETENSORS_WRITER_H

#include "dtype.h"
#include "new_file.h"

typedef struct qmi_st_writer qmi_st_writer;

/* Takes over `file`.  One that has content is continued: declare the same
 * tensors and metadata again, then say with _keep what of it counts. */
qmoe_status qmi_st_writer_create(
    qmi_st_writer **out, qmi_new_file *file, qmi_error *err);
/* Frees everything; the file stays as it is. */
void qmi_st_writer_destroy(qmi_st_writer *w);
/* How many bytes the file has of tensor `index` from its byte `begin` on. */
qmoe_status qmi_st_writer_available(qmi_st_writer *w, size_t index,
    uint64_t begin, uint64_t *n_bytes, qmi_error *err);
/* Like write for bytes that the file has there already. */
qmoe_status qmi_st_writer_keep(qmi_st_writer *w, size_t index, const void *data,
    size_t n_bytes, qmi_error *err);
/* Everything written so far is on disk when this returns. */
qmoe_status qmi_st_writer_sync(qmi_st_writer *w, qmi_error *err);
/* Reads back n_bytes of tensor `index` from its byte `begin`. */
qmoe_status qmi_st_writer_read(qmi_st_writer *w, size_t index, void *dst,
    uint64_t begin, uint64_t n_bytes, qmi_error *err);

/* Declares the next tensor.  shape[0] = -1 (last tensor only): as many as
 * will be written.  Every tensor starts 64-byte aligned in the file when the
 * ones before it have sizes that are multiples of 64; the first always does. */
qmoe_status qmi_st_writer_declare(qmi_st_writer *w, const char *name,
    qmi_dtype dtype, const int64_t *shape, int rank, qmi_error *err);
qmoe_status qmi_st_writer_metadata(
    qmi_st_writer *w, const char *key, const char *value, qmi_error *err);

/* Appends bytes to tensor `index` (declaration order).  Tensors may be filled
 * in any interleaving: each has its own write position.  More bytes than
 * declared is E_INVALID.  E_NO_SPACE, E_IO. */
qmoe_status qmi_st_writer_write(qmi_st_writer *w, size_t index,
    const void *data, size_t n_bytes, qmi_error *err);

/* Appends n_bytes zeros as a hole of the file: no disk where the file system
 * has sparse files.  For development material; the checksum counts them.
 * Not for continued files, which may hold other bytes there. */
qmoe_status qmi_st_writer_write_hole(
    qmi_st_writer *w, size_t index, uint64_t n_bytes, qmi_error *err);

/* Requires every tensor complete (else E_INVALID).  Writes the header, syncs
 * and closes the file.  *header_hash as qmi_tensor_file_header_hash. */
qmoe_status qmi_st_writer_finish(qmi_st_writer *w, uint64_t *header_hash,
    uint64_t *file_bytes, qmi_error *err);

#endif
