/* SPDX-License-Identifier: Apache-2.0
 * Weights are used through a memory map.  A file that is cut short or a disk
 * that fails under it shows as SIGBUS; this turns it into the one error line
 * and the exit code that every other failure of a file has.  In: the address
 * that could not be read.  Out: a line that names the file mapped there, and
 * the end of the process.  Nothing here allocates or takes a lock: the signal
 * may come in the middle of either. */
#include "cli.h"

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

/* In a signal handler: system calls and the stack only. */
static void put(const char *text, size_t n)
{
    /* A pipe may take a part; an error leaves nobody to tell. */
    while (n != 0) {
        ssize_t written = write(STDERR_FILENO, text, n);
        if (written <= 0)
            return;
        text += written;
        n -= (size_t)written;
    }
}

/* stdio must not be used in a handler, so lines are cut by hand. */
typedef struct reader {
    int fd;
    char bytes[4096];
    size_t n, at;
} reader;

/* The next line without its end, cut to the space there is; false at the end
 * of the file. */
static bool next_line(reader *r, char *line, size_t capacity)
{
    size_t n = 0;
    for (;;) {
        if (r->at == r->n) {
            ssize_t got = read(r->fd, r->bytes, sizeof r->bytes);
            if (got <= 0)
                return false;
            r->n = (size_t)got;
            r->at = 0;
        }
        char c = r->bytes[r->at++];
        if (c == '\n')
            break;
        /* What does not fit is dropped, but read: the next line must begin
         * where it begins. */
        if (n + 1 < capacity)
            line[n++] = c;
    }
    line[n] = '\0';
    return true;
}

/* strtoul may look at the locale; the kernel's addresses are plain digits. */
static const char *parse_address(uintptr_t *out, const char *text)
{
    static const char digits[] = "0123456789abcdef";
    const char *digit;
    *out = 0;
    while (*text != '\0' && (digit = strchr(digits, *text)) != NULL) {
        *out = *out << 4 | (uintptr_t)(digit - digits);
        text++;
    }
    return text;
}

/* Path of the file mapped at `address`, a part of `line`; NULL if none: the
 * address then belongs to no file, or /proc cannot be read. */
static const char *mapped_file(uintptr_t address, char *line, size_t capacity)
{
    reader r = {.fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC)};
    const char *path = NULL;
    while (r.fd >= 0 && path == NULL && next_line(&r, line, capacity)) {
        uintptr_t begin, end;
        const char *rest = parse_address(&begin, line);
        if (*rest != '-')
            continue;
        parse_address(&end, rest + 1);
        if (address < begin || address >= end)
            continue;
        /* The path is the last field and the only one with a slash. */
        path = strchr(line, '/');
        break;
    }
    if (r.fd >= 0)
        close(r.fd);
    return path;
}

/* Called on the thread that read; the others go on until they read there,
 * too. */
static void on_bus_error(int number, siginfo_t *info, void *context)
{
    static const char head[] = "qmoe: error: ",
                      tail[] = ": cannot be read any more: the file was cut "
                               "short or its disk fails\n";
    static atomic_flag told = ATOMIC_FLAG_INIT;
    char line[1024];
    (void)number;
    (void)context;
    /* Threads at the same file fail together; one speaks and ends all. */
    while (atomic_flag_test_and_set(&told))
        pause();
    const char *path = mapped_file((uintptr_t)info->si_addr, line, sizeof line);
    if (path == NULL)
        path = "a file in use";
    put(head, sizeof head - 1);
    put(path, strlen(path));
    put(tail, sizeof tail - 1);
    /* exit() would run handlers and flush in the middle of anything. */
    _exit(CLI_FILES);
}

/* Without SA_RESETHAND: threads that fail at the same time find this handler
 * and not the system's. */
void cli_catch_bus_errors(void)
{
    struct sigaction action = {.sa_sigaction = on_bus_error};
    sigemptyset(&action.sa_mask);
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGBUS, &action, NULL);
}
