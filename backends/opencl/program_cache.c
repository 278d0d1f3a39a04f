/* SPDX-License-Identifier: Apache-2.0
 * The program cache: one file per key, written aside and renamed, with a hash
 * of its contents because drivers trust the binaries they are given.  In: a key
 * and bytes.  Out: the same bytes later, or nothing.  Every failure counts as
 * "not there": the cache saves time and must never cost a run.  Several
 * processes may use it at once; nobody sees half a file. */
#include "program_cache.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "alloc.h"

typedef struct header {
    char magic[8];
    uint64_t key, n_bytes, hash;
} header;

static const char magic[8] = "qmoecl1";
/* Larger than any program; bounds what a damaged header can ask for. */
static const uint64_t max_bytes = UINT64_C(1) << 28;

enum { PATH_BYTES = 4096 };

uint64_t qocl_hash(uint64_t hash, const void *data, size_t n)
{
    /* FNV-1a, 64 bits: against damage, not against attack; is_ours is for
     * that. */
    const unsigned char *bytes = data;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
    return hash;
}

static bool fits(int length)
{
    return length > 0 && length < PATH_BYTES;
}

/* ---- the folder ---- */

/* Where the cache is; its parent is made when `create`. */
static bool folder_path(char *path, bool create)
{
    const char *base = getenv("XDG_CACHE_HOME");
    const char *own = getenv("QMOE_OPENCL_CACHE");
    char parent[PATH_BYTES];
    /* "off", a folder, or the usual place of caches. */
    if (own != NULL && strcmp(own, "off") == 0)
        return false;
    if (own != NULL && own[0] == '/')
        return fits(snprintf(path, PATH_BYTES, "%s", own));
    if (base != NULL && base[0] == '/') {
        if (!fits(snprintf(parent, sizeof parent, "%s", base)))
            return false;
    } else {
        const char *home = getenv("HOME");
        if (home == NULL || home[0] != '/' ||
            !fits(snprintf(parent, sizeof parent, "%s/.cache", home)))
            return false;
    }
    /* An existing folder is no error; every other one shows below. */
    if (create)
        mkdir(parent, 0700);
    return fits(snprintf(path, PATH_BYTES, "%.4000s/qmoe", parent));
}

/* Drivers run what they are given: only what nobody else can have written is
 * taken. */
static bool is_ours(const struct stat *info)
{
    return info->st_uid == geteuid() && (info->st_mode & 022) == 0;
}

/* The open folder; made when `create`.  -1: there is none to be trusted. */
static int open_folder(bool create)
{
    char path[PATH_BYTES];
    struct stat info;
    if (!folder_path(path, create))
        return -1;
    if (create)
        mkdir(path, 0700);
    const int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    /* Opened first and looked at then: what was looked at is what is used. */
    if (fd < 0 || (fstat(fd, &info) == 0 && is_ours(&info)))
        return fd;
    close(fd);
    return -1;
}

/* ---- the size ---- */

typedef struct cached {
    char name[256];
    struct stat info;
} cached;

static uint64_t largest_size(void)
{
    const char *text = getenv("QMOE_OPENCL_CACHE_BYTES");
    const uint64_t n = text != NULL ? strtoull(text, NULL, 10) : 0;
    return n != 0 ? n : UINT64_C(1) << 28;
}

/* Bytes of all files of the cache, and the one used longest ago. */
static uint64_t measure(int folder, cached *oldest)
{
    uint64_t total = 0;
    *oldest = (cached){.name = ""};
    /* A descriptor of its own, which closedir closes. */
    const int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *directory = fd >= 0 ? fdopendir(fd) : NULL;
    if (directory == NULL)
        return 0;
    for (struct dirent *e; (e = readdir(directory)) != NULL;) {
        cached c;
        /* Only files of this cache: the folder may hold others. */
        if (strncmp(e->d_name, "opencl-", 7) != 0 ||
            fstatat(folder, e->d_name, &c.info, AT_SYMLINK_NOFOLLOW) != 0 ||
            !S_ISREG(c.info.st_mode))
            continue;
        snprintf(c.name, sizeof c.name, "%s", e->d_name);
        total += (uint64_t)c.info.st_size;
        if (oldest->name[0] == '\0' || c.info.st_mtime < oldest->info.st_mtime)
            *oldest = c;
    }
    closedir(directory);
    return total;
}

