/* SPDX-License-Identifier: Apache-2.0
 * Opening of OpenBLAS (blas.h).  In: how many threads will call it.  Out: its
 * functions in qmi_blas, and buffers for all callers.  It reads its environment
 * while it is loaded: it is made to start no threads of its own, and opened a
 * second time with another core type where it takes this processor for an old
 * one.  Everything happens under one lock, and what is done stays for the life
 * of the process. */
#include "blas.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "alloc.h"
#include "room.h"

enum {
    LIBRARY_MIB = 64, /* its segments, and those of the Fortran library */
    BUFFER_MIB = 129, /* what a caller's buffer takes, with alignment */
    MOST_BUFFERS = 50 /* that every build of it can hold */
};

qmi_blas_functions qmi_blas;

/* Written under the lock; `core` and `wanted` are read without it after
 * loading. */
static struct {
    pthread_mutex_t lock;
    void *library;
    void *(*buffer_alloc)(int);
    void (*buffer_free)(void *);
    int n_buffers; /* mapped */
    char core[32];
    const char *wanted;
} state = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- the core type ---- */

/* Names of cores without AVX2, which it falls back to when it does not know a
 * newer processor. */
static bool is_old_core(const char *name)
{
    static const char *const old[] = {"Prescott", "Core2", "Penryn",
        "Dunnington", "Nehalem", "Atom", "Nano", "Opteron", "Opteron_SSE3",
        "Barcelona", "Bobcat", "Sandybridge", "Bulldozer", "Piledriver",
        "Steamroller", "Northwood", "Katmai", "Coppermine", "Banias", "Athlon"};
    for (size_t i = 0; i < sizeof old / sizeof *old; i++)
        if (strcasecmp(name, old[i]) == 0)
            return true;
    return false;
}

static const char *core_wanted(const char *name)
{
#if defined(__x86_64__)
    if (!is_old_core(name) || !__builtin_cpu_supports("avx2"))
        return NULL;
    /* The instruction sets that its kernels of that name use. */
    return __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512dq") &&
                   __builtin_cpu_supports("avx512vl")
               ? "SkylakeX"
               : "Haswell";
#else
    (void)name, (void)is_old_core;
    return NULL;
#endif
}

static void note_core(void)
{
    /* Not in every build of it. */
    char *(*name)(void);
    *(void **)&name = dlsym(state.library, "openblas_get_corename");
    snprintf(
        state.core, sizeof state.core, "%s", name != NULL ? name() : "unknown");
    state.wanted = core_wanted(state.core);
}

/* ---- opening ---- */

/* Sets a variable and returns what it was, or NULL.  The environment belongs to
 * the process: every change is undone by put_back. */
static char *exchange(const char *name, const char *value)
{
    const char *now = getenv(name);
    char *old = now != NULL ? qmi_strdup(now, NULL) : NULL;
    if (value != NULL)
        setenv(name, value, 1);
    else
        unsetenv(name);
    return old;
}

static void put_back(const char *name, char *old)
{
    qmi_free(exchange(name, old));
    qmi_free(old);
}

static void *open_library(void)
{
    static const char *const names[] = {"libopenblas.so.0", "libopenblas.so"};
    const char *named = getenv("QMOE_OPENBLAS");
    /* A file that the user names is the only one that is tried. */
    if (named != NULL)
        return dlopen(named, RTLD_NOW | RTLD_LOCAL);
    void *library = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if ((library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL)) != NULL)
            break;
    return library;
}

static void *open_alone(void)
{
    /* Read while the library is loaded; a program that set it keeps its
     * value. */
    char *threads = exchange("OPENBLAS_NUM_THREADS", "1");
    void *library = open_library();
    put_back("OPENBLAS_NUM_THREADS", threads);
    return library;
}

/* Has no effect where the program itself links against OpenBLAS. */
static void correct_core(void)
{
    /* A core type that the user chose is not corrected. */
    if (state.wanted == NULL || getenv("OPENBLAS_CORETYPE") != NULL)
        return;
    /* Closed first: a library that is open is not loaded again. */
    dlclose(state.library);
    char *old = exchange("OPENBLAS_CORETYPE", state.wanted);
    state.library = open_alone();
    put_back("OPENBLAS_CORETYPE", old);
    if (state.library != NULL)
        note_core();
}

