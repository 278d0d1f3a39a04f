/* SPDX-License-Identifier: Apache-2.0
 * In: rows of activations by token number.  Out: the same rows later, bit for
 * bit.  They lie in memory, or in a file without a name that the work directory
 * holds; which one makes no difference to the caller.  Reads and writes say
 * where, so threads that take different rows need no lock. */
#include "token_states.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "alloc.h"
#include "descriptor.h"

/* ---- the file ---- */

/* A file without a name, so that nothing remains of it, however the process
 * ends; -1: errno says why. */
static int open_unnamed(char *path_template)
{
    int fd = mkstemp(path_template);
    if (fd < 0)
        return -1;
    /* The descriptor alone keeps the file: a killed process leaves no file
     * behind, and nobody else can open it.  The flag keeps it from child
     * processes. */
    unlink(path_template);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    return fd;
}

/* Space is reserved now, because a disk that is full hours later would cost the
 * run. */
static qmoe_status reserve(
    int fd, const char *work_dir, uint64_t n_bytes, qmi_error *err)
{
    int code = posix_fallocate(fd, 0, (off_t)n_bytes);
    if (code == 0)
        return QMOE_OK;
    errno = code;
    return qmi_fail_errno(err, "%s: %llu bytes for the token states", work_dir,
        (unsigned long long)n_bytes);
}

static qmoe_status open_file(
    qmi_states *out, const char *work_dir, uint64_t n_bytes, qmi_error *err)
{
    char *path = qmi_path_join(work_dir, "qmoe-states-XXXXXX", err);
    if (path == NULL)
        return QMOE_E_NOMEM;
    /* Made here or there before: only our own is removed below. */
    const bool made = mkdir(work_dir, 0700) == 0;
    qmoe_status status = QMOE_OK;
    out->work_dir = work_dir;
    out->fd = open_unnamed(path);
    if (out->fd < 0)
        status = qmi_fail_errno(err, "%s: cannot be created", path);
    /* The file lives on without it. */
    if (made)
        rmdir(work_dir);
    qmi_free(path);
    if (status == QMOE_OK)
        status = reserve(out->fd, work_dir, n_bytes, err);
    return status;
}

/* ---- states ---- */

qmoe_status qmi_states_create(qmi_states *out, int64_t n_tokens, int64_t width,
    const char *work_dir, qmi_error *err)
{
    /* n_tokens comes from the text and fits; the product with the width may
     * not. */
    uint64_t n_bytes = 0;
    *out = (qmi_states){.n_tokens = n_tokens, .width = width, .fd = -1};
    if (!qmi_mul_u64(
            (uint64_t)n_tokens * sizeof(float), (uint64_t)width, &n_bytes) ||
        n_bytes > INT64_MAX)
        return qmi_fail(err, QMOE_E_NOMEM, "too many calibration tokens");
    if (work_dir != NULL && n_bytes != 0) {
        qmoe_status status = open_file(out, work_dir, n_bytes, err);
        if (status != QMOE_OK)
            qmi_states_destroy(out);
        return status;
    }
    out->data = qmi_calloc(
        (size_t)(n_tokens * width), sizeof *out->data, "the token states", err);
    return out->data != NULL ? QMOE_OK : QMOE_E_NOMEM;
}

void qmi_states_destroy(qmi_states *states)
{
    /* A struct of zeros has fd 0, which is not its own: work_dir tells. */
    if (states->work_dir != NULL && states->fd >= 0)
        close(states->fd);
    qmi_free(states->data);
    *states = (qmi_states){0};
}

static uint64_t bytes_of(const qmi_states *states, int64_t n)
{
    return (uint64_t)n * (uint64_t)states->width * sizeof(float);
}

qmoe_status qmi_states_read(const qmi_states *states, float *dst, int64_t first,
    int64_t n, qmi_error *err)
{
    const uint64_t n_bytes = bytes_of(states, n);
    if (states->data != NULL) {
        memcpy(dst, states->data + first * states->width, n_bytes);
        return QMOE_OK;
    }
    int64_t got =
        qmi_read_at(states->fd, dst, n_bytes, bytes_of(states, first));
    if (got == (int64_t)n_bytes)
        return QMOE_OK;
    /* Fewer bytes without an error: the file was cut, though nobody else has a
     * name for it. */
    if (got >= 0)
        errno = EIO;
    return qmi_fail_errno(
        err, "%s: cannot read the token states", states->work_dir);
}

qmoe_status qmi_states_write(const qmi_states *states, const float *src,
    int64_t first, int64_t n, qmi_error *err)
{
    const uint64_t n_bytes = bytes_of(states, n);
    if (states->data != NULL) {
        memcpy(states->data + first * states->width, src, n_bytes);
        return QMOE_OK;
    }
    if (qmi_write_at(states->fd, src, n_bytes, bytes_of(states, first)))
        return QMOE_OK;
    return qmi_fail_errno(
        err, "%s: cannot write the token states", states->work_dir);
}
