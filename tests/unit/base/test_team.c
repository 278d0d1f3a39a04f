/* SPDX-License-Identifier: Apache-2.0
 * Threads for jobs, in the implementation that QMOE_THREADS names (each is a
 * ctest): every item exactly once, by a thread number in range and never by two
 * at once under the same number; short, uneven, nested and cancelled jobs;
 * teams side by side; how many threads the process gets.  Run under the thread
 * sanitizer, too. */
#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "cancel.h"
#include "clock.h"
#include "room.h"
#include "team.h"

enum { N_THREADS = 4, MOST_THREADS = 64 };
enum { N_ITEMS = 1000, N_JOBS = 2000, N_TEAMS = 3 };

typedef struct tally {
    _Atomic(int) times[N_ITEMS];
    _Atomic(int) busy[MOST_THREADS];
    _Atomic(int) n_wrong;
    int64_t plain[N_ITEMS]; /* not atomic: the team must order it */
    _Atomic(int) n_here;
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

static qmi_team *open_team(int n_threads)
{
    qmi_team *team = NULL;
    qmi_error err = {0};
    assert_int_equal(qmi_team_open(&team, n_threads, &err), QMOE_OK);
    assert_non_null(team);
    return team;
}

static int wrong_items(const tally *t, int64_t n_items, int times)
{
    int n = 0;
    for (int64_t i = 0; i < N_ITEMS; i++)
        n += t->times[i] != (i < n_items ? times : 0);
    return n;
}

static void keep_busy(double seconds)
{
    const double end = qmi_thread_seconds() + seconds;
    while (qmi_thread_seconds() < end)
        ;
}

static double process_seconds(void)
{
    return (double)clock() / CLOCKS_PER_SEC;
}

static bool is_openmp(void)
{
    return strcmp(qmi_team_kind_name(), "openmp") == 0;
}

/* Waits until N_THREADS threads are here, but not for ever. */
static void meet(_Atomic(int) *n_here)
{
    const double end = qmi_seconds() + 5;
    atomic_fetch_add(n_here, 1);
    while (atomic_load(n_here) < N_THREADS && qmi_seconds() < end)
        sched_yield();
}

/* ---- items ---- */

static void test_every_item_once(void **state)
{
    (void)state;
    static const int64_t counts[] = {0, 1, 2, 3, 17, N_ITEMS};
    for (int n_threads = 1; n_threads <= N_THREADS; n_threads++) {
        qmi_team *team = open_team(n_threads);
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            tally t = {0};
            assert_int_equal(
                qmi_team_run(team, counts[i], count, &t, NULL), QMOE_OK);
            assert_int_equal(wrong_items(&t, counts[i], 1), 0);
            assert_int_equal(t.n_wrong, 0);
        }
        qmi_team_close(team);
    }
}

static void count_slowly(void *context, int64_t item, int thread)
{
    count(context, item, thread);
    if (item % 50 == 0)
        keep_busy(0.001);
}

/* Some items take a thousand times as long as others. */
static void test_uneven_items(void **state)
{
    (void)state;
    tally t = {0};
    qmi_team *team = open_team(N_THREADS);
    for (int i = 1; i <= 3; i++)
        assert_int_equal(
            qmi_team_run(team, N_ITEMS, count_slowly, &t, NULL), QMOE_OK);
    qmi_team_close(team);
    assert_int_equal(wrong_items(&t, N_ITEMS, 3), 0);
    assert_int_equal(t.n_wrong, 0);
}

/* Results of one job are visible to the next, whoever runs it. */
static void run_many(qmi_team *team, tally *t)
{
    for (int i = 0; i < N_JOBS; i++)
        (void)qmi_team_run(team, 1 + i % 7, count, t, NULL);
}

static void test_many_short_jobs(void **state)
{
    (void)state;
    tally t = {0};
    qmi_team *team = open_team(N_THREADS);
    run_many(team, &t);
    qmi_team_close(team);
    assert_int_equal(t.n_wrong, 0);
    assert_int_equal(t.times[0], N_JOBS);
    assert_int_equal(t.times[6], N_JOBS / 7);
    assert_int_equal(t.plain[6], 6 * (N_JOBS / 7));
}

