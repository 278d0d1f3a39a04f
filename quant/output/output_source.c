/* SPDX-License-Identifier: Apache-2.0
 * In: the names an output will have, and the paths a run reads.  Out: a refusal
 * when one lies in, over or on the other.  Directories are compared by device
 * and inode, from each one up to the root, so spelling, links and mounts make
 * no difference; and by their place in the file system, since a mount of a
 * subdirectory has other parents.  Nothing is changed here. */
#include "output_source.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "alloc.h"
#include "mount_place.h"

enum { N_NAMES = 2 };

/* Where the output is and will be. */
typedef struct target {
    int parent;
    qmi_mount_place place; /* of the parent */
    const char *path;
    const char *const *names; /* [N_NAMES] */
    bool exists[N_NAMES];     /* the final name, the working name */
    struct stat info[N_NAMES];
    qmi_error *err;
} target;

static bool is_same(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Shows the directory and all above it to `visit`, up to the first it wants. */
typedef bool (*visit_fn)(const void *user, const struct stat *info);

/* ".." of the root is the root itself: that ends the way up. */
static bool look_up(int directory, visit_fn visit, const void *user)
{
    enum { FLAGS = O_PATH | O_DIRECTORY | O_CLOEXEC };
    struct stat info, below = {0};
    bool found = false;
    int at = openat(directory, ".", FLAGS);
    /* Stops also where a directory cannot be opened: what lies above cannot be
     * compared. */
    for (bool first = true; at >= 0 && fstat(at, &info) == 0; first = false) {
        if (!first && is_same(&info, &below))
            break;
        found = visit(user, &info);
        if (found)
            break;
        below = info;
        int up = openat(at, "..", FLAGS);
        close(at);
        at = up;
    }
    if (at >= 0)
        close(at);
    return found;
}

static bool is_that(const void *user, const struct stat *info)
{
    return is_same(user, info);
}

/* Names that do not exist yet cannot hold anything. */
static bool is_output(const void *user, const struct stat *info)
{
    const target *t = user;
    for (int i = 0; i < N_NAMES; i++)
        if (t->exists[i] && is_same(&t->info[i], info))
            return true;
    return false;
}

static qmoe_status refuse(const target *t, const char *source)
{
    return qmi_fail(t->err, QMOE_E_INVALID,
        "%s: it or its working directory is, or holds, %s, which is read; "
        "choose another output",
        t->path, source);
}

static qmoe_status refuse_inside(const target *t, const char *source)
{
    return qmi_fail(t->err, QMOE_E_INVALID,
        "%s: lies in %s, which is read; choose another output", t->path,
        source);
}

/* Refuses an output that is, or is above, the file or directory `path`. */
static qmoe_status check_above(
    const target *t, const char *path, const char *source)
{
    struct stat info;
    /* Resolved first: what counts is where the file lies, not the link to
     * it. */
    char *full = realpath(path, NULL);
    /* A source that is not there is reported by whoever reads it. */
    if (full == NULL || stat(full, &info) != 0) {
        free(full);
        return QMOE_OK;
    }
    /* A file: its directory, "/" included. */
    if (!S_ISDIR(info.st_mode))
        strrchr(full, '/')[1] = '\0';
    int directory = open(full, O_PATH | O_DIRECTORY | O_CLOEXEC);
    /* Either the source itself is the output (or its working directory), or a
     * directory above it is. */
    bool found = is_output(t, &info) ||
                 (directory >= 0 && look_up(directory, is_output, t));
    if (directory >= 0)
        close(directory);
    free(full);
    return found ? refuse(t, source) : QMOE_OK;
}

/* What the links in a source directory lead to is read, too. */
static qmoe_status check_links(const target *t, const char *source)
{
    DIR *entries = opendir(source);
    qmoe_status status = QMOE_OK;
    if (entries == NULL)
        return QMOE_OK;
    for (struct dirent *e;
         status == QMOE_OK && (e = readdir(entries)) != NULL;) {
        struct stat info;
        /* Plain entries lie in the source itself, which was compared
         * already. */
        if (fstatat(dirfd(entries), e->d_name, &info, AT_SYMLINK_NOFOLLOW) ||
            !S_ISLNK(info.st_mode))
            continue;
        char *path = qmi_path_join(source, e->d_name, t->err);
        status = path != NULL ? check_above(t, path, path) : QMOE_E_NOMEM;
        qmi_free(path);
    }
    closedir(entries);
    return status;
}

/* Through whatever mounts: whether the output lies in the source, or one of its
 * names is above. */
static qmoe_status check_place(const target *t, const char *source)
{
    qmi_mount_place place = {.path = NULL};
    const int fd = open(source, O_PATH | O_DIRECTORY | O_CLOEXEC);
    bool is_in = false, is_above = false;
    if (fd < 0)
        return QMOE_OK;
    if (qmi_mount_place_of(&place, fd)) {
        is_in = qmi_mount_place_within(&t->place, &place, NULL);
        for (int i = 0; i < N_NAMES; i++)
            is_above |= qmi_mount_place_within(&place, &t->place, t->names[i]);
    }
    close(fd);
    qmi_mount_place_free(&place);
    if (is_in)
        return refuse_inside(t, source);
    return is_above ? refuse(t, source) : QMOE_OK;
}

static qmoe_status check_source(const target *t, const qmi_output_source *s)
{
    struct stat info;
    if (stat(s->path, &info) != 0)
        return QMOE_OK;
    QMI_TRY(check_above(t, s->path, s->path));
    /* A work directory may hold the output; the reverse was refused above. */
    if (s->may_hold_output || !S_ISDIR(info.st_mode))
        return QMOE_OK;
    if (look_up(t->parent, is_that, &info))
        return refuse_inside(t, s->path);
    QMI_TRY(check_place(t, s->path));
    return check_links(t, s->path);
}

qmoe_status qmi_check_sources(int parent, const char *path,
    const char *const names[N_NAMES], const qmi_output_source *sources,
    size_t n_sources, qmi_error *err)
{
    target t = {.parent = parent, .path = path, .names = names, .err = err};
    qmoe_status status = QMOE_OK;
    /* Where the system does not say, the comparison of inodes is left. */
    (void)qmi_mount_place_of(&t.place, parent);
    /* Links are followed: what a name leads to is what would be replaced. */
    for (int i = 0; i < N_NAMES; i++)
        t.exists[i] = fstatat(parent, names[i], &t.info[i], 0) == 0;
    for (size_t i = 0; status == QMOE_OK && i < n_sources; i++)
        status = check_source(&t, &sources[i]);
    qmi_mount_place_free(&t.place);
    return status;
}
