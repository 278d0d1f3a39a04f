/* SPDX-License-Identifier: Apache-2.0
 * In: a file or directory that is no model.  Out: words for the error: what
 * people most often have instead, such as a pointer of Git LFS, a saved web
 * page or an unfinished download.  Nothing but texts depends on a guess
 * here. */
#include "hints.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "alloc.h"

/* ---- files ---- */

/* Without regard to case, as HTML is. */
static bool begins_with(const char *data, uint64_t n_bytes, const char *text)
{
    size_t n = strlen(text);
    return n_bytes >= n && strncasecmp(data, text, n) == 0;
}

const char *qmi_hint_contents(const void *data, uint64_t n_bytes)
{
    const char *p = data;
    if (begins_with(p, n_bytes, "version https://git-lfs.github.com/"))
        return "a Git LFS pointer, not the file itself: 'git lfs pull' in its "
               "repository fetches that";
    /* HTML may begin with blank lines; 64 are enough. */
    for (int i = 0; i < 64 && n_bytes > 0 && isspace((unsigned char)*p); i++) {
        p++;
        n_bytes--;
    }
    if (begins_with(p, n_bytes, "<!doctype html") ||
        begins_with(p, n_bytes, "<html"))
        return "a web page, not the file itself: download the raw file";
    return NULL;
}

/* ---- directories ---- */

/* Whether there is such a name, be it a broken link. */
static bool is_there(const char *directory, const char *name)
{
    struct stat info;
    char *path = qmi_path_join(directory, name, NULL);
    bool found = path != NULL && lstat(path, &info) == 0;
    qmi_free(path);
    return found;
}

/* The first name in the directory with that prefix and suffix; false: none. */
static bool find_like(char name[256], const char *directory, const char *prefix,
    const char *suffix)
{
    DIR *folder = opendir(directory);
    bool found = false;
    const struct dirent *e;
    /* Any match will do: it is an example in a message. */
    while (!found && folder != NULL && (e = readdir(folder)) != NULL) {
        size_t n = strlen(e->d_name), n_suffix = strlen(suffix);
        found = strncmp(e->d_name, prefix, strlen(prefix)) == 0 &&
                n > n_suffix && n < 256 &&
                strcmp(e->d_name + n - n_suffix, suffix) == 0;
        if (found)
            memcpy(name, e->d_name, n + 1);
    }
    if (folder != NULL)
        closedir(folder);
    return found;
}

/* No other layout has a file of that name. */
bool qmi_looks_published(const char *directory)
{
    return is_there(directory, "noexp.pt");
}

/* Only of a regular file: opening a FIFO would wait. */
static bool is_gguf(const char *path, const struct stat *info)
{
    char magic[4] = "";
    FILE *file = S_ISREG(info->st_mode) ? fopen(path, "rb") : NULL;
    bool found = file != NULL && fread(magic, 1, sizeof magic, file) == 4 &&
                 memcmp(magic, "GGUF", sizeof magic) == 0;
    if (file != NULL)
        fclose(file);
    return found;
}

static qmoe_status fail_no_directory(
    const char *path, const struct stat *info, qmi_error *err)
{
    if (is_gguf(path, info))
        return qmi_fail(err, QMOE_E_NOT_FOUND,
            "%s: a GGUF file; 'qmoe import' makes a model of it", path);
    return qmi_fail(err, QMOE_E_NOT_FOUND,
        "%s: not a directory; give the one that holds config.json and the "
        "weights",
        path);
}

qmoe_status qmi_require_directory(const char *path, qmi_error *err)
{
    struct stat info;
    if (stat(path, &info) == 0)
        return S_ISDIR(info.st_mode) ? QMOE_OK
                                     : fail_no_directory(path, &info, err);
    if (errno == ENOENT)
        return qmi_fail(err, QMOE_E_NOT_FOUND,
            "%s: No such file or directory (a model is a local directory; "
            "nothing is downloaded)",
            path);
    return qmi_fail_errno(err, "%s", path);
}

qmoe_status qmi_fail_no_config(qmi_error *err, const char *directory)
{
    char name[256];
    /* The layout of its download cache: the files are one level deeper. */
    if (is_there(directory, "snapshots") && is_there(directory, "refs"))
        return qmi_fail(err, QMOE_E_NOT_FOUND,
            "%s/config.json: not there; this is an entry of the Hugging Face "
            "cache: give the directory in its 'snapshots'",
            directory);
    if (is_there(directory, "config.json"))
        return qmi_fail(err, QMOE_E_NOT_FOUND,
            "%s/config.json: a broken symbolic link (an unfinished "
            "download?)",
            directory);
    if (find_like(name, directory, "", ".gguf"))
        return qmi_fail(err, QMOE_E_NOT_FOUND,
            "%s/config.json: not there, but there is %s; 'qmoe import' makes a "
            "model of it",
            directory, name);
    return qmi_fail(err, QMOE_E_NOT_FOUND,
        "%s/config.json: No such file or directory; weights need it beside "
        "them",
        directory);
}

/* From what is certain to what is likely. */
qmoe_status qmi_fail_no_weights(qmi_error *err, const char *directory)
{
    static const char *const names[] = {"model.safetensors",
        "model.safetensors.index.json", "pytorch_model.bin",
        "pytorch_model.bin.index.json"};
    static const char *const kinds[][3] = {
        {"model-", ".safetensors", "model.safetensors.index.json"},
        {"pytorch_model-", ".bin", "pytorch_model.bin.index.json"}};
    char name[256];
    if (qmi_looks_published(directory))
        return qmi_fail(err, QMOE_E_NOT_FOUND,
            "%s: a published compressed model (noexp.pt, exp00.pt, ...): "
            "'qmoe import' makes a model of it",
            directory);
    /* They are there, but could not be opened by name: links that lead
     * nowhere. */
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (is_there(directory, names[i]))
            return qmi_fail(err, QMOE_E_NOT_FOUND,
                "%s/%s: a broken symbolic link (an unfinished download?)",
                directory, names[i]);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (find_like(name, directory, kinds[i][0], kinds[i][1]))
            return qmi_fail(err, QMOE_E_NOT_FOUND,
                "%s: there are shards such as %s, but %s, which lists them, is "
                "missing",
                directory, name, kinds[i][2]);
    return qmi_fail(err, QMOE_E_NOT_FOUND,
        "%s: no weights: neither model.safetensors nor pytorch_model.bin is "
        "there, nor an index of shards",
        directory);
}

/* Says what the directory is instead, where that can be told. */
qmoe_status qmi_fail_not_published(qmi_error *err, const char *directory)
{
    char name[256];
    bool plain = find_like(name, directory, "pytorch_model", ".bin") ||
                 find_like(name, directory, "model", ".safetensors");
    return qmi_fail(err, QMOE_E_NOT_FOUND, "%s/noexp.pt: not there; %s",
        directory,
        plain ? "this is no published compressed model, but one that the "
                "other verbs read ('qmoe compress' compresses it)"
              : "import is for directories as the QMoE authors published "
                "them");
}
