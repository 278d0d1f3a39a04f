/* SPDX-License-Identifier: Apache-2.0
 * In: items and a function for each.  Out: all of them done, or the reason why
 * not.  Threads take the next item when they are free, so items begin in order
 * but end in any; whoever needs an order writes results by item number.  The
 * calling thread only watches. */
#include "parallel.h"

#include <pthread.h>
#include <time.h>

#include "alloc.h"

/* Ten times a second: fast enough for people, too rare to cost anything. */
enum { WATCH_MS = 100 };

typedef struct crew {
    const qmi_loop *loop;
    const qmi_error *err;
    _Atomic(int64_t) next;
    atomic_bool stop;
    pthread_mutex_t lock; /* of n_busy */
    pthread_cond_t ended;
    int n_busy;
} crew;

typedef struct member {
    crew *crew;
    int index;
    pthread_t thread;
} member;

/* The next item, if there is one. */
static bool take(crew *c, int64_t *item)
{
    /* Asked before each item, not within: `work` asks for itself. */
    if (atomic_load(&c->stop) || qmi_cancelled(c->err))
        return false;
    /* Past the end for each thread once, which is harmless. */
    *item = atomic_fetch_add(&c->next, 1);
    return *item < c->loop->n_items;
}

static void *member_main(void *argument)
{
    const member *m = argument;
    crew *c = m->crew;
    int64_t item;
    while (take(c, &item))
        c->loop->work(c->loop->user, item, m->index);
    /* n_busy is under the lock, so that the waiter cannot miss the last
     * signal. */
    pthread_mutex_lock(&c->lock);
    c->n_busy--;
    pthread_cond_signal(&c->ended);
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

static qmoe_status watch(const crew *c)
{
    return c->loop->watch != NULL ? c->loop->watch(c->loop->user) : QMOE_OK;
}

/* Lets threads that are at an item know. */
static void end_early(crew *c)
{
    atomic_store(&c->stop, true);
    if (c->err != NULL && c->err->cancel != NULL)
        atomic_store(&c->err->cancel->ending, true);
}

static struct timespec soon(void)
{
    /* pthread_cond_timedwait wants a point of the wall clock; if that jumps,
     * one report is early or late. */
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += WATCH_MS * 1000000L;
    t.tv_sec += t.tv_nsec / 1000000000L;
    t.tv_nsec %= 1000000000L;
    return t;
}

/* Until all threads have ended. */
static qmoe_status wait_watching(crew *c)
{
    qmoe_status status = QMOE_OK;
    pthread_mutex_lock(&c->lock);
    while (c->n_busy != 0) {
        const struct timespec until = soon();
        pthread_cond_timedwait(&c->ended, &c->lock, &until);
        /* After a failure of the watch nobody is asked any more: threads finish
         * the items they are at. */
        if (c->n_busy == 0 || status != QMOE_OK)
            continue;
        /* The hook may take its time, and threads must be able to end
         * meanwhile. */
        pthread_mutex_unlock(&c->lock);
        status = watch(c);
        if (status != QMOE_OK)
            end_early(c);
        pthread_mutex_lock(&c->lock);
    }
    pthread_mutex_unlock(&c->lock);
    return status;
}

/* No thread could be started: slower, but not a failure. */
static qmoe_status run_alone(crew *c)
{
    int64_t item;
    while (take(c, &item)) {
        c->loop->work(c->loop->user, item, 0);
        QMI_TRY(watch(c));
    }
    return QMOE_OK;
}

/* Counted before it starts: a thread may end before pthread_create returns. */
static int start(crew *c, member *members, int n)
{
    int n_started = 0;
    for (; n_started < n; n_started++) {
        member *m = &members[n_started];
        *m = (member){.crew = c, .index = n_started};
        pthread_mutex_lock(&c->lock);
        c->n_busy++;
        pthread_mutex_unlock(&c->lock);
        if (pthread_create(&m->thread, NULL, member_main, m) == 0)
            continue;
        pthread_mutex_lock(&c->lock);
        c->n_busy--;
        pthread_mutex_unlock(&c->lock);
        break;
    }
    return n_started;
}

static qmoe_status run_crew(crew *c, member *members, int n)
{
    const int n_started = start(c, members, n);
    if (n_started == 0)
        return run_alone(c);
    qmoe_status status = wait_watching(c);
    for (int i = 0; i < n_started; i++)
        pthread_join(members[i].thread, NULL);
    /* The wish was of this loop alone; the next one starts without it. */
    if (c->err != NULL && c->err->cancel != NULL)
        atomic_store(&c->err->cancel->ending, false);
    return status;
}

qmoe_status qmi_parallel(const qmi_loop *loop, qmi_error *err)
{
    crew c = {.loop = loop, .err = err};
    int n = loop->n_threads < 1 ? 1 : loop->n_threads;
    if (n > loop->n_items)
        n = (int)loop->n_items;
    if (n == 0)
        return qmi_check_cancel(err);
    member *members = qmi_calloc((size_t)n, sizeof *members, "threads", err);
    if (members == NULL)
        return QMOE_E_NOMEM;
    pthread_mutex_init(&c.lock, NULL);
    pthread_cond_init(&c.ended, NULL);
    qmoe_status status = run_crew(&c, members, n);
    pthread_cond_destroy(&c.ended);
    pthread_mutex_destroy(&c.lock);
    qmi_free(members);
    /* A wish to end that came last is not lost, even if all items were done. */
    return status != QMOE_OK ? status : qmi_check_cancel(err);
}