/* Removes what was used longest ago until the cache is within its bound. */
static void shrink(int folder)
{
    cached oldest;
    /* Measured anew after each removal: other processes remove, too. */
    while (measure(folder, &oldest) > largest_size() && oldest.name[0] != '\0')
        if (unlinkat(folder, oldest.name, 0) != 0)
            return;
}

/* ---- files ---- */

static void name_of(char name[64], uint64_t key)
{
    snprintf(name, 64, "opencl-%016" PRIx64 ".bin", key);
}

/* NULL: no such file, or none that can be trusted. */
static FILE *open_file(int folder, const char *name, uint64_t *n_bytes)
{
    /* Through the folder's descriptor: no part of the path can be exchanged in
     * between. */
    struct stat info;
    /* O_NONBLOCK: a FIFO would wait for its other end. */
    const int fd =
        openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    FILE *file = fstat(fd, &info) == 0 && S_ISREG(info.st_mode) &&
                         is_ours(&info) && info.st_nlink == 1
                     ? fdopen(fd, "rb")
                     : NULL;
    if (file == NULL)
        close(fd);
    else
        *n_bytes = (uint64_t)info.st_size;
    return file;
}

static unsigned char *read_file(
    FILE *file, uint64_t n_bytes, size_t *n, uint64_t key)
{
    header h;
    /* Every field is compared with what is known before a byte is allocated. */
    if (fread(&h, sizeof h, 1, file) != 1 ||
        memcmp(h.magic, magic, sizeof magic) != 0 || h.key != key ||
        h.n_bytes == 0 || h.n_bytes > max_bytes ||
        h.n_bytes != n_bytes - sizeof h)
        return NULL;
    unsigned char *binary = qmi_calloc((size_t)h.n_bytes, 1, "a program", NULL);
    if (binary == NULL)
        return NULL;
    if (fread(binary, (size_t)h.n_bytes, 1, file) != 1 ||
        qocl_hash(QOCL_HASH_START, binary, (size_t)h.n_bytes) != h.hash) {
        qmi_free(binary);
        return NULL;
    }
    *n = (size_t)h.n_bytes;
    return binary;
}

unsigned char *qocl_cache_load(size_t *n, uint64_t key)
{
    char name[64];
    uint64_t n_bytes = 0;
    const int folder = open_folder(false);
    if (folder < 0)
        return NULL;
    name_of(name, key);
    FILE *file = open_file(folder, name, &n_bytes);
    close(folder);
    if (file == NULL)
        return NULL;
    unsigned char *binary = read_file(file, n_bytes, n, key);
    if (binary != NULL)
        /* Loading counts as using, so that shrink takes the others. */
        futimens(fileno(file), NULL); /* used now */
    fclose(file);
    return binary;
}

/* A file that was not there, for this user alone. */
static FILE *create_file(int folder, const char *name)
{
    unlinkat(folder, name, 0); /* of a process that was killed */
    const int fd = openat(folder, name,
        O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    FILE *file = fd >= 0 ? fdopen(fd, "wb") : NULL;
    if (file == NULL && fd >= 0)
        close(fd);
    return file;
}

static bool write_file(
    int folder, const char *name, const header *h, const unsigned char *binary)
{
    FILE *file = create_file(folder, name);
    if (file == NULL)
        return false;
    const bool written = fwrite(h, sizeof *h, 1, file) == 1 &&
                         fwrite(binary, (size_t)h->n_bytes, 1, file) == 1;
    /* fclose writes what was buffered, and can fail. */
    return fclose(file) == 0 && written;
}

void qocl_cache_store(uint64_t key, const unsigned char *binary, size_t n)
{
    char name[64], aside[96];
    header h = {.key = key,
        .n_bytes = n,
        .hash = qocl_hash(QOCL_HASH_START, binary, n)};
    memcpy(h.magic, magic, sizeof magic);
    const int folder = n <= max_bytes ? open_folder(true) : -1;
    if (folder < 0)
        return;
    name_of(name, key);
    /* By process: two may write the same key. */
    snprintf(aside, sizeof aside, "%s.%ld", name, (long)getpid());
    /* Whole and in place, or not at all. */
    if (write_file(folder, aside, &h, binary) &&
        renameat(folder, aside, folder, name) == 0)
        shrink(folder);
    else
        unlinkat(folder, aside, 0);
    close(folder);
}
