/* SPDX-License-Identifier: Apache-2.0
 * Allocation with overflow-checked sizes.  Every allocation of the library
 * goes through here, so that tests can make the n-th one fail. */
#ifndef QMI_ALLOC_H
#define QMI_ALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"

/* count * size zeroed bytes, aligned to 64; NULL and an E_NOMEM text (naming
 * `what`) on failure or overflow.  count * size == 0 gives a valid pointer.
 * Release with qmi_free. */
void *qmi_calloc(size_t count, size_t size, const char *what, qmi_error *err);

/* Grows (or shrinks) a block of qmi_calloc to count * size bytes; the old
 * contents (old_count * size) are kept, the rest is zero.  On failure the old
 * block stays valid and NULL is returned. */
void *qmi_regrow(void *old, size_t old_count, size_t count, size_t size,
    const char *what, qmi_error *err);

char *qmi_strdup(const char *text, qmi_error *err);
/* "a/b"; NULL on failure. */
char *qmi_path_join(const char *directory, const char *name, qmi_error *err);
/* The part of a path after the last slash; points into it. */
const char *qmi_last_component(const char *path);
/* NULL is fine; large blocks are out of resident memory at once. */
void qmi_free(void *block);

/* *out = a * b (or a + b); false on overflow. */
bool qmi_mul_u64(uint64_t a, uint64_t b, uint64_t *out);
bool qmi_add_u64(uint64_t a, uint64_t b, uint64_t *out);

/* Tests only: the n-th allocation from now (1 = next) fails; 0 = never. */
void qmi_alloc_fail_after(uint64_t n);
/* Tests only: allocations so far, of all threads. */
uint64_t qmi_alloc_count(void);

#endif
