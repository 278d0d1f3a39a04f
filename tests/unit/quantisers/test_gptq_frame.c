/* SPDX-License-Identifier: Apache-2.0
 * The factor of the Hessian and the walk over the columns, for any rule of
 * choice. */
#include "quant_matrix.h"

#include <math.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "alloc.h"
#include "blas.h"
#include "cpu_features.h"
#include "gptq_frame.h"
#include "sweep_tile.h"

enum { ROWS = QMI_SWEEP_ROWS, BLOCK = QMI_SWEEP_BLOCK };

static const int widths[] = {1, 5, 16, 33, 127, 128, 129, 150, 257, 400};
enum { N_WIDTHS = sizeof widths / sizeof *widths };

static double mean_diagonal(const qmi_hessian *h)
{
    double mean = 0;
    for (int64_t i = 0; i < h->n_cols; i++)
        mean += h->sum[i * h->n_cols + i] / (double)h->n_cols;
    return mean;
}

/* QMOE_CPU masks the update of tiles as it masks kernels.  In processes of their
 * own, since levels are chosen once. */
static void update_keeps_to_the_level(void **state)
{
    (void)state;
    qmi_tile_update_fn masked[2];
    static const char *const levels[] = {"portable", "avx2"};
    for (int i = 0; i < 2; i++) {
        int ends[2];
        assert_int_equal(pipe(ends), 0);
        const pid_t child = fork();
        if (child == 0) {
            setenv("QMOE_CPU", levels[i], 1);
            const qmi_tile_update_fn update = qmi_tile_update();
            _exit(write(ends[1], &update, sizeof update) != sizeof update);
        }
        assert_int_equal(
            read(ends[0], &masked[i], sizeof masked[i]), sizeof masked[i]);
        waitpid(child, NULL, 0);
        close(ends[0]);
        close(ends[1]);
    }
    /* Addresses are the same in all of them. */
    const unsigned found = qmi_cpu_features();
    assert_true((masked[0] == masked[1]) == ((found & QMI_CPU_AVX2) == 0));
    assert_true(
        (masked[1] == qmi_tile_update()) == ((found & QMI_CPU_AVX512) == 0));
}

/* U^T U (H + d I) = I. */
static void u_factors_the_inverse(void **state)
{
    (void)state;
    for (int w = 0; w < 7; w++) {
        const int64_t n = widths[w];
        qmi_hessian h = random_moments(n, 2 * n, 5);
        float *u = malloc((size_t)(n * n) * sizeof *u);
        assert_non_null(u);
        assert_int_equal(qmi_gptq_factor(u, &h, 0.1, NULL), QMOE_OK);
        const double d = 0.1 * mean_diagonal(&h);
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++) {
                double sum = 0;
                for (int64_t k = 0; k < n; k++) {
                    double inverse = 0;
                    for (int64_t l = 0; l <= i && l <= k; l++)
                        inverse += (double)u[l * n + i] * (double)u[l * n + k];
                    sum += inverse * (h.sum[k * n + j] + (k == j ? d : 0));
                }
                assert_true(fabs(sum - (i == j)) < 1e-4);
                assert_true(i <= j || u[i * n + j] == 0);
            }
        free(u);
        qmi_hessian_destroy(&h);
    }
}

/* Few tokens: the low-rank way gives what the factorisation gives. */
static void few_tokens_give_the_same_factor(void **state)
{
    static const int shapes[][2] = {{16, 1}, {33, 2}, {400, 25}, {2048, 128}};
    (void)state;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        const int64_t n = shapes[s][0];
        qmi_hessian h = random_moments(n, shapes[s][1], 11);
        qmi_gptq low, dense;
        assert_non_null(h.waiting);
        assert_int_equal(qmi_gptq_prepare(&low, &h, 0.1, 1, NULL), QMOE_OK);
        double *inputs = h.waiting;
        h.waiting = NULL;
        assert_int_equal(qmi_gptq_prepare(&dense, &h, 0.1, 1, NULL), QMOE_OK);
        h.waiting = inputs;
        for (int64_t i = 0; i < n * n; i++)
            assert_true(fabsf(low.feedback[i] - dense.feedback[i]) < 1e-6f);
        for (int64_t i = 0; i < n; i++)
            assert_true(fabsf(low.metric[i] - dense.metric[i]) <=
                        1e-6f * low.metric[i]);
        qmi_gptq_release(&low);
        qmi_gptq_release(&dense);
        qmi_hessian_destroy(&h);
    }
}

