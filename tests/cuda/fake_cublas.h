/* SPDX-License-Identifier: Apache-2.0
 * A library with the functions of cuBLAS that driver_cublas.c calls. */
#ifndef FAKE_CUBLAS_H
#define FAKE_CUBLAS_H

#include <stddef.h>

typedef struct fake_cublas_call {
    int n_open; /* handles */
    void *stream, *workspace;
    size_t workspace_bytes;
    int n_workspaces, math_mode;
    int op_a, op_b, m, n, k;
    float alpha, beta;
    const void *a, *b;
    void *c;
    int a_type, b_type, c_type, a_step, b_step, c_step;
    int compute_type, algorithm;
} fake_cublas_call;

const fake_cublas_call *fake_cublas_last(void);

#endif
