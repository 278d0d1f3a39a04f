/* SPDX-License-Identifier: Apache-2.0
 * Second moments: the sum itself, and that cuts between calls leave no
 * trace. */
#include "quant_matrix.h"

#include <math.h>

#include "alloc.h"
#include "blas.h"

enum { N_COLS = 37, N_TOKENS = 500 };

static qmi_hessian sum_in_pieces(const float *x, const int *pieces)
{
    qmi_hessian h;
    int64_t done = 0;
    assert_int_equal(qmi_hessian_create(&h, N_COLS, NULL), QMOE_OK);
    for (int i = 0; done < N_TOKENS; i++) {
        int64_t n = pieces[i % 3];
        n = n < N_TOKENS - done ? n : N_TOKENS - done;
        assert_int_equal(
            qmi_hessian_add(&h, x + done * N_COLS, n, NULL), QMOE_OK);
        done += n;
    }
    assert_int_equal(qmi_hessian_finish(&h, NULL), QMOE_OK);
    assert_int_equal(h.n_tokens, N_TOKENS);
    return h;
}

static void cuts_leave_no_trace(void **state)
{
    static const int pieces[][3] = {{N_TOKENS, N_TOKENS, N_TOKENS}, {1, 1, 1},
        {127, 1, 128}, {129, 0, 60}, {128, 128, 128}, {7, 300, 2}};
    float *x = random_matrix(N_TOKENS, N_COLS, 1);
    qmi_hessian whole = sum_in_pieces(x, pieces[0]);
    (void)state;
    for (size_t i = 1; i < sizeof pieces / sizeof *pieces; i++) {
        qmi_hessian h = sum_in_pieces(x, pieces[i]);
        assert_memory_equal(h.sum, whole.sum, N_COLS * N_COLS * sizeof *h.sum);
        qmi_hessian_destroy(&h);
    }
    qmi_hessian_destroy(&whole);
    free(x);
}

static void sum_is_x_transposed_x(void **state)
{
    static const int pieces[3] = {100, 200, 33};
    float *x = random_matrix(N_TOKENS, N_COLS, 2);
    qmi_hessian h = sum_in_pieces(x, pieces);
    (void)state;
    for (int i = 0; i < N_COLS; i++)
        for (int j = 0; j < N_COLS; j++) {
            double sum = 0;
            for (int t = 0; t < N_TOKENS; t++)
                sum += (double)x[t * N_COLS + i] * (double)x[t * N_COLS + j];
            assert_true(fabs(h.sum[i * N_COLS + j] - sum) < 1e-10);
            assert_true(h.sum[i * N_COLS + j] == h.sum[j * N_COLS + i]);
        }
    qmi_hessian_destroy(&h);
    free(x);
}

/* Whole tiles of the mirrored half and the ragged rest. */
static void both_halves_are_filled(void **state)
{
    static const int widths[] = {1, 31, 32, 33, 64, 100};
    (void)state;
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        const int n = widths[i];
        qmi_hessian h = random_moments(n, 2 * n, 3);
        for (int r = 0; r < n; r++)
            for (int c = 0; c < n; c++)
                assert_true(h.sum[r * n + c] == h.sum[c * n + r] &&
                            h.sum[r * n + c] != 0);
        qmi_hessian_destroy(&h);
    }
}

static void misuse_is_refused(void **state)
{
    qmi_hessian h;
    qmi_error err = {0};
    const float x[2] = {1, 2};
    (void)state;
    assert_int_equal(qmi_hessian_create(&h, 0, &err), QMOE_E_INVALID);
    assert_null(h.sum);
    assert_int_equal(qmi_hessian_create(&h, 2, &err), QMOE_OK);
    assert_int_equal(qmi_hessian_add(&h, x, 1, &err), QMOE_OK);
    assert_int_equal(qmi_hessian_finish(&h, &err), QMOE_OK);
    assert_int_equal(qmi_hessian_add(&h, x, 1, &err), QMOE_E_INVALID);
    assert_int_equal(qmi_hessian_finish(&h, &err), QMOE_E_INVALID);
    assert_int_equal(h.n_tokens, 1);
    qmi_hessian_destroy(&h);
    qmi_hessian_destroy(&h);
}

static void memory_is_accounted_for(void **state)
{
    qmi_hessian h;
    (void)state;
    assert_int_equal(qmi_hessian_bytes(1000),
        1000 * (1000 + QMI_HESSIAN_BLOCK) * sizeof(double));
    assert_true(qmi_hessian_bytes(-1) == UINT64_MAX);
    assert_true(qmi_hessian_bytes(INT64_MAX) == UINT64_MAX);
    for (uint64_t n = 1; n <= 2; n++) {
        qmi_alloc_fail_after(n);
        assert_int_equal(qmi_hessian_create(&h, 8, NULL), QMOE_E_NOMEM);
        assert_null(h.sum);
    }
    qmi_alloc_fail_after(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cuts_leave_no_trace),
        cmocka_unit_test(sum_is_x_transposed_x),
        cmocka_unit_test(both_halves_are_filled),
        cmocka_unit_test(misuse_is_refused),
        cmocka_unit_test(memory_is_accounted_for),
    };
    if (qmi_blas_load(1, NULL) != QMOE_OK)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
