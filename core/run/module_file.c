/* SPDX-License-Identifier: Apache-2.0
 * Checks before dlopen (module_file.h).  In: a path.  Out: whether the file can
 * be loaded without risk, or one line that says why not. dlopen runs a module's
 * code and ends the process on a damaged file, so both are looked at before:
 * who can have written it, and whether all that the loader will map is
 * there. */
#include "module_file.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Whoever owns the program decides what it does, modules or not: its owner, the
 * user and root are trusted. */
static bool is_trusted(const struct stat *info)
{
    struct stat program;
    return info->st_uid == 0 || info->st_uid == geteuid() ||
           (stat("/proc/self/exe", &program) == 0 &&
               info->st_uid == program.st_uid);
}

/* Written without a sum that could overflow. */
static bool within(uint64_t offset, uint64_t n_bytes, uint64_t size)
{
    return offset <= size && n_bytes <= size - offset;
}

static bool read_at(int fd, void *to, size_t n_bytes, uint64_t offset)
{
    return pread(fd, to, n_bytes, (off_t)offset) == (ssize_t)n_bytes;
}

/* All that the loader maps, and the table that linkers write last. */
static bool is_whole(int fd, uint64_t size)
{
    Elf64_Ehdr e;
    /* 64-bit, a shared object, headers of the known size. */
    if (!read_at(fd, &e, sizeof e, 0) ||
        memcmp(e.e_ident, ELFMAG, SELFMAG) != 0 ||
        e.e_ident[EI_CLASS] != ELFCLASS64 || e.e_type != ET_DYN ||
        e.e_phentsize != sizeof(Elf64_Phdr) ||
        !within(e.e_phoff, (uint64_t)e.e_phnum * e.e_phentsize, size) ||
        !within(e.e_shoff, (uint64_t)e.e_shnum * e.e_shentsize, size))
        return false;
    /* Every segment must lie in the file: a map past its end would be
     * SIGBUS. */
    for (int i = 0; i < e.e_phnum; i++) {
        Elf64_Phdr p;
        if (!read_at(fd, &p, sizeof p, e.e_phoff + (uint64_t)i * sizeof p) ||
            !within(p.p_offset, p.p_filesz, size))
            return false;
    }
    return true;
}

/* What is wrong with the open file; NULL: nothing. */
static const char *fault(int fd)
{
    struct stat info;
    /* Of the open file, not of the path: it cannot be exchanged in between. */
    if (fstat(fd, &info) != 0)
        return strerror(errno);
    if (!S_ISREG(info.st_mode))
        return "is no regular file";
    if (!is_trusted(&info))
        return "belongs to another user";
    if ((info.st_mode & S_IWOTH) != 0)
        return "can be written by every user";
    if (!is_whole(fd, (uint64_t)info.st_size))
        return "is damaged";
    return NULL;
}

bool qmi_module_file_usable(const char *path, char *reason, size_t capacity)
{
    /* Without O_NONBLOCK a FIFO would wait for its other end. */
    const int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    const char *why = fd < 0 ? strerror(errno) : fault(fd);
    if (fd >= 0)
        close(fd);
    if (why != NULL)
        snprintf(reason, capacity, "%s: %s", path, why);
    return why == NULL;
}
