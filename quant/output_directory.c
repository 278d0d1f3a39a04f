/* SPDX-License-Identifier: Apache-2.0
 * Atomic creation of a directory of files. */
#include "output_directory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "alloc.h"
#include "descriptor.h"

/* Removes the files of a directory (it has no subdirectories of ours; foreign
 * ones make the removal fail, which keeps them safe). */
static qmoe_status empty_directory(const char *path, qmi_error *err)
{
    DIR *directory = opendir(path);
    if (directory == NULL)
        return qmi_fail_errno(err, "%s", path);
    qmoe_status status = QMOE_OK;
    for (struct dirent *e;
         status == QMOE_OK && (e = readdir(directory)) != NULL;) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (unlinkat(dirfd(directory), e->d_name, 0) != 0)
            status = qmi_fail_errno(
                err, "%s/%s: cannot be removed", path, e->d_name);
    }
    closedir(directory);
    return status;
}

static void remove_directory(const char *path)
{
    if (empty_directory(path, NULL) == QMOE_OK)
        rmdir(path);
}

/* The lock lives on the directory itself and dies with the process. */
static qmoe_status lock_directory(qmi_output *out, qmi_error *err)
{
    out->lock = open(out->partial, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (out->lock < 0)
        return qmi_fail_errno(err, "%s", out->partial);
    if (flock(out->lock, LOCK_EX | LOCK_NB) == 0)
        return QMOE_OK;
    close(out->lock);
    out->lock = -1;
    return qmi_fail(
        err, QMOE_E_EXISTS, "%s: another process is writing it", out->partial);
}

static qmoe_status make_names(qmi_output *out, const char *path, qmi_error *err)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    if (n == 0)
        return qmi_fail(err, QMOE_E_INVALID, "the output path is empty");
    out->path = qmi_calloc(n + 1, 1, "a path", err);
    out->partial = qmi_calloc(n + sizeof ".partial", 1, "a path", err);
    if (out->path == NULL || out->partial == NULL)
        return QMOE_E_NOMEM;
    memcpy(out->path, path, n);
    snprintf(out->partial, n + sizeof ".partial", "%s.partial", out->path);
    return QMOE_OK;
}

/* Refuses to overwrite a result unasked. */
static qmoe_status check_final(
    const qmi_output *out, bool overwrite, qmi_error *err)
{
    struct stat st;
    if (lstat(out->path, &st) != 0)
        return QMOE_OK;
    if (!overwrite)
        return qmi_fail(err, QMOE_E_EXISTS,
            "%s: already exists (--force replaces it)", out->path);
    if (!S_ISDIR(st.st_mode))
        return qmi_fail(
            err, QMOE_E_EXISTS, "%s: is not a directory", out->path);
    return QMOE_OK;
}

static qmoe_status prepare(
    qmi_output *out, const qmi_output_options *options, qmi_error *err)
{
    QMI_TRY(check_final(out, options->overwrite, err));
    if (mkdir(out->partial, 0777) != 0 && errno != EEXIST)
        return qmi_fail_errno(err, "%s: cannot be created", out->partial);
    QMI_TRY(lock_directory(out, err));
    bool interrupted = faccessat(out->lock, options->journal, F_OK, 0) == 0;
    if (interrupted && options->resume) {
        out->resumed = true;
        return QMOE_OK;
    }
    if (interrupted && !options->overwrite) {
        out->keep = true;
        return qmi_fail(err, QMOE_E_EXISTS,
            "%s: holds an interrupted run (--resume continues it, --force "
            "starts again)",
            out->partial);
    }
    return empty_directory(out->partial, err);
}

qmoe_status qmi_output_open(qmi_output *out, const char *path,
    const qmi_output_options *options, qmi_error *err)
{
    *out = (qmi_output){.lock = -1};
    qmoe_status status = make_names(out, path, err);
    if (status == QMOE_OK)
        status = prepare(out, options, err);
    if (status != QMOE_OK)
        qmi_output_close(out);
    return status;
}

char *qmi_output_file(
    const qmi_output *output, const char *name, qmi_error *err)
{
    return qmi_path_join(output->partial, name, err);
}

static qmoe_status write_and_sync(
    int fd, const char *data, size_t n_bytes, const char *path, qmi_error *err)
{
    return qmi_write_at(fd, data, n_bytes, 0) && fsync(fd) == 0
               ? QMOE_OK
               : qmi_fail_errno(err, "%s", path);
}

qmoe_status qmi_output_write(const qmi_output *output, const char *name,
    const void *data, size_t n_bytes, qmi_error *err)
{
    char *path = qmi_output_file(output, name, err);
    if (path == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status;
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        status = qmi_fail_errno(err, "%s", path);
    } else {
        status = write_and_sync(fd, data, n_bytes, path, err);
        if (close(fd) != 0 && status == QMOE_OK)
            status = qmi_fail_errno(err, "%s", path);
    }
    qmi_free(path);
    return status;
}

static void sync_parent(const char *path)
{
    const char *slash = strrchr(path, '/');
    char parent[4096] = ".";
    if (slash != NULL)
        snprintf(parent, sizeof parent, "%.*s",
            (int)(slash == path ? 1 : slash - path), path);
    int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return;
    fsync(fd);
    close(fd);
}

/* Exchanges the names, so that the final name always exists; the old content
 * is then the working directory's and is removed. */
static qmoe_status replace(const qmi_output *output, qmi_error *err)
{
    if (renameat2(AT_FDCWD, output->partial, AT_FDCWD, output->path,
            RENAME_EXCHANGE) != 0)
        return qmi_fail_errno(
            err, "%s: cannot replace %s", output->partial, output->path);
    remove_directory(output->partial);
    return QMOE_OK;
}

qmoe_status qmi_output_commit(
    qmi_output *output, const char *journal, qmi_error *err)
{
    if (fsync(output->lock) != 0)
        return qmi_fail_errno(err, "%s", output->partial);
    if (renameat2(AT_FDCWD, output->partial, AT_FDCWD, output->path,
            RENAME_NOREPLACE) != 0) {
        if (errno != EEXIST)
            return qmi_fail_errno(err, "%s: cannot be renamed to %s",
                output->partial, output->path);
        QMI_TRY(replace(output, err));
    }
    sync_parent(output->path);
    unlinkat(output->lock, journal, 0);
    close(output->lock);
    output->lock = -1;
    return QMOE_OK;
}

void qmi_output_close(qmi_output *output)
{
    if (output->lock >= 0) {
        if (!output->keep)
            remove_directory(output->partial);
        close(output->lock);
    }
    qmi_free(output->path);
    qmi_free(output->partial);
    *output = (qmi_output){.lock = -1};
}
