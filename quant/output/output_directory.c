/* SPDX-License-Identifier: Apache-2.0
 * In: a path, and what is read for the result.  Out: a directory under that
 * path which is complete, or none.  Everything happens in the sibling
 * "<path>.partial", which is locked from open to close; names are taken
 * relative to descriptors, so a parent that is moved meanwhile does no harm.
 * What qmoe did not make is neither emptied nor published. */
#include "output_directory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "alloc.h"
#include "descriptor.h"
#include "output_swap.h"

static const char *final_name(const qmi_output *out)
{
    return qmi_last_component(out->path);
}

static const char *working_name(const qmi_output *out)
{
    return qmi_last_component(out->partial);
}

/* ---- opening ---- */

static qmoe_status make_names(qmi_output *out, const char *path, qmi_error *err)
{
    /* "a/b/" names the directory b: the working name goes beside it, not into
     * it. */
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    if (n == 0)
        return qmi_fail(err, QMOE_E_INVALID, "the output path is empty");
    out->path = qmi_calloc(n + 1, 1, "a path", err);
    if (out->path == NULL)
        return QMOE_E_NOMEM;
    out->partial = qmi_calloc(n + sizeof ".partial", 1, "a path", err);
    if (out->partial == NULL)
        return QMOE_E_NOMEM;
    memcpy(out->path, path, n);
    snprintf(out->partial, n + sizeof ".partial", "%s.partial", out->path);
    const char *name = final_name(out);
    /* These have no name of their own to which ".partial" could be added. */
    if (*name == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return qmi_fail(err, QMOE_E_INVALID,
            "%s: the output path must end in the name of a directory", path);
    return QMOE_OK;
}

static qmoe_status open_parent(qmi_output *out, qmi_error *err)
{
    /* The part in front of the name, with its slash; without one the current
     * directory. */
    size_t n = (size_t)(final_name(out) - out->path);
    char *path = qmi_calloc(n + 2, 1, "a path", err);
    if (path == NULL)
        return QMOE_E_NOMEM;
    memcpy(path, n != 0 ? out->path : ".", n != 0 ? n : 1);
    /* O_PATH: the parent need not be readable to put a directory into it. */
    out->parent = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    qmoe_status status = QMOE_OK;
    if (out->parent < 0)
        status = qmi_fail_errno(err, "%s: cannot be created", out->partial);
    qmi_free(path);
    return status;
}

/* Refuses to overwrite a result unasked, or what is none. */
static qmoe_status check_final(const qmi_output *out, qmi_error *err)
{
    struct stat st;
    /* Not there, or not to be seen: creating it will tell. */
    if (fstatat(out->parent, final_name(out), &st, AT_SYMLINK_NOFOLLOW) != 0)
        return QMOE_OK;
    if (!out->overwrite)
        return qmi_fail(err, QMOE_E_EXISTS,
            "%s: already exists (--force replaces it)", out->path);
    if (!S_ISDIR(st.st_mode))
        return qmi_fail(
            err, QMOE_E_EXISTS, "%s: is not a directory", out->path);
    /* O_NOFOLLOW: a link in the place of the directory must not lead the check
     * elsewhere. */
    int directory = openat(out->parent, final_name(out),
        O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    /* Asked now, because a lack of rights would otherwise show when the work is
     * done. */
    if (directory < 0 || faccessat(directory, ".", W_OK | X_OK, AT_EACCESS)) {
        if (directory >= 0)
            close(directory);
        return qmi_fail_errno(err, "%s: cannot be replaced", out->path);
    }
    qmoe_status status = qmi_check_finished(directory, out->path, err);
    close(directory);
    return status;
}

/* Makes the working directory, or takes the one that is there. */
static qmoe_status lock_partial(qmi_output *out, qmi_error *err)
{
    /* mkdir and lock are two steps: another process may remove the directory
     * between them (ENOENT), and then it is made again. */
    do {
        if (mkdirat(out->parent, working_name(out), 0777) != 0 &&
            errno != EEXIST)
            return qmi_fail_errno(err, "%s: cannot be created", out->partial);
        out->lock = qmi_lock_directory(out->parent, working_name(out), 0);
    } while (out->lock < 0 && errno == ENOENT);
    if (out->lock >= 0)
        return QMOE_OK;
    switch (errno) {
    case EWOULDBLOCK:
        return qmi_fail(err, QMOE_E_EXISTS, "%s: another process is writing it",
            out->partial);
    case ENOTDIR:
    case ELOOP:
        return qmi_fail(err, QMOE_E_EXISTS,
            "%s: is not a directory (move it away or choose another output)",
            out->partial);
    default:
        return qmi_fail_errno(err, "%s", out->partial);
    }
}

/* What is in the working directory may be kept, dropped or in the way. */
static qmoe_status take_partial(
    qmi_output *out, const qmi_output_options *options, qmi_error *err)
{
    bool is_empty = false;
    QMI_TRY(qmi_check_interrupted(out->lock, out->partial, &is_empty, err));
    if (is_empty)
        return QMOE_OK;
    if (options->resume) {
        out->resumed = true;
        return QMOE_OK;
    }
    if (out->overwrite)
        return qmi_empty_directory(out->lock, out->partial, err);
    return qmi_fail(err, QMOE_E_EXISTS,
        "%s: holds an interrupted run (--force drops it; 'qmoe compress "
        "--resume' continues one of compress)",
        out->partial);
}

/* The order is from what only looks to what changes: the sources and the final
 * name are judged before the working directory is made. */
static qmoe_status prepare(
    qmi_output *out, const qmi_output_options *options, qmi_error *err)
{
    QMI_TRY(open_parent(out, err));
    const char *const names[] = {final_name(out), working_name(out)};
    QMI_TRY(qmi_check_sources(out->parent, out->path, names, options->sources,
        options->n_sources, err));
    QMI_TRY(check_final(out, err));
    QMI_TRY(lock_partial(out, err));
    out->keep = true; /* as long as it may be somebody else's */
    QMI_TRY(take_partial(out, options, err));
    out->keep = false;
    return QMOE_OK;
}

qmoe_status qmi_output_open(qmi_output *out, const char *path,
    const qmi_output_options *options, qmi_error *err)
{
    *out =
        (qmi_output){.parent = -1, .lock = -1, .overwrite = options->overwrite};
    qmoe_status status = make_names(out, path, err);
    if (status == QMOE_OK)
        status = prepare(out, options, err);
    if (status != QMOE_OK)
        qmi_output_close(out);
    return status;
}

/* ---- files ---- */

/* The list is what qmi_check_only compares with at the end, and what close
 * removes. */
static qmoe_status remember(qmi_output *o, const char *name, qmi_error *err)
{
    if (o->n_files == o->capacity) {
        size_t capacity = 2 * o->capacity + 16;
        char **grown = qmi_regrow(o->files, o->n_files, capacity, sizeof *grown,
            "the file list", err);
        if (grown == NULL)
            return QMOE_E_NOMEM;
        o->files = grown;
        o->capacity = capacity;
    }
    o->files[o->n_files] = qmi_strdup(name, err);
    if (o->files[o->n_files] == NULL)
        return QMOE_E_NOMEM;
    o->n_files++;
    return QMOE_OK;
}

static qmoe_status open_file(qmi_output *output, qmi_new_file *out,
    const char *name, bool reopen, qmi_error *err)
{
    *out = (qmi_new_file){.fd = -1};
    QMI_TRY(remember(output, name, err));
    char *path = qmi_path_join(output->partial, name, err);
    if (path == NULL)
        return QMOE_E_NOMEM;
    /* A file of the interrupted run: its directory was judged, so it is ours to
     * remove. */
    if (output->resumed && !reopen)
        unlinkat(output->lock, name, 0);
    qmoe_status status =
        reopen ? qmi_new_file_reopen(out, output->lock, name, path, err)
               : qmi_new_file_create(out, output->lock, name, path, err);
    qmi_free(path);
    return status;
}

qmoe_status qmi_output_create(
    qmi_output *output, qmi_new_file *out, const char *name, qmi_error *err)
{
    return open_file(output, out, name, false, err);
}

qmoe_status qmi_output_reopen(
    qmi_output *output, qmi_new_file *out, const char *name, qmi_error *err)
{
    return open_file(output, out, name, true, err);
}

qmoe_status qmi_output_write(qmi_output *output, const char *name,
    const void *data, size_t n_bytes, qmi_error *err)
{
    qmi_new_file file;
    qmoe_status status = QMOE_OK;
    QMI_TRY(qmi_output_create(output, &file, name, err));
    /* Small files are synced one by one; shards are synced by their writers. */
    if (!qmi_write_at(file.fd, data, n_bytes, 0) || fsync(file.fd) != 0)
        status = qmi_fail_errno(err, "%s", file.path);
    qmi_new_file_close(&file);
    return status;
}

/* ---- the end ---- */

/* A rename is on disk when its directory is.  Failure is no error: the result
 * is in place. */
static void sync_parent(const qmi_output *output)
{
    int fd = openat(output->parent, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return;
    fsync(fd);
    close(fd);
}

/* The result is in place: what is left is to clean up. */
static qmoe_status drop_journal(const qmi_output *output, qmi_error *err)
{
    if (unlinkat(output->lock, QMI_JOURNAL_NAME, 0) == 0 || errno == ENOENT)
        return QMOE_OK;
    return qmi_fail_errno(err, "%s is complete, but %s/%s cannot be removed",
        output->path, output->path, QMI_JOURNAL_NAME);
}

qmoe_status qmi_output_commit(qmi_output *output, qmi_error *err)
{
    /* Steps: nothing foreign in it, its entries on disk, the exchange of names,
     * and only then the journal goes.  A crash before the exchange leaves an
     * interrupted run, a crash behind it a complete result with a journal in
     * it. */
    /* Half a minute: another process that is replacing the output gets time to
     * finish. */
    enum { WAIT_MS = 30000 };
    qmi_replaced old;
    qmoe_status status = qmi_check_only(
        output->lock, output->partial, output->files, output->n_files, err);
    if (status != QMOE_OK) {
        output->keep = true; /* it holds what is not ours to remove */
        return status;
    }
    if (fsync(output->lock) != 0)
        return qmi_fail_errno(err, "%s", output->partial);
    QMI_TRY(qmi_swap_directory(&old, output->parent, working_name(output),
        output->path, output->overwrite, WAIT_MS, err));
    /* Under its final name it is no working directory that close might
     * remove. */
    output->keep = true;
    sync_parent(output);
    status = drop_journal(output, err);
    /* The first failure is the one that is told; the second attempt is made all
     * the same. */
    qmoe_status removed = qmi_remove_replaced(
        &old, output->parent, output->path, status == QMOE_OK ? err : NULL);
    return status != QMOE_OK ? status : removed;
}

static void remove_partial(const qmi_output *output)
{
    /* Only what this run wrote: a directory with anything else in it stays,
     * since it is not empty. */
    for (size_t i = 0; i < output->n_files; i++)
        unlinkat(output->lock, output->files[i], 0);
    unlinkat(output->parent, working_name(output), AT_REMOVEDIR);
}

/* A struct of zeros was never opened. */
void qmi_output_close(qmi_output *output)
{
    if (output->path == NULL)
        return;
    if (output->lock >= 0) {
        if (!output->keep)
            remove_partial(output);
        close(output->lock);
    }
    if (output->parent >= 0)
        close(output->parent);
    for (size_t i = 0; i < output->n_files; i++)
        qmi_free(output->files[i]);
    qmi_free(output->files);
    qmi_free(output->path);
    qmi_free(output->partial);
    *output = (qmi_output){0};
}
