/* SPDX-License-Identifier: Apache-2.0
 * In: an open directory.  Out: whether qmoe made all that is in it.  A finished
 * directory holds nothing but files of our names, and each file of weights is
 * vouched for: by config.json, by checksums that only our writer puts in a
 * header, or by the list beside a published layout.  A name alone proves
 * nothing: other programs use the same ones.  In doubt the directory is
 * foreign, and nothing in it is touched. */
#include "output_owner.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "alloc.h"
#include "digest.h"
#include "json.h"
#include "new_file.h"
#include "safetensors.h"
#include "side_names.h"

static const char not_ours[] = "was not written by qmoe";

/* ---- entries ---- */

/* What is wrong with an entry; NULL: nothing. */
typedef const char *(*judge_fn)(
    void *user, const char *name, const struct stat *info);

static bool is_dot(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* A descriptor of its own: reading entries moves a position that the caller's
 * shares. */
DIR *qmi_open_entries(int directory)
{
    int fd = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *entries = fd >= 0 ? fdopendir(fd) : NULL;
    if (entries == NULL && fd >= 0)
        close(fd);
    return entries;
}

typedef struct worst {
    char name[256];
    const char *fault;
} worst;

/* Of the entries with a fault, the first by name: the order of readdir differs
 * between file systems, and messages should not. */
static bool judge_entries(
    int directory, judge_fn judge, void *user, worst *first)
{
    DIR *entries = qmi_open_entries(directory);
    *first = (worst){.fault = NULL};
    if (entries == NULL)
        return false;
    for (struct dirent *e; (e = readdir(entries)) != NULL;) {
        struct stat info;
        /* An entry that is gone meanwhile is no fault. */
        if (is_dot(e->d_name) ||
            fstatat(directory, e->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0)
            continue;
        const char *fault = judge(user, e->d_name, &info);
        if (fault == NULL ||
            (first->fault != NULL && strcmp(first->name, e->d_name) < 0))
            continue;
        first->fault = fault;
        snprintf(first->name, sizeof first->name, "%s", e->d_name);
    }
    closedir(entries);
    return true;
}

static qmoe_status check_entries(
    int directory, const char *path, judge_fn judge, void *user, qmi_error *err)
{
    worst first;
    if (!judge_entries(directory, judge, user, &first))
        return qmi_fail_errno(err, "%s", path);
    if (first.fault == NULL)
        return QMOE_OK;
    return qmi_fail(err, QMOE_E_EXISTS,
        "%s/%s: %s; nothing in the directory is touched (move it away or "
        "choose another output)",
        path, first.name, first.fault);
}

/* ---- names ---- */

/* The number in front of `rest`, of at least `digits` digits: models of many
 * files have more. */
static const char *skip_number(const char *text, int digits)
{
    size_t n = strspn(text, "0123456789");
    return (int)n >= digits ? text + n : NULL;
}

static bool is_shard(const char *name)
{
    if (strncmp(name, "model-", 6) != 0)
        return false;
    const char *rest = skip_number(name + 6, 5);
    if (rest == NULL || strncmp(rest, "-of-", 4) != 0)
        return false;
    rest = skip_number(rest + 4, 5);
    return rest != NULL && strcmp(rest, ".safetensors") == 0;
}

/* The names of the published layout (docs/publish.md). */
static bool is_published(const char *name)
{
    if (strcmp(name, "noexp.pt") == 0 || strcmp(name, "sizes.pt") == 0)
        return true;
    if (strncmp(name, "exp", 3) != 0)
        return false;
    const char *rest = skip_number(name + 3, 2);
    return rest != NULL && strcmp(rest, ".pt") == 0;
}

/* True for every name that qmoe gives to a file of an output. */
static bool is_our_name(const char *name)
{
    static const char *const others[] = {"config.json",
        "model.safetensors.index.json", QMI_REPORT_NAME, QMI_EXPORT_NAME,
        QMI_JOURNAL_NAME};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strcmp(name, others[i]) == 0)
            return true;
    return is_shard(name) || is_published(name) || qmi_is_side_file(name);
}

/* ---- finished directories ---- */

typedef struct finished {
    const char *path;
    cJSON *config, *list; /* NULL when absent or broken */
    size_t n_entries, n_weights;
} finished;

/* NULL for anything that cannot be read: then nothing is vouched for by it. */
static cJSON *load(const char *directory, const char *name)
{
    cJSON *json = NULL;
    char *path = qmi_path_join(directory, name, NULL);
    if (path != NULL && qmi_json_load(&json, path, NULL) != QMOE_OK)
        json = NULL;
    qmi_free(path);
    return json;
}

static const cJSON *member(const cJSON *object, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

/* An entry in `files`, whatever its digest says: a damaged file of ours is
 * still ours. */
static bool config_lists(const finished *f, const char *name)
{
    const cJSON *q = member(f->config, "quantization_config");
    const char *method = cJSON_GetStringValue(member(q, "quant_method"));
    return method != NULL && strcmp(method, "qmoe") == 0 &&
           member(member(q, "files"), name) != NULL;
}

/* Our writer alone puts the checksum of each tensor in the header. */
static bool header_is_ours(const finished *f, const char *name)
{
    /* The first tensor stands for all: the writer gives each a checksum. */
    char key[512];
    bool ours = false;
    qmi_tensor_file *file = NULL;
    char *path = qmi_path_join(f->path, name, NULL);
    if (path != NULL && qmi_safetensors_open(&file, path, NULL) == QMOE_OK &&
        qmi_tensor_file_count(file) != 0) {
        snprintf(key, sizeof key, "xxh3:%s", qmi_tensor_file_at(file, 0)->name);
        ours = qmi_tensor_file_metadata(file, key) != NULL;
    }
    qmi_tensor_file_close(file);
    qmi_free(path);
    return ours;
}

/* Another program's file would hardly have the very same size. */
static bool list_has(
    const finished *f, const char *name, const struct stat *info)
{
    uint64_t n_bytes = 0;
    const cJSON *entry = member(member(f->list, "files"), name);
    return entry != NULL && qmi_json_to_u64(&n_bytes, entry) &&
           n_bytes == (uint64_t)info->st_size;
}

static const char *judge_finished(
    void *user, const char *name, const struct stat *info)
{
    finished *f = user;
    f->n_entries++;
    if (!is_our_name(name))
        return not_ours;
    if (!S_ISREG(info->st_mode))
        return "is no regular file";
    /* Small files have common names and no mark; they count only beside weights
     * that are ours. */
    if (!is_shard(name) && !is_published(name))
        return NULL;
    f->n_weights++;
    bool ours = is_published(name)
                    ? list_has(f, name, info)
                    : config_lists(f, name) || header_is_ours(f, name);
    return ours ? NULL : not_ours;
}

/* For a directory with our small files alone: its first entry is named. */
static const char *judge_any(
    void *user, const char *name, const struct stat *info)
{
    (void)user;
    (void)name;
    (void)info;
    return "lies beside no weights that qmoe wrote";
}

/* Files are opened by path here.  Whoever replaces a directory asks once more
 * under its lock (output_swap.c). */
qmoe_status qmi_check_finished(int directory, const char *path, qmi_error *err)
{
    finished f = {.path = path,
        .config = load(path, "config.json"),
        .list = load(path, QMI_EXPORT_NAME)};
    qmoe_status status =
        check_entries(directory, path, judge_finished, &f, err);
    cJSON_Delete(f.config);
    cJSON_Delete(f.list);
    if (status == QMOE_OK && f.n_entries != 0 && f.n_weights == 0)
        status = check_entries(directory, path, judge_any, NULL, err);
    return status;
}

/* ---- interrupted runs ---- */

static const char *judge_interrupted(
    void *user, const char *name, const struct stat *info)
{
    ++*(size_t *)user;
    /* More is asked than of a finished one: each file must be safe to write
     * to. */
    return is_our_name(name) ? qmi_file_fault(info) : not_ours;
}

/* Whether the journal begins like one.  *is_torn: it ends before that is sure,
 * since its writer was killed. */
static qmoe_status check_journal(
    int directory, const char *path, bool *is_torn, qmi_error *err)
{
    static const char head[] = "qmoe-journal ";
    char text[sizeof head - 1];
    qmi_new_file file;
    /* reopen follows no link, waits for no FIFO and refuses what is not this
     * user's. */
    QMI_TRY(qmi_new_file_reopen(&file, directory, QMI_JOURNAL_NAME, path, err));
    ssize_t n = read(file.fd, text, sizeof text);
    qmi_new_file_close(&file);
    if (n < 0)
        return qmi_fail_errno(err, "%s", path);
    *is_torn = n < (ssize_t)sizeof text;
    return memcmp(text, head, (size_t)n) == 0
               ? QMOE_OK
               : qmi_fail(err, QMOE_E_EXISTS, "%s/%s: %s", path,
                     QMI_JOURNAL_NAME, not_ours);
}

qmoe_status qmi_check_interrupted(
    int directory, const char *path, bool *is_empty, qmi_error *err)
{
    struct stat info;
    size_t n_entries = 0;
    bool is_torn = false;
    *is_empty = false;
    if (fstat(directory, &info) != 0)
        return qmi_fail_errno(err, "%s", path);
    /* Another user could change files below our feet. */
    if (info.st_uid != geteuid())
        return qmi_fail(
            err, QMOE_E_EXISTS, "%s: belongs to another user", path);
    QMI_TRY(check_entries(directory, path, judge_interrupted, &n_entries, err));
    *is_empty = n_entries == 0;
    if (*is_empty)
        return QMOE_OK;
    qmoe_status status = check_journal(directory, path, &is_torn, err);
    if (status == QMOE_E_NOT_FOUND)
        return qmi_fail(err, QMOE_E_EXISTS,
            "%s: has no journal of qmoe's, so it is not emptied (move it away "
            "or choose another output)",
            path);
    QMI_TRY(status);
    /* Killed while it wrote the very first line. */
    *is_empty = is_torn && n_entries == 1 &&
                unlinkat(directory, QMI_JOURNAL_NAME, 0) == 0;
    return QMOE_OK;
}

/* ---- what a run wrote ---- */

typedef struct name_list {
    char *const *names;
    size_t n;
} name_list;

/* A linear search: an output has some hundreds of files, and this runs once. */
static const char *judge_only(
    void *user, const char *name, const struct stat *info)
{
    const name_list *list = user;
    (void)info;
    for (size_t i = 0; i < list->n; i++)
        if (strcmp(name, list->names[i]) == 0)
            return NULL;
    return "was not written by this run";
}

qmoe_status qmi_check_only(int directory, const char *path, char *const *names,
    size_t n, qmi_error *err)
{
    name_list list = {names, n};
    return check_entries(directory, path, judge_only, &list, err);
}

/* ---- removal ---- */

/* The journal goes last: until then a crash leaves a directory that is
 * recognised as ours. */
qmoe_status qmi_empty_directory(int directory, const char *path, qmi_error *err)
{
    const char *name = NULL;
    DIR *entries = qmi_open_entries(directory);
    if (entries == NULL)
        return qmi_fail_errno(err, "%s", path);
    qmoe_status status = QMOE_OK;
    for (struct dirent *e;
         status == QMOE_OK && (e = readdir(entries)) != NULL;) {
        name = e->d_name;
        /* Only regular files of our names are in it (qmi_check_interrupted,
         * qmi_check_finished), so unlinking suffices. */
        if (is_dot(name) || strcmp(name, QMI_JOURNAL_NAME) == 0)
            continue;
        if (unlinkat(directory, name, 0) != 0)
            status =
                qmi_fail_errno(err, "%s/%s: cannot be removed", path, name);
    }
    closedir(entries);
    QMI_TRY(status);
    if (unlinkat(directory, QMI_JOURNAL_NAME, 0) != 0 && errno != ENOENT)
        return qmi_fail_errno(
            err, "%s/%s: cannot be removed", path, QMI_JOURNAL_NAME);
    return QMOE_OK;
}
