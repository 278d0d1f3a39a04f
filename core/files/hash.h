/* SPDX-License-Identifier: Apache-2.0
 * Checksums of tensor data: XXH3-64 (xxHash library). */
#ifndef QMI_HASH_H
#define QMI_HASH_H

#include <stddef.h>
#include <stdint.h>

#include "error.h"

uint64_t qmi_hash64(const void *data, size_t n_bytes);
/* The same hash of data that come in pieces. */
typedef struct qmi_hasher qmi_hasher;
/* NULL: out of memory. */
qmi_hasher *qmi_hasher_create(qmi_error *err);
void qmi_hasher_add(qmi_hasher *hasher, const void *piece, size_t n_bytes);
/* Of all pieces so far. */
uint64_t qmi_hasher_value(const qmi_hasher *hasher);
void qmi_hasher_destroy(qmi_hasher *hasher);
/* 16 lower-case hex digits and NUL. */
void qmi_hash_hex(char out[17], uint64_t hash);

#endif
