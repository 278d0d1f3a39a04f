/* SPDX-License-Identifier: Apache-2.0
 * In: a name under an open directory.  Out: a descriptor of a file that is ours
 * alone, for reading and writing.  Links are never followed and nothing is
 * written over, so somebody else with access to the directory cannot direct our
 * bytes elsewhere. */
#include "new_file.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "alloc.h"

const char *qmi_file_fault(const struct stat *info)
{
    if (!S_ISREG(info->st_mode))
        return "is no regular file";
    /* A second name could lie in a place that somebody else reads or owns. */
    if (info->st_nlink != 1)
        return "has a second name (a hard link)";
    if (info->st_uid != geteuid())
        return "belongs to another user";
    return NULL;
}

static qmoe_status open_new(qmi_new_file *out, int directory, const char *name,
    int flags, const char *path, qmi_error *err)
{
    *out = (qmi_new_file){.fd = -1, .path = qmi_strdup(path, err)};
    if (out->path == NULL)
        return QMOE_E_NOMEM;
    /* O_NOFOLLOW for the last component; the directory itself is a
     * descriptor. */
    out->fd =
        openat(directory, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC | flags, 0666);
    if (out->fd >= 0)
        return QMOE_OK;
    if (errno == EEXIST || errno == ELOOP)
        return qmi_fail(err, QMOE_E_EXISTS, "%s: %s", path,
            errno == ELOOP ? "is a link" : "was there before");
    return qmi_fail_errno(err, "%s: cannot open the file", path);
}

qmoe_status qmi_new_file_create(qmi_new_file *out, int directory,
    const char *name, const char *path, qmi_error *err)
{
    qmoe_status status =
        open_new(out, directory, name, O_CREAT | O_EXCL, path, err);
    if (status != QMOE_OK)
        qmi_new_file_close(out);
    return status;
}

qmoe_status qmi_new_file_reopen(qmi_new_file *out, int directory,
    const char *name, const char *path, qmi_error *err)
{
    struct stat info;
    const char *fault = NULL;
    /* O_NONBLOCK: opening a FIFO would wait for its other end. */
    qmoe_status status = open_new(out, directory, name, O_NONBLOCK, path, err);
    if (status == QMOE_OK && fstat(out->fd, &info) != 0)
        status = qmi_fail_errno(err, "%s", path);
    /* On the open file: it cannot change any more. */
    else if (status == QMOE_OK && (fault = qmi_file_fault(&info)) != NULL)
        status = qmi_fail(err, QMOE_E_EXISTS, "%s: %s", path, fault);
    if (status != QMOE_OK)
        qmi_new_file_close(out);
    return status;
}

void qmi_new_file_close(qmi_new_file *file)
{
    if (file->fd >= 0)
        close(file->fd);
    qmi_free(file->path);
    *file = (qmi_new_file){.fd = -1};
}
