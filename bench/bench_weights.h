/* SPDX-License-Identifier: Apache-2.0
 * Stacks of random matrices in every format, for timing. */
#ifndef QMB_BENCH_WEIGHTS_H
#define QMB_BENCH_WEIGHTS_H

#include "bench_repeat.h"
#include "weight.h"

/* Where the copies of the one random matrix of a stack are. */
typedef enum qmi_bench_copies {
    QMI_BENCH_IN_MEMORY, /* for processors: each at its own place */
    QMI_BENCH_ALIASED    /* to be uploaded: in little memory (bench_repeat.h) */
} qmi_bench_copies;

typedef struct qmi_bench_stack {
    qmi_weight weight;
    void *blocks[QMI_MAX_PARTS];
    qmi_bench_repeat repeats[QMI_MAX_PARTS]; /* instead of blocks */
    qmi_bench_copies copies;
} qmi_bench_stack;

/* As many matrices as make up n_bytes, two at least.  Values are about as
 * large as those of a trained matrix.  Release with qmi_bench_stack_free. */
qmoe_status qmi_bench_stack_make(qmi_bench_stack *out, const qmi_format *format,
    int64_t n_rows, int64_t n_cols, uint64_t n_bytes, qmi_bench_copies copies,
    qmi_error *err);
/* The same with n_mats >= 1 matrices. */
qmoe_status qmi_bench_stack_make_count(qmi_bench_stack *out,
    const qmi_format *format, int64_t n_rows, int64_t n_cols, int64_t n_mats,
    qmi_bench_copies copies, qmi_error *err);
void qmi_bench_stack_free(qmi_bench_stack *stack);

#endif