static qmoe_status find_functions(qmi_error *err)
{
#define X(member, symbol) {#symbol, (void **)&qmi_blas.member},
    const struct {
        const char *name;
        void **function;
    } table[] = {QMI_BLAS_MAP(X)};
#undef X
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        *table[i].function = dlsym(state.library, table[i].name);
        if (*table[i].function == NULL)
            return qmi_fail(err, QMOE_E_UNSUPPORTED,
                "OpenBLAS has no function %s: another build of it is needed",
                table[i].name);
    }
    /* Not of its public interface, but of every version. */
    *(void **)&state.buffer_alloc = dlsym(state.library, "blas_memory_alloc");
    *(void **)&state.buffer_free = dlsym(state.library, "blas_memory_free");
    return QMOE_OK;
}

/* One that the program had loaded before may have threads. */
static void use_one_thread(void)
{
    int (*count)(void);
    void (*set)(int);
    *(void **)&count = dlsym(state.library, "openblas_get_num_threads");
    *(void **)&set = dlsym(state.library, "openblas_set_num_threads");
    /* Each caller is a thread of ours already. */
    if (count != NULL && set != NULL && count() != 1)
        set(1);
}

static int n_buffers_for(int n_callers)
{
    return n_callers < MOST_BUFFERS ? n_callers : MOST_BUFFERS;
}

/* Where there is no room OpenBLAS would ask for it again, for ever. */
static qmoe_status check_room(int n_callers, int n_mib, qmi_error *err)
{
    if (qmi_has_address_space((size_t)n_mib))
        return QMOE_OK;
    return qmi_fail(err, QMOE_E_NOMEM,
        "OpenBLAS needs %d MiB of address space for %d thread%s, which the "
        "system refuses (ulimit -v): raise the limit%s",
        n_mib, n_callers, n_callers == 1 ? "" : "s",
        n_callers == 1 ? "" : " or use fewer threads");
}

static qmoe_status open_once(int n_callers, qmi_error *err)
{
    if (state.library != NULL)
        return QMOE_OK;
    QMI_TRY(check_room(
        n_callers, LIBRARY_MIB + n_buffers_for(n_callers) * BUFFER_MIB, err));
    state.library = open_alone();
    if (state.library != NULL) {
        note_core();
        correct_core();
    }
    if (state.library == NULL)
        return qmi_fail(err, QMOE_E_UNSUPPORTED,
            "this needs OpenBLAS, which cannot be loaded (%s): install it "
            "(libopenblas0 on Debian) or name its file in QMOE_OPENBLAS",
            dlerror());
    /* All functions or none: a build that lacks one is of no use. */
    qmoe_status status = find_functions(err);
    if (status != QMOE_OK) {
        dlclose(state.library);
        state.library = NULL;
        return status;
    }
    use_one_thread();
    return QMOE_OK;
}

/* It keeps every buffer it ever mapped, so that later calls map none. */
static qmoe_status map_buffers(int n_callers, qmi_error *err)
{
    void *buffers[MOST_BUFFERS];
    const int n = n_buffers_for(n_callers);
    if (n <= state.n_buffers)
        return QMOE_OK;
    QMI_TRY(check_room(n_callers, (n - state.n_buffers) * BUFFER_MIB, err));
    if (state.buffer_alloc != NULL && state.buffer_free != NULL) {
        /* All at once: one after the other would give the same buffer back each
         * time. */
        for (int i = 0; i < n; i++)
            buffers[i] = state.buffer_alloc(0);
        for (int i = 0; i < n; i++)
            state.buffer_free(buffers[i]);
    }
    state.n_buffers = n;
    return QMOE_OK;
}

qmoe_status qmi_blas_load(int n_callers, qmi_error *err)
{
    /* Two threads that need BLAS for the first time must not open it twice. */
    pthread_mutex_lock(&state.lock);
    qmoe_status status = open_once(n_callers, err);
    if (status == QMOE_OK)
        status = map_buffers(n_callers, err);
    pthread_mutex_unlock(&state.lock);
    return status;
}

const char *qmi_blas_core(void)
{
    return state.core;
}

const char *qmi_blas_core_wanted(void)
{
    return state.wanted;
}
