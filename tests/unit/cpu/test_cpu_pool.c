/* SPDX-License-Identifier: Apache-2.0
 * The CPU backend's thread pool: every item exactly once, by a thread number
 * in range and never by two at once under the same number, for many short jobs
 * and for several pools at the same time.  Run under the thread sanitizer. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "pool.h"

enum { N_THREADS = 4, MOST_THREADS = 64 };
enum { N_ITEMS = 1000, N_JOBS = 2000, N_POOLS = 3 };

typedef struct tally {
    _Atomic(int) times[N_ITEMS];
    _Atomic(int) busy[MOST_THREADS];
    _Atomic(int) n_wrong;
    int64_t plain[N_ITEMS]; /* not atomic: the pool must order it */
} tally;

static void count(void *context, int64_t item, int thread)
{
    tally *t = context;
    if (item < 0 || item >= N_ITEMS || thread < 0 || thread >= MOST_THREADS) {
        atomic_fetch_add(&t->n_wrong, 1);
        return;
    }
    if (atomic_fetch_add(&t->busy[thread], 1) != 0)
        atomic_fetch_add(&t->n_wrong, 1);
    atomic_fetch_add(&t->times[item], 1);
    t->plain[item] += item;
    atomic_fetch_sub(&t->busy[thread], 1);
}

static qcpu_pool *open_pool(int n_threads)
{
    qcpu_pool *pool = NULL;
    qmi_error err = {0};
    assert_int_equal(qcpu_pool_open(&pool, n_threads, &err), QMOE_OK);
    assert_non_null(pool);
    return pool;
}

static int wrong_items(const tally *t, int64_t n_items, int times)
{
    int n = 0;
    for (int64_t i = 0; i < N_ITEMS; i++)
        n += t->times[i] != (i < n_items ? times : 0);
    return n;
}

static void test_every_item_once(void **state)
{
    (void)state;
    static const int64_t counts[] = {0, 1, 2, 3, 17, N_ITEMS};
    for (int n_threads = 1; n_threads <= N_THREADS; n_threads++) {
        qcpu_pool *pool = open_pool(n_threads);
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            tally t = {0};
            assert_int_equal(
                qcpu_parallel(pool, counts[i], count, &t, NULL), QMOE_OK);
            assert_int_equal(wrong_items(&t, counts[i], 1), 0);
            assert_int_equal(t.n_wrong, 0);
        }
        qcpu_pool_close(pool);
    }
}

/* Results of one job are visible to the next, whoever runs it. */
static void run_many(qcpu_pool *pool, tally *t)
{
    for (int i = 0; i < N_JOBS; i++)
        (void)qcpu_parallel(pool, 1 + i % 7, count, t, NULL);
}

static void test_many_short_jobs(void **state)
{
    (void)state;
    tally t = {0};
    qcpu_pool *pool = open_pool(N_THREADS);
    run_many(pool, &t);
    qcpu_pool_close(pool);
    assert_int_equal(t.n_wrong, 0);
    assert_int_equal(t.times[0], N_JOBS);
    assert_int_equal(t.times[6], N_JOBS / 7);
    assert_int_equal(t.plain[6], 6 * (N_JOBS / 7));
}

/* Threads that must wait for a processor neither lose work nor spin. */
static void test_more_threads_than_processors(void **state)
{
    (void)state;
    tally t = {0};
    qcpu_pool *pool = open_pool(MOST_THREADS);
    run_many(pool, &t);
    qcpu_pool_close(pool);
    assert_true(qcpu_usable_processors() >= 1);
    assert_int_equal(t.n_wrong, 0);
    assert_int_equal(t.times[0], N_JOBS);
    assert_int_equal(t.plain[6], 6 * (N_JOBS / 7));
}

static void *pool_main(void *argument)
{
    tally *t = argument;
    qcpu_pool *pool = NULL;
    if (qcpu_pool_open(&pool, N_THREADS, NULL) != QMOE_OK) {
        atomic_fetch_add(&t->n_wrong, 1);
        return NULL;
    }
    run_many(pool, t);
    qcpu_pool_close(pool);
    return NULL;
}

static void test_pools_side_by_side(void **state)
{
    (void)state;
    static tally tallies[N_POOLS];
    pthread_t threads[N_POOLS];
    for (int i = 0; i < N_POOLS; i++)
        assert_int_equal(
            pthread_create(&threads[i], NULL, pool_main, &tallies[i]), 0);
    for (int i = 0; i < N_POOLS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(tallies[i].n_wrong, 0);
        assert_int_equal(tallies[i].times[0], N_JOBS);
    }
}

static void test_bad_counts_fail(void **state)
{
    (void)state;
    static const int bad[] = {0, -1, 100000};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        qcpu_pool *pool = (qcpu_pool *)(void *)&i;
        qmi_error err = {0};
        assert_int_equal(qcpu_pool_open(&pool, bad[i], &err), QMOE_E_INVALID);
        assert_null(pool);
        assert_int_not_equal(err.text[0], '\0');
    }
    qcpu_pool_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_item_once),
        cmocka_unit_test(test_many_short_jobs),
        cmocka_unit_test(test_more_threads_than_processors),
        cmocka_unit_test(test_pools_side_by_side),
        cmocka_unit_test(test_bad_counts_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
