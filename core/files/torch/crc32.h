/* SPDX-License-Identifier: Apache-2.0
 * The checksum of zip archives (reflected polynomial 0xedb88320). */
#ifndef QMI_CRC32_H
#define QMI_CRC32_H

#include <stddef.h>
#include <stdint.h>

typedef struct qmi_crc32 {
    uint32_t state;
    uint32_t table[8][256]; /* filled by the first start */
} qmi_crc32;

/* Zeroed before the first start. */
void qmi_crc32_start(qmi_crc32 *crc);
void qmi_crc32_add(qmi_crc32 *crc, const void *data, uint64_t n_bytes);
uint32_t qmi_crc32_value(const qmi_crc32 *crc);

#endif
