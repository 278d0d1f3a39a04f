/* SPDX-License-Identifier: Apache-2.0
 * In: a finished working directory and a final name.  Out: the name leads to
 * it, and what had the name before is removed.  The old directory is locked and
 * marked with a journal first, so that at every instant each directory involved
 * is either finished or recognised as one to be dropped, also after a crash.
 * No file of the old one is touched before the new one is in place. */
#include "output_swap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "alloc.h"
#include "output_owner.h"

/* ---- locks ---- */

/* flock has no timeout, so a lock is asked for again and again. */
static bool lock_within(int fd, int wait_ms)
{
    enum { STEP_MS = 20 };
    static const struct timespec step = {.tv_nsec = STEP_MS * 1000000L};
    /* The lock belongs to the descriptor: a process that is killed loses it. */
    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK || wait_ms <= 0)
            return false;
        nanosleep(&step, NULL);
        wait_ms -= STEP_MS;
    }
    return true;
}

/* Another process may have moved the directory between open and lock. */
static bool still_has_name(int fd, int parent, const char *name)
{
    struct stat open_one, named;
    return fstat(fd, &open_one) == 0 &&
           fstatat(parent, name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
           open_one.st_dev == named.st_dev && open_one.st_ino == named.st_ino;
}

/* The name may lead elsewhere once the lock is held; then the new directory is
 * tried, but not for ever. */
int qmi_lock_directory(int parent, const char *name, int wait_ms)
{
    enum { MOST = 100 };
    for (int i = 0; i < MOST; i++) {
        int fd = openat(
            parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
            return -1;
        bool locked = lock_within(fd, wait_ms);
        if (locked && still_has_name(fd, parent, name))
            return fd;
        /* close must not hide the cause. */
        int code = errno;
        close(fd);
        errno = code;
        if (!locked)
            return -1;
    }
    errno = EWOULDBLOCK;
    return -1;
}

/* ---- renames ---- */

/* renameat2 for file systems that have its flags or not. */
static bool lacks_flags(void)
{
    return errno == EINVAL || errno == ENOSYS;
}

/* Never replaces a directory with files in it. */
static bool move_to_free_name(int parent, const char *from, const char *to)
{
    struct stat info;
    if (renameat2(parent, from, parent, to, RENAME_NOREPLACE) == 0)
        return true;
    if (!lacks_flags())
        return false;
    /* Without flags look and rename are two steps. rename itself refuses a
     * directory that is not empty. */
    if (fstatat(parent, to, &info, AT_SYMLINK_NOFOLLOW) == 0) {
        errno = EEXIST;
        return false;
    }
    /* At worst this replaces an empty directory. */
    return renameat(parent, from, parent, to) == 0;
}

/* ".NAME.NUMBER.old": hidden, and nobody else's. */
static bool move_to_private_name(
    int parent, const char *from, const char *name, char private_name[256])
{
    /* The process id makes a clash unlikely, the loop makes it harmless. */
    enum { MOST = 1000, NAME_BYTES = 200 };
    for (int i = 0; i < MOST; i++) {
        snprintf(private_name, 256, ".%.*s.%ld.old", NAME_BYTES, name,
            (long)getpid() + i);
        if (move_to_free_name(parent, from, private_name))
            return true;
        if (errno != EEXIST && errno != ENOTEMPTY)
            return false;
    }
    return false;
}

/* Without an exchange there is a moment in which nothing has the name. */
static bool replace_by_turns(
    qmi_replaced *old, int parent, const char *from, const char *name)
{
    if (!move_to_private_name(parent, name, name, old->name))
        return false;
    if (move_to_free_name(parent, from, name))
        return true;
    /* The old directory goes back to its name: the caller sees the state
     * before, and the cause. */
    int code = errno;
    move_to_free_name(parent, old->name, name);
    errno = code;
    return false;
}

static bool exchange(
    qmi_replaced *old, int parent, const char *from, const char *name)
{
    /* One step for the file system: at no instant is there no directory of that
     * name. */
    if (renameat2(parent, from, parent, name, RENAME_EXCHANGE) != 0)
        return lacks_flags() && replace_by_turns(old, parent, from, name);
    /* It is removed under the working name if it must be. */
    if (!move_to_private_name(parent, from, name, old->name))
        snprintf(old->name, sizeof old->name, "%s", from);
    return true;
}

/* From now on it is to be dropped, whatever its name: with a journal it is an
 * interrupted run to everyone. */
static bool mark(int directory)
{
    static const char text[] = "qmoe-journal replaced\n";
    int fd = openat(directory, QMI_JOURNAL_NAME,
        O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        /* A journal is there already: an earlier process was killed behind this
         * point, or before it removed the journal of a result. */
        return errno == EEXIST;
    bool written = write(fd, text, sizeof text - 1) == sizeof text - 1;
    return close(fd) == 0 && written;
}

/* The exchange failed, so the old directory is the result again. */
static void unmark(int directory)
{
    int code = errno;
    unlinkat(directory, QMI_JOURNAL_NAME, 0);
    errno = code;
}

static qmoe_status replace(qmi_replaced *old, int parent, const char *from,
    const char *path, int wait_ms, qmi_error *err)
{
    const char *name = qmi_last_component(path);
    old->directory = qmi_lock_directory(parent, name, wait_ms);
    if (old->directory < 0 && errno == EWOULDBLOCK)
        return qmi_fail(err, QMOE_E_EXISTS,
            "%s: cannot be replaced: another process has had a lock on it for "
            "%g seconds",
            path, wait_ms / 1000.0);
    if (old->directory < 0)
        return qmi_fail_errno(err, "%s: cannot be locked", path);
    /* Checked under the lock, since it may have changed since the output was
     * opened. */
    QMI_TRY(qmi_check_finished(old->directory, path, err));
    if (mark(old->directory) && exchange(old, parent, from, name))
        return QMOE_OK;
    unmark(old->directory);
    return qmi_fail_errno(err, "%s: cannot be replaced", path);
}

qmoe_status qmi_swap_directory(qmi_replaced *out, int parent, const char *from,
    const char *path, bool overwrite, int wait_ms, qmi_error *err)
{
    *out = (qmi_replaced){.directory = -1};
    /* The common case: nothing has the name, so none has to be locked. */
    if (move_to_free_name(parent, from, qmi_last_component(path)))
        return QMOE_OK;
    if (errno != EEXIST && errno != ENOTEMPTY)
        return qmi_fail_errno(err, "%s: cannot be put in place", path);
    if (!overwrite)
        return qmi_fail(err, QMOE_E_EXISTS,
            "%s: another process has made it meanwhile", path);
    qmoe_status status = replace(out, parent, from, path, wait_ms, err);
    /* The lock goes with the descriptor. */
    if (status != QMOE_OK && out->directory >= 0) {
        close(out->directory);
        out->directory = -1;
    }
    return status;
}

/* ---- removal ---- */

/* "DIRECTORY/name", beside `path` (qmi_free). */
static char *beside(const char *path, const char *name, qmi_error *err)
{
    size_t n = (size_t)(qmi_last_component(path) - path);
    char *full = qmi_calloc(n + strlen(name) + 1, 1, "a path", err);
    if (full != NULL) {
        memcpy(full, path, n);
        strcpy(full + n, name);
    }
    return full;
}

/* Recognised and locked by the caller. */
static qmoe_status remove_named(int directory, int parent, const char *name,
    const char *path, qmi_error *err)
{
    char *full = beside(path, name, err);
    if (full == NULL)
        return QMOE_E_NOMEM;
    qmoe_status status = qmi_empty_directory(directory, full, err);
    if (status == QMOE_OK && unlinkat(parent, name, AT_REMOVEDIR) != 0)
        status = qmi_fail_errno(err, "%s: cannot be removed", full);
    qmi_free(full);
    return status;
}

static bool is_private_name(const char *candidate, const char *name)
{
    char *end = NULL;
    size_t n = strlen(name);
    if (candidate[0] != '.' || strncmp(candidate + 1, name, n) != 0 ||
        candidate[n + 1] != '.')
        return false;
    const char *digits = candidate + n + 2;
    /* The whole of the rest must be a number and ".old": nothing else is
     * touched. */
    return *digits >= '0' && *digits <= '9' && strtol(digits, &end, 10) > 0 &&
           strcmp(end, ".old") == 0;
}

/* What a killed process replaced and could not remove. */
static void remove_leftover(int parent, const char *name, const char *path)
{
    bool is_empty = false;
    /* Without waiting: another process that is removing it holds the lock. */
    int directory = qmi_lock_directory(parent, name, 0);
    if (directory < 0)
        return;
    /* With its mark, or empty because only the last step was left. */
    char *full = beside(path, name, NULL);
    if (full != NULL &&
        (qmi_check_interrupted(directory, full, &is_empty, NULL) == QMOE_OK ||
            qmi_check_finished(directory, full, NULL) == QMOE_OK))
        remove_named(directory, parent, name, path, NULL);
    qmi_free(full);
    close(directory);
}

static void remove_leftovers(int parent, const char *path)
{
    DIR *entries = qmi_open_entries(parent);
    if (entries == NULL)
        return;
    for (struct dirent *e; (e = readdir(entries)) != NULL;)
        if (is_private_name(e->d_name, qmi_last_component(path)))
            remove_leftover(parent, e->d_name, path);
    closedir(entries);
}

/* Failing to remove is an error, but the result is in place: the message says
 * both. */
qmoe_status qmi_remove_replaced(
    qmi_replaced *replaced, int parent, const char *path, qmi_error *err)
{
    qmoe_status status = QMOE_OK;
    if (replaced->directory >= 0) {
        status = remove_named(
            replaced->directory, parent, replaced->name, path, err);
        close(replaced->directory);
        replaced->directory = -1;
    }
    if (status != QMOE_OK)
        return qmi_error_prefix(err, status,
            "%s is complete, but the replaced directory could not be removed",
            path);
    remove_leftovers(parent, path);
    return QMOE_OK;
}
