/* SPDX-License-Identifier: Apache-2.0
 * Memory that is released all at once, with a limit on its size.  Templates are
 * untrusted: what they make is bounded here. */
#ifndef QMI_JINJA_ARENA_H
#define QMI_JINJA_ARENA_H

#include <stddef.h>

#include "error.h"

/* Begin with all zeros but the limit. */
typedef struct qmi_jarena {
    struct qmi_jchunk *last;
    size_t used;    /* bytes of `last` */
    size_t n_bytes; /* of all chunks */
    size_t max_bytes;
} qmi_jarena;

/* count * size zeroed bytes, aligned for any type; lives until the release.
 * NULL: out of memory (E_NOMEM) or beyond the limit (E_FORMAT), which names
 * `file`. */
void *qmi_jarena_take(qmi_jarena *arena, size_t count, size_t size,
    const char *file, qmi_error *err);
void qmi_jarena_release(qmi_jarena *arena);

#endif
