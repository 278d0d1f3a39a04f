/* SPDX-License-Identifier: Apache-2.0 */
#include "descriptor.h"

#include <errno.h>
#include <unistd.h>

/* The system takes no more at a time anyway. */
static size_t piece_of(uint64_t n_bytes)
{
    enum { MOST = 1 << 30 };
    return n_bytes < MOST ? (size_t)n_bytes : MOST;
}

int64_t qmi_read_at(int fd, void *dst, uint64_t n_bytes, uint64_t offset)
{
    uint8_t *p = dst;
    int64_t n_read = 0;
    while (n_bytes != 0) {
        const ssize_t n = pread(fd, p, piece_of(n_bytes), (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        if (n == 0)
            break;
        p += n;
        n_read += n;
        offset += (uint64_t)n;
        n_bytes -= (uint64_t)n;
    }
    return n_read;
}

bool qmi_write_at(int fd, const void *src, uint64_t n_bytes, uint64_t offset)
{
    const uint8_t *p = src;
    while (n_bytes != 0) {
        const ssize_t n = pwrite(fd, p, piece_of(n_bytes), (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return false;
        p += n;
        offset += (uint64_t)n;
        n_bytes -= (uint64_t)n;
    }
    return true;
}
