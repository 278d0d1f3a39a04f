/* SPDX-License-Identifier: Apache-2.0
 * Streaming writer of a zip archive as PyTorch lays it out: stored members
 * under one top folder, whose data begin at multiples of 64 bytes (an extra
 * field "FB" pads the local header), ZIP64 where sizes need it.  Format: PKWARE
 * APPNOTE 6.3, sections 4.3 to 4.5. */
#ifndef QMI_ZIP_WRITER_H
#define QMI_ZIP_WRITER_H

#include "new_file.h"

typedef struct qmi_zip_writer qmi_zip_writer;

/* Takes over the empty `file`.  The top folder has its base name without
 * extension. */
qmoe_status qmi_zip_writer_create(
    qmi_zip_writer **out, qmi_new_file *file, qmi_error *err);
/* Frees everything; the file stays as it is. */
void qmi_zip_writer_destroy(qmi_zip_writer *w);

/* Starts the next member, of n_bytes; the one before must be complete. */
qmoe_status qmi_zip_writer_begin(
    qmi_zip_writer *w, const char *name, uint64_t n_bytes, qmi_error *err);
/* Appends to the current member. */
qmoe_status qmi_zip_writer_write(
    qmi_zip_writer *w, const void *data, uint64_t n_bytes, qmi_error *err);
/* Writes the directory, syncs, closes. */
qmoe_status qmi_zip_writer_finish(
    qmi_zip_writer *w, uint64_t *file_bytes, qmi_error *err);
/* Tests only: sizes and offsets from `limit` on are written as ZIP64, as those
 * from 2^32 - 1 on always are. */
void qmi_zip_writer_wide_from(uint64_t limit);

#endif
