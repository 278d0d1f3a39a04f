/* SPDX-License-Identifier: Apache-2.0
 * Read-only memory map of a whole file. */
#ifndef QMI_MAP_H
#define QMI_MAP_H

#include "error.h"

typedef struct qmi_map {
    const uint8_t *data; /* n_bytes bytes; NULL for an empty file */
    uint64_t n_bytes;
} qmi_map;

/* Maps `path`.  E_NOT_FOUND, E_IO (not a regular file, mmap refused). */
qmoe_status qmi_map_open(qmi_map *out, const char *path, qmi_error *err);
void qmi_map_close(qmi_map *map);

/* Hints: the range will be needed soon / is no longer needed.  Page-rounded,
 * never an error. */
void qmi_map_will_need(const void *data, uint64_t n_bytes);
void qmi_map_done_with(const void *data, uint64_t n_bytes);

/* Reads a small text file (config.json ...) of at most `max_bytes` into a
 * NUL-terminated buffer to be released with qmi_free. */
qmoe_status qmi_read_file(char **out, size_t *n_bytes, const char *path,
    size_t max_bytes, qmi_error *err);

#endif
