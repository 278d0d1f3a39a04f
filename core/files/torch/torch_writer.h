/* SPDX-License-Identifier: Apache-2.0
 * Streaming writer of one file as torch.save makes it: a dict of tensors in a
 * zip archive of stored members, or a dict of integers.  Everything is declared
 * first, then the data is written in that order.  torch.load reads the result,
 * also with weights_only.  Layout: docs/publish.md. */
#ifndef QMI_TORCH_WRITER_H
#define QMI_TORCH_WRITER_H

#include "dtype.h"
#include "new_file.h"

typedef struct qmi_torch_writer qmi_torch_writer;

/* Takes over the empty `file`.  `ordered`: the dict is an OrderedDict (a state
 * dict). */
qmoe_status qmi_torch_writer_create(
    qmi_torch_writer **out, qmi_new_file *file, bool ordered, qmi_error *err);
/* Frees everything; the file stays as it is. */
void qmi_torch_writer_destroy(qmi_torch_writer *w);

/* Declares the next item; names are the caller's to keep unique.
 * E_UNSUPPORTED: torch has no storage of that dtype.  E_INVALID: after the
 * first write, a bad shape. */
qmoe_status qmi_torch_writer_tensor(qmi_torch_writer *w, const char *name,
    qmi_dtype dtype, const int64_t *shape, int rank, qmi_error *err);
qmoe_status qmi_torch_writer_integer(
    qmi_torch_writer *w, const char *name, int64_t value, qmi_error *err);

/* Appends data (C order, little endian): tensors fill up in order of
 * declaration.  E_INVALID: more than declared; E_IO, E_NO_SPACE. */
qmoe_status qmi_torch_writer_write(
    qmi_torch_writer *w, const void *data, uint64_t n_bytes, qmi_error *err);
/* Requires all data (else E_INVALID).  Writes the archive's directory, syncs
 * and closes the file. */
qmoe_status qmi_torch_writer_finish(
    qmi_torch_writer *w, uint64_t *file_bytes, qmi_error *err);

#endif
