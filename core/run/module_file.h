/* SPDX-License-Identifier: Apache-2.0
 * Whether a file may be given to dlopen, which waits for ever on a FIFO and ends
 * the process on a file that was cut short. */
#ifndef QMI_MODULE_FILE_H
#define QMI_MODULE_FILE_H

#include <stdbool.h>
#include <stddef.h>

/* A whole shared object of this machine, owned by root, this user or the owner
 * of the running program, which others cannot write.  If not, `reason` says why
 * and begins with the path. */
bool qmi_module_file_usable(const char *path, char *reason, size_t capacity);

#endif
