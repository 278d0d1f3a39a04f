/* SPDX-License-Identifier: Apache-2.0
 * A library to preload (LD_PRELOAD): calls of the system fail as asked.  It
 * counts the calls of one group from the start of main on, in all threads.
 *
 *   QMOE_FAULT_GROUP  open write read sync truncate rename unlink mmap malloc
 *                     thread
 *   QMOE_FAULT_AT     the call that fails, from 1; 0 or unset: none
 *   QMOE_FAULT_ERROR  EIO ENOSPC EINTR ENOMEM EAGAIN, or short: half of a read
 *                     or write is done
 *   QMOE_FAULT_ON     set: all calls from that one on fail
 *   QMOE_FAULT_COUNT  file to write the number of calls to, at exit
 *
 * What libc calls inside itself (stdio's reads and writes) is not seen. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

typedef enum group {
    OPEN,
    WRITE,
    READ,
    SYNC,
    TRUNCATE,
    RENAME,
    UNLINK,
    MMAP,
    MALLOC,
    THREAD,
    N_GROUPS
} group;

static const char *const names[N_GROUPS] = {"open", "write", "read", "sync",
    "truncate", "rename", "unlink", "mmap", "malloc", "thread"};

enum { SHORT = -1 };
static int wanted = -1; /* group; -1: none */
static unsigned long fail_at;
static int fail_error;
static bool fail_on;
static atomic_ulong n_calls;
static atomic_bool is_armed;

/* Whether this call is to fail. */
static bool fails(group g)
{
    if (!atomic_load(&is_armed) || wanted != (int)g)
        return false;
    const unsigned long n = atomic_fetch_add(&n_calls, 1) + 1;
    return fail_at != 0 && (n == fail_at || (fail_on && n > fail_at));
}

/* Sets errno; "short" stands for an error where nothing can be short. */
static int fail(void)
{
    errno = fail_error == SHORT ? EIO : fail_error;
    return -1;
}

/* glibc's own, which need no look-up that would itself allocate. */
extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t n);
extern void *__libc_memalign(size_t alignment, size_t n);

void *malloc(size_t n)
{
    if (!fails(MALLOC))
        return __libc_malloc(n);
    errno = ENOMEM;
    return NULL;
}

void *calloc(size_t count, size_t size)
{
    if (!fails(MALLOC))
        return __libc_calloc(count, size);
    errno = ENOMEM;
    return NULL;
}

void *realloc(void *old, size_t n)
{
    if (!fails(MALLOC))
        return __libc_realloc(old, n);
    errno = ENOMEM;
    return NULL;
}

void *aligned_alloc(size_t alignment, size_t n)
{
    if (!fails(MALLOC))
        return __libc_memalign(alignment, n);
    errno = ENOMEM;
    return NULL;
}

int posix_memalign(void **out, size_t alignment, size_t n)
{
    if (fails(MALLOC))
        return ENOMEM;
    *out = __libc_memalign(alignment, n);
    return *out != NULL ? 0 : ENOMEM;
}

