/* SPDX-License-Identifier: Apache-2.0
 * Compiled programs on disk, in $XDG_CACHE_HOME/qmoe or ~/.cache/qmoe, or in
 * $QMOE_OPENCL_CACHE when that is an absolute path; not at all when it is
 * "off".  At most 256 MiB or $QMOE_OPENCL_CACHE_BYTES are kept, the least
 * recently used programs go first.  A cache that cannot be read or written is
 * no error: programs are compiled again. */
#ifndef QOCL_PROGRAM_CACHE_H
#define QOCL_PROGRAM_CACHE_H

#include <stddef.h>
#include <stdint.h>

/* FNV-1a, continued from `hash` (start: QOCL_HASH_START). */
#define QOCL_HASH_START UINT64_C(0xcbf29ce484222325)
uint64_t qocl_hash(uint64_t hash, const void *data, size_t n);

/* The binary of `key`, to be released with qmi_free; NULL when there is none
 * or the file is damaged. */
unsigned char *qocl_cache_load(size_t *n, uint64_t key);
void qocl_cache_store(uint64_t key, const unsigned char *binary, size_t n);

#endif