static void count_together(void *context, int64_t item, int thread)
{
    tally *t = context;
    if (atomic_fetch_add(&t->busy[thread], 1) != 0)
        atomic_fetch_add(&t->n_wrong, 1);
    meet(&t->n_here);
    atomic_fetch_sub(&t->busy[thread], 1);
    count(context, item, thread);
}

/* One item each, at the same time. */
static void test_threads_meet(void **state)
{
    (void)state;
    tally t = {0};
    qmi_team *team = open_team(N_THREADS);
    assert_int_equal(
        qmi_team_run(team, N_THREADS, count_together, &t, NULL), QMOE_OK);
    qmi_team_close(team);
    assert_int_equal(t.n_here, N_THREADS);
    assert_int_equal(wrong_items(&t, N_THREADS, 1), 0);
    assert_int_equal(t.n_wrong, 0);
}

static void count_part(void *context, int thread, int n_threads)
{
    tally *t = context;
    atomic_fetch_add(&t->times[thread], 1);
    atomic_fetch_add(&t->n_wrong, n_threads != N_THREADS);
    meet(&t->n_here);
    /* Threads that have done theirs find the job still open. */
    if (thread == 0)
        keep_busy(0.005);
}

static void test_one_part_per_thread(void **state)
{
    (void)state;
    tally t = {0};
    qmi_team *team = open_team(N_THREADS);
    qmi_team_each(team, N_THREADS, count_part, &t);
    qmi_team_close(team);
    assert_int_equal(wrong_items(&t, N_THREADS, 1), 0);
    assert_int_equal(t.n_wrong, 0);
}

/* More threads than processors and than items: they lose no work. */
static void test_more_threads_than_items(void **state)
{
    (void)state;
    tally t = {0};
    qmi_team *team = open_team(MOST_THREADS);
    for (int i = 0; i < N_JOBS / 20; i++)
        assert_int_equal(
            qmi_team_run(team, 1 + i % 7, count, &t, NULL), QMOE_OK);
    qmi_team_close(team);
    assert_int_equal(t.n_wrong, 0);
    assert_int_equal(t.times[0], N_JOBS / 20);
}

static void *team_main(void *argument)
{
    tally *t = argument;
    qmi_team *team = NULL;
    if (qmi_team_open(&team, N_THREADS, NULL) != QMOE_OK) {
        atomic_fetch_add(&t->n_wrong, 1);
        return NULL;
    }
    run_many(team, t);
    qmi_team_close(team);
    return NULL;
}

static void test_teams_side_by_side(void **state)
{
    (void)state;
    static tally tallies[N_TEAMS];
    pthread_t threads[N_TEAMS];
    for (int i = 0; i < N_TEAMS; i++)
        assert_int_equal(
            pthread_create(&threads[i], NULL, team_main, &tallies[i]), 0);
    for (int i = 0; i < N_TEAMS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(tallies[i].n_wrong, 0);
        assert_int_equal(tallies[i].times[0], N_JOBS);
    }
}

/* ---- nesting ---- */

typedef struct nest {
    qmi_team *inner;
    _Atomic(int) n_here, n_wrong;
} nest;

typedef struct inner {
    nest *nest;
    pthread_t thread;
    int n;
} inner;

static void run_inner(void *context, int64_t item, int thread)
{
    inner *i = context;
    (void)item;
    keep_busy(0.0001);
    i->n++; /* not atomic: one thread */
    if (thread != 0 || !pthread_equal(pthread_self(), i->thread))
        atomic_fetch_add(&i->nest->n_wrong, 1);
}

static void run_outer(void *context, int64_t item, int thread)
{
    nest *n = context;
    inner i = {.nest = n, .thread = pthread_self()};
    (void)item;
    (void)thread;
    meet(&n->n_here);
    if (qmi_team_run(n->inner, 10, run_inner, &i, NULL) != QMOE_OK || i.n != 10)
        atomic_fetch_add(&n->n_wrong, 1);
}

