/* SPDX-License-Identifier: Apache-2.0
 * Times products with weights of every format on a backend: the shapes of the
 * paper, one token and batches, weights from the cache (hot) and from memory
 * (cold: every call another matrix).  All contenders of a setting are timed in
 * turn, round by round, so that a change of the machine's mood meets all. */
#ifndef QMB_BENCH_KERNELS_H
#define QMB_BENCH_KERNELS_H

#include "backend.h"

typedef struct bench_options {
    int64_t rows, cols; /* 0: all six shapes */
    int64_t batch;      /* 0: 1, 8 and 32 */
    int threads;        /* 0: 1 */
    const char *format; /* NULL: all; also "bf16", "f32" */
    const char *variant;
    bool all_variants;   /* not only the best of each format */
    int cache;           /* 0: both, 1: hot, 2: cold */
    int n_rounds;        /* 0: 9 */
    double sample_ms;    /* 0: 30 */
    uint64_t cold_bytes; /* of each format; 0: 0.6e9 */
    /* Count the calling thread's own time instead of the clock's: for machines
     * that have other work, with one thread. */
    bool cpu_time;
} bench_options;

typedef struct bench_result {
    const char *format, *variant; /* static */
    int64_t rows, cols, batch;
    int threads;
    bool hot;
    double gweights_per_s; /* median; times the batch: multiply-adds */
    double p10, p90;       /* of the same */
    double gbytes_per_s;   /* of packed weights */
} bench_result;

typedef struct bench_report {
    bench_result *results; /* release with bench_report_free */
    size_t n_results;
    double read_gbytes_per_s; /* of memory, by the same number of threads */
} bench_report;

qmoe_status bench_kernels(bench_report *out, const qmi_backend *backend,
    const bench_options *options, qmi_error *err);
void bench_report_free(bench_report *report);

#endif
