/* SPDX-License-Identifier: Apache-2.0
 * Jobs for a team (team.h).  In: a number of items and what to do with one.
 * Out: every item done once, or a wish to end early heard.  What all
 * implementations share is here: how items are shared out, that jobs do not
 * nest, and which implementation is used.
 * Invariant: an item belongs to the thread whose compare-and-swap moved `next`
 * past it, and a thread that has come holds no job open without work. */
#include "team.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "cancel.h"

struct qmi_team {
    const qmi_team_kind *kind;
    void *threads; /* NULL: the caller is alone */
};

/* ---- the implementation in use ---- */

/* All there are; the first is the default. */
static const struct {
    const char *name;
    const qmi_team_kind *kind; /* NULL: not in this build */
} kinds[] = {
    {"pool", &qmi_team_pool},
#ifdef QMOE_HAVE_OPENMP
    {"openmp", &qmi_team_openmp},
#else
    {"openmp", NULL},
#endif
};

enum { N_KINDS = sizeof kinds / sizeof *kinds };

static pthread_once_t once = PTHREAD_ONCE_INIT;
static const qmi_team_kind *used;
static char fault[128]; /* of QMOE_THREADS; "": none */

static void choose(void)
{
    const char *name = getenv("QMOE_THREADS");
    int i = 0;
    used = kinds[0].kind;
    while (name != NULL && i < N_KINDS && strcmp(name, kinds[i].name) != 0)
        i++;
    if (i == N_KINDS)
        snprintf(fault, sizeof fault,
            "QMOE_THREADS: '%.40s' is neither pool nor openmp", name);
    else if (kinds[i].kind == NULL)
        snprintf(fault, sizeof fault,
            "QMOE_THREADS: this build has no '%s' (CMake option QMOE_OPENMP)",
            name);
    else
        used = kinds[i].kind;
}

static const qmi_team_kind *kind_in_use(void)
{
    pthread_once(&once, choose);
    return used;
}

qmoe_status qmi_team_check_kind(qmi_error *err)
{
    (void)kind_in_use();
    if (fault[0] != '\0')
        return qmi_fail(err, QMOE_E_INVALID, "%s", fault);
    return QMOE_OK;
}

const char *qmi_team_kind_name(void)
{
    return kind_in_use()->name;
}

int qmi_default_threads(void)
{
    const int n = kind_in_use()->default_threads();
    return n < QMI_MOST_THREADS ? n : QMI_MOST_THREADS;
}

/* ---- teams ---- */

qmoe_status qmi_team_open(qmi_team **out, int n_threads, qmi_error *err)
{
    const qmi_team_kind *kind = kind_in_use();
    *out = NULL;
    QMI_TRY(qmi_team_check_kind(err));
    if (n_threads < 1 || n_threads > QMI_MOST_THREADS)
        return qmi_fail(err, QMOE_E_INVALID, "%d threads; 1 to %d are possible",
            n_threads, QMI_MOST_THREADS);
    qmi_team *team = qmi_calloc(1, sizeof *team, "threads", err);
    if (team == NULL)
        return QMOE_E_NOMEM;
    team->kind = kind;
    if (n_threads > 1) {
        qmoe_status status = kind->open(&team->threads, n_threads, err);
        if (status != QMOE_OK) {
            qmi_free(team);
            return status;
        }
    }
    *out = team;
    return QMOE_OK;
}

void qmi_team_close(qmi_team *team)
{
    if (team != NULL && team->threads != NULL)
        team->kind->close(team->threads);
    qmi_free(team);
}

/* ---- jobs ---- */

/* Is this thread at work on a job? */
static _Thread_local bool is_inside;

typedef struct job {
    qmi_team_part part;
    void *context;
} job;

static void run_part(void *context, int thread, int n_threads)
{
    const job *j = context;
    is_inside = true;
    j->part(j->context, thread, n_threads);
    is_inside = false;
}

void qmi_team_each(
    qmi_team *team, int64_t n_useful, qmi_team_part part, void *context)
{
    job j = {part, context};
    if (team->threads == NULL || is_inside)
        part(context, 0, 1);
    else
        team->kind->run(team->threads, n_useful, run_part, &j);
}

typedef struct items {
    _Alignas(64) _Atomic(int64_t) next;
    _Alignas(64) int64_t n;
    qmi_task task;
    void *context;
    const qmi_error *err;
} items;

/* Takes items [*item, *end): many while many are left, so that threads seldom
 * meet at `next`, one by one towards the end. */
static bool claim(items *all, int n_threads, int64_t *item, int64_t *end)
{
    const int64_t shares = 2 * (int64_t)n_threads;
    int64_t next = atomic_load_explicit(&all->next, memory_order_relaxed);
    int64_t n;
    do {
        const int64_t left = all->n - next;
        if (left <= 0)
            return false;
        n = left / shares > 1 ? left / shares : 1;
    } while (!atomic_compare_exchange_weak_explicit(&all->next, &next, next + n,
        memory_order_relaxed, memory_order_relaxed));
    *item = next;
    *end = next + n;
    return true;
}

static void run_items(void *context, int thread, int n_threads)
{
    items *all = context;
    int64_t item = 0, end = 0;
    while (claim(all, n_threads, &item, &end))
        for (; item < end && !qmi_cancelled(all->err); item++)
            all->task(all->context, item, thread);
}

qmoe_status qmi_team_run(qmi_team *team, int64_t n_items, qmi_task task,
    void *context, qmi_error *err)
{
    items all = {.n = n_items, .task = task, .context = context, .err = err};
    if (n_items <= 1)
        run_items(&all, 0, 1);
    else
        qmi_team_each(team, n_items, run_items, &all);
    return qmi_check_cancel(err);
}
