/* SPDX-License-Identifier: Apache-2.0
 * New files for writers under test. */
#ifndef QMOE_TEST_SCRATCH_FILE_H
#define QMOE_TEST_SCRATCH_FILE_H

#include <fcntl.h>
#include <unistd.h>

#include "new_file.h"

/* An empty file, whatever was there. */
static inline qmoe_status scratch_new_file(
    qmi_new_file *out, const char *path, qmi_error *err)
{
    unlink(path);
    return qmi_new_file_create(out, AT_FDCWD, path, path, err);
}

#endif
