/* SPDX-License-Identifier: Apache-2.0
 * In: a path, or a number of threads.  Out: what the system says or a short
 * measurement shows. 0 stands for an unknown answer, which is no error: plans
 * do without it. */
#include "machine.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

#include "alloc.h"
#include "clock.h"
#include "parallel.h"

uint64_t qmi_free_disk(const char *path)
{
    char parent[4096];
    struct statvfs vfs;
    /* The directory that will hold `path`, which need not exist yet. */
    snprintf(parent, sizeof parent, "%s", path);
    char *slash = strrchr(parent, '/');
    if (slash == NULL)
        snprintf(parent, sizeof parent, ".");
    else
        /* For "/name" the slash itself stays. */
        slash[slash == parent] = '\0';
    if (statvfs(parent, &vfs) != 0)
        return 0;
    return (uint64_t)vfs.f_bavail * vfs.f_frsize;
}

/* ---- memory ---- */

/* Four sums that do not depend on each other, so that additions do not limit
 * the reading. */
static uint64_t sum_words(const uint64_t *words, size_t n)
{
    uint64_t sums[4] = {0};
    for (size_t i = 0; i + 4 <= n; i += 4)
        for (size_t j = 0; j < 4; j++)
            sums[j] += words[i + j];
    return sums[0] + sums[1] + sums[2] + sums[3];
}

/* Words of each thread, and what they add up to. */
typedef struct sums {
    const uint64_t *words;
    size_t n;
    _Atomic(uint64_t) total;
} sums;

/* Each thread reads 64 MiB of its own, so that caches help little. */
static void sum_share(void *user, int64_t item, int thread)
{
    sums *s = user;
    (void)thread;
    atomic_fetch_add(
        &s->total, sum_words(s->words + (size_t)item * s->n, s->n));
}

double qmi_measure_memory(int n_threads)
{
    enum { WORDS = (64 << 20) / sizeof(uint64_t), ROUNDS = 4 };
    /* Keeps the compiler from dropping the sums. */
    volatile uint64_t sink = 0;
    double best = INFINITY;
    size_t n = (size_t)n_threads * WORDS;
    uint64_t *words = qmi_calloc(n, sizeof *words, "a measurement", NULL);
    if (words == NULL)
        return 0;
    memset(words, 1, n * sizeof *words); /* pages of its own */
    /* The fastest round: whatever disturbs a measurement makes it slower. */
    for (int round = 0; round < ROUNDS; round++) {
        double begin = qmi_seconds();
        sums s = {.words = words, .n = WORDS};
        const qmi_loop loop = {.n_threads = n_threads,
            .n_items = n_threads,
            .work = sum_share,
            .user = &s};
        if (qmi_parallel(&loop, NULL) != QMOE_OK)
            break;
        best = fmin(best, qmi_seconds() - begin);
        sink = sink + s.total;
    }
    qmi_free(words);
    return (double)n * sizeof *words / best;
}
