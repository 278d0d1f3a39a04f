/* SPDX-License-Identifier: Apache-2.0
 * Least-squares levels against their definition. */
#include "quant_matrix.h"

#include <math.h>

#include "blas.h"
#include "ternary_dict.h"
#include "ternary_levels.h"

enum { N_ROWS = 70, N = 300 };

typedef struct problem {
    qmi_hessian h;
    qmi_gptq a;
    float *w, *target;
    uint8_t codes[N_ROWS * N];
    qmi_ternary_grid grid;
} problem;

/* A matrix cut at +-1.2; row 0 has no code but ZERO, row 1 no LOW, row 2 no
 * HIGH one. */
static void set_up(problem *p, bool weighted)
{
    p->w = random_matrix(N_ROWS, N, 3);
    p->h = random_moments(N, 900, 5);
    p->target = malloc(N_ROWS * N * sizeof *p->target);
    assert_non_null(p->target);
    assert_int_equal(qmi_gptq_prepare_descent(&p->a, &p->h, 0.1, NULL), 0);
    for (int i = 0; i < N_ROWS * N; i++) {
        const int row = i / N;
        p->codes[i] = row != 0 && row != 2 && p->w[i] > 1.2f ? QMI_CODE_HIGH
                      : row > 1 && p->w[i] < -1.2f           ? QMI_CODE_LOW
                                                             : QMI_CODE_ZERO;
    }
    for (int i = 0; i < N_ROWS * N; i++) {
        double sum = weighted ? p->a.damping * (double)p->w[i] : 0;
        for (int c = 0; weighted && c < N; c++)
            sum += (double)p->w[i / N * N + c] * p->h.sum[c * N + i % N];
        p->target[i] = weighted ? (float)sum : p->w[i];
    }
    assert_int_equal(qmi_ternary_grid_create(&p->grid, N_ROWS, NULL), 0);
    for (int row = 0; row < N_ROWS; row++)
        qmi_ternary_grid_set(&p->grid, row, -0.25f, 0.25f, 1);
}

static void tear_down(problem *p)
{
    qmi_hessian_destroy(&p->h);
    qmi_gptq_release(&p->a);
    qmi_ternary_grid_release(&p->grid);
    free(p->w);
    free(p->target);
}

/* The error of one row under A = H + d I, or I. */
static double error_of(
    const problem *p, bool weighted, int row, double low, double high)
{
    double d[N], error = 0;
    for (int c = 0; c < N; c++) {
        const uint8_t code = p->codes[row * N + c];
        d[c] = (double)p->w[row * N + c] - (code == QMI_CODE_LOW       ? low
                                               : code == QMI_CODE_HIGH ? high
                                                                       : 0);
    }
    for (int i = 0; i < N; i++) {
        double sum = d[i] * (weighted ? p->a.damping : 1);
        for (int j = 0; weighted && j < N; j++)
            sum += p->h.sum[i * N + j] * d[j];
        error += d[i] * sum;
    }
    return error;
}

static bool is_bf16(float x)
{
    return qmi_bf16_to_f32(qmi_f32_to_bf16(x)) == x;
}

/* No step of one or two bf16 units in either level or both gains. */
static void levels_are_optimal(void **state)
{
    (void)state;
    for (int weighted = 0; weighted < 2; weighted++) {
        problem p;
        set_up(&p, weighted);
        const qmi_ternary_levels fit = {.n_rows = N_ROWS,
            .n_cols = N,
            .codes = p.codes,
            .target = p.target,
            .descent = weighted ? &p.a : NULL,
            .unit = 1};
        assert_int_equal(qmi_ternary_levels_fit(&p.grid, &fit, NULL), 0);
        for (int row = 0; row < N_ROWS; row++) {
            const float low = p.grid.low[row], high = p.grid.high[row];
            assert_true(is_bf16(low) && is_bf16(high) && low < 0 && high > 0);
            assert_true((low == -0.25f) == (row < 2));
            assert_true((high == 0.25f) == (row == 0 || row == 2));
            if (row < 3)
                continue;
            assert_true(p.grid.above[row] == high / 2);
            const double best =
                error_of(&p, weighted, row, (double)low, (double)high);
            for (int step = 0; step < 9; step++) {
                const double l = (double)low * (1 + (step % 3 - 1) / 64.0);
                const double h = (double)high * (1 + (step / 3 - 1) / 64.0);
                assert_true(
                    error_of(&p, weighted, row, l, h) >= best * 0.99999);
            }
        }
        tear_down(&p);
    }
}

/* Levels of the wrong sign would be no levels. */
static void signs_stay(void **state)
{
    problem p;
    (void)state;
    set_up(&p, false);
    for (int i = 0; i < N_ROWS * N; i++)
        p.w[i] = p.target[i] = -p.target[i];
    const qmi_ternary_levels fit = {.n_rows = N_ROWS,
        .n_cols = N,
        .codes = p.codes,
        .target = p.target,
        .unit = 1};
    assert_int_equal(qmi_ternary_levels_fit(&p.grid, &fit, NULL), 0);
    for (int row = 0; row < N_ROWS; row++)
        assert_true(p.grid.low[row] == -0.25f && p.grid.high[row] == 0.25f);
    tear_down(&p);
}

static void neighbours_enclose(void **state)
{
    static const double values[] = {
        1, -1, 1.001, -3.14159, 1e-30, 65504.7, -3.3e38};
    (void)state;
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        float pair[2];
        const double x = fabs(values[i]);
        qmi_bf16_neighbours(pair, values[i]);
        assert_true(is_bf16(pair[0]) && is_bf16(pair[1]));
        assert_true((pair[0] > 0) == (values[i] > 0));
        assert_true(fabs((double)pair[0]) <= x * 1.0000001);
        assert_true(fabs((double)pair[1]) > x || pair[0] == pair[1]);
        assert_true(fabs((double)pair[1]) < x * 1.01);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(levels_are_optimal),
        cmocka_unit_test(signs_stay),
        cmocka_unit_test(neighbours_enclose),
    };
    if (qmi_blas_load(1, NULL) != QMOE_OK)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
