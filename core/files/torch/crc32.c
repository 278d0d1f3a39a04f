/* SPDX-License-Identifier: Apache-2.0
 * CRC-32 of the zip format (polynomial 0xedb88320, reflected), eight bytes per
 * step: table k holds the effect of a byte that is followed by k others.  In:
 * bytes in any cut into calls.  Out: the checksum. */
#include "crc32.h"

/* Table 0 bit by bit; the others from the one before: a zero byte more. */
static void fill(qmi_crc32 *crc)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; bit++)
            c = (c & 1) != 0 ? 0xedb88320u ^ (c >> 1) : c >> 1;
        crc->table[0][i] = c;
    }
    for (int k = 1; k < 8; k++)
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t before = crc->table[k - 1][i];
            crc->table[k][i] = crc->table[0][before & 255] ^ (before >> 8);
        }
}

void qmi_crc32_start(qmi_crc32 *crc)
{
    /* The tables are filled once per struct. */
    if (crc->table[0][1] == 0)
        fill(crc);
    crc->state = 0xffffffffu;
}

void qmi_crc32_add(qmi_crc32 *crc, const void *data, uint64_t n_bytes)
{
    const uint8_t *p = data;
    uint32_t c = crc->state;
    /* Bytes, not words: any alignment and any byte order of the machine. */
    for (; n_bytes >= 8; n_bytes -= 8, p += 8) {
        uint32_t low = c ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 |
                               (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
        c = crc->table[7][low & 255] ^ crc->table[6][low >> 8 & 255] ^
            crc->table[5][low >> 16 & 255] ^ crc->table[4][low >> 24] ^
            crc->table[3][p[4]] ^ crc->table[2][p[5]] ^ crc->table[1][p[6]] ^
            crc->table[0][p[7]];
    }
    for (; n_bytes != 0; n_bytes--, p++)
        c = crc->table[0][(c ^ *p) & 255] ^ (c >> 8);
    crc->state = c;
}

uint32_t qmi_crc32_value(const qmi_crc32 *crc)
{
    /* Inverted at both ends, as the format wants it. */
    return ~crc->state;
}
