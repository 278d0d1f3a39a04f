/* SPDX-License-Identifier: Apache-2.0
 * The program cache: one file per key, written aside and renamed, with a hash
 * of its contents because drivers trust the binaries they are given. */
#include "program_cache.h"

#include <dirent.h>
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

uint64_t ocl_hash(uint64_t hash, const void *data, size_t n)
{
    const unsigned char *bytes = data;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
    return hash;
}

static bool fits(int length)
{
    return length > 0 && length < PATH_BYTES;
}

/* The cache's folder; made when `create`. */
static bool cache_folder(char *path, bool create)
{
    const char *base = getenv("XDG_CACHE_HOME");
    const char *own = getenv("QMOE_OPENCL_CACHE");
    char parent[PATH_BYTES];
    if (own != NULL && strcmp(own, "off") == 0)
        return false;
    if (own != NULL && own[0] == '/') {
        if (create)
            mkdir(own, 0700);
        return fits(snprintf(path, PATH_BYTES, "%s", own));
    }
    if (base != NULL && base[0] == '/') {
        if (!fits(snprintf(parent, sizeof parent, "%s", base)))
            return false;
    } else {
        const char *home = getenv("HOME");
        if (home == NULL || home[0] != '/' ||
            !fits(snprintf(parent, sizeof parent, "%s/.cache", home)))
            return false;
    }
    if (!fits(snprintf(path, PATH_BYTES, "%.4000s/qmoe", parent)))
        return false;
    if (create) {
        mkdir(parent, 0700);
        mkdir(path, 0700);
    }
    return true;
}

static bool file_of(char *path, uint64_t key, bool create)
{
    char folder[PATH_BYTES];
    return cache_folder(folder, create) &&
           fits(snprintf(path, PATH_BYTES, "%.4000s/opencl-%016" PRIx64 ".bin",
               folder, key));
}

/* ---- the size ---- */

typedef struct cached {
    char path[PATH_BYTES];
    struct stat info;
} cached;

static uint64_t largest_size(void)
{
    const char *text = getenv("QMOE_OPENCL_CACHE_BYTES");
    const uint64_t n = text != NULL ? strtoull(text, NULL, 10) : 0;
    return n != 0 ? n : UINT64_C(1) << 28;
}

/* Bytes of all files of the cache, and the one used longest ago. */
static uint64_t measure(const char *folder, cached *oldest)
{
    uint64_t total = 0;
    DIR *directory = opendir(folder);
    *oldest = (cached){.path = ""};
    if (directory == NULL)
        return 0;
    for (struct dirent *e; (e = readdir(directory)) != NULL;) {
        cached c;
        if (strncmp(e->d_name, "opencl-", 7) != 0 ||
            !fits(snprintf(
                c.path, sizeof c.path, "%.3800s/%s", folder, e->d_name)) ||
            lstat(c.path, &c.info) != 0 || !S_ISREG(c.info.st_mode))
            continue;
        total += (uint64_t)c.info.st_size;
        if (oldest->path[0] == '\0' || c.info.st_mtime < oldest->info.st_mtime)
            *oldest = c;
    }
    closedir(directory);
    return total;
}

/* Removes what was used longest ago until the cache is within its bound. */
static void shrink(void)
{
    char folder[PATH_BYTES];
    cached oldest;
    if (!cache_folder(folder, false))
        return;
    while (measure(folder, &oldest) > largest_size() && oldest.path[0] != '\0')
        if (unlink(oldest.path) != 0)
            return;
}

/* ---- files ---- */

static unsigned char *read_file(FILE *file, size_t *n, uint64_t key)
{
    header h;
    if (fread(&h, sizeof h, 1, file) != 1 ||
        memcmp(h.magic, magic, sizeof magic) != 0 || h.key != key ||
        h.n_bytes == 0 || h.n_bytes > max_bytes)
        return NULL;
    unsigned char *binary = qmi_calloc((size_t)h.n_bytes, 1, "a program", NULL);
    if (binary == NULL)
        return NULL;
    if (fread(binary, (size_t)h.n_bytes, 1, file) != 1 ||
        ocl_hash(OCL_HASH_START, binary, (size_t)h.n_bytes) != h.hash) {
        qmi_free(binary);
        return NULL;
    }
    *n = (size_t)h.n_bytes;
    return binary;
}

unsigned char *ocl_cache_load(size_t *n, uint64_t key)
{
    char path[PATH_BYTES];
    if (!file_of(path, key, false))
        return NULL;
    FILE *file = fopen(path, "rbe");
    if (file == NULL)
        return NULL;
    unsigned char *binary = read_file(file, n, key);
    if (binary != NULL)
        futimens(fileno(file), NULL); /* used now */
    fclose(file);
    return binary;
}

void ocl_cache_store(uint64_t key, const unsigned char *binary, size_t n)
{
    char path[PATH_BYTES], aside[PATH_BYTES];
    header h = {
        .key = key, .n_bytes = n, .hash = ocl_hash(OCL_HASH_START, binary, n)};
    memcpy(h.magic, magic, sizeof magic);
    if (n > max_bytes || !file_of(path, key, true) ||
        !fits(
            snprintf(aside, sizeof aside, "%.4000s.%ld", path, (long)getpid())))
        return;
    FILE *file = fopen(aside, "wbe");
    if (file == NULL)
        return;
    bool written =
        fwrite(&h, sizeof h, 1, file) == 1 && fwrite(binary, n, 1, file) == 1;
    written = fclose(file) == 0 && written;
    if (!written || rename(aside, path) != 0)
        unlink(aside);
    else
        shrink();
}
