/* SPDX-License-Identifier: Apache-2.0
 * Order statistics and the clock (stats.h). */
#include "stats.h"

#include <stdlib.h>
#include <time.h>

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(const double *sorted, size_t n, double q)
{
    double at = q * (double)(n - 1);
    size_t below = (size_t)at;
    if (below + 1 >= n)
        return sorted[n - 1];
    double share = at - (double)below;
    return sorted[below] * (1 - share) + sorted[below + 1] * share;
}

sample_summary summarise(double *samples, size_t n)
{
    if (n == 0)
        return (sample_summary){0};
    qsort(samples, n, sizeof *samples, ascending);
    return (sample_summary){
        .n = n,
        .p10 = quantile(samples, n, 0.1),
        .median = quantile(samples, n, 0.5),
        .p90 = quantile(samples, n, 0.9),
    };
}

double now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
