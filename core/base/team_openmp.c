/* SPDX-License-Identifier: Apache-2.0
 * OpenMP's threads for team.h.  In: one job after another.  Out: its part run
 * by every thread of a parallel region.
 * OpenMP keeps one set of threads per thread that begins regions and uses it
 * for all of them, those of the program that embeds us, too: so teams hold
 * none.  Inside a region of the program ours has one thread, as levels beyond
 * the first are off by default (OMP_MAX_ACTIVE_LEVELS).
 * Where the system refuses a thread OpenMP ends the process.  So it is asked
 * how many can be started when a team is opened; what it refuses later is not
 * heard of. */
#include "team_kind.h"

#include <dlfcn.h>
#include <omp.h>

#include "alloc.h"
#include "room.h"

/* The thread sanitizer cannot see what a region orders, for OpenMP's libraries
 * are not instrumented: what came before a region comes before its parts, and
 * they before what follows. */
#if defined(__SANITIZE_THREAD__)
#define WITH_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define WITH_TSAN 1
#endif
#endif
#ifdef WITH_TSAN
#include <sanitizer/tsan_interface.h>
#define IS_AFTER(place) __tsan_acquire(place)
#define IS_BEFORE(place) __tsan_release(place)
#else
#define IS_AFTER(place) (void)(place)
#define IS_BEFORE(place) (void)(place)
#endif

typedef struct team {
    int n_threads;
    char begin, end; /* places of the order, for the thread sanitizer */
} team;

static __attribute__((noinline)) void run_part(
    team *t, qmi_team_part part, void *context)
{
    IS_AFTER(&t->begin);
    part(context, omp_get_thread_num(), omp_get_num_threads());
    IS_BEFORE(&t->end);
}

/* Not instrumented: it does nothing but pass its arguments on. */
static __attribute__((noinline, no_sanitize("thread"))) void run_region(
    team *t, qmi_team_part part, void *context)
{
    const int n = t->n_threads;
#pragma omp parallel num_threads(n) default(none) firstprivate(t, part, context)
    run_part(t, part, context);
}

static void run(
    void *threads, int64_t n_useful, qmi_team_part part, void *context)
{
    team *t = threads;
    /* Regions of one size: OpenMP starts and ends threads when it changes. */
    (void)n_useful;
    IS_BEFORE(&t->begin);
    run_region(t, part, context);
    IS_AFTER(&t->end);
}

/* The threads outlive us where we are part of a library that is closed. */
static void keep_library(void)
{
    int (*function)(void) = omp_get_max_threads;
    Dl_info info;
    if (dladdr(*(void **)&function, &info) != 0 && info.dli_fname != NULL)
        (void)dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
}

static qmoe_status open_team(void **out, int n_threads, qmi_error *err)
{
    const int n = qmi_startable_threads(n_threads);
    if (n == 1)
        return QMOE_OK;
    team *t = qmi_calloc(1, sizeof *t, "threads", err);
    if (t == NULL)
        return QMOE_E_NOMEM;
    keep_library();
    t->n_threads = n;
    *out = t;
    return QMOE_OK;
}

static void close_team(void *threads)
{
    qmi_free(threads);
}

static int default_threads(void)
{
    return omp_get_max_threads();
}

const qmi_team_kind qmi_team_openmp = {
    .name = "openmp",
    .open = open_team,
    .close = close_team,
    .run = run,
    .default_threads = default_threads,
};
