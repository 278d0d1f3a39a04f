/* SPDX-License-Identifier: Apache-2.0
 * The format "q2" and the grid of its quantiser. */
#include "quant_matrix.h"

#include "q2.h"

enum { N_MATS = 2, N_ROWS = 3, N_COLS = 6, ROW_BYTES = 2 };

typedef struct stack {
    qmi_weight w;
    uint8_t codes[N_MATS * N_ROWS * ROW_BYTES];
    uint16_t levels[N_MATS * N_ROWS * QMI_Q2_VALUES];
} stack;

/* Weight (m, r, c) has code (m + r + c) % 4, whose value is r + code / 4. */
static void fill(stack *s)
{
    memset(s, 0, sizeof *s);
    for (int i = 0; i < N_MATS * N_ROWS; i++) {
        for (int c = 0; c < N_COLS; c++)
            s->codes[i * ROW_BYTES + c / 4] |=
                (uint8_t)((i / N_ROWS + i % N_ROWS + c) % 4 << 2 * (c % 4));
        for (int k = 0; k < QMI_Q2_VALUES; k++)
            s->levels[i * QMI_Q2_VALUES + k] =
                qmi_f32_to_bf16((float)(i % N_ROWS) + (float)k / 4);
    }
    s->w = (qmi_weight){.format = &qmi_format_q2,
        .name = "stack",
        .n_mats = N_MATS,
        .n_rows = N_ROWS,
        .n_cols = N_COLS,
        .parts = {{s->codes, sizeof s->codes}, {s->levels, sizeof s->levels}}};
}

static void decodes(void **state)
{
    stack s;
    qmi_error err = {0};
    (void)state;
    fill(&s);
    assert_ptr_equal(qmi_format_find("q2"), &qmi_format_q2);
    assert_int_equal(qmi_format_q2.open(&s.w, &err), QMOE_OK);
    for (int m = 0; m < N_MATS; m++)
        for (int row = 0; row < N_ROWS; row++) {
            float dst[2 * N_COLS + 1];
            const int n = row + 1 < N_ROWS ? 2 : 1;
            assert_int_equal(qmi_weight_check(&s.w, m, &err), QMOE_OK);
            dst[n * N_COLS] = 77;
            qmi_weight_decode(&s.w, m, row, n, dst);
            for (int i = 0; i < n * N_COLS; i++) {
                const int r = row + i / N_COLS, c = i % N_COLS;
                assert_true(dst[i] == (float)r + (float)((m + r + c) % 4) / 4);
            }
            assert_true(dst[n * N_COLS] == 77);
        }
}

/* The two unused pairs of bits of each row. */
static void unused_bits_are_ignored(void **state)
{
    stack s;
    float a[N_ROWS * N_COLS], b[N_ROWS * N_COLS];
    (void)state;
    fill(&s);
    qmi_weight_decode(&s.w, 1, 0, N_ROWS, a);
    for (int i = 0; i < N_MATS * N_ROWS; i++)
        s.codes[i * ROW_BYTES + 1] |= 0xf0;
    assert_int_equal(qmi_weight_check(&s.w, 1, NULL), QMOE_OK);
    qmi_weight_decode(&s.w, 1, 0, N_ROWS, b);
    assert_memory_equal(a, b, sizeof a);
}

static void sizes_must_fit(void **state)
{
    stack s;
    qmi_error err = {0};
    (void)state;
    for (int part = 0; part < 2; part++)
        for (int change = -1; change <= 1; change += 2) {
            fill(&s);
            s.w.parts[part].n_bytes += (uint64_t)change;
            assert_int_equal(qmi_format_q2.open(&s.w, &err), QMOE_E_FORMAT);
            assert_non_null(
                strstr(err.text, part == 0 ? "stack.codes" : "stack.levels"));
        }
    fill(&s);
    s.w.n_rows = INT64_MAX / 2;
    assert_int_equal(qmi_format_q2.open(&s.w, &err), QMOE_E_FORMAT);
    fill(&s);
    s.w.n_cols = 0;
    assert_int_equal(qmi_format_q2.open(&s.w, &err), QMOE_E_FORMAT);
}

