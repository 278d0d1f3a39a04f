/* SPDX-License-Identifier: Apache-2.0
 * The loop behind parallel.h: a job of a team (team.h) whose caller watches.
 * In: items and a function for each.  Out: all of them done, or the reason why
 * not.  Threads take the next item when they are free, so items begin in order
 * but end in any; whoever needs an order writes results by item number.
 * Invariant: the caller's part lasts until every item is done or the loop is to
 * end. */
#include "parallel.h"

#include <pthread.h>
#include <time.h>

#include "team.h"

enum { WATCH_MS = 100 };

typedef struct crew {
    const qmi_loop *loop;
    const qmi_error *err;
    _Atomic(int64_t) next;
    atomic_bool stop;
    qmoe_status status;   /* what the watcher returned */
    pthread_mutex_t lock; /* of n_done */
    pthread_cond_t ended; /* an item that was the last, or a thread's work */
    int64_t n_done;
} crew;

static bool is_over(const crew *c)
{
    return atomic_load(&c->stop) || qmi_cancelled(c->err);
}

/* The next item, if there is one.  Whether the loop is over is asked before
 * each item, not within: `work` asks for itself. */
static bool take(crew *c, int64_t *item)
{
    if (is_over(c))
        return false;
    *item = atomic_fetch_add(&c->next, 1);
    return *item < c->loop->n_items;
}

static void count_done(crew *c, int n)
{
    pthread_mutex_lock(&c->lock);
    c->n_done += n;
    if (n == 0 || c->n_done == c->loop->n_items)
        pthread_cond_signal(&c->ended);
    pthread_mutex_unlock(&c->lock);
}

static void do_items(crew *c, int thread)
{
    int64_t item;
    while (take(c, &item)) {
        c->loop->work(c->loop->user, item, thread);
        count_done(c, 1);
    }
    count_done(c, 0); /* the caller looks whether the loop is over */
}

/* Lets threads that are at an item know. */
static void watch(crew *c)
{
    if (c->loop->watch != NULL)
        c->status = c->loop->watch(c->loop->user);
    if (c->status == QMOE_OK)
        return;
    atomic_store(&c->stop, true);
    if (c->err != NULL && c->err->cancel != NULL)
        atomic_store(&c->err->cancel->ending, true);
}

static struct timespec soon(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += WATCH_MS * 1000000L;
    t.tv_sec += t.tv_nsec / 1000000000L;
    t.tv_nsec %= 1000000000L;
    return t;
}

static void watch_items(crew *c)
{
    pthread_mutex_lock(&c->lock);
    while (c->n_done != c->loop->n_items && !is_over(c)) {
        const struct timespec until = soon();
        pthread_cond_timedwait(&c->ended, &c->lock, &until);
        if (c->n_done == c->loop->n_items)
            break;
        /* The hook may take its time, and threads must be able to end
         * meanwhile. */
        pthread_mutex_unlock(&c->lock);
        watch(c);
        pthread_mutex_lock(&c->lock);
    }
    pthread_mutex_unlock(&c->lock);
}

/* No thread could be started: slower, but not a failure. */
static void run_alone(crew *c)
{
    int64_t item;
    while (take(c, &item)) {
        c->loop->work(c->loop->user, item, 0);
        watch(c);
    }
}

static void run_part(void *context, int thread, int n_threads)
{
    crew *c = context;
    if (thread != 0)
        do_items(c, thread - 1);
    else if (n_threads > 1)
        watch_items(c);
    else
        run_alone(c);
}

qmoe_status qmi_parallel(const qmi_loop *loop, qmi_error *err)
{
    crew c = {.loop = loop, .err = err};
    qmi_team *team = NULL;
    int n = loop->n_threads < 1 ? 1 : loop->n_threads;
    n = n < QMI_MOST_THREADS ? n : QMI_MOST_THREADS - 1;
    if (n > loop->n_items)
        n = (int)loop->n_items;
    if (n == 0)
        return qmi_check_cancel(err);
    QMI_TRY(qmi_team_open(&team, n + 1, err));
    pthread_mutex_init(&c.lock, NULL);
    pthread_cond_init(&c.ended, NULL);
    qmi_team_each(team, n + 1, run_part, &c);
    pthread_cond_destroy(&c.ended);
    pthread_mutex_destroy(&c.lock);
    qmi_team_close(team);
    if (err != NULL && err->cancel != NULL)
        atomic_store(&err->cancel->ending, false);
    /* A wish to end that came last is not lost, even if all items were done. */
    return c.status != QMOE_OK ? c.status : qmi_check_cancel(err);
}
