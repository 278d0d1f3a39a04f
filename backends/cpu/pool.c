/* SPDX-License-Identifier: Apache-2.0
 * The thread pool (pool.h).  One atomic word holds the number of the job and
 * its next item; a thread claims an item by compare-and-swap, which fails once
 * the job has changed.  So a thread that wakes late can neither run an item of
 * a finished job nor delay its end: qcpu_parallel waits for claimed items, not
 * for threads. */
#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "alloc.h"
#include "cancel.h"

/* Rounds of about 20 ns to 50 ns before a thread sleeps: longer than the gaps
 * between the products of a token, shorter than a scheduler's time slice. */
enum { N_SPINS = 2000, MAX_THREADS = 1024 };

#define MAX_ITEMS INT64_C(0xffffffff)

typedef struct job {
    uint32_t number;
    qcpu_work work;
    void *context;
    int64_t n_items;
    const qmi_error *err; /* knows whether items are left out */
} job;

typedef struct worker {
    qcpu_pool *pool;
    pthread_t thread;
    int index;
} worker;

struct qcpu_pool {
    pthread_mutex_t lock; /* of job, stop and the two counters */
    pthread_cond_t posted, finished;
    job job;
    bool stop;
    int n_sleeping;
    bool caller_sleeps;
    int n_workers;
    int n_spins; /* 0 when threads must share processors */
    worker *workers;
    _Alignas(64) _Atomic(uint64_t) ticket; /* job number << 32 | next item */
    _Alignas(64) _Atomic(int64_t) n_done;
};

static void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

/* Claims items [*item, *end): many while many are left, so that threads seldom
 * meet at the ticket, one by one towards the end. */
static bool claim(qcpu_pool *pool, const job *j, int64_t *item, int64_t *end)
{
    const int64_t shares = 2 * ((int64_t)pool->n_workers + 1);
    uint64_t t = atomic_load_explicit(&pool->ticket, memory_order_acquire);
    int64_t n;
    do {
        const int64_t left = j->n_items - (int64_t)(t & 0xffffffff);
        if (t >> 32 != j->number || left <= 0)
            return false;
        n = left / shares > 1 ? left / shares : 1;
    } while (!atomic_compare_exchange_weak_explicit(&pool->ticket, &t,
        t + (uint64_t)n, memory_order_acq_rel, memory_order_acquire));
    *item = (int64_t)(t & 0xffffffff);
    *end = *item + n;
    return true;
}

static void run_items(qcpu_pool *pool, const job *j, int thread)
{
    int64_t item = 0, end = 0, n = 0;
    while (claim(pool, j, &item, &end)) {
        n += end - item;
        for (; item < end && !qmi_cancelled(j->err); item++)
            j->work(j->context, item, thread);
    }
    if (n == 0)
        return;
    int64_t before =
        atomic_fetch_add_explicit(&pool->n_done, n, memory_order_acq_rel);
    if (before + n != j->n_items || thread == 0)
        return;
    pthread_mutex_lock(&pool->lock);
    if (pool->caller_sleeps)
        pthread_cond_signal(&pool->finished);
    pthread_mutex_unlock(&pool->lock);
}

static bool posted(qcpu_pool *pool, uint32_t seen)
{
    return atomic_load_explicit(&pool->ticket, memory_order_acquire) >> 32 !=
           seen;
}

/* The next job after number `seen`; false when the pool closes. */
static bool wait_for_job(qcpu_pool *pool, uint32_t seen, job *out)
{
    for (int i = 0; i < pool->n_spins && !posted(pool, seen); i++)
        pause_briefly();
    pthread_mutex_lock(&pool->lock);
    while (!pool->stop && pool->job.number == seen) {
        pool->n_sleeping++;
        pthread_cond_wait(&pool->posted, &pool->lock);
        pool->n_sleeping--;
    }
    *out = pool->job;
    bool go_on = !pool->stop;
    pthread_mutex_unlock(&pool->lock);
    return go_on;
}

