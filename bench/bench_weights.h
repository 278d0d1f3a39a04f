/* SPDX-License-Identifier: Apache-2.0
 * Stacks of random matrices in every format, for timing. */
#ifndef QMB_BENCH_WEIGHTS_H
#define QMB_BENCH_WEIGHTS_H

#include "bench_repeat.h"
#include "weight.h"

/* Where the copies of the one random matrix of a stack are. */
typedef enum bench_copies {
    BENCH_IN_MEMORY, /* for processors: each at its own place */
    BENCH_ALIASED    /* to be uploaded: in little memory (bench_repeat.h) */
} bench_copies;

typedef struct bench_stack {
    qmi_weight weight;
    void *blocks[QMI_MAX_PARTS];
    bench_repeat repeats[QMI_MAX_PARTS]; /* instead of blocks */
    bench_copies copies;
} bench_stack;

/* As many matrices as make up n_bytes, two at least.  Values are about as
 * large as those of a trained matrix.  Release with bench_stack_free. */
qmoe_status bench_stack_make(bench_stack *out, const qmi_format *format,
    int64_t n_rows, int64_t n_cols, uint64_t n_bytes, bench_copies copies,
    qmi_error *err);
/* The same with n_mats >= 1 matrices. */
qmoe_status bench_stack_make_count(bench_stack *out, const qmi_format *format,
    int64_t n_rows, int64_t n_cols, int64_t n_mats, bench_copies copies,
    qmi_error *err);
void bench_stack_free(bench_stack *stack);

#endif
