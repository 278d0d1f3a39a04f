/* SPDX-License-Identifier: Apache-2.0
 * Order statistics of samples, and the clock they are taken with. */
#ifndef QMB_BENCH_STATS_H
#define QMB_BENCH_STATS_H

#include <stdbool.h>
#include <stddef.h>

typedef struct bench_spread {
    double median, p10, p90;
} bench_spread;

/* Sorts the n >= 1 samples.  Quantiles are interpolated linearly between the
 * two nearest samples; NaN does not occur. */
bench_spread bench_spread_of(double *samples, size_t n);

/* Seconds since some moment: of the clock, or of the calling thread's own
 * processor time. */
double bench_now(bool thread_time);

#endif
