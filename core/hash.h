/* SPDX-License-Identifier: Apache-2.0
 * Checksums of tensor data: XXH3-64 (xxHash library). */
#ifndef QMI_HASH_H
#define QMI_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t qmi_hash64(const void *data, size_t n_bytes);
/* 16 lower-case hex digits and NUL. */
void qmi_hash_hex(char out[17], uint64_t hash);

#endif
