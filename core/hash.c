/* SPDX-License-Identifier: Apache-2.0
 * Checksums: a thin layer over the xxHash library, so that one place fixes
 * the algorithm (XXH3, 64 bits, seed 0) and its spelling. */
#include "hash.h"

#include <inttypes.h>
#include <stdio.h>
#include <xxhash.h>

uint64_t qmi_hash64(const void *data, size_t n_bytes)
{
    return XXH3_64bits(data, n_bytes);
}

void qmi_hash_hex(char out[17], uint64_t hash)
{
    snprintf(out, 17, "%016" PRIx64, hash);
}
