/* SPDX-License-Identifier: Apache-2.0
 * The format table, dense weights, and validation on first use. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>

#include "alloc.h"
#include "td_stack.h"

static void the_table_finds_its_entries(void **state)
{
    static const char *const names[] = {"bf16", "f16", "f32", "ternary-dict"};
    size_t n = 0;
    (void)state;
    for (; qmi_format_at(n) != NULL; n++) {
        const qmi_format *format = qmi_format_at(n);
        assert_ptr_equal(qmi_format_find(format->name), format);
        assert_int_equal(format->id, n);
        assert_true(format->n_parts >= 1 && format->n_parts <= QMI_MAX_PARTS);
        assert_non_null(format->decode);
        if (format->dense)
            assert_ptr_equal(qmi_format_dense(format->dtype), format);
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_non_null(qmi_format_find(names[i]));
    assert_null(qmi_format_at(n + 1));
    assert_null(qmi_format_find("BF16"));
    assert_null(qmi_format_find(""));
    assert_null(qmi_format_dense(QMI_F64));
    assert_null(qmi_format_dense(QMI_U16));
}

/* 2 matrices [3, 5] of counting numbers, at an odd address. */
enum { N_MATS = 2, N_ROWS = 3, N_COLS = 5, N = N_MATS * N_ROWS * N_COLS };

static void store(uint8_t *data, qmi_dtype dtype, int i)
{
    float f = (float)i - 7;
    uint16_t bf16 = qmi_f32_to_bf16(f);
    /* 2^-24 * i: f16 subnormals, whose bits are the number itself. */
    uint16_t f16 = (uint16_t)i;
    if (dtype == QMI_F32)
        memcpy(data + 4 * i, &f, 4);
    else
        memcpy(data + 2 * i, dtype == QMI_F16 ? &f16 : &bf16, 2);
}

static float stored(qmi_dtype dtype, int i)
{
    return dtype == QMI_F16 ? (float)i * 0x1p-24f : (float)i - 7;
}

static void assert_dense(const qmi_weight *w)
{
    float rows[2 * N_COLS];
    assert_int_equal(qmi_weight_check(w, N_MATS - 1, NULL), QMOE_OK);
    for (int m = 0; m < N_MATS; m++)
        for (int r = 0; r < N_ROWS - 1; r++) {
            qmi_weight_decode(w, m, r, 2, rows);
            for (int c = 0; c < 2 * N_COLS; c++)
                assert_true(rows[c] == stored(w->format->dtype,
                                           (m * N_ROWS + r) * N_COLS + c));
        }
}

static void dense_weights_decode(void **state)
{
    static const qmi_dtype dtypes[] = {QMI_BF16, QMI_F16, QMI_F32};
    (void)state;
    for (int d = 0; d < 3; d++) {
        size_t n_bytes = N * qmi_dtype_bits(dtypes[d]) / 8;
        uint8_t *data = exact_block(n_bytes + 1, 1);
        for (int i = 0; i < N; i++)
            store(data + 1, dtypes[d], i);
        qmi_weight w = {
            .format = qmi_format_dense(dtypes[d]),
            .name = "w",
            .n_mats = N_MATS,
            .n_rows = N_ROWS,
            .n_cols = N_COLS,
            .parts = {{data + 1, n_bytes}},
        };
        assert_int_equal(qmi_weight_bytes(&w), n_bytes);
        assert_ptr_equal(qmi_weight_dense(&w, 1), data + 1 + n_bytes / 2);
        assert_dense(&w);
        /* The same matrices by address. */
        const void *mats[N_MATS] = {data + 1, data + 1 + n_bytes / 2};
        w.mats = mats;
        w.parts[0].data = NULL;
        assert_dense(&w);
        free(data);
    }
}

static td_stack stack_of_two(_Atomic(uint8_t) *checked)
{
    uint8_t weights[2 * 3 * 40];
    uint64_t seed = 21;
    random_codes(weights, sizeof weights, 0.8, &seed);
    td_stack s = td_stack_encode(weights, 2, 3, 40);
    s.w.checked = checked;
    return s;
}

static void bytes_are_those_of_all_parts(void **state)
{
    td_stack s = stack_of_two(NULL);
    (void)state;
    assert_int_equal(
        qmi_weight_bytes(&s.w), 8 * 3 + 4 * 2 * 4 + 4 * 2 * 3 + 2 * s.n_codes);
    td_stack_free(&s);
}

