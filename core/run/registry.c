/* SPDX-License-Identifier: Apache-2.0
 * Built-in backends and loadable modules, in order of preference.  In: the
 * backends that are linked in, and a path for the others.  Out: for each name a
 * backend, or the reason why it is missing.  A module is loaded only if nobody
 * else can have changed it (module_file.h) and if it is of this version; it
 * stays loaded as long as the registry. */
#include "registry.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "alloc.h"
#include "module_file.h"
#include "room.h"

/* Preference order; a name not linked in is looked for as a module. */
static const char *const names[] = {"cuda", "opencl", "cpu", "reference"};
enum { N_NAMES = sizeof names / sizeof *names };

typedef struct entry {
    const qmi_backend *backend;
    void *module;
    char reason[1000]; /* when backend is NULL */
} entry;

struct qmi_registry {
    entry entries[N_NAMES];
};

/* "<folder of the running program>/<name>" */
static bool from_program(char *path, size_t capacity, const char *name)
{
    char program[4096];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (n <= 0)
        return false;
    program[n] = '\0';
    char *slash = strrchr(program, '/');
    if (slash == NULL)
        return false;
    *slash = '\0';
    int length = snprintf(path, capacity, "%s/%s", program, name);
    return length > 0 && (size_t)length < capacity;
}

typedef struct search_path {
    bool is_default;
    size_t n;
    char folders[3][4200]; /* first match wins */
} search_path;

static void find_folders(search_path *path, const char *module_path)
{
    enum { SIZE = sizeof *path->folders };
    /* The caller's word, the user's word, the usual places. */
    if (module_path == NULL)
        module_path = getenv("QMOE_BACKEND_PATH");
    if (module_path != NULL) {
        snprintf(path->folders[path->n++], SIZE, "%s", module_path);
        return;
    }
    path->is_default = true;
    if (from_program(path->folders[path->n], SIZE, "qmoe-backends"))
        path->n++;
#ifdef QMOE_MODULE_DIR
    /* An installation that was moved as a whole. */
    if (from_program(path->folders[path->n], SIZE, "../" QMOE_MODULE_DIR))
        path->n++;
#endif
#ifdef QMOE_INSTALLED_BACKENDS
    snprintf(path->folders[path->n++], SIZE, "%s", QMOE_INSTALLED_BACKENDS);
#endif
}

/* A module brings libraries whose start-up code does not expect to find no
 * memory. */
enum { MODULE_MIB = 64 };

static void load_file(entry *e, const char *name, const char *path)
{
    if (!qmi_module_file_usable(path, e->reason, sizeof e->reason))
        return;
    if (!qmi_has_address_space(MODULE_MIB)) {
        snprintf(
            e->reason, sizeof e->reason, "%.200s: no memory to load it", path);
        return;
    }
    /* All symbols now: a missing one is an error here and not in the middle of
     * a run. */
    e->module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (e->module == NULL) {
        snprintf(e->reason, sizeof e->reason, "%.999s", dlerror());
        return;
    }
    qmi_backend_entry_fn entry_point;
    *(void **)&entry_point = dlsym(e->module, QMI_BACKEND_ENTRY);
    const qmi_backend *backend = entry_point != NULL ? entry_point() : NULL;
    /* Another version has other structs: nothing of it but `api` may be
     * read. */
    if (backend == NULL || backend->api != QMI_BACKEND_API ||
        strcmp(backend->name, name) != 0) {
        snprintf(e->reason, sizeof e->reason,
            "%.200s is not a %s module of this version", path, name);
        dlclose(e->module);
        e->module = NULL;
        return;
    }
    e->backend = backend;
}

/* Where was looked is what the user has to mend. */
static void say_where(entry *e, const char *name, const search_path *path)
{
    int n = snprintf(e->reason, sizeof e->reason, "qmoe-%s.so is not %s", name,
        path->is_default ? "beside the program (looked in"
                         : "there (looked in");
    for (size_t i = 0; i < path->n; i++)
        n += snprintf(e->reason + n, sizeof e->reason - (size_t)n, "%s %.300s",
            i != 0 ? "," : "", path->folders[i]);
    snprintf(e->reason + n, sizeof e->reason - (size_t)n, ")");
}

static void load_module(entry *e, const char *name, const char *module_path)
{
    search_path path = {0};
    find_folders(&path, module_path);
    for (size_t i = 0; i < path.n; i++) {
        char file[4300];
        snprintf(
            file, sizeof file, "%.4199s/qmoe-%s.so", path.folders[i], name);
        if (access(file, F_OK) != 0)
            continue;
        load_file(e, name, file);
        /* The first file of that name is the one: a broken one is told and not
         * passed over. */
        return;
    }
    say_where(e, name, &path);
}

qmoe_status qmi_registry_create(qmi_registry **out,
    const qmi_backend *const *builtin, size_t n_builtin,
    const char *module_path, qmi_error *err)
{
    *out = NULL;
    qmi_registry *registry =
        qmi_calloc(1, sizeof *registry, "the backend list", err);
    if (registry == NULL)
        return QMOE_E_NOMEM;
    for (size_t i = 0; i < N_NAMES; i++) {
        entry *e = &registry->entries[i];
        for (size_t j = 0; j < n_builtin; j++)
            if (strcmp(builtin[j]->name, names[i]) == 0)
                e->backend = builtin[j];
        /* A name that is linked in is not looked for. */
        if (e->backend == NULL)
            load_module(e, names[i], module_path);
    }
    *out = registry;
    return QMOE_OK;
}

void qmi_registry_destroy(qmi_registry *registry)
{
    if (registry == NULL)
        return;
    for (size_t i = 0; i < N_NAMES; i++)
        if (registry->entries[i].module != NULL)
            dlclose(registry->entries[i].module);
    qmi_free(registry);
}

size_t qmi_registry_count(const qmi_registry *registry)
{
    (void)registry;
    return N_NAMES;
}

void qmi_registry_at(const qmi_registry *registry, size_t index,
    const char **name, const qmi_backend **backend, const char **reason)
{
    *name = names[index];
    *backend = registry->entries[index].backend;
    *reason = registry->entries[index].reason;
}

qmoe_status qmi_registry_find(const qmi_registry *registry,
    const qmi_backend **out, const char *name, qmi_error *err)
{
    *out = NULL;
    for (size_t i = 0; i < N_NAMES; i++) {
        const entry *e = &registry->entries[i];
        if (strcmp(names[i], name) != 0)
            continue;
        if (e->backend == NULL)
            return qmi_fail(err, QMOE_E_NO_BACKEND,
                "backend %s is not available: %s", name, e->reason);
        *out = e->backend;
        return QMOE_OK;
    }
    return qmi_fail(err, QMOE_E_INVALID,
        "unknown backend '%s' (known: cuda, opencl, cpu, reference)", name);
}
