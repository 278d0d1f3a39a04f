/* SPDX-License-Identifier: Apache-2.0
 * Read bandwidth: sums up a large array. */
#include "bench_bandwidth.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "alloc.h"
#include "pool.h"

enum { N_PASSES = 7 };
static const size_t total = (size_t)1 << 30, slice = (size_t)1 << 22;

typedef uint64_t vector __attribute__((vector_size(64)));

typedef struct reading {
    const uint8_t *data;
    _Atomic(uint64_t) sum; /* used, so that nothing is optimised away */
} reading;

static void read_slice(void *context, int64_t item, int thread)
{
    reading *r = context;
    const vector *v = (const void *)(r->data + (size_t)item * slice);
    vector sums[4] = {{0}};
    uint64_t sum = 0;
    (void)thread;
    for (size_t i = 0; i < slice / sizeof *v; i += 4)
        for (size_t j = 0; j < 4; j++)
            sums[j] += v[i + j];
    sums[0] += sums[1] + sums[2] + sums[3];
    for (size_t i = 0; i < 8; i++)
        sum += sums[0][i];
    atomic_fetch_add(&r->sum, sum);
}

static double now(bool cpu_time)
{
    struct timespec t;
    clock_gettime(cpu_time ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

qmoe_status bench_read_bandwidth(
    double *gbytes_per_s, int n_threads, bool cpu_time, qmi_error *err)
{
    *gbytes_per_s = 0;
    qcpu_pool *pool = NULL;
    QMI_TRY(qcpu_pool_open(&pool, n_threads, err));
    uint8_t *data = qmi_calloc(total, 1, "memory to read", err);
    if (data == NULL) {
        qcpu_pool_close(pool);
        return QMOE_E_NOMEM;
    }
    memset(data, 1, total); /* untouched pages are one page of zeros */
    reading r = {.data = data};
    double seconds[N_PASSES];
    for (int i = 0; i < N_PASSES; i++) {
        const double begin = now(cpu_time);
        qcpu_parallel(pool, (int64_t)(total / slice), read_slice, &r);
        seconds[i] = now(cpu_time) - begin;
    }
    qsort(seconds, N_PASSES, sizeof *seconds, compare_doubles);
    *gbytes_per_s = 1e-9 * (double)total / seconds[N_PASSES / 2];
    qmi_free(data);
    qcpu_pool_close(pool);
    return QMOE_OK;
}
