/* SPDX-License-Identifier: Apache-2.0
 * BLAS in portions: sizes that take several give what one call gives, and a
 * wish to end early ends each of them. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "alloc.h"
#include "cancel.h"
#include "portions.h"

/* ---- products ---- */

static float *floats(size_t n, uint32_t seed)
{
    float *x = qmi_calloc(n, sizeof *x, "a matrix", NULL);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(seed >> 8) * 0x1p-23f - 1;
    }
    return x;
}

/* An element of a product, by hand. */
static double element(qmi_rows a, qmi_rows b, int64_t r, int64_t c, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)a.data[r * a.stride + i] * b.data[i * b.stride + c];
    return sum;
}

/* 1100 * 900 * 800 multiply-adds: two portions. */
static void test_product_of_several_portions(void **state)
{
    enum { ROWS = 1100, COLS = 900, DEPTH = 800 };
    (void)state;
    float *a = floats(ROWS * DEPTH, 1), *b = floats(DEPTH * COLS, 2);
    float *y = floats(ROWS * COLS, 3), *before = floats(ROWS * COLS, 3);
    const qmi_rows x = {a, DEPTH}, w = {b, COLS};
    assert_int_equal(
        qmi_multiply(y, COLS, x, w, ROWS, COLS, DEPTH, 1, NULL), QMOE_OK);
    for (int64_t i = 0; i < ROWS * COLS; i += 61) {
        const double expected =
            before[i] + element(x, w, i / COLS, i % COLS, DEPTH);
        assert_true(fabs(y[i] - expected) < 1e-3);
    }
    qmi_free(a);
    qmi_free(b);
    qmi_free(y);
    qmi_free(before);
}

/* Both halves, in several blocks of columns. */
static void test_triangle_of_several_portions(void **state)
{
    enum { ROWS = 700, N = 1300 };
    (void)state;
    for (int upper = 0; upper < 2; upper++) {
        float *t = floats(N * N, 4), *x = floats(ROWS * N, 5);
        float *before = floats(ROWS * N, 5);
        assert_int_equal(qmi_multiply_triangle(x, t,
                             upper ? CblasUpper : CblasLower, ROWS, N, NULL),
            QMOE_OK);
        for (int64_t i = 0; i < ROWS * N; i += 97) {
            const int64_t r = i / N, c = i % N;
            double expected = before[i];
            for (int64_t k = upper ? 0 : c + 1; k < (upper ? c : N); k++)
                expected += (double)before[r * N + k] * t[k * N + c];
            assert_true(fabs(x[i] - expected) < 1e-3);
        }
        qmi_free(t);
        qmi_free(x);
        qmi_free(before);
    }
}

/* Squares of 2600 columns take two portions; their factor, several. */
static void test_squares_and_their_factor(void **state)
{
    enum { N = 2600, DEPTH = 128 };
    (void)state;
    float *x = floats(N * DEPTH, 6);
    double *wide = qmi_calloc(N * DEPTH, sizeof *wide, "inputs", NULL);
    double *sum = qmi_calloc(N * N, sizeof *sum, "moments", NULL);
    double *factor = qmi_calloc(N * N, sizeof *factor, "a factor", NULL);
    for (int64_t i = 0; i < N * DEPTH; i++)
        wide[i] = (double)x[i];
    assert_int_equal(qmi_add_squares(sum, wide, N, DEPTH, NULL), QMOE_OK);
    for (int64_t i = 0; i < N; i++)
        for (int64_t j = i; j < N; j += 41) {
            double expected = 0;
            for (int64_t k = 0; k < DEPTH; k++)
                expected += wide[k * N + i] * wide[k * N + j];
            assert_true(fabs(sum[i * N + j] - expected) < 1e-9);
        }
    /* The row-major upper half is the column-major lower one. */
    for (int64_t i = 0; i < N; i++)
        for (int64_t j = i; j < N; j++)
            factor[j * N + i] = sum[i * N + j] + (i == j);
    assert_int_equal(qmi_factorise(factor, N, NULL), QMOE_OK);
    for (int64_t i = 0; i < N; i += 137)
        for (int64_t j = i; j < N; j += 53) {
            double product = 0;
            for (int64_t k = 0; k <= i; k++)
                product += factor[i * N + k] * factor[j * N + k];
            assert_true(fabs(product - sum[i * N + j] - (i == j)) < 1e-8);
        }
    factor[0] = -1;
    assert_int_equal(qmi_factorise(factor, N, NULL), QMOE_E_UNSUPPORTED);
    qmi_free(x);
    qmi_free(wide);
    qmi_free(sum);
    qmi_free(factor);
}

static void test_cancelled_products(void **state)
{
    struct qmi_cancel cancel = {.wanted = true};
    qmi_error err = {.cancel = &cancel};
    float x[4] = {1, 2, 3, 4};
    double y[4] = {1, 0, 0, 1};
    (void)state;
    const qmi_rows rows = {x, 2};
    assert_int_equal(
        qmi_multiply(x, 2, rows, rows, 2, 2, 2, 0, &err), QMOE_E_CANCELLED);
    assert_string_equal(err.text, "cancelled");
    assert_int_equal(
        qmi_multiply_triangle(x, x, CblasUpper, 2, 2, &err), QMOE_E_CANCELLED);
    assert_int_equal(qmi_add_squares(y, y, 2, 2, &err), QMOE_E_CANCELLED);
    assert_int_equal(qmi_factorise(y, 2, &err), QMOE_E_CANCELLED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_product_of_several_portions),
        cmocka_unit_test(test_triangle_of_several_portions),
        cmocka_unit_test(test_squares_and_their_factor),
        cmocka_unit_test(test_cancelled_products),
    };
    if (qmi_blas_load(1, NULL) != QMOE_OK)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
