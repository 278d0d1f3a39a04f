/* SPDX-License-Identifier: Apache-2.0
 * The loop of the compressor, in the implementation that QMOE_THREADS names
 * (each is a ctest): every item once, the watcher on the calling thread, both
 * ways to end early. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>
#include <cmocka.h>

#include "cancel.h"
#include "parallel.h"

enum { N_ITEMS = 200, N_THREADS = 3 };

typedef struct tally {
    _Atomic(int) times[N_ITEMS];
    _Atomic(int) n, n_told; /* items; those that saw the wish */
    _Atomic(int) n_wrong;   /* done by the caller; two under one number */
    _Atomic(int) busy[N_THREADS];
    pthread_t caller;
    qmi_error *err;
    int n_watched, stop_at; /* calls of the watcher */
    long sleep_ms;
} tally;

static void work(void *user, int64_t item, int thread)
{
    tally *t = user;
    assert_true(thread >= 0 && thread < N_THREADS);
    t->n_wrong += pthread_equal(t->caller, pthread_self()) != 0;
    t->n_wrong += t->busy[thread]++ != 0;
    t->times[item]++;
    t->n++;
    if (t->sleep_ms != 0)
        nanosleep(&(struct timespec){.tv_nsec = t->sleep_ms * 1000000}, NULL);
    t->n_told += qmi_cancelled(t->err);
    t->busy[thread]--;
}

static qmoe_status watch(void *user)
{
    tally *t = user;
    assert_true(pthread_equal(t->caller, pthread_self()));
    return ++t->n_watched == t->stop_at ? QMOE_E_IO : QMOE_OK;
}

static qmoe_status run(tally *t, int n_threads)
{
    const qmi_loop loop = {.n_threads = n_threads,
        .n_items = N_ITEMS,
        .work = work,
        .watch = watch,
        .user = t};
    t->caller = pthread_self();
    return qmi_parallel(&loop, t->err);
}

static void test_loop(void **state)
{
    (void)state;
    for (int n_threads = 1; n_threads <= N_THREADS; n_threads++) {
        tally t = {.sleep_ms = n_threads == N_THREADS};
        assert_int_equal(run(&t, n_threads), QMOE_OK);
        for (int i = 0; i < N_ITEMS; i++)
            assert_int_equal(t.times[i], 1);
        assert_int_equal(t.n_wrong, 0);
    }
}

static void test_loop_is_watched_and_ended(void **state)
{
    struct qmi_cancel cancel = {.wanted = false};
    qmi_error err = {.cancel = &cancel};
    tally t = {.err = &err, .stop_at = 2, .sleep_ms = 50};
    (void)state;
    assert_int_equal(run(&t, N_THREADS), QMOE_E_IO);
    assert_int_equal(t.n_watched, 2);
    assert_int_equal(t.n_wrong, 0);
    assert_true(t.n > 0 && t.n < N_ITEMS);
    assert_true(t.n_told > 0);
    /* Of the call that has ended nothing is left. */
    assert_false(qmi_cancelled(&err));
    atomic_store(&cancel.wanted, true);
    tally none = {.err = &err};
    assert_int_equal(run(&none, N_THREADS), QMOE_E_CANCELLED);
    assert_int_equal(none.n, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loop),
        cmocka_unit_test(test_loop_is_watched_and_ended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
