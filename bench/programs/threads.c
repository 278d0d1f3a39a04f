/* SPDX-License-Identifier: Apache-2.0
 * What a job of a team costs (core/base/team.h), in the implementation that
 * QMOE_THREADS names. bench/threads.py runs it for each in turn.  In: a number
 * of threads.  Out: lines "name, microseconds per job (median, p10, p90),
 * microseconds of processor time per job of all threads (median)".  Wall time
 * says what a caller waits, processor time what waiting threads burn.
 *
 *   bench-threads [THREADS] */
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "bench_stats.h"
#include "team.h"

/* Samples give the spread; a sample is as many jobs as the clock needs. */
enum { N_SAMPLES = 31, N_JOBS = 500, N_ITEMS = 32 };
/* About a tile of work (pvq_kernel.c). */
static const double item_seconds = 1.2e-6;

typedef struct setting {
    qmi_team *team;
    int n_threads;
    long item_rounds; /* that take item_seconds */
    _Atomic(int) n_here;
} setting;

static void do_nothing(void *context, int64_t item, int thread)
{
    (void)context;
    (void)item;
    (void)thread;
}

/* Until all threads are at it: none can take two items. */
static void meet(void *context, int64_t item, int thread)
{
    setting *s = context;
    (void)item;
    (void)thread;
    atomic_fetch_add(&s->n_here, 1);
    while (atomic_load(&s->n_here) % s->n_threads != 0)
        sched_yield();
}

/* volatile: the loop must not be folded. */
static void count_up(long n)
{
    for (volatile long i = 0; i < n;)
        i = i + 1;
}

static void compute(void *context, int64_t item, int thread)
{
    (void)item;
    (void)thread;
    count_up(((const setting *)context)->item_rounds);
}

/* Of all threads, waiting ones included. */
static double process_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Of processor time, so that it is right on a busy machine. */
static long calibrate(void)
{
    enum { ROUNDS = 2000000 };
    const double begin = qmi_bench_now(true);
    count_up(ROUNDS);
    return (long)(ROUNDS * item_seconds / (qmi_bench_now(true) - begin));
}

static int measure(
    setting *s, const char *name, int64_t n_items, qmi_task task, int n_jobs)
{
    double clock[N_SAMPLES], processor[N_SAMPLES];
    for (int i = -1; i < N_SAMPLES; i++) { /* -1: warming up */
        const double begin = qmi_bench_now(false), cpu = process_seconds();
        for (int j = 0; j < n_jobs; j++)
            if (qmi_team_run(s->team, n_items, task, s, NULL) != QMOE_OK)
                return 1;
        if (i < 0)
            continue;
        clock[i] = 1e6 * (qmi_bench_now(false) - begin) / n_jobs;
        processor[i] = 1e6 * (process_seconds() - cpu) / n_jobs;
    }
    const qmi_bench_spread c = qmi_bench_spread_of(clock, N_SAMPLES);
    const qmi_bench_spread p = qmi_bench_spread_of(processor, N_SAMPLES);
    printf(
        "%s, %.3f, %.3f, %.3f, %.3f\n", name, c.median, c.p10, c.p90, p.median);
    return 0;
}

int main(int argc, char **argv)
{
    qmi_error err = {0};
    setting s = {.n_threads = argc > 1 ? atoi(argv[1]) : 2};
    if (qmi_team_open(&s.team, s.n_threads, &err) != QMOE_OK) {
        fprintf(stderr, "bench-threads: %s\n", err.text);
        return 1;
    }
    s.item_rounds = calibrate();
    int failed = measure(&s, "empty", s.n_threads, do_nothing, N_JOBS);
    failed |= measure(&s, "all threads meet", s.n_threads, meet, N_JOBS);
    failed |= measure(&s, "32 items of 1.2 us", N_ITEMS, compute, N_JOBS);
    qmi_team_close(s.team);
    return failed;
}
