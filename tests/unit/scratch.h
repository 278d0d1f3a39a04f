/* SPDX-License-Identifier: Apache-2.0
 * Files for tests, under the writable QMOE_TEST_DIR.  Paths live in a ring of
 * static buffers: good for the few a test needs at a time. */
#ifndef QMOE_TEST_SCRATCH_H
#define QMOE_TEST_SCRATCH_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "qmoe/qmoe.h"

/* "<QMOE_TEST_DIR>/<name>" */
static inline const char *scratch_path(const char *name)
{
    static char paths[8][1024];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", QMOE_TEST_DIR, name);
    return path;
}

static inline const char *scratch_write(
    const char *name, const void *data, size_t n_bytes)
{
    const char *path = scratch_path(name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    if (n_bytes != 0)
        assert_int_equal(fwrite(data, 1, n_bytes, file), n_bytes);
    assert_int_equal(fclose(file), 0);
    return path;
}

static inline const char *scratch_text(const char *name, const char *text)
{
    return scratch_write(name, text, strlen(text));
}

static inline const char *scratch_directory(const char *name)
{
    const char *path = scratch_path(name);
    mkdir(path, 0777);
    return path;
}

/* Status names and a part of the error text, as one readable failure. */
#define assert_error(status, expected, text, part)                             \
    do {                                                                       \
        assert_string_equal(                                                   \
            qmoe_status_name(status), qmoe_status_name(expected));             \
        if (strstr(text, part) == NULL)                                        \
            fail_msg("'%s' is not in: %s", part, text);                        \
    } while (0)

#endif