static void *worker_main(void *argument)
{
    const worker *w = argument;
    job j = {0};
    while (wait_for_job(w->pool, j.number, &j))
        run_items(w->pool, &j, w->index);
    return NULL;
}

static job post(qcpu_pool *pool, job j)
{
    pthread_mutex_lock(&pool->lock);
    j.number = pool->job.number + 1;
    pool->job = j;
    atomic_store_explicit(&pool->n_done, 0, memory_order_relaxed);
    atomic_store_explicit(
        &pool->ticket, (uint64_t)j.number << 32, memory_order_release);
    /* No more than there is work for, beside the caller. */
    if (pool->n_sleeping < j.n_items)
        pthread_cond_broadcast(&pool->posted);
    else
        for (int64_t i = 1; i < j.n_items; i++)
            pthread_cond_signal(&pool->posted);
    pthread_mutex_unlock(&pool->lock);
    return j;
}

static bool done(qcpu_pool *pool, int64_t n_items)
{
    return atomic_load_explicit(&pool->n_done, memory_order_acquire) == n_items;
}

static void wait_until_done(qcpu_pool *pool, int64_t n_items)
{
    for (int i = 0; i < pool->n_spins; i++) {
        if (done(pool, n_items))
            return;
        pause_briefly();
    }
    pthread_mutex_lock(&pool->lock);
    pool->caller_sleeps = true;
    while (!done(pool, n_items))
        pthread_cond_wait(&pool->finished, &pool->lock);
    pool->caller_sleeps = false;
    pthread_mutex_unlock(&pool->lock);
}

qmoe_status qcpu_parallel(qcpu_pool *pool, int64_t n_items, qcpu_work work,
    void *context, qmi_error *err)
{
    job j = {.work = work, .context = context, .n_items = n_items, .err = err};
    if (pool->n_workers == 0 || n_items <= 1 || n_items >= MAX_ITEMS) {
        for (int64_t i = 0; i < n_items && !qmi_cancelled(err); i++)
            work(context, i, 0);
        return qmi_check_cancel(err);
    }
    j = post(pool, j);
    run_items(pool, &j, 0);
    wait_until_done(pool, n_items);
    return qmi_check_cancel(err);
}

int qcpu_usable_processors(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    int n = CPU_COUNT(&set);
    return n > 0 ? n : 1;
}

qmoe_status qcpu_pool_open(qcpu_pool **out, int n_threads, qmi_error *err)
{
    *out = NULL;
    if (n_threads < 1 || n_threads > MAX_THREADS)
        return qmi_fail(err, QMOE_E_INVALID,
            "cpu: %d threads; 1 to %d are possible", n_threads, MAX_THREADS);
    qcpu_pool *pool = qmi_calloc(1, sizeof *pool, "a thread pool", err);
    if (pool == NULL)
        return QMOE_E_NOMEM;
    pool->workers = qmi_calloc(
        (size_t)n_threads, sizeof *pool->workers, "a thread pool", err);
    if (pool->workers == NULL) {
        qmi_free(pool);
        return QMOE_E_NOMEM;
    }
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->posted, NULL);
    pthread_cond_init(&pool->finished, NULL);
    if (n_threads <= qcpu_usable_processors())
        pool->n_spins = N_SPINS;
    for (int i = 0; i < n_threads - 1; i++) {
        worker *w = &pool->workers[i];
        *w = (worker){.pool = pool, .index = i + 1};
        if (pthread_create(&w->thread, NULL, worker_main, w) != 0)
            break;
        pool->n_workers++;
    }
    *out = pool;
    return QMOE_OK;
}

void qcpu_pool_close(qcpu_pool *pool)
{
    if (pool == NULL)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->stop = true;
    pthread_cond_broadcast(&pool->posted);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < pool->n_workers; i++)
        pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->finished);
    pthread_cond_destroy(&pool->posted);
    pthread_mutex_destroy(&pool->lock);
    qmi_free(pool->workers);
    qmi_free(pool);
}