/* The function of the next library under this name. */
#define NEXT(name)                                                             \
    static __typeof__(name) *next;                                             \
    if (next == NULL)                                                          \
    next = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define OPEN_LIKE(name, parameters, arguments)                                 \
    int name parameters                                                        \
    {                                                                          \
        NEXT(name);                                                            \
        mode_t mode = 0;                                                       \
        if ((flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE) {      \
            va_list list;                                                      \
            va_start(list, flags);                                             \
            mode = va_arg(list, mode_t);                                       \
            va_end(list);                                                      \
        }                                                                      \
        return fails(OPEN) ? fail() : next arguments;                          \
    }
OPEN_LIKE(open, (const char *path, int flags, ...), (path, flags, mode))
OPEN_LIKE(open64, (const char *path, int flags, ...), (path, flags, mode))
OPEN_LIKE(
    openat, (int at, const char *path, int flags, ...), (at, path, flags, mode))
OPEN_LIKE(openat64, (int at, const char *path, int flags, ...),
    (at, path, flags, mode))

#define FOPEN_LIKE(name)                                                       \
    FILE *name(const char *path, const char *mode)                             \
    {                                                                          \
        NEXT(name);                                                            \
        if (!fails(OPEN))                                                      \
            return next(path, mode);                                           \
        fail();                                                                \
        return NULL;                                                           \
    }
FOPEN_LIKE(fopen)
FOPEN_LIKE(fopen64)

/* Reads and writes: n bytes, or half of them. */
#define TRANSFER(name, group, parameters, arguments)                           \
    ssize_t name parameters                                                    \
    {                                                                          \
        NEXT(name);                                                            \
        if (!fails(group))                                                     \
            return next arguments;                                             \
        if (fail_error != SHORT || n < 2)                                      \
            return fail();                                                     \
        n /= 2;                                                                \
        return next arguments;                                                 \
    }
TRANSFER(write, WRITE, (int fd, const void *data, size_t n), (fd, data, n))
TRANSFER(pwrite, WRITE, (int fd, const void *data, size_t n, off_t at),
    (fd, data, n, at))
TRANSFER(pwrite64, WRITE, (int fd, const void *data, size_t n, off64_t at),
    (fd, data, n, at))
TRANSFER(read, READ, (int fd, void *data, size_t n), (fd, data, n))
TRANSFER(
    pread, READ, (int fd, void *data, size_t n, off_t at), (fd, data, n, at))
TRANSFER(pread64, READ, (int fd, void *data, size_t n, off64_t at),
    (fd, data, n, at))

#define PLAIN(name, group, parameters, arguments)                              \
    int name parameters                                                        \
    {                                                                          \
        NEXT(name);                                                            \
        return fails(group) ? fail() : next arguments;                         \
    }
PLAIN(fsync, SYNC, (int fd), (fd))
PLAIN(fdatasync, SYNC, (int fd), (fd))
PLAIN(ftruncate, TRUNCATE, (int fd, off_t n), (fd, n))
PLAIN(ftruncate64, TRUNCATE, (int fd, off64_t n), (fd, n))
PLAIN(rename, RENAME, (const char *from, const char *to), (from, to))
PLAIN(renameat, RENAME,
    (int from_at, const char *from, int to_at, const char *to),
    (from_at, from, to_at, to))
PLAIN(renameat2, RENAME,
    (int from_at, const char *from, int to_at, const char *to,
        unsigned int flags),
    (from_at, from, to_at, to, flags))
PLAIN(unlink, UNLINK, (const char *path), (path))
PLAIN(
    unlinkat, UNLINK, (int at, const char *path, int flags), (at, path, flags))
PLAIN(rmdir, UNLINK, (const char *path), (path))

#define MMAP_LIKE(name, offset)                                                \
    void *name(                                                                \
        void *where, size_t n, int protection, int flags, int fd, offset at)   \
    {                                                                          \
        NEXT(name);                                                            \
        if (!fails(MMAP))                                                      \
            return next(where, n, protection, flags, fd, at);                  \
        fail();                                                                \
        return MAP_FAILED;                                                     \
    }
MMAP_LIKE(mmap, off_t)
MMAP_LIKE(mmap64, off64_t)

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
    void *(*run)(void *), void *argument)
{
    NEXT(pthread_create);
    return fails(THREAD) ? EAGAIN : next(thread, attributes, run, argument);
}

/* ---- the beginning and the end ---- */

static int error_of(const char *text)
{
    static const struct {
        const char *name;
        int value;
    } errors[] = {{"EIO", EIO}, {"ENOSPC", ENOSPC}, {"EINTR", EINTR},
        {"ENOMEM", ENOMEM}, {"EAGAIN", EAGAIN}, {"short", SHORT}};
    for (size_t i = 0; text != NULL && i < sizeof errors / sizeof *errors; i++)
        if (strcmp(text, errors[i].name) == 0)
            return errors[i].value;
    return EIO;
}

static void write_count(void)
{
    const char *path = getenv("QMOE_FAULT_COUNT");
    atomic_store(&is_armed, false);
    FILE *file = path != NULL ? fopen(path, "w") : NULL;
    if (file == NULL)
        return;
    fprintf(file, "%lu\n", atomic_load(&n_calls));
    fclose(file);
}

static int (*real_main)(int, char **, char **);

static int armed_main(int argc, char **argv, char **environment)
{
    const char *name = getenv("QMOE_FAULT_GROUP");
    const char *at = getenv("QMOE_FAULT_AT");
    for (int i = 0; name != NULL && i < N_GROUPS; i++)
        if (strcmp(name, names[i]) == 0)
            wanted = i;
    fail_at = at != NULL ? strtoul(at, NULL, 10) : 0;
    fail_error = error_of(getenv("QMOE_FAULT_ERROR"));
    fail_on = getenv("QMOE_FAULT_ON") != NULL;
    atexit(write_count);
    atomic_store(&is_armed, true);
    return real_main(argc, argv, environment);
}

int __libc_start_main(int (*main)(int, char **, char **), int argc, char **argv,
    void (*init)(void), void (*fini)(void), void (*rtld_fini)(void),
    void *stack_end)
{
    NEXT(__libc_start_main);
    real_main = main;
    return next(armed_main, argc, argv, init, fini, rtld_fini, stack_end);
}
