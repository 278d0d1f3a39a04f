/* SPDX-License-Identifier: Apache-2.0
 * How cuBLAS is found and called, without a GPU.
 *
 *   test_cublas fake      QMOE_CUBLAS is the stand-in: what it is told
 *   test_cublas none      QMOE_CUBLAS is off, or no such library
 *   test_cublas real      the library of this machine, as far as that goes
 *                         without a device; 77 when there is none */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "driver_cublas.h"
#include "fake_cublas.h"

#ifdef QMOE_CUBLAS_HEADER
#include <cublas_v2.h>
#else
/* As since version 11. */
enum {
    CUBLAS_OP_N = 0,
    CUBLAS_OP_T = 1,
    CUDA_R_32F = 0,
    CUDA_R_16BF = 14,
    CUBLAS_COMPUTE_32F = 68,
    CUBLAS_COMPUTE_32F_PEDANTIC = 69,
    CUBLAS_GEMM_DEFAULT = -1,
    CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION = 16
};
#endif

static float numbers[8];

static qdrv_gemm_args product(qdrv_element type)
{
    return (qdrv_gemm_args){
        .type = type,
        .a = &numbers[0],
        .b = &numbers[1],
        .c = &numbers[2],
        .m = 5,
        .n = 3,
        .k = 16,
        .a_step = 24,
        .b_step = 32,
        .c_step = 7,
        .alpha = 2.0f,
        .beta = 0.5f,
        .workspace = &numbers[3],
        .workspace_bytes = 4,
    };
}

static const fake_cublas_call *last_call(void)
{
    const fake_cublas_call *(*last)(void);
    void *library = dlopen(getenv("QMOE_CUBLAS"), RTLD_NOW);
    assert_non_null(library);
    *(void **)&last = dlsym(library, "fake_cublas_last");
    assert_non_null(last);
    return last();
}

static void test_called(void **state)
{
    (void)state;
    int stream;
    qcublas *q = NULL;
    assert_string_equal(qcublas_name(), "cuBLAS 12.1.2");
    assert_null(qcublas_open(&q, &stream));
    const fake_cublas_call *c = last_call();
    assert_ptr_equal(c->stream, &stream);
    assert_int_equal(
        c->math_mode, CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION);
    qdrv_gemm_args g = product(QDRV_BF16);
    assert_null(qcublas_gemm(q, &g));
    assert_int_equal(c->op_a, CUBLAS_OP_T);
    assert_int_equal(c->op_b, CUBLAS_OP_N);
    assert_int_equal(c->m, 5);
    assert_int_equal(c->n, 3);
    assert_int_equal(c->k, 16);
    assert_ptr_equal(c->a, &numbers[0]);
    assert_ptr_equal(c->b, &numbers[1]);
    assert_ptr_equal(c->c, &numbers[2]);
    assert_int_equal(c->a_step, 24);
    assert_int_equal(c->b_step, 32);
    assert_int_equal(c->c_step, 7);
    assert_int_equal(c->a_type, CUDA_R_16BF);
    assert_int_equal(c->b_type, CUDA_R_16BF);
    assert_int_equal(c->c_type, CUDA_R_32F);
    assert_int_equal(c->compute_type, CUBLAS_COMPUTE_32F);
    assert_int_equal(c->algorithm, CUBLAS_GEMM_DEFAULT);
    assert_true(c->alpha == 2.0f && c->beta == 0.5f);
    assert_ptr_equal(c->workspace, &numbers[3]);
    assert_int_equal(c->workspace_bytes, 4);
    g = product(QDRV_F32);
    assert_null(qcublas_gemm(q, &g));
    assert_int_equal(c->a_type, CUDA_R_32F);
    assert_int_equal(c->b_type, CUDA_R_32F);
    assert_int_equal(c->compute_type, CUBLAS_COMPUTE_32F_PEDANTIC);
    assert_int_equal(c->n_workspaces, 1); /* told once */
    g.m = 99;
    assert_string_equal(qcublas_gemm(q, &g), "no such product");
    qcublas_close(q);
    assert_int_equal(c->n_open, 0);
}

static void test_absent(void **state)
{
    (void)state;
    qcublas *q = NULL;
    assert_null(qcublas_name());
    assert_non_null(qcublas_open(&q, NULL));
    assert_null(q);
}

/* There may be a driver, but a failure must be one with a text. */
static void test_real(void **state)
{
    (void)state;
    qcublas *q = NULL;
    printf("# %s\n", qcublas_name());
    assert_memory_equal(qcublas_name(), "cuBLAS 1", 8);
    const char *failure = qcublas_open(&q, NULL);
    printf("# a handle: %s\n", failure != NULL ? failure : "made");
    assert_true((failure == NULL) == (q != NULL));
    assert_true(failure == NULL || failure[0] != '\0');
    qcublas_close(q);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest fake[] = {cmocka_unit_test(test_called)};
    const struct CMUnitTest none[] = {cmocka_unit_test(test_absent)};
    const struct CMUnitTest real[] = {cmocka_unit_test(test_real)};
    const char *which = argc == 2 ? argv[1] : "";
    if (strcmp(which, "fake") == 0)
        return cmocka_run_group_tests(fake, NULL, NULL);
    if (strcmp(which, "none") == 0)
        return cmocka_run_group_tests(none, NULL, NULL);
    if (strcmp(which, "real") != 0)
        return 2;
    if (qcublas_name() != NULL)
        return cmocka_run_group_tests(real, NULL, NULL);
    printf("skipped: no cuBLAS here\n");
    return 77;
}
