/* SPDX-License-Identifier: Apache-2.0
 * Stacks of random matrices in every format, for timing. */
#ifndef QMB_BENCH_WEIGHTS_H
#define QMB_BENCH_WEIGHTS_H

#include "weight.h"

typedef struct bench_stack {
    qmi_weight weight;
    void *blocks[QMI_MAX_PARTS];
} bench_stack;

/* As many matrices as make up n_bytes, two at least.  Values are about as
 * large as those of a trained matrix.  Release with bench_stack_free. */
qmoe_status bench_stack_make(bench_stack *out, const qmi_format *format,
    int64_t n_rows, int64_t n_cols, uint64_t n_bytes, qmi_error *err);
/* The same with n_mats >= 1 matrices. */
qmoe_status bench_stack_make_count(bench_stack *out, const qmi_format *format,
    int64_t n_rows, int64_t n_cols, int64_t n_mats, qmi_error *err);
void bench_stack_free(bench_stack *stack);

#endif
