/* SPDX-License-Identifier: Apache-2.0
 * Measuring: order statistics, and that wrong products are seen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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
    qmi_bench_spread s = qmi_bench_spread_of(one, 1);
    close_to(s.median, 3);
    close_to(s.p10, 3);
    close_to(s.p90, 3);
    double many[] = {10, 1, 9, 2, 8, 3, 7, 4, 6, 5, 0};
    s = qmi_bench_spread_of(many, 11);
    close_to(s.median, 5);
    close_to(s.p10, 1);
    close_to(s.p90, 9);
    double two[] = {4, 2};
    s = qmi_bench_spread_of(two, 2);
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
    qmi_bench_stack stack;
    qmi_bench_expected expected;
    qmi_error err = {0};
    assert_int_equal(qmi_bench_stack_make(&stack, format, ROWS, COLS, 1,
                         QMI_BENCH_IN_MEMORY, &err),
        QMOE_OK);
    for (int i = 0; i < TOKENS * COLS; i++)
        x[i] = (float)(i % 17) * 0.25f - 2.0f;
    assert_int_equal(
        qmi_bench_expected_make(&expected, &stack.weight, x, TOKENS, &err), 0);
    qmi_weight_decode(&stack.weight, stack.weight.n_mats - 1, 0, ROWS, w);
    memset(y, 0, sizeof y);
    for (int t = 0; t < TOKENS; t++)
        for (int r = 0; r < ROWS; r++)
            for (int c = 0; c < COLS; c++)
                y[t * ROWS + r] += x[t * COLS + c] * w[r * COLS + c];
    assert_true(
        qmi_bench_expected_agrees(&expected, y, TOKENS, QMI_INPUTS_F32));
    const int places[] = {5, ROWS - 1, ROWS, TOKENS * ROWS - 1};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        float *place = &y[places[i]];
        const float right = *place, wrong[] = {right + 1e-3f, NAN, INFINITY};
        for (size_t j = 0; j < sizeof wrong / sizeof *wrong; j++) {
            *place = wrong[j];
            assert_false(qmi_bench_expected_agrees(
                &expected, y, TOKENS, QMI_INPUTS_F32));
        }
        *place = right;
    }
    qmi_bench_expected_free(&expected);
    qmi_bench_stack_free(&stack);
}

static void test_expected(void **state)
{
    (void)state;
    const qmi_format *format;
    for (size_t i = 0; (format = qmi_format_at(i)) != NULL; i++)
        check_format(format);
}

static uint64_t resident_bytes(void)
{
    unsigned long total = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL || fscanf(file, "%lu %lu", &total, &resident) != 2)
        resident = 0;
    if (file != NULL)
        fclose(file);
    return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void check_repeat(size_t n_bytes, size_t count)
{
    qmi_bench_repeat r;
    qmi_error err = {0};
    uint8_t *block = malloc(n_bytes);
    assert_non_null(block);
    for (size_t i = 0; i < n_bytes; i++)
        block[i] = (uint8_t)(i * 7 + i / 251);
    qmoe_status status = qmi_bench_repeat_make(&r, block, n_bytes, count, &err);
    assert_int_equal(status, QMOE_OK);
    for (size_t i = 0; i < count; i++)
        assert_memory_equal((uint8_t *)r.data + i * n_bytes, block, n_bytes);
    qmi_bench_repeat_free(&r);
    qmi_bench_repeat_free(&r); /* nothing */
    free(block);
}

/* Every copy is there, whatever the sizes, and memory is not used for each. */
static void test_repeat(void **state)
{
    (void)state;
    enum { MIB = 1 << 20, SMALL = 4096 * 3 };
    check_repeat(1, 1);
    check_repeat(1, 5);
    check_repeat(5, 4096);
    check_repeat(4160, 300);
    check_repeat(5 * MIB + 128, 9);
    check_repeat(17 * MIB, 2);
    qmi_bench_repeat r;
    qmi_error err = {0};
    static const uint8_t block[SMALL] = {1};
    /* 100 GB, far more than there is */
    const size_t count = 100000000000 / SMALL;
    const uint64_t before = resident_bytes();
    assert_int_equal(
        qmi_bench_repeat_make(&r, block, SMALL, count, &err), QMOE_OK);
    assert_int_equal(((uint8_t *)r.data)[(count - 1) * SMALL], 1);
    assert_true(resident_bytes() < before + 64 * MIB);
    qmi_bench_repeat_free(&r);
    assert_int_equal(
        qmi_bench_repeat_make(&r, block, SMALL, SIZE_MAX / 8, &err),
        QMOE_E_NOMEM);
    assert_null(r.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spread),
        cmocka_unit_test(test_expected),
        cmocka_unit_test(test_repeat),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
