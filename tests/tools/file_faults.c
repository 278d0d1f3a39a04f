/* SPDX-License-Identifier: Apache-2.0
 * Preloaded into the tool by tests/cli: a file system that is slow, lacks
 * features or fails, and a process that dies between two changes of names.
 *
 *   QMOE_FAULT_DELAY_MS=N   every unlinkat takes N ms
 *   QMOE_FAULT_UNLINK=NAME  unlinkat of NAME fails (EPERM)
 *   QMOE_FAULT_NO_FLAGS=1   renameat2 knows no flags (EINVAL)
 *   QMOE_FAULT_KILL_AT=N    the process is killed before its N-th change:
 *                           mkdirat, openat that creates, renameat, renameat2,
 *                           unlinkat */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

static long number(const char *name)
{
    const char *text = getenv(name);
    return text != NULL ? atol(text) : 0;
}

static void count_change(void)
{
    static long n;
    if (++n == number("QMOE_FAULT_KILL_AT"))
        raise(SIGKILL);
}

/* The next definition of a function, into a pointer of its type. */
#define FIND_NEXT(pointer, name)                                               \
    do {                                                                       \
        void *found_ = dlsym(RTLD_NEXT, name);                                 \
        memcpy(&(pointer), &found_, sizeof found_);                            \
    } while (0)

int mkdirat(int directory, const char *name, mode_t mode)
{
    int (*next)(int, const char *, mode_t);
    FIND_NEXT(next, "mkdirat");
    count_change();
    return next(directory, name, mode);
}

int openat64(int directory, const char *name, int flags, ...)
{
    int (*next)(int, const char *, int, ...);
    va_list args;
    va_start(args, flags);
    const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(args, mode_t) : 0;
    va_end(args);
    FIND_NEXT(next, "openat64");
    if ((flags & O_CREAT) != 0)
        count_change();
    return next(directory, name, flags, mode);
}

int renameat(
    int from_directory, const char *from, int directory, const char *to)
{
    int (*next)(int, const char *, int, const char *);
    FIND_NEXT(next, "renameat");
    count_change();
    return next(from_directory, from, directory, to);
}

int renameat2(int from_directory, const char *from, int directory,
    const char *to, unsigned flags)
{
    int (*next)(int, const char *, int, const char *, unsigned);
    FIND_NEXT(next, "renameat2");
    count_change();
    if (flags != 0 && getenv("QMOE_FAULT_NO_FLAGS") != NULL) {
        errno = EINVAL;
        return -1;
    }
    return next(from_directory, from, directory, to, flags);
}

int unlinkat(int directory, const char *name, int flags)
{
    int (*next)(int, const char *, int);
    const char *failing = getenv("QMOE_FAULT_UNLINK");
    const struct timespec delay = {
        .tv_nsec = number("QMOE_FAULT_DELAY_MS") * 1000000L};
    FIND_NEXT(next, "unlinkat");
    count_change();
    nanosleep(&delay, NULL);
    if (failing != NULL && strcmp(failing, name) == 0) {
        errno = EPERM;
        return -1;
    }
    return next(directory, name, flags);
}
