/* SPDX-License-Identifier: Apache-2.0
 * Writes one stack of compressed matrices as one shard (docs/format.md), in any
 * format: matrices are appended in order, their parts to the format's tensors.
 * What is on disk after a sync can be continued by a later process. */
#ifndef QMI_STACK_WRITER_H
#define QMI_STACK_WRITER_H

#include "new_file.h"
#include "quantiser.h"
#include "safetensors_writer.h"

typedef struct qmi_stack_writer qmi_stack_writer;

/* What the shard will hold. */
typedef struct qmi_stack_plan {
    const char *name; /* of the stack */
    const qmi_format *format;
    int64_t n_mats, n_rows, n_cols;
} qmi_stack_plan;

/* Declares the parts as the next tensors of a file, in their order. */
qmoe_status qmi_stack_declare(
    qmi_st_writer *file, const qmi_stack_plan *plan, qmi_error *err);

/* Starts the shard in `file`, which is taken over. */
qmoe_status qmi_stack_writer_create(qmi_stack_writer **out, qmi_new_file *file,
    const qmi_stack_plan *plan, qmi_error *err);
/* An unfinished file stays on disk, for a later run to continue. */
void qmi_stack_writer_destroy(qmi_stack_writer *w);

/* Appends the next matrix. */
qmoe_status qmi_stack_writer_add(
    qmi_stack_writer *w, const qmi_encoded *encoded, qmi_error *err);
/* Reads the next matrix from a file that is continued; `length` is what
 * qmi_encoded_length was.  !*found: the file has too few bytes.  Release with
 * qmi_encoded_free in any case. */
qmoe_status qmi_stack_writer_load(qmi_stack_writer *w, qmi_encoded *out,
    uint64_t length, bool *found, qmi_error *err);
/* Appends the matrix just loaded: like add, but it is in the file already. */
qmoe_status qmi_stack_writer_keep(
    qmi_stack_writer *w, const qmi_encoded *encoded, qmi_error *err);
/* Appends n matrices whose bytes are all zero, as holes of the file
 * (qmi_st_writer_write_hole).  Fixed formats only (E_INVALID). */
qmoe_status qmi_stack_writer_add_hollow(
    qmi_stack_writer *w, int64_t n, qmi_error *err);
/* Elements in the variable part of an encoded matrix; 0 for fixed formats. */
uint64_t qmi_encoded_length(const qmi_encoded *encoded);
/* Checksum of what an encoded matrix adds to the file. */
uint64_t qmi_encoded_digest(const qmi_encoded *encoded);
/* Everything added is on disk when this returns. */
qmoe_status qmi_stack_writer_sync(qmi_stack_writer *w, qmi_error *err);
/* Describes matrices [first, first + n) already in the file as a stack of
 * their own, for decoding them again.  Release with _unread. */
qmoe_status qmi_stack_writer_read(qmi_stack_writer *w, qmi_weight *out,
    int64_t first, int64_t n, qmi_error *err);
void qmi_stack_writer_unread(qmi_weight *weight);
/* Bytes of all parts, once finished. */
uint64_t qmi_stack_writer_bytes(const qmi_stack_writer *w);
/* After n_mats matrices: completes the file (qmi_st_writer_finish). */
qmoe_status qmi_stack_writer_finish(qmi_stack_writer *w, uint64_t *header_hash,
    uint64_t *file_bytes, qmi_error *err);

#endif