static void levels_must_be_finite(void **state)
{
    static const uint16_t bad[] = {0x7f80, 0xff80, 0x7fc0, 0xffff, 0x7f81};
    stack s;
    qmi_error err = {0};
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        fill(&s);
        s.levels[(N_ROWS + 1) * QMI_Q2_VALUES + i % 4] = bad[i];
        assert_int_equal(qmi_weight_check(&s.w, 0, &err), QMOE_OK);
        assert_int_equal(qmi_weight_check(&s.w, 1, &err), QMOE_E_FORMAT);
        assert_non_null(strstr(err.text, "row 1"));
    }
}

static qmi_encoded round_row(const float *row, int64_t n_cols)
{
    qmi_encoded encoded;
    qmi_quant_result result;
    const qmi_quant_options options = {0};
    assert_int_equal(
        qmi_quantiser_find("rtn", "q2")
            ->run(&encoded, &result, row, 1, n_cols, NULL, &options, NULL),
        QMOE_OK);
    return encoded;
}

/* scale 1, zero 1: halves go to the even multiple of the scale. */
static void grid_rounds_half_to_even(void **state)
{
    static const float row[] = {-1, 2, 0.5f, 1.5f, -0.5f, 0.4f, 0.6f, -0.6f};
    static const float expected[] = {-1, 2, 0, 2, 0, 0, 1, -1};
    (void)state;
    qmi_encoded e = round_row(row, 8);
    float *decoded = decode_matrix(&e);
    assert_memory_equal(decoded, expected, sizeof expected);
    const uint8_t codes[] = {
        0 | 3 << 2 | 1 << 4 | 3 << 6, 1 | 1 << 2 | 2 << 4 | 0 << 6};
    assert_memory_equal(e.parts[QMI_Q2_CODES], codes, sizeof codes);
    free(decoded);
    qmi_encoded_free(&e);
}

/* Zero lies on the grid although no weight is negative, or none positive. */
static void extremes_are_clipped_at_zero(void **state)
{
    static const float positive[] = {3, 6, 9, 1, 2};
    static const float rounded[] = {3, 6, 9, 0, 3};
    float negative[5];
    (void)state;
    for (int i = 0; i < 5; i++)
        negative[i] = -positive[i];
    for (int sign = 1; sign >= -1; sign -= 2) {
        qmi_encoded e = round_row(sign > 0 ? positive : negative, 5);
        float *decoded = decode_matrix(&e);
        for (int i = 0; i < 5; i++)
            assert_true(decoded[i] == (float)sign * rounded[i]);
        free(decoded);
        qmi_encoded_free(&e);
    }
}

/* A row of zeros has the grid of a row from -1 to 1: scale 2/3, zero 2. */
static void zeros_have_a_grid(void **state)
{
    static const float row[4] = {0};
    const uint16_t *levels;
    (void)state;
    qmi_encoded e = round_row(row, 4);
    levels = (const uint16_t *)(const void *)e.parts[QMI_Q2_LEVELS];
    assert_int_equal(e.parts[QMI_Q2_CODES][0], 0xaa);
    for (int i = 0; i < 4; i++)
        assert_int_equal(
            levels[i], qmi_f32_to_bf16(2.0f / 3.0f * (float)(i - 2)));
    qmi_encoded_free(&e);
}

static void overflow_is_refused(void **state)
{
    static const float row[] = {-3e38f, 3e38f, 0, 0};
    qmi_encoded e;
    qmi_quant_result result;
    qmi_error err = {0};
    const qmi_quant_options options = {0};
    (void)state;
    assert_int_equal(qmi_quantiser_find("rtn", "q2")
                         ->run(&e, &result, row, 1, 4, NULL, &options, &err),
        QMOE_E_FORMAT);
    assert_non_null(strstr(err.text, "too large"));
    assert_null(e.parts[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decodes),
        cmocka_unit_test(unused_bits_are_ignored),
        cmocka_unit_test(sizes_must_fit),
        cmocka_unit_test(levels_must_be_finite),
        cmocka_unit_test(grid_rounds_half_to_even),
        cmocka_unit_test(extremes_are_clipped_at_zero),
        cmocka_unit_test(zeros_have_a_grid),
        cmocka_unit_test(overflow_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
