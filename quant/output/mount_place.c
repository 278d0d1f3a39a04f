/* SPDX-License-Identifier: Apache-2.0
 * In: an open directory.  Out: its file system and its path in that, from what
 * Linux tells of a process's descriptors and mounts (proc(5)).  A bind mount of
 * a subdirectory has no parent in common with the directory it shows, but the
 * same place. */
#include "mount_place.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "alloc.h"

/* The mount that a descriptor was opened through; -1: not known. */
static long mount_of(int fd)
{
    char name[64], line[256];
    long id = -1;
    snprintf(name, sizeof name, "/proc/self/fdinfo/%d", fd);
    FILE *file = fopen(name, "re");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "mnt_id: %ld", &id) == 1)
            break;
    if (file != NULL)
        fclose(file);
    return id;
}

/* White space and backslashes are three octal digits there. */
static void unescape(char *text)
{
    char *to = text;
    for (const char *from = text; *from != '\0'; to++) {
        unsigned code;
        if (*from == '\\' && sscanf(from + 1, "%3o", &code) == 1) {
            *to = (char)code;
            from += 4;
        } else {
            *to = *from++;
        }
    }
    *to = '\0';
}

typedef struct mount {
    char device[32];
    char root[PATH_MAX], point[PATH_MAX];
} mount;

static bool find_mount(mount *out, long id)
{
    char *line = NULL;
    size_t capacity = 0;
    bool found = false;
    FILE *file = fopen("/proc/self/mountinfo", "re");
    while (!found && file != NULL && getline(&line, &capacity, file) > 0) {
        char *fields[5], *rest = line;
        for (int i = 0; i < 5; i++)
            fields[i] = strsep(&rest, " ");
        if (rest == NULL || strtol(fields[0], NULL, 10) != id)
            continue;
        unescape(fields[3]);
        unescape(fields[4]);
        found = true;
        snprintf(out->device, sizeof out->device, "%s", fields[2]);
        snprintf(out->root, sizeof out->root, "%s", fields[3]);
        snprintf(out->point, sizeof out->point, "%s", fields[4]);
    }
    free(line);
    if (file != NULL)
        fclose(file);
    return found;
}

/* What of `path` lies below `directory`, "" or from its slash on; NULL: it does
 * not. */
static const char *below(const char *path, const char *directory)
{
    size_t n = strlen(directory);
    if (n != 0 && directory[n - 1] == '/')
        n--;
    if (strncmp(path, directory, n) != 0)
        return NULL;
    return path[n] == '\0' || path[n] == '/' ? path + n : NULL;
}

bool qmi_mount_place_of(qmi_mount_place *out, int directory)
{
    char name[64], path[PATH_MAX];
    *out = (qmi_mount_place){.path = NULL};
    mount *m = qmi_calloc(1, sizeof *m, "a mount", NULL);
    snprintf(name, sizeof name, "/proc/self/fd/%d", directory);
    const ssize_t n = readlink(name, path, sizeof path - 1);
    if (m != NULL && n > 0 && find_mount(m, mount_of(directory))) {
        path[n] = '\0';
        const char *rest = below(path, m->point);
        const size_t n_root = strcmp(m->root, "/") == 0 ? 0 : strlen(m->root);
        if (rest != NULL)
            out->path =
                qmi_calloc(n_root + strlen(rest) + 1, 1, "a path", NULL);
        if (out->path != NULL) {
            memcpy(out->path, m->root, n_root);
            strcpy(out->path + n_root, rest);
            snprintf(out->device, sizeof out->device, "%s", m->device);
        }
    }
    qmi_free(m);
    return out->path != NULL;
}

void qmi_mount_place_free(qmi_mount_place *place)
{
    qmi_free(place->path);
    place->path = NULL;
}

bool qmi_mount_place_within(const qmi_mount_place *inner,
    const qmi_mount_place *outer, const char *name)
{
    if (inner->path == NULL || outer->path == NULL ||
        strcmp(inner->device, outer->device) != 0)
        return false;
    const char *rest = below(inner->path, outer->path);
    if (rest == NULL || name == NULL)
        return rest != NULL;
    return rest[0] == '/' && below(rest + 1, name) != NULL;
}
