/* SPDX-License-Identifier: Apache-2.0
 * Activations of rows: close to double, and the same bits wherever a value
 * stands in a row. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "cpu.h"

enum { N = 4001 };
static float x[N], y[N];

static void fill(void)
{
    for (int i = 0; i < N; i++)
        x[i] = (float)(i - N / 2) * 0.05f;
}

static void check_close(qmi_act act)
{
    fill();
    qcpu_act_rows(y, x, N, act);
    for (int i = 0; i < N; i++) {
        const double s = 1 / (1 + exp(-(double)x[i]));
        const double want = act == QMI_ACT_SILU ? x[i] * s : s;
        assert_true(fabs(y[i] - want) <= 4e-7 * fabs(want) + 1e-36);
    }
}

static void test_close_to_double(void **state)
{
    (void)state;
    check_close(QMI_ACT_SILU);
    check_close(QMI_ACT_SIGMOID);
}

static void test_bits_do_not_depend_on_place(void **state)
{
    (void)state;
    fill();
    qcpu_act_rows(y, x, N, QMI_ACT_SILU);
    for (int i = 0; i < N; i++) {
        float alone;
        qcpu_act_rows(&alone, x + i, 1, QMI_ACT_SILU);
        assert_memory_equal(&alone, y + i, sizeof alone);
    }
}

static void test_special_values(void **state)
{
    (void)state;
    float v[4] = {INFINITY, NAN, 0.0f, -1000.0f};
    qcpu_act_rows(v, v, 4, QMI_ACT_SILU);
    assert_true(isinf(v[0]) && isnan(v[1]) && v[2] == 0 && v[3] == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_close_to_double),
        cmocka_unit_test(test_bits_do_not_depend_on_place),
        cmocka_unit_test(test_special_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