static void unusable_hessians_are_refused(void **state)
{
    enum { N = 8, ZERO, NAN_INSIDE, INFINITE, INDEFINITE, NO_TOKENS, LAST };
    (void)state;
    for (int kind = ZERO; kind < LAST; kind++) {
        float u[N * N];
        qmi_gptq g;
        qmi_error err = {0};
        qmi_hessian h = random_moments(N, 20, 9);
        if (kind == ZERO)
            memset(h.sum, 0, N * N * sizeof *h.sum);
        if (kind == NAN_INSIDE)
            h.sum[N + 3] = h.sum[3 * N + 1] = NAN;
        if (kind == INFINITE)
            h.sum[0] = INFINITY;
        if (kind == INDEFINITE)
            h.sum[5 * N + 5] = -1e3 * mean_diagonal(&h);
        if (kind == NO_TOKENS)
            h.n_tokens = 0;
        assert_int_equal(
            qmi_gptq_prepare(&g, &h, 0.1, 1, &err), QMOE_E_UNSUPPORTED);
        assert_null(g.feedback);
        assert_non_null(strstr(err.text, "Hessian"));
        assert_int_equal(qmi_gptq_factor(u, &h, 0.1, &err), QMOE_E_UNSUPPORTED);
        assert_true(qmi_hessian_usable(&h) == false);
        qmi_hessian_destroy(&h);
    }
    assert_false(qmi_hessian_usable(NULL));
}

/* Fewer tokens than columns: only the damping makes it definite. */
static void damping_makes_few_tokens_enough(void **state)
{
    qmi_hessian h = random_moments(60, 3, 11);
    qmi_gptq g;
    (void)state;
    assert_int_equal(qmi_gptq_prepare(&g, &h, 0, 1, NULL), QMOE_OK);
    assert_true(fabs(g.damping - 0.1 * mean_diagonal(&h)) < 1e-9 * g.damping);
    qmi_gptq_release(&g);
    for (int i = 0; i < 60 * 60; i++)
        h.sum[i] *= 1e-12;
    assert_int_equal(qmi_gptq_prepare(&g, &h, 0, 1, NULL), QMOE_OK);
    assert_true(g.damping == 1e-6 * 2 / 3);
    qmi_gptq_release(&g);
    qmi_hessian_destroy(&h);
}

/* |D F V|^2 - d |D|^2 against tr(D H D^T) in double, for every group size. */
static void error_is_that_of_the_hessian(void **state)
{
    static const int groups[] = {1, 4, 8, 16};
    (void)state;
    for (int i = 0; i < N_WIDTHS * 4; i++) {
        const int64_t n = widths[i / 4], n_rows = 19;
        qmi_gptq g;
        qmi_hessian h = random_moments(n, 2 * n + 3, 13);
        float *d = random_matrix(n_rows, n, 17);
        assert_int_equal(
            qmi_gptq_prepare(&g, &h, 0.1, groups[i % 4], NULL), QMOE_OK);
        const double exact = qmi_quadratic_error(d, n_rows, n, &h, NULL);
        double error = 0;
        assert_int_equal(qmi_gptq_error(&error, d, n_rows, &g, NULL), QMOE_OK);
        assert_true(exact > 0 && fabs(error - exact) < 1e-4 * exact);
        qmi_gptq_release(&g);
        qmi_hessian_destroy(&h);
        free(d);
    }
}

static void quadratic_error_without_tokens_is_plain(void **state)
{
    const float d[3] = {1, -2, 3};
    const qmi_hessian none = {.n_cols = 3};
    (void)state;
    assert_true(qmi_quadratic_error(d, 1, 3, NULL, NULL) == 14);
    assert_true(qmi_quadratic_error(d, 1, 3, &none, NULL) == 14);
}

/* Rounds to quarters; the code is the distance from -4 in quarters. */
static void to_quarters(void *user, int64_t row, int64_t col, int n,
    const float *c, float *q, uint8_t *codes)
{
    (void)row;
    (void)col;
    ++*(int *)user;
    for (int i = 0; i < n * ROWS; i++) {
        q[i] = nearbyintf(c[i] * 4) / 4;
        codes[i] = (uint8_t)((int)(q[i] * 4) + 128);
    }
}

typedef struct outcome {
    float *d, *w;
    uint8_t *codes;
    double error;
    int n_calls;
} outcome;

