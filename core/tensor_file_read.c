/* SPDX-License-Identifier: Apache-2.0
 * Reading mapped data by system calls, where a failing disk must be an error
 * and not a signal. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "alloc.h"
#include "tensor_file.h"

static qmoe_status read_range(
    int fd, uint64_t offset, uint64_t n_bytes, const char *path, qmi_error *err)
{
    enum { PIECE = 1 << 20 };
    qmoe_status status = QMOE_OK;
    uint8_t *piece = qmi_calloc(PIECE, 1, "a file piece", err);
    if (piece == NULL)
        return QMOE_E_NOMEM;
    while (status == QMOE_OK && n_bytes != 0) {
        size_t wanted = n_bytes < PIECE ? (size_t)n_bytes : PIECE;
        ssize_t n = pread(fd, piece, wanted, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            status = qmi_fail_errno(err, "%s: cannot read", path);
        else if (n == 0)
            status = qmi_fail(
                err, QMOE_E_IO, "%s: became shorter while it was in use", path);
        else
            n_bytes -= (uint64_t)n;
        offset += n > 0 ? (uint64_t)n : 0;
    }
    qmi_free(piece);
    return status;
}

qmoe_status qmi_tensor_file_read(const qmi_tensor_file *file, const void *data,
    uint64_t n_bytes, qmi_error *err)
{
    uint64_t offset = (uint64_t)((const uint8_t *)data - file->map.data);
    int fd = open(file->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return qmi_fail_errno(err, "%s: cannot be opened again", file->path);
    qmoe_status status = read_range(fd, offset, n_bytes, file->path, err);
    close(fd);
    return status;
}