/* On the same team and on another one. */
static void test_nested_jobs_run_alone(void **state)
{
    (void)state;
    qmi_team *team = open_team(N_THREADS), *other = open_team(N_THREADS);
    qmi_team *const inners[] = {team, other};
    for (int i = 0; i < 2; i++) {
        nest n = {.inner = inners[i]};
        assert_int_equal(qmi_team_run(team, 20, run_outer, &n, NULL), QMOE_OK);
        assert_int_equal(n.n_wrong, 0);
    }
    /* After it, jobs have all threads again. */
    tally t = {0};
    assert_int_equal(qmi_team_run(other, N_ITEMS, count, &t, NULL), QMOE_OK);
    assert_int_equal(wrong_items(&t, N_ITEMS, 1), 0);
    qmi_team_close(team);
    qmi_team_close(other);
}

/* ---- ending early ---- */

typedef struct stopping {
    struct qmi_cancel cancel;
    _Atomic(int) n, n_late;
    double asked; /* processor time at the wish */
} stopping;

static void stop_at_twenty(void *context, int64_t item, int thread)
{
    stopping *s = context;
    (void)item;
    (void)thread;
    atomic_fetch_add(&s->n_late, atomic_load(&s->cancel.wanted));
    keep_busy(0.001);
    if (atomic_fetch_add(&s->n, 1) == 20) {
        s->asked = process_seconds();
        atomic_store(&s->cancel.wanted, true);
    }
}

/* The other threads finish the item they are at. */
static void test_cancelled_in_the_middle(void **state)
{
    (void)state;
    for (int n_threads = 1; n_threads <= N_THREADS; n_threads += 3) {
        stopping s = {.n = 0};
        qmi_error err = {.cancel = &s.cancel};
        qmi_team *team = open_team(n_threads);
        assert_int_equal(qmi_team_run(team, 100000, stop_at_twenty, &s, &err),
            QMOE_E_CANCELLED);
        assert_true(process_seconds() - s.asked < 0.05 * n_threads);
        assert_true(s.n > 20 && s.n <= 20 + n_threads);
        assert_true(s.n_late < n_threads);
        /* None of the next job begins while the wish stands; then all do. */
        assert_int_equal(
            qmi_team_run(team, 10, stop_at_twenty, &s, &err), QMOE_E_CANCELLED);
        assert_true(s.n <= 20 + n_threads);
        atomic_store(&s.cancel.wanted, false);
        tally t = {0};
        assert_int_equal(qmi_team_run(team, 100, count, &t, &err), QMOE_OK);
        assert_int_equal(wrong_items(&t, 100, 1), 0);
        qmi_team_close(team);
    }
}

/* ---- threads of the process ---- */

static int n_process_threads(void)
{
    int n = 0;
    DIR *folder = opendir("/proc/self/task");
    assert_non_null(folder);
    for (struct dirent *e = readdir(folder); e != NULL; e = readdir(folder))
        n += e->d_name[0] != '.';
    closedir(folder);
    return n;
}

/* The caller is one of a team.  A second team takes threads of its own, with
 * OpenMP the same ones.  (LLVM's takes up those of threads that have ended, too,
 * so that there may be fewer new ones.) */
static void *check_thread_counts(void *unused)
{
    const int before = n_process_threads();
    int counts[2];
    qmi_team *teams[2];
    for (int i = 0; i < 2; i++) {
        tally t = {0};
        if (qmi_team_open(&teams[i], N_THREADS, NULL) != QMOE_OK)
            return "no team";
        (void)qmi_team_run(teams[i], N_ITEMS, count, &t, NULL);
        counts[i] = n_process_threads() - before;
    }
    for (int i = 0; i < 2; i++)
        qmi_team_close(teams[i]);
    if (counts[0] > N_THREADS - 1)
        return "one team";
    if (counts[1] > (is_openmp() ? 1 : 2) * (N_THREADS - 1))
        return "two teams";
    return unused;
}

