/* SPDX-License-Identifier: Apache-2.0
 * In: an open file and a range.  Out: all of it read or written, or the reason
 * why not.  Every access says where, so several threads may use one descriptor.
 * Long writes are pushed to disk while they go on, so that the sync at the end
 * is short and a cancel is heard. */
#include "descriptor.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "cancel.h"

/* The system takes no more at a time anyway. */
static size_t piece_of(uint64_t n_bytes)
{
    /* 1 GiB. */
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
        /* The end of the file. */
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

/* Bytes between two looks at the wish to end early, and bytes that may wait to
 * be written to disk. */
#define PIECE_BYTES (UINT64_C(4) << 20)
#define BEHIND_BYTES (UINT64_C(32) << 20)

/* Whenever another BEHIND_BYTES are there: asks for them to be written, and
 * waits for those before.  Where the system cannot, the sync takes longer. */
static void write_behind(int fd, uint64_t begin, uint64_t end)
{
    /* Counted by absolute position: calls of any size add up. */
    if (begin / BEHIND_BYTES == end / BEHIND_BYTES)
        return;
    const uint64_t now = end / BEHIND_BYTES * BEHIND_BYTES;
    /* Two windows: the one just filled is started, the one before it is waited
     * for, so at most 64 MiB are under way. */
    const uint64_t before = now - BEHIND_BYTES;
    if (before >= BEHIND_BYTES)
        (void)sync_file_range(fd, (off_t)(before - BEHIND_BYTES),
            (off_t)BEHIND_BYTES,
            SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                SYNC_FILE_RANGE_WAIT_AFTER);
    (void)sync_file_range(
        fd, (off_t)before, (off_t)BEHIND_BYTES, SYNC_FILE_RANGE_WRITE);
}

qmoe_status qmi_write_long(int fd, const void *src, uint64_t n_bytes,
    uint64_t offset, const char *path, qmi_error *err)
{
    const uint8_t *p = src;
    while (n_bytes != 0) {
        const uint64_t n = n_bytes < PIECE_BYTES ? n_bytes : PIECE_BYTES;
        /* Between pieces nothing is half done: a cancelled file is simply
         * shorter. */
        QMI_TRY(qmi_check_cancel(err));
        if (!qmi_write_at(fd, p, n, offset))
            return qmi_fail_errno(err, "%s: cannot write", path);
        write_behind(fd, offset, offset + n);
        p += n;
        offset += n;
        n_bytes -= n;
    }
    return QMOE_OK;
}
