/* SPDX-License-Identifier: Apache-2.0
 * Files made in a directory that others may write to as well: never through a
 * link, never over a file that is there, never into one that is not ours. */
#ifndef QMI_NEW_FILE_H
#define QMI_NEW_FILE_H

#include <sys/stat.h>

#include "error.h"

/* Open for reading and writing.  A writer that takes one over closes and frees
 * it, also when it fails. */
typedef struct qmi_new_file {
    int fd;
    char *path; /* for messages */
} qmi_new_file;

/* What is wrong with a file as one of ours ("is no regular file", ...); NULL:
 * nothing. */
const char *qmi_file_fault(const struct stat *info);

/* Creates `name` under the descriptor `directory` (or AT_FDCWD); E_EXISTS:
 * something has the name. */
qmoe_status qmi_new_file_create(qmi_new_file *out, int directory,
    const char *name, const char *path, qmi_error *err);
/* Opens a file made earlier, with its content.  Does not wait for a FIFO.
 * E_EXISTS: not a regular file with one name, owned by this user. */
qmoe_status qmi_new_file_reopen(qmi_new_file *out, int directory,
    const char *name, const char *path, qmi_error *err);
void qmi_new_file_close(qmi_new_file *file);

#endif
