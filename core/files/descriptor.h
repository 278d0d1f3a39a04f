/* SPDX-License-Identifier: Apache-2.0
 * Whole reads and writes of an open file.  Interrupted calls are repeated; the
 * position of the descriptor is neither used nor changed. */
#ifndef QMI_DESCRIPTOR_H
#define QMI_DESCRIPTOR_H

#include "error.h"

/* Bytes read, fewer than n_bytes only at the end of the file; -1: errno says
 * why. */
int64_t qmi_read_at(int fd, void *dst, uint64_t n_bytes, uint64_t offset);
/* False: errno says why; some of it may be written. */
bool qmi_write_at(int fd, const void *src, uint64_t n_bytes, uint64_t offset);
/* The same for data of any size, that are added to the end of a file: can be
 * cancelled on the way, and what was written before is already going to disk,
 * so that a sync at the end takes no long time.  `path` is for errors. */
qmoe_status qmi_write_long(int fd, const void *src, uint64_t n_bytes,
    uint64_t offset, const char *path, qmi_error *err);

#endif
