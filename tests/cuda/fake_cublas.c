/* SPDX-License-Identifier: Apache-2.0
 * Stands in for cuBLAS in test_cublas.c: remembers what it is told. */
#include "fake_cublas.h"

#include <string.h>

/* cublas_v2.h would declare them with types that only its users have. */
int cublasCreate_v2(void **out);
int cublasDestroy_v2(void *h);
int cublasSetStream_v2(void *h, void *stream);
int cublasSetWorkspace_v2(void *h, void *data, size_t n_bytes);
int cublasSetMathMode(void *h, int mode);
int cublasGetProperty(int which, int *value);
const char *cublasGetStatusString(int status);
int cublasGemmEx(void *h, int op_a, int op_b, int m, int n, int k,
    const void *alpha, const void *a, int a_type, int a_step, const void *b,
    int b_type, int b_step, const void *beta, void *c, int c_type, int c_step,
    int compute_type, int algorithm);

static fake_cublas_call last;
static int handle;

const fake_cublas_call *fake_cublas_last(void)
{
    return &last;
}

int cublasCreate_v2(void **out)
{
    last = (fake_cublas_call){.n_open = last.n_open + 1};
    *out = &handle;
    return 0;
}

int cublasDestroy_v2(void *h)
{
    last.n_open -= h == &handle;
    return 0;
}

int cublasSetStream_v2(void *h, void *stream)
{
    last.stream = stream;
    return h == &handle ? 0 : 7;
}

int cublasSetWorkspace_v2(void *h, void *data, size_t n_bytes)
{
    last.workspace = data;
    last.workspace_bytes = n_bytes;
    last.n_workspaces++;
    return h == &handle ? 0 : 7;
}

int cublasSetMathMode(void *h, int mode)
{
    last.math_mode = mode;
    return h == &handle ? 0 : 7;
}

int cublasGetProperty(int which, int *value)
{
    *value = which == 0 ? 12 : which;
    return 0;
}

const char *cublasGetStatusString(int status)
{
    return status == 15 ? "no such product" : "failed";
}

int cublasGemmEx(void *h, int op_a, int op_b, int m, int n, int k,
    const void *alpha, const void *a, int a_type, int a_step, const void *b,
    int b_type, int b_step, const void *beta, void *c, int c_type, int c_step,
    int compute_type, int algorithm)
{
    last.op_a = op_a;
    last.op_b = op_b;
    last.m = m;
    last.n = n;
    last.k = k;
    memcpy(&last.alpha, alpha, sizeof last.alpha);
    memcpy(&last.beta, beta, sizeof last.beta);
    last.a = a;
    last.b = b;
    last.c = c;
    last.a_type = a_type;
    last.b_type = b_type;
    last.c_type = c_type;
    last.a_step = a_step;
    last.b_step = b_step;
    last.c_step = c_step;
    last.compute_type = compute_type;
    last.algorithm = algorithm;
    return h != &handle ? 7 : m == 99 ? 15 : 0;
}
