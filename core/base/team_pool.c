/* SPDX-License-Identifier: Apache-2.0
 * Threads of our own for team.h.  In: one job after another.  Out: its part run
 * by the caller and by every thread that came in time.
 * One atomic word, the gate, holds the number of the job, whether it is open,
 * and how many threads are inside.  A thread enters by compare-and-swap, which
 * fails once the caller has closed the job; the caller waits for those inside.
 * So a thread that the system does not run delays nothing and finds no job that
 * has ended.  The job itself changes only while nobody is inside.
 * Idle threads spin shortly, then sleep: a busy machine is not made busier.
 * Where there are more threads than processors they sleep at once. */
#include "team_kind.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "alloc.h"
#include "room.h"

/* Rounds of about 20 ns to 50 ns before a thread sleeps: longer than the gaps
 * between the products of a token, shorter than a scheduler's time slice. */
enum { N_SPINS = 2000 };

/* The gate: job number << 32 | open | threads inside beside the caller. */
static const uint64_t open_bit = UINT64_C(1) << 31,
                      inside_bits = (UINT64_C(1) << 31) - 1;

typedef struct pool pool;

typedef struct worker {
    pool *pool;
    pthread_t thread;
    int index;
    uint32_t seen; /* number of the last job it was at */
} worker;

struct pool {
    int n_workers;
    int n_spins; /* 0 when threads must share processors */
    worker *workers;
    pthread_mutex_t lock; /* of those who sleep */
    pthread_cond_t opened, left;
    bool stop; /* with the lock */
    _Atomic(int) n_sleeping;
    atomic_bool caller_sleeps;
    /* The open job, beside the gate: one cache line carries both. */
    _Alignas(64) _Atomic(uint64_t) gate;
    qmi_team_part part;
    void *context;
};

static void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

/* ---- a worker ---- */

static bool is_new(uint64_t gate, uint32_t seen)
{
    return (gate & open_bit) != 0 && (uint32_t)(gate >> 32) != seen;
}

static bool enter(worker *w)
{
    uint64_t gate = atomic_load(&w->pool->gate);
    do {
        if (!is_new(gate, w->seen))
            return false;
    } while (!atomic_compare_exchange_weak(&w->pool->gate, &gate, gate + 1));
    w->seen = (uint32_t)(gate >> 32);
    return true;
}

/* The last one out of a closed job wakes the caller. */
static void leave(pool *p)
{
    const uint64_t before = atomic_fetch_sub(&p->gate, 1);
    if ((before & (open_bit | inside_bits)) != 1 ||
        !atomic_load(&p->caller_sleeps))
        return;
    pthread_mutex_lock(&p->lock);
    pthread_cond_signal(&p->left);
    pthread_mutex_unlock(&p->lock);
}

/* Until there is a job to enter; false when the pool closes.  The caller opens
 * the gate and then looks for sleepers, a worker counts itself as one and then
 * looks at the gate: one of them sees the other. */
static bool wait_for_job(worker *w)
{
    pool *p = w->pool;
    for (int i = 0; i < p->n_spins; i++) {
        if (is_new(
                atomic_load_explicit(&p->gate, memory_order_relaxed), w->seen))
            return true;
        pause_briefly();
    }
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->n_sleeping, 1);
    while (!p->stop && !is_new(atomic_load(&p->gate), w->seen))
        pthread_cond_wait(&p->opened, &p->lock);
    atomic_fetch_sub(&p->n_sleeping, 1);
    const bool go_on = !p->stop;
    pthread_mutex_unlock(&p->lock);
    return go_on;
}

static void *worker_main(void *argument)
{
    worker *w = argument;
    pool *p = w->pool;
    while (wait_for_job(w)) {
        if (!enter(w))
            continue;
        p->part(p->context, w->index, p->n_workers + 1);
        leave(p);
    }
    return NULL;
}

/* ---- the caller ---- */

/* No more than are of use beside the caller. */
static void wake(pool *p, int64_t n_useful)
{
    const int n_sleeping = atomic_load(&p->n_sleeping);
    if (n_sleeping == 0)
        return;
    pthread_mutex_lock(&p->lock);
    if (n_sleeping < n_useful)
        pthread_cond_broadcast(&p->opened);
    else
        for (int64_t i = 1; i < n_useful; i++)
            pthread_cond_signal(&p->opened);
    pthread_mutex_unlock(&p->lock);
}

static bool is_empty(pool *p)
{
    return (atomic_load(&p->gate) & inside_bits) == 0;
}

static void wait_until_empty(pool *p)
{
    for (int i = 0; i < p->n_spins; i++) {
        if (is_empty(p))
            return;
        pause_briefly();
    }
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->caller_sleeps, true);
    while (!is_empty(p))
        pthread_cond_wait(&p->left, &p->lock);
    atomic_store(&p->caller_sleeps, false);
    pthread_mutex_unlock(&p->lock);
}

static void run(
    void *threads, int64_t n_useful, qmi_team_part part, void *context)
{
    pool *p = threads;
    const uint64_t number = (atomic_load(&p->gate) >> 32) + 1;
    p->part = part;
    p->context = context;
    atomic_store(&p->gate, number << 32 | open_bit);
    wake(p, n_useful);
    part(context, 0, p->n_workers + 1);
    atomic_fetch_and(&p->gate, ~open_bit);
    wait_until_empty(p);
}

/* ---- opening ---- */

static void close_pool(void *threads)
{
    pool *p = threads;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->opened);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->n_workers; i++)
        pthread_join(p->workers[i].thread, NULL);
    pthread_cond_destroy(&p->left);
    pthread_cond_destroy(&p->opened);
    pthread_mutex_destroy(&p->lock);
    qmi_free(p->workers);
    qmi_free(p);
}

static int start_workers(pool *p, int n)
{
    for (int i = 0; i < n; i++) {
        worker *w = &p->workers[i];
        *w = (worker){.pool = p, .index = i + 1};
        if (pthread_create(&w->thread, NULL, worker_main, w) != 0)
            return i;
    }
    return n;
}

static qmoe_status open_pool(void **out, int n_threads, qmi_error *err)
{
    pool *p = qmi_calloc(1, sizeof *p, "a thread pool", err);
    if (p == NULL)
        return QMOE_E_NOMEM;
    p->workers = qmi_calloc(
        (size_t)n_threads - 1, sizeof *p->workers, "a thread pool", err);
    if (p->workers == NULL) {
        qmi_free(p);
        return QMOE_E_NOMEM;
    }
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->opened, NULL);
    pthread_cond_init(&p->left, NULL);
    if (n_threads <= qmi_usable_processors())
        p->n_spins = N_SPINS;
    p->n_workers = start_workers(p, n_threads - 1);
    if (p->n_workers != 0)
        *out = p;
    else
        close_pool(p);
    return QMOE_OK;
}

const qmi_team_kind qmi_team_pool = {
    .name = "pool",
    .open = open_pool,
    .close = close_pool,
    .run = run,
    .default_threads = qmi_usable_processors,
};
