/* SPDX-License-Identifier: Apache-2.0
 * Order statistics of timing samples: robust against the long upper tail that
 * interrupts and frequency changes give. */
#ifndef QMOE_CHECK_STATS_H
#define QMOE_CHECK_STATS_H

#include <stddef.h>

typedef struct sample_summary {
    size_t n;
    double p10, median, p90;
} sample_summary;

/* Sorts `samples`; n == 0 gives zeros.  Percentiles are interpolated. */
sample_summary summarise(double *samples, size_t n);

/* Seconds of a clock that never steps. */
double now_seconds(void);

#endif
