/* SPDX-License-Identifier: Apache-2.0
 * How fast this machine reads memory. */
#ifndef QMB_BENCH_BANDWIDTH_H
#define QMB_BENCH_BANDWIDTH_H

#include <stdbool.h>

#include "error.h"

/* 1e9 bytes per second, read once from 1 GB by all threads together: the
 * median of several passes.  cpu_time: see bench_kernels.h. */
qmoe_status bench_read_bandwidth(
    double *gbytes_per_s, int n_threads, bool cpu_time, qmi_error *err);

#endif
