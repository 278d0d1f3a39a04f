/* SPDX-License-Identifier: Apache-2.0
 * Files as memory: read-only maps of whole files, paging hints, and small
 * files read at once.  The size is taken once, when a file is opened; a file
 * that somebody cuts short while it is mapped is outside what can be caught
 * here. */
#include "map.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "alloc.h"
#include "descriptor.h"

/* Opens a regular file.  O_NONBLOCK, because opening a FIFO would wait for a
 * writer before it could be refused. */
static qmoe_status open_regular(
    int *out, uint64_t *n_bytes, const char *path, qmi_error *err)
{
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return qmi_fail_errno(err, "%s", path);
    qmoe_status status = QMOE_OK;
    if (fstat(fd, &info) != 0)
        status = qmi_fail_errno(err, "%s", path);
    else if (!S_ISREG(info.st_mode))
        status = qmi_fail(err, QMOE_E_IO, "%s: not a regular file", path);
    /* mmap takes a size_t. */
    else if ((uint64_t)info.st_size > SIZE_MAX - 1)
        status = qmi_fail(err, QMOE_E_IO,
            "%s: too large for this machine's address space", path);
    if (status != QMOE_OK) {
        close(fd);
        return status;
    }
    *out = fd;
    *n_bytes = (uint64_t)info.st_size;
    return QMOE_OK;
}

qmoe_status qmi_map_open(qmi_map *out, const char *path, qmi_error *err)
{
    int fd = -1;
    uint64_t n_bytes = 0;
    *out = (qmi_map){0};
    QMI_TRY(open_regular(&fd, &n_bytes, path, err));
    void *data = NULL;
    qmoe_status status = QMOE_OK;
    /* mmap refuses a length of 0, and an empty file has no data. */
    if (n_bytes != 0) {
        data = mmap(NULL, (size_t)n_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED)
            status = qmi_fail_errno(err, "%s: cannot map the file", path);
    }
    /* The map keeps the file. */
    close(fd);
    if (status == QMOE_OK)
        *out = (qmi_map){.data = data, .n_bytes = n_bytes};
    return status;
}

void qmi_map_close(qmi_map *map)
{
    if (map == NULL)
        return;
    if (map->data != NULL)
        munmap((void *)(uintptr_t)map->data, (size_t)map->n_bytes);
    *map = (qmi_map){0};
}

/* Rounds outwards: dropping a neighbour's page costs one more fault at most,
 * while keeping edge pages of very many small tensors would add up.  The map is
 * private and read-only, so a dropped page is read again from the file. */
static void advise(const void *data, uint64_t n_bytes, int advice)
{
    if (data == NULL || n_bytes == 0)
        return;
    long page = sysconf(_SC_PAGESIZE);
    if (page <= 0)
        return;
    uintptr_t begin = (uintptr_t)data;
    uintptr_t inside = begin % (uintptr_t)page;
    int kept_errno = errno;
    madvise((void *)(begin - inside), (size_t)(n_bytes + inside), advice);
    errno = kept_errno;
}

void qmi_map_will_need(const void *data, uint64_t n_bytes)
{
    advise(data, n_bytes, MADV_WILLNEED);
}

void qmi_map_done_with(const void *data, uint64_t n_bytes)
{
    advise(data, n_bytes, MADV_DONTNEED);
}

qmoe_status qmi_read_file(char **out, size_t *n_bytes, const char *path,
    size_t max_bytes, qmi_error *err)
{
    int fd = -1;
    uint64_t size = 0;
    *out = NULL;
    *n_bytes = 0;
    QMI_TRY(open_regular(&fd, &size, path, err));
    qmoe_status status = QMOE_E_NOMEM;
    char *buffer = NULL;
    int64_t n_read = 0;
    /* Bounded before memory is asked for. */
    if (size > max_bytes) {
        status = qmi_fail(err, QMOE_E_FORMAT,
            "%s: %llu bytes, more than the %zu allowed for such a file", path,
            (unsigned long long)size, max_bytes);
        goto cleanup;
    }
    /* One byte more for the NUL. */
    buffer = qmi_calloc((size_t)size + 1, 1, path, err);
    if (buffer == NULL)
        goto cleanup;
    n_read = qmi_read_at(fd, buffer, size, 0);
    if (n_read < 0) {
        status = qmi_fail_errno(err, "%s", path);
        goto cleanup;
    }
    status = QMOE_OK;
    *out = buffer;
    /* A file that became shorter meanwhile gives what is there. */
    *n_bytes = (size_t)n_read;
    buffer = NULL;
cleanup:
    qmi_free(buffer);
    close(fd);
    return status;
}
