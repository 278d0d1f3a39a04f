/* SPDX-License-Identifier: Apache-2.0
 * In: a token as its file spells it.  Out: its bytes.  The printable characters
 * of Latin-1 stand for themselves, the other 68 bytes, in order, are U+0100 and
 * the characters behind it. */
#include "byte_level.h"

#include "characters.h"

enum { FIRST_OTHER = 0x100, N_OTHERS = 68 };

static bool stands_for_itself(int byte)
{
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) ||
           (byte >= 0xae && byte <= 0xff);
}

int qmi_byte_of_character(int point)
{
    if (point < 0 || point >= FIRST_OTHER + N_OTHERS)
        return -1;
    if (point < FIRST_OTHER)
        return stands_for_itself(point) ? point : -1;
    /* Bytes 00-20, then 7f-a0, then ad. */
    const int number = point - FIRST_OTHER;
    if (number <= 0x20)
        return number;
    return number < N_OTHERS - 1 ? 0x7f + (number - 0x21) : 0xad;
}

bool qmi_bytes_of_token(char *out, size_t *n_out, const char *token, size_t n)
{
    *n_out = 0;
    for (size_t at = 0; at < n;) {
        int32_t point = 0;
        at += qmi_character(token + at, n - at, &point);
        const int byte = qmi_byte_of_character(point);
        if (byte < 0)
            return false;
        out[(*n_out)++] = (char)byte;
    }
    return true;
}
