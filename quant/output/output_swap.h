/* SPDX-License-Identifier: Apache-2.0
 * Locks and names of output directories: one process at a time has a
 * directory, and one that is replaced is whole until the new one is in place. */
#ifndef QMI_OUTPUT_SWAP_H
#define QMI_OUTPUT_SWAP_H

#include "error.h"

/* Opens the directory `name` (no link) under `parent` and locks it; the lock
 * ends when the descriptor is closed.  -1: errno says why; EWOULDBLOCK: another
 * process has had it for `wait_ms`. */
int qmi_lock_directory(int parent, const char *name, int wait_ms);

/* What had the final name. */
typedef struct qmi_replaced {
    int directory; /* locked; -1: there was nothing */
    char name[256];
} qmi_replaced;

/* Gives the directory `from` the last component of `path`, both under `parent`.
 * A directory that had the name is exchanged and gets a name of its own.
 * E_EXISTS: something had the name and !overwrite, or is not qmoe's, or another
 * process has had a lock on it for `wait_ms`. */
qmoe_status qmi_swap_directory(qmi_replaced *out, int parent, const char *from,
    const char *path, bool overwrite, int wait_ms, qmi_error *err);
/* Removes it, and what killed processes left of earlier ones. */
qmoe_status qmi_remove_replaced(
    qmi_replaced *replaced, int parent, const char *path, qmi_error *err);

#endif