/* On a thread of its own, for which OpenMP has none yet. */
static void test_thread_counts(void **state)
{
    void *wrong = NULL;
    pthread_t thread;
    (void)state;
    assert_int_equal(
        pthread_create(&thread, NULL, check_thread_counts, NULL), 0);
    pthread_join(thread, &wrong);
    if (wrong != NULL)
        fail_msg("%s", (const char *)wrong);
}

#if defined(_OPENMP) && !defined(__SANITIZE_THREAD__)
/* (The sanitizer does not see the order of regions written here.)
 * A program with parallel regions of its own: they share their threads with our
 * jobs, and a job begun in a region stays on its thread. */
static void *check_shared_threads(void *unused)
{
    const int before = n_process_threads();
    int n_wrong = 0, n = 0;
    tally t = {0};
    qmi_team *team = NULL;
    if (qmi_team_open(&team, N_THREADS, NULL) != QMOE_OK)
        return "no team";
#pragma omp parallel num_threads(N_THREADS) reduction(+ : n)
    n += 1;
    (void)qmi_team_run(team, N_ITEMS, count, &t, NULL);
    qmi_team_close(team);
    if (n_process_threads() - before > N_THREADS - 1)
        return "a region and a job";
#pragma omp parallel num_threads(N_THREADS) reduction(+ : n_wrong)
    {
        tally mine = {0};
        qmi_team *own = NULL;
        n_wrong += qmi_team_open(&own, N_THREADS, NULL) != QMOE_OK;
        n_wrong += own == NULL ||
                   qmi_team_run(own, N_ITEMS, count, &mine, NULL) != QMOE_OK;
        n_wrong += wrong_items(&mine, N_ITEMS, 1) + mine.busy[1] != 0;
        qmi_team_close(own);
    }
    if (n_wrong != 0 || n_process_threads() - before > N_THREADS - 1)
        return "jobs in a region";
    return n == N_THREADS ? unused : "regions";
}

static void test_shares_threads_of_the_program(void **state)
{
    void *wrong = NULL;
    pthread_t thread;
    (void)state;
    assert_int_equal(
        pthread_create(&thread, NULL, check_shared_threads, NULL), 0);
    pthread_join(thread, &wrong);
    if (wrong != NULL)
        fail_msg("%s", (const char *)wrong);
    omp_set_num_threads(3);
    assert_int_equal(qmi_default_threads(), 3);
}
#endif

/* ---- errors ---- */

static void test_bad_counts_fail(void **state)
{
    (void)state;
    static const int bad[] = {0, -1, 100000};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        qmi_team *team = (qmi_team *)(void *)&i;
        qmi_error err = {0};
        assert_int_equal(qmi_team_open(&team, bad[i], &err), QMOE_E_INVALID);
        assert_null(team);
        assert_int_not_equal(err.text[0], '\0');
    }
    qmi_team_close(NULL);
    assert_true(qmi_usable_processors() >= 1);
    assert_true(qmi_default_threads() >= 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_item_once),
        cmocka_unit_test(test_uneven_items),
        cmocka_unit_test(test_many_short_jobs),
        cmocka_unit_test(test_threads_meet),
        cmocka_unit_test(test_one_part_per_thread),
        cmocka_unit_test(test_more_threads_than_items),
        cmocka_unit_test(test_teams_side_by_side),
        cmocka_unit_test(test_nested_jobs_run_alone),
        cmocka_unit_test(test_cancelled_in_the_middle),
        cmocka_unit_test(test_thread_counts),
        cmocka_unit_test(test_bad_counts_fail),
    };
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
#if defined(_OPENMP) && !defined(__SANITIZE_THREAD__)
    const struct CMUnitTest shared[] = {
        cmocka_unit_test(test_shares_threads_of_the_program),
    };
    if (is_openmp())
        n_failed += cmocka_run_group_tests(shared, NULL, NULL);
#endif
    return n_failed;
}
