/* SPDX-License-Identifier: Apache-2.0
 * Measuring: order statistics, and that wrong products are seen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "bench_expected.h"
#include "bench_stats.h"
#include "bench_weights.h"

static void close_to(double a, double b)
{
    assert_true(fabs(a - b) < 1e-12);
}

static void test_spread(void **state)
{
    (void)state;
    double one[] = {3};
    bench_spread s = bench_spread_of(one, 1);
    close_to(s.median, 3);
    close_to(s.p10, 3);
    close_to(s.p90, 3);
    double many[] = {10, 1, 9, 2, 8, 3, 7, 4, 6, 5, 0};
    s = bench_spread_of(many, 11);
    close_to(s.median, 5);
    close_to(s.p10, 1);
    close_to(s.p90, 9);
    double two[] = {4, 2};
    s = bench_spread_of(two, 2);
    close_to(s.median, 3);
    close_to(s.p10, 2.2);
    close_to(s.p90, 3.8);
}

enum { ROWS = 130, COLS = 48, TOKENS = 3 };

/* Single-precision products of the decoded matrix agree; one that is off by
 * little, one that is missing and a NaN do not. */
static void check_format(const qmi_format *format)
{
    static float w[ROWS * COLS], x[TOKENS * COLS], y[TOKENS * ROWS];
    bench_stack stack;
    bench_expected expected;
    qmi_error err = {0};
    assert_int_equal(
        bench_stack_make(&stack, format, ROWS, COLS, 1, &err), QMOE_OK);
    for (int i = 0; i < TOKENS * COLS; i++)
        x[i] = (float)(i % 17) * 0.25f - 2.0f;
    assert_int_equal(
        bench_expected_make(&expected, &stack.weight, x, TOKENS, &err), 0);
    qmi_weight_decode(&stack.weight, stack.weight.n_mats - 1, 0, ROWS, w);
    memset(y, 0, sizeof y);
    for (int t = 0; t < TOKENS; t++)
        for (int r = 0; r < ROWS; r++)
            for (int c = 0; c < COLS; c++)
                y[t * ROWS + r] += x[t * COLS + c] * w[r * COLS + c];
    assert_true(bench_expected_agrees(&expected, y, TOKENS));
    const int places[] = {5, ROWS - 1, ROWS, TOKENS * ROWS - 1};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        float *place = &y[places[i]];
        const float right = *place, wrong[] = {right + 1e-3f, NAN, INFINITY};
        for (size_t j = 0; j < sizeof wrong / sizeof *wrong; j++) {
            *place = wrong[j];
            assert_false(bench_expected_agrees(&expected, y, TOKENS));
        }
        *place = right;
    }
    bench_expected_free(&expected);
    bench_stack_free(&stack);
}

static void test_expected(void **state)
{
    (void)state;
    const qmi_format *format;
    for (size_t i = 0; (format = qmi_format_at(i)) != NULL; i++)
        check_format(format);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spread),
        cmocka_unit_test(test_expected),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