static outcome walk(int64_t n_rows, int64_t n, const qmi_gptq *g)
{
    outcome o = {.w = random_matrix(n_rows, n, 23)};
    const size_t count = (size_t)(n_rows * n);
    o.d = malloc(count * sizeof *o.d);
    o.codes = malloc(count);
    assert_true(o.d != NULL && o.codes != NULL);
    memcpy(o.d, o.w, count * sizeof *o.d);
    qmi_sweep sweep = {.n_rows = n_rows,
        .n_cols = n,
        .w = o.w,
        .work = o.d,
        .codes = o.codes,
        .gptq = g,
        .choose = to_quarters,
        .user = &o.n_calls};
    assert_int_equal(qmi_sweep_run(&sweep, NULL), QMOE_OK);
    o.error = sweep.error;
    return o;
}

static void outcome_free(outcome *o)
{
    free(o->d);
    free(o->w);
    free(o->codes);
}

/* The error the walk adds up from what it aimed at is the true one: this holds
 * only if every column was aimed at the right value. */
static void walk_aims_right(void **state)
{
    static const int groups[] = {1, 4, 8, 16};
    (void)state;
    for (int i = 0; i < N_WIDTHS * 4; i++) {
        const int64_t n = widths[i / 4], n_rows = 45;
        const int group = groups[i % 4];
        qmi_gptq g;
        qmi_hessian h = random_moments(n, 2 * n + 3, 19);
        assert_int_equal(qmi_gptq_prepare(&g, &h, 0.1, group, NULL), QMOE_OK);
        outcome o = walk(n_rows, n, &g);
        double exact = qmi_quadratic_error(o.d, n_rows, n, &h, NULL);
        exact += g.damping * qmi_quadratic_error(o.d, n_rows, n, NULL, NULL);
        assert_true(fabs(o.error - exact) < 1e-4 * exact);
        assert_int_equal(o.n_calls, (n + group - 1) / group * 2);
        for (int64_t j = 0; j < n_rows * n; j++) {
            const float q = (float)(o.codes[j] - 128) / 4;
            assert_true(o.d[j] == o.w[j] - q);
        }
        outcome_free(&o);
        qmi_gptq_release(&g);
        qmi_hessian_destroy(&h);
    }
}

/* Feedback against the textbook form: error / U_jj along row j of U. */
static void walk_is_gptq(void **state)
{
    enum { N = 150, N_ROWS = 37 };
    qmi_gptq g;
    qmi_hessian h = random_moments(N, 400, 29);
    float *u = malloc(N * N * sizeof *u);
    double w[N];
    (void)state;
    assert_non_null(u);
    assert_int_equal(qmi_gptq_prepare(&g, &h, 0.1, 1, NULL), QMOE_OK);
    assert_int_equal(qmi_gptq_factor(u, &h, 0.1, NULL), QMOE_OK);
    outcome o = walk(N_ROWS, N, &g);
    for (int r = 0; r < N_ROWS; r++) {
        for (int c = 0; c < N; c++)
            w[c] = (double)o.w[r * N + c];
        for (int c = 0; c < N; c++) {
            const double q = nearbyint(w[c] * 4) / 4;
            const double error = (w[c] - q) / (double)u[c * N + c];
            assert_int_equal(o.codes[r * N + c], (int)(q * 4) + 128);
            for (int k = c; k < N; k++)
                w[k] -= error * (double)u[c * N + k];
        }
    }
    outcome_free(&o);
    free(u);
    qmi_gptq_release(&g);
    qmi_hessian_destroy(&h);
}

static void walk_without_feedback_only_rounds(void **state)
{
    outcome o = walk(33, 140, NULL);
    (void)state;
    for (int i = 0; i < 33 * 140; i++)
        assert_true(o.d[i] == o.w[i] - nearbyintf(o.w[i] * 4) / 4);
    assert_true(fabs(o.error - qmi_quadratic_error(o.d, 33, 140, NULL, NULL)) <
                1e-4 * o.error);
    outcome_free(&o);
}

/* Descent: what a pass aims at is the minimum over one column given all
 * others, so no pass may raise the error. */
