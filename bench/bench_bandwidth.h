/* SPDX-License-Identifier: Apache-2.0
 * How fast memory is: the host's, a device's. */
#ifndef QMB_BENCH_BANDWIDTH_H
#define QMB_BENCH_BANDWIDTH_H

#include <stdbool.h>

#include "backend.h"

/* 1e9 bytes per second, read once from 1 GB by all threads together: the
 * median of several passes.  cpu_time: see bench_kernels.h. */
qmoe_status qmi_bench_read_bandwidth(
    double *gbytes_per_s, int n_threads, bool cpu_time, qmi_error *err);

/* The same of copies of up to 512 MiB, or `cold_bytes` if that is less, within
 * the device: bytes read plus bytes written. */
qmoe_status qmi_bench_copy_bandwidth(double *gbytes_per_s,
    const qmi_backend *backend, qmi_device *device, uint64_t cold_bytes,
    qmi_error *err);

#endif
