/* SPDX-License-Identifier: Apache-2.0
 * Storage of token states. */
#include "token_states.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "alloc.h"

/* An unlinked file of n_bytes, reserved on disk. */
static qmoe_status spill_file(
    int *fd, const char *work_dir, uint64_t n_bytes, qmi_error *err)
{
    char *path = qmi_path_join(work_dir, "qmoe-states-XXXXXX", err);
    if (path == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status = QMOE_OK;
    *fd = mkstemp(path);
    if (*fd < 0) {
        status = qmi_fail_errno(err, "%s: cannot be created", path);
    } else {
        unlink(path);
        int code = posix_fallocate(*fd, 0, (off_t)n_bytes);
        if (code != 0) {
            errno = code;
            status = qmi_fail_errno(err, "%s: %llu bytes for the token states",
                work_dir, (unsigned long long)n_bytes);
            close(*fd);
        }
    }
    qmi_free(path);
    return status;
}

static qmoe_status map_file(
    qmi_states *out, const char *work_dir, qmi_error *err)
{
    int fd = -1;
    QMI_TRY(spill_file(&fd, work_dir, out->n_bytes, err));
    void *data =
        mmap(NULL, out->n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    int code = errno;
    close(fd);
    errno = code;
    if (data == MAP_FAILED)
        return qmi_fail_errno(err, "%s: cannot map the token states", work_dir);
    out->data = data;
    out->spilled = true;
    return QMOE_OK;
}

qmoe_status qmi_states_create(qmi_states *out, int64_t n_tokens, int64_t width,
    const char *work_dir, qmi_error *err)
{
    *out = (qmi_states){.n_tokens = n_tokens, .width = width};
    if (!qmi_mul_u64((uint64_t)n_tokens * sizeof(float), (uint64_t)width,
            &out->n_bytes) ||
        out->n_bytes > INT64_MAX)
        return qmi_fail(err, QMOE_E_NOMEM, "too many calibration tokens");
    if (work_dir != NULL && out->n_bytes != 0)
        return map_file(out, work_dir, err);
    out->data = qmi_calloc(
        (size_t)(n_tokens * width), sizeof *out->data, "the token states", err);
    return out->data != NULL ? QMOE_OK : QMOE_E_NOMEM;
}

void qmi_states_destroy(qmi_states *states)
{
    if (states->spilled)
        munmap(states->data, states->n_bytes);
    else
        qmi_free(states->data);
    *states = (qmi_states){0};
}

void qmi_states_release(const qmi_states *states, int64_t first, int64_t n)
{
    if (!states->spilled)
        return;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = (uintptr_t)qmi_states_row(states, first);
    uintptr_t end = (uintptr_t)qmi_states_row(states, first + n);
    begin = (begin + page - 1) / page * page;
    end = end / page * page;
    if (begin < end)
        madvise((void *)begin, end - begin, MADV_DONTNEED);
}
