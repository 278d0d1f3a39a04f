/* SPDX-License-Identifier: Apache-2.0
 * Times the contenders of one setting in turn, so that a change of the
 * machine's mood meets all. */
#ifndef QMB_BENCH_SETTING_H
#define QMB_BENCH_SETTING_H

#include "backend.h"
#include "bench_expected.h"
#include "bench_stats.h"

enum { QMI_BENCH_MAX_ROUNDS = 101, QMI_BENCH_PASS_CALLS = 2048 };

/* Where products run: one device, its operands for one shape. */
typedef struct qmi_bench_place {
    const qmi_backend *backend;
    qmi_device *device;
    qmi_buffer *src, *dst; /* f32 [most tokens, cols], [most tokens, rows] */
    qmi_buffer *src_bf16;  /* src rounded, for baselines; NULL without any */
    float *result;         /* host copy of dst */
    int n_rounds;
    double sample_seconds;
    bool thread_time;
    /* Cold samples are whole rounds through a stack, waited for every
     * QMI_BENCH_PASS_CALLS calls at most: work that a device can repeat as a graph. */
    bool in_passes;
} qmi_bench_place;

/* One variant on one stack. */
typedef struct qmi_bench_contender {
    const qmi_bound_weight *weight;
    const qmi_bench_expected *expected;
    const qmi_variant *variant;
    bool is_baseline;          /* takes src_bf16, for which `expected` is */
    int64_t next_mat, n_calls; /* calls per sample */
    double samples[QMI_BENCH_MAX_ROUNDS]; /* seconds per call */
} qmi_bench_contender;

/* The product that is timed, as an operation. */
qmi_op qmi_bench_product(const qmi_bench_place *place,
    const qmi_bench_contender *contender, int64_t mat, int64_t n_tokens);

/* Checks every contender's result on the first and the last matrix of its
 * stack, then fills in its samples.  E_INTERNAL: a result is wrong. */
qmoe_status qmi_bench_run_setting(const qmi_bench_place *place,
    qmi_bench_contender *contenders, size_t n_contenders, int64_t n_tokens,
    bool hot, qmi_error *err);

#endif