static void descent_never_rises(void **state)
{
    enum { N = 200, N_ROWS = 40 };
    qmi_gptq g, descent;
    qmi_hessian h = random_moments(N, 300, 31);
    (void)state;
    assert_int_equal(qmi_gptq_prepare(&g, &h, 0.1, 1, NULL), QMOE_OK);
    assert_int_equal(
        qmi_gptq_prepare_descent(&descent, &h, 0.1, NULL), QMOE_OK);
    assert_true(descent.damping == g.damping);
    outcome o = walk(N_ROWS, N, &g);
    double last = o.error;
    for (int pass = 0; pass < 3; pass++) {
        qmi_sweep sweep = {.n_rows = N_ROWS,
            .n_cols = N,
            .w = o.w,
            .work = o.d,
            .codes = o.codes,
            .gptq = &descent,
            .choose = to_quarters,
            .user = &o.n_calls};
        assert_int_equal(
            qmi_sweep_look_ahead(o.d, N_ROWS, &descent, NULL), QMOE_OK);
        for (int i = 0; i < N_ROWS * N; i++)
            o.d[i] += (float)(o.codes[i] - 128) / 4;
        assert_int_equal(qmi_sweep_run(&sweep, NULL), QMOE_OK);
        const double error =
            qmi_quadratic_error(o.d, N_ROWS, N, &h, NULL) +
            g.damping * qmi_quadratic_error(o.d, N_ROWS, N, NULL, NULL);
        assert_true(error < (pass == 0 ? 0.98 : 1.000001) * last);
        last = error;
    }
    outcome_free(&o);
    qmi_gptq_release(&g);
    qmi_gptq_release(&descent);
    qmi_hessian_destroy(&h);
}

static void tiles_come_back(void **state)
{
    enum { STRIDE = BLOCK + 3 };
    static qmi_tile tile;
    static qmi_code_tile codes;
    static float back[ROWS * STRIDE];
    static uint8_t code_back[ROWS * STRIDE];
    float *m = random_matrix(ROWS, STRIDE, 37);
    (void)state;
    for (int n_rows = 1; n_rows <= ROWS; n_rows++)
        for (int n_cols = 1; n_cols <= BLOCK; n_cols += 1 + n_cols / 9) {
            memset(tile, 0xff, sizeof tile);
            memset(back, 0, sizeof back);
            memset(code_back, 0, sizeof code_back);
            qmi_tile_load(tile, m, STRIDE, n_rows, n_cols);
            for (int c = 0; c < n_cols; c++)
                for (int r = 0; r < ROWS; r++) {
                    float expected = r < n_rows ? m[r * STRIDE + c] : 0;
                    assert_true(tile[c][r] == expected);
                    codes[c][r] = (uint8_t)(7 * c + r);
                }
            qmi_tile_store(back, STRIDE, tile, n_rows, n_cols);
            qmi_tile_store_codes(code_back, STRIDE, codes, n_rows, n_cols);
            for (int r = 0; r < ROWS; r++)
                for (int c = 0; c < STRIDE; c++) {
                    const bool inside = r < n_rows && c < n_cols;
                    const int at = r * STRIDE + c;
                    assert_true(back[at] == (inside ? m[at] : 0));
                    assert_int_equal(
                        code_back[at], inside ? (uint8_t)(7 * c + r) : 0);
                }
        }
    free(m);
}

/* The variant of this CPU against the plain loop, bit by bit. */
static void update_keeps_the_order(void **state)
{
    float *f = random_matrix(BLOCK, BLOCK, 41);
    float *numbers = random_matrix(BLOCK, ROWS, 43);
    static float c[QMI_SWEEP_STEP][ROWS] __attribute__((aligned(64)));
    static float d[BLOCK][ROWS] __attribute__((aligned(64)));
    (void)state;
    memcpy(d, numbers, sizeof d);
    for (int n = 0; n <= BLOCK; n += 11) {
        memcpy(c, numbers, sizeof c);
        qmi_tile_update()(c, (const float(*)[ROWS])d, f, n);
        for (int i = 0; i < QMI_SWEEP_STEP; i++)
            for (int r = 0; r < ROWS; r++) {
                float sum = numbers[i * ROWS + r];
                for (int j = 0; j < n; j++)
                    sum += d[j][r] * f[j * BLOCK + i];
                assert_memory_equal(&sum, &c[i][r], sizeof sum);
            }
    }
    free(f);
    free(numbers);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(update_keeps_to_the_level), /* before any update */
        cmocka_unit_test(u_factors_the_inverse),
        cmocka_unit_test(unusable_hessians_are_refused),
        cmocka_unit_test(damping_makes_few_tokens_enough),
        cmocka_unit_test(error_is_that_of_the_hessian),
        cmocka_unit_test(quadratic_error_without_tokens_is_plain),
        cmocka_unit_test(walk_aims_right),
        cmocka_unit_test(walk_is_gptq),
        cmocka_unit_test(walk_without_feedback_only_rounds),
        cmocka_unit_test(few_tokens_give_the_same_factor),
        cmocka_unit_test(descent_never_rises),
        cmocka_unit_test(tiles_come_back),
        cmocka_unit_test(update_keeps_the_order),
    };
    if (qmi_blas_load(1, NULL) != QMOE_OK)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
