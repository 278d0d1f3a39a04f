/* SPDX-License-Identifier: Apache-2.0
 * In: a range of a mapped file.  Out: the same bytes, read by system calls,
 * where a failing disk or a file cut short is an error and not a signal.  Read
 * in pieces of 1 MiB: into the system's cache for the map, or shown to a
 * visitor. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "alloc.h"
#include "cancel.h"
#include "descriptor.h"
#include "tensor_file.h"

static qmoe_status read_range(int fd, uint64_t offset, uint64_t n_bytes,
    const char *path, qmi_piece_fn visit, void *user, qmi_error *err)
{
    enum { PIECE = 1 << 20 };
    qmoe_status status = QMOE_OK;
    /* Small ranges take a small buffer. */
    const size_t capacity = n_bytes < PIECE ? (size_t)n_bytes : PIECE;
    uint8_t *piece = qmi_calloc(capacity, 1, "a file piece", err);
    if (piece == NULL)
        return QMOE_E_NOMEM;
    /* The first failure ends the loop; what the visitor saw before stays with
     * it. */
    while (status == QMOE_OK && n_bytes != 0) {
        size_t wanted = n_bytes < PIECE ? (size_t)n_bytes : PIECE;
        int64_t n = qmi_read_at(fd, piece, wanted, offset);
        if (n < 0)
            status = qmi_fail_errno(err, "%s: cannot read", path);
        else if (n == 0)
            status = qmi_fail(
                err, QMOE_E_IO, "%s: became shorter while it was in use", path);
        /* Without a visitor reading is the point: the pages are in the cache
         * afterwards, and known to be sound. */
        else if (visit != NULL)
            status = visit(user, piece, (size_t)n);
        if (status == QMOE_OK)
            status = qmi_check_cancel(err);
        offset += n > 0 ? (uint64_t)n : 0;
        n_bytes -= n > 0 ? (uint64_t)n : 0;
    }
    qmi_free(piece);
    return status;
}

static uint64_t offset_of(const qmi_tensor_file *file, const void *data)
{
    return (uint64_t)((const uint8_t *)data - file->map.data);
}

static qmoe_status read_file(const qmi_tensor_file *file, const void *data,
    uint64_t n_bytes, qmi_piece_fn visit, void *user, qmi_error *err)
{
    /* Opened for each range: maps of hundreds of files would otherwise need as
     * many descriptors. */
    int fd = open(file->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return qmi_fail_errno(err, "%s: cannot be opened again", file->path);
    qmoe_status status = read_range(
        fd, offset_of(file, data), n_bytes, file->path, visit, user, err);
    close(fd);
    return status;
}

qmoe_status qmi_tensor_file_read(const qmi_tensor_file *file, const void *data,
    uint64_t n_bytes, qmi_error *err)
{
    return read_file(file, data, n_bytes, NULL, NULL, err);
}

/* Whether the range lies in the file as it lies in the map. */
static bool is_in_file(const qmi_tensor_file *file, const void *data)
{
    return file->container->fetch == qmi_tensor_file_read &&
           qmi_tensor_file_holds(file, data) &&
           !qmi_tensor_file_holds_view(file, data);
}

qmoe_status qmi_tensor_file_stream(const qmi_tensor_file *file,
    const void *data, uint64_t n_bytes, qmi_piece_fn visit, void *user,
    qmi_error *err)
{
    if (n_bytes == 0)
        return QMOE_OK;
    /* A view lies in memory only: it is put in order, then shown as a whole. */
    if (is_in_file(file, data) &&
        n_bytes <= file->map.n_bytes - offset_of(file, data))
        return read_file(file, data, n_bytes, visit, user, err);
    QMI_TRY(qmi_tensor_file_fetch(file, data, n_bytes, err));
    return visit(user, data, (size_t)n_bytes);
}

/* As it lies on the disk: the checksum of a whole file does not depend on its
 * container. */
qmoe_status qmi_tensor_file_stream_all(
    const qmi_tensor_file *file, qmi_piece_fn visit, void *user, qmi_error *err)
{
    return read_file(file, file->map.data, file->map.n_bytes, visit, user, err);
}

void qmi_tensor_file_forget(
    const qmi_tensor_file *file, const void *data, uint64_t n_bytes)
{
    qmi_tensor_file_release(file, data, n_bytes);
    if (n_bytes == 0 || !is_in_file(file, data))
        return;
    /* Called on the way of other errors, too. */
    int kept_errno = errno;
    int fd = open(file->path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        posix_fadvise(fd, (off_t)offset_of(file, data), (off_t)n_bytes,
            POSIX_FADV_DONTNEED);
        close(fd);
    }
    errno = kept_errno;
}