static void a_matrix_is_checked_once(void **state)
{
    _Atomic(uint8_t) checked[2] = {0};
    qmi_error err = {0};
    td_stack s = stack_of_two(checked);
    (void)state;
    assert_int_equal(qmi_weight_check(&s.w, 1, &err), QMOE_OK);
    assert_int_equal(checked[0], 0);
    assert_int_equal(checked[1], 1);
    s.row_offsets[0] = s.row_offsets[4] = 1;
    assert_int_equal(qmi_weight_check(&s.w, 1, &err), QMOE_OK);
    assert_int_equal(qmi_weight_check(&s.w, 0, &err), QMOE_E_FORMAT);
    assert_string_equal(
        err.text, "'stack', matrix 0: row_offsets: starts at 1, not 0");
    assert_int_equal(checked[0], 0);
    assert_int_equal(qmi_weight_check(&s.w, 0, NULL), QMOE_E_FORMAT);
    s.w.checked = NULL;
    assert_int_equal(qmi_weight_check(&s.w, 1, &err), QMOE_E_FORMAT);
    td_stack_free(&s);
}

static void a_matrix_out_of_range_is_refused(void **state)
{
    _Atomic(uint8_t) checked[2] = {0};
    td_stack s = stack_of_two(checked);
    (void)state;
    assert_int_equal(qmi_weight_check(&s.w, -1, NULL), QMOE_E_INVALID);
    assert_int_equal(qmi_weight_check(&s.w, 2, NULL), QMOE_E_INVALID);
    td_stack_free(&s);
}

static void *check_both(void *weight)
{
    const qmi_weight *w = weight;
    for (int64_t m = 0; m < 2; m++)
        if (qmi_weight_check(w, m, NULL) != QMOE_OK)
            return weight;
    return NULL;
}

static void threads_may_check_together(void **state)
{
    enum { N_THREADS = 4 };
    _Atomic(uint8_t) checked[2] = {0};
    pthread_t threads[N_THREADS];
    td_stack s = stack_of_two(checked);
    (void)state;
    for (int i = 0; i < N_THREADS; i++)
        assert_int_equal(
            pthread_create(&threads[i], NULL, check_both, &s.w), 0);
    for (int i = 0; i < N_THREADS; i++) {
        void *failed = &s;
        assert_int_equal(pthread_join(threads[i], &failed), 0);
        assert_null(failed);
    }
    assert_int_equal(checked[0] + checked[1], 2);
    td_stack_free(&s);
}

static void assert_range(qmi_part range, const void *data, size_t n_bytes)
{
    assert_ptr_equal(range.data, data);
    assert_int_equal(range.n_bytes, n_bytes);
}

static void matrices_share_out_the_bytes(void **state)
{
    (void)state;
    uint8_t data[N_MATS + 1][N_ROWS * N_COLS * 2];
    const void *mats[N_MATS] = {data[0], data[2]};
    qmi_weight w = {.format = qmi_format_dense(QMI_BF16),
        .n_mats = N_MATS,
        .n_rows = N_ROWS,
        .n_cols = N_COLS,
        .parts[0] = {data, N_MATS * sizeof data[0]}};
    assert_range(qmi_matrix_range(&w, 0, 1, 1), data[1], sizeof data[0]);
    assert_range(qmi_matrix_range(&w, 0, 0, 2), data[0], 2 * sizeof data[0]);
    w.mats = mats;
    assert_range(qmi_matrix_range(&w, 0, 1, 1), data[2], sizeof data[0]);
    assert_range(qmi_matrix_range(&w, 0, 0, 2), NULL, 2 * sizeof data[0]);
}

static void variable_matrices_follow_their_offsets(void **state)
{
    (void)state;
    uint8_t weights[3 * 4 * 10];
    uint64_t seed = 5, end = 0;
    random_codes(weights, sizeof weights, 0.5, &seed);
    td_stack s = td_stack_encode(weights, 3, 4, 10);
    for (int64_t m = 0; m < 3; m++) {
        const qmi_td_matrix matrix = qmi_td_matrix_of(&s.w, m);
        const qmi_part codes = qmi_matrix_range(&s.w, QMI_TD_CODES, m, 1);
        assert_ptr_equal(codes.data, matrix.codes);
        assert_range(
            qmi_matrix_range(&s.w, QMI_TD_LEVELS, m, 1), matrix.levels, 4 * 4);
        assert_int_equal(
            qmi_matrix_range(&s.w, QMI_TD_EXPERT_OFFSETS, m, 1).n_bytes, 0);
        end += codes.n_bytes;
        assert_int_equal(
            qmi_matrix_range(&s.w, QMI_TD_CODES, 0, m + 1).n_bytes, end);
    }
    assert_int_equal(end, s.w.parts[QMI_TD_CODES].n_bytes);
    td_stack_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table_finds_its_entries),
        cmocka_unit_test(dense_weights_decode),
        cmocka_unit_test(bytes_are_those_of_all_parts),
        cmocka_unit_test(matrices_share_out_the_bytes),
        cmocka_unit_test(variable_matrices_follow_their_offsets),
        cmocka_unit_test(a_matrix_is_checked_once),
        cmocka_unit_test(a_matrix_out_of_range_is_refused),
        cmocka_unit_test(threads_may_check_together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
