/* SPDX-License-Identifier: Apache-2.0
 * Order statistics of samples, and the clock they are taken with. */
#ifndef QMB_BENCH_STATS_H
#define QMB_BENCH_STATS_H

#include <stdbool.h>
#include <stddef.h>

typedef struct qmi_bench_spread {
    double median, p10, p90;
} qmi_bench_spread;

/* Sorts the n >= 1 samples.  Quantiles are interpolated linearly between the
 * two nearest samples; NaN does not occur. */
qmi_bench_spread qmi_bench_spread_of(double *samples, size_t n);

/* Seconds since some moment: of the clock, or of the calling thread's own
 * processor time. */
double qmi_bench_now(bool thread_time);

#endif
