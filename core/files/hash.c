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

/* A state of its own per file, so several may be hashed at a time. */
qmi_hasher *qmi_hasher_create(qmi_error *err)
{
    XXH3_state_t *state = XXH3_createState();
    if (state == NULL || XXH3_64bits_reset(state) != XXH_OK) {
        XXH3_freeState(state);
        qmi_fail(err, QMOE_E_NOMEM, "out of memory: a checksum");
        return NULL;
    }
    return (qmi_hasher *)state;
}

void qmi_hasher_add(qmi_hasher *hasher, const void *piece, size_t n_bytes)
{
    XXH3_64bits_update((XXH3_state_t *)hasher, piece, n_bytes);
}

uint64_t qmi_hasher_value(const qmi_hasher *hasher)
{
    return XXH3_64bits_digest((const XXH3_state_t *)hasher);
}

void qmi_hasher_destroy(qmi_hasher *hasher)
{
    XXH3_freeState((XXH3_state_t *)hasher);
}

void qmi_hash_hex(char out[17], uint64_t hash)
{
    snprintf(out, 17, "%016" PRIx64, hash);
}
