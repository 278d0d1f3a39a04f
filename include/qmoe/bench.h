/* SPDX-License-Identifier: Apache-2.0
 *
 * qmoe: measure speed.  See qmoe/qmoe.h for the conventions, and
 * docs/benchmarks.md for what is measured and how to read it. */
#ifndef QMOE_BENCH_H
#define QMOE_BENCH_H

#include "qmoe/qmoe.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a result must be kept with. */
typedef struct qmoe_bench_machine {
    const char *version; /* of the library */
    const char *commit;  /* it was built from, "-dirty" appended when files
                            were changed; "unknown" without git */
    char cpu[128];       /* model name */
    int n_processors;    /* this process may use */
    char blas_core[32];  /* OpenBLAS's choice of kernels */
} qmoe_bench_machine;

QMOE_API void qmoe_bench_describe_machine(qmoe_bench_machine *out);

/* ---- kernels ---------------------------------------------------------- */

typedef enum qmoe_bench_cache {
    QMOE_BENCH_BOTH,
    QMOE_BENCH_HOT, /* every call the same matrix */
    QMOE_BENCH_COLD /* every call another matrix of a stack in memory */
} qmoe_bench_cache;

typedef struct qmoe_bench_shape {
    int64_t rows, cols; /* 1 .. 2^20 each, at most 2^28 weights */
} qmoe_bench_shape;

typedef struct qmoe_bench_kernels_options {
    size_t size;
    const char *backend; /* as in qmoe_session_options, but NULL = "cpu" */
    int device;
    const qmoe_bench_shape *shapes; /* [n_shapes]; 0 = the paper's six */
    size_t n_shapes;
    const int *batches; /* [n_batches] 1 .. 1024 tokens; 0 = 1, 8 and 32 */
    size_t n_batches;
    const int *threads; /* [n_threads]; 0 = 1 */
    size_t n_threads;
    /* "pvq", "ternary-dict", "bf16", "f32", ...; 0 = all but f16 */
    const char *const *formats; /* [n_formats] */
    size_t n_formats;
    const char *variant; /* only this one; NULL = see all_variants */
    bool all_variants;   /* every variant, not only the preferred one */
    qmoe_bench_cache cache;
    int n_rounds;        /* samples of each result; 0 = 9, at most 101 */
    double sample_ms;    /* length of a sample; 0 = 30 */
    uint64_t cold_bytes; /* packed data of each format; 0 = 0.6e9 */
    bool thread_time;    /* count the processor time of the calling thread
                             instead of the clock's: for machines that have
                             other work; host backends, one thread only */
} qmoe_bench_kernels_options;

/* One product W x with W [rows, cols] and `batch` tokens. */
typedef struct qmoe_bench_kernel {
    const char *format, *variant; /* valid as long as the context */
    int64_t rows, cols;
    int batch, threads;
    bool hot;
    /* Median over the samples of 1e9 rows * cols * batch per second, with the
     * 10th and 90th percentile of the same. */
    double gweights_per_s, p10, p90;
    double gbytes_per_s; /* median of 1e9 packed bytes of W per second */
    /* Against bf16's preferred variant of the same setting; 0 = not run. */
    double ratio_bf16;
} qmoe_bench_kernel;

typedef struct qmoe_bench_bandwidth {
    int threads;
    double gbytes_per_s; /* 1e9 bytes, read from host memory */
} qmoe_bench_bandwidth;

typedef struct qmoe_bench_kernels_report {
    qmoe_device_info device;
    qmoe_bench_bandwidth *bandwidth; /* [n_bandwidth] one per thread count;
                                        none for a GPU */
    size_t n_bandwidth;
    qmoe_bench_kernel *results;
    size_t n_results;
} qmoe_bench_kernels_report;

/* Times products with random weights of every format.  All contenders of a
 * setting take turns, sample by sample.  A result is compared with the decoded
 * matrix's before it is timed: E_INTERNAL naming the variant when it is wrong.
 * Needs up to cold_bytes of memory per format.  Progress: stage "bench".
 * Release the report with qmoe_bench_kernels_free.
 * E_INVALID: an option out of range, an unknown format or variant;
 * E_UNSUPPORTED: nothing of what was asked for runs on the backend. */
QMOE_API qmoe_status qmoe_bench_kernels(qmoe_context *context,
    qmoe_bench_kernels_report *out,
    const qmoe_bench_kernels_options *options) QMOE_MUST_CHECK;
QMOE_API void qmoe_bench_kernels_free(qmoe_bench_kernels_report *report);

#ifdef __cplusplus
}
#endif

#endif
