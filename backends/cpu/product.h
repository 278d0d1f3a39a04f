/* SPDX-License-Identifier: Apache-2.0
 * One product with a matrix: rotates and packs the input once, then runs the
 * kernel's tiles and combines each into the destination. */
#ifndef QCPU_PRODUCT_H
#define QCPU_PRODUCT_H

#include "cpu.h"
#include "matmul.h"

/* dst[t, r] = residual[t, r] + act(alpha * sum_c x[t, c] * W[r, c] + bias[r]) */
typedef struct qcpu_product {
    const qcpu_matmul *kernel;
    const qmi_weight *w; /* matrix `mat` is checked */
    int64_t mat;
    const float *x; /* f32 [n_tokens, n_cols] */
    int64_t n_tokens;
    float *dst;            /* f32 [n_tokens, n_rows] */
    const float *residual; /* or NULL */
    const float *bias;     /* f32 [n_rows], or NULL */
    float alpha;
    qmi_act act;
} qcpu_product;

/* What a kernel needs before its products run on n_threads threads. */
qmoe_status qcpu_product_begin(
    const qcpu_matmul *kernel, int n_threads, qmi_error *err);

/* Whether the device may use the kernel: one that has to be exact takes no
 * inputs of one or two digits. */
bool qcpu_product_allowed(const qmi_device *device, const qcpu_matmul *kernel);

/* Work space: of the input, and of each thread (multiples of 64 bytes). */
size_t qcpu_product_input_bytes(
    const qcpu_matmul *kernel, const qmi_weight *w, int64_t n_tokens);
size_t qcpu_product_thread_bytes(
    const qcpu_matmul *kernel, const qmi_weight *w, int64_t n_tokens);

/* On the threads of `team`, or on the caller alone when there is little to do
 * or `team` is NULL.  `threads`: `stride` bytes per thread.  Leaves the rest
 * out when it is cancelled: the operation asks `err` at its end.  Without a
 * team, `err` is only read, so threads may share it. */
void qcpu_product_run(const qcpu_product *p, qmi_team *team, void *input,
    uint8_t *threads, size_t stride, qmi_error *err);

/* A variant that is a kernel's. */
typedef struct qcpu_kernel_variant {
    const qcpu_matmul *kernel;
    qmi_variant variant;
} qcpu_kernel_variant;

/* Those whose kernel runs on this processor; returns their number. */
size_t qcpu_usable_variants(
    qmi_variant *out, const qcpu_kernel_variant *all, size_t n);

#endif
