/* SPDX-License-Identifier: Apache-2.0
 * Rows of 8 bits that hold what has no code: NaN, infinity, numbers so small
 * that their scale has lost its digits. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "kv_rows.h"

/* Code of the first of two values, and the scale of both. */
static int first_code(float a, float b, float *scale)
{
    uint32_t row[QMI_KV_BLOCK_BYTES / 4 + 1];
    const float values[2] = {a, b};
    qmi_kv_pack(row, QMI_KV_Q8, values, 2);
    memcpy(scale, row, sizeof *scale);
    return ((const int8_t *)row)[sizeof *scale];
}

static void test_nan_counts_as_zero(void **state)
{
    (void)state;
    float scale;
    assert_int_equal(first_code(NAN, 127.0f, &scale), 0);
    assert_true(scale == 1.0f);
    assert_int_equal(first_code(NAN, NAN, &scale), 0);
    assert_true(scale == 0.0f);
    /* A signalling one: the C library's fmaxf does not pass over it. */
    const uint32_t bits = 0x7f800001;
    float signalling;
    memcpy(&signalling, &bits, sizeof signalling);
    assert_int_equal(first_code(127.0f, signalling, &scale), 127);
    assert_true(scale == 1.0f);
}

static void test_infinity_keeps_its_scale(void **state)
{
    (void)state;
    float scale;
    assert_int_equal(first_code(INFINITY, 1.0f, &scale), 0);
    assert_true(isinf(scale));
}

static void test_subnormal_blocks_stay_in_range(void **state)
{
    (void)state;
    const float least = 1.40129846e-45f;
    float scale;
    /* 190 / 127 rounds to one step: 190 would be beyond the codes. */
    assert_int_equal(first_code(190 * least, 0.0f, &scale), 127);
    assert_int_equal(first_code(-190 * least, 0.0f, &scale), -127);
    assert_true(scale == least);
    assert_int_equal(first_code(3 * least, 0.0f, &scale), 0);
    assert_true(scale == 0.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nan_counts_as_zero),
        cmocka_unit_test(test_infinity_keeps_its_scale),
        cmocka_unit_test(test_subnormal_blocks_stay_in_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
