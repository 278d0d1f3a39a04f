/* SPDX-License-Identifier: Apache-2.0
 * Order statistics (bench_stats.h).  In: samples, which are sorted in place.
 * Out: median, p10 and p90 by linear interpolation.  Medians, since what
 * disturbs a measurement only makes it longer. */
#include "bench_stats.h"

#include <stdlib.h>

#include "clock.h"

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(const double *sorted, size_t n, double q)
{
    const double place = q * (double)(n - 1);
    const size_t below = (size_t)place;
    /* n = 1: the only sample is every quantile. */
    const size_t above = below + 1 < n ? below + 1 : below;
    return sorted[below] +
           (place - (double)below) * (sorted[above] - sorted[below]);
}

qmi_bench_spread qmi_bench_spread_of(double *samples, size_t n)
{
    qsort(samples, n, sizeof *samples, compare_doubles);
    return (qmi_bench_spread){
        .median = quantile(samples, n, 0.5),
        .p10 = quantile(samples, n, 0.1),
        .p90 = quantile(samples, n, 0.9),
    };
}

double qmi_bench_now(bool thread_time)
{
    return thread_time ? qmi_thread_seconds() : qmi_seconds();
}
