/* SPDX-License-Identifier: Apache-2.0
 * Ternary rounding to nearest against the rule written out weight by weight,
 * and at its edges. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdio.h>

#include "td_stack.h"
#include "ternary.h"

/* The rule of docs/format.md for one weight of a row in [min, max]. */
static uint8_t plain_rule(float w, float min, float max)
{
    float low = min < 0 ? min : 0;
    float high = max > 0 ? max : 0;
    if (w > high / 2 && w > 0)
        return 2;
    if (w < low / 2 && w < 0)
        return 1;
    return 0;
}

/* The nearest bf16 by comparing both neighbours, ties to the even one. */
static uint16_t plain_bf16_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    uint16_t toward_zero = (uint16_t)(bits >> 16);
    uint16_t away = (uint16_t)(toward_zero + 1);
    double a = fabs((double)f - qmi_bf16_to_f32(toward_zero));
    double b = fabs((double)qmi_bf16_to_f32(away) - f);
    if (a == b)
        return toward_zero % 2 == 0 ? toward_zero : away;
    return a < b ? toward_zero : away;
}

static void assert_rounded(const float *row, int64_t n)
{
    uint8_t *codes = exact_block((size_t)n, 1);
    uint16_t levels[2] = {0xffff, 0xffff};
    float min = 0, max = 0;
    memset(codes, 0xff, (size_t)n);
    assert_int_equal(qmi_ternary_rtn_row(codes, levels, row, n, NULL), QMOE_OK);
    for (int64_t i = 0; i < n; i++) {
        min = fminf(min, row[i]);
        max = fmaxf(max, row[i]);
    }
    assert_int_equal(levels[0], min == 0 ? 0 : plain_bf16_of(min));
    assert_int_equal(levels[1], max == 0 ? 0 : plain_bf16_of(max));
    for (int64_t i = 0; i < n; i++)
        assert_int_equal(codes[i], plain_rule(row[i], min, max));
    free(codes);
}

static float gauss(uint64_t *seed)
{
    double u = random_unit(seed) + 1e-12, v = random_unit(seed);
    return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}

static void random_rows(void **state)
{
    uint64_t seed = 11;
    float row[97];
    (void)state;
    for (int i = 0; i < 2000; i++) {
        int64_t n = 1 + (int64_t)(random_u64(&seed) % 97);
        float scale = ldexpf(1, (int)(random_u64(&seed) % 200) - 100);
        float shift = (float)(random_u64(&seed) % 3) - 1;
        for (int64_t c = 0; c < n; c++)
            row[c] = scale * (gauss(&seed) + 2 * shift);
        assert_rounded(row, n);
    }
}

/* Weights on few values, so that many lie on a threshold. */
static void rows_on_the_thresholds(void **state)
{
    uint64_t seed = 12;
    float row[16];
    (void)state;
    for (int i = 0; i < 2000; i++) {
        for (int c = 0; c < 16; c++)
            row[c] = (float)(random_u64(&seed) % 17) - 8;
        assert_rounded(row, 16);
    }
}

static void assert_row(
    const float *row, int64_t n, const uint8_t *codes, float low, float high)
{
    uint8_t got[16];
    uint16_t levels[2];
    assert_int_equal(qmi_ternary_rtn_row(got, levels, row, n, NULL), QMOE_OK);
    assert_memory_equal(got, codes, (size_t)n);
    assert_int_equal(levels[0], qmi_f32_to_bf16(low));
    assert_int_equal(levels[1], qmi_f32_to_bf16(high));
}

#define ROW(...)                                                               \
    (const float[])                                                            \
    {                                                                          \
        __VA_ARGS__                                                            \
    }
#define CODES(...)                                                             \
    (const uint8_t[])                                                          \
    {                                                                          \
        __VA_ARGS__                                                            \
    }

static void half_a_level_is_zero(void **state)
{
    (void)state;
    assert_row(ROW(2, 1, -1, -2), 4, CODES(2, 0, 0, 1), -2, 2);
    assert_row(ROW(2, nextafterf(1, 2), nextafterf(-1, -2), -2), 4,
        CODES(2, 2, 1, 1), -2, 2);
}

static void a_side_without_weights_has_level_zero(void **state)
{
    (void)state;
    assert_row(ROW(0, 0, 0), 3, CODES(0, 0, 0), 0, 0);
    assert_row(ROW(-0.0f, -0.0f), 2, CODES(0, 0), 0, 0);
    assert_row(ROW(3, 1, 0, 2), 4, CODES(2, 0, 0, 2), 0, 3);
    assert_row(ROW(-3, -1, 0, -2), 4, CODES(1, 0, 0, 1), -3, 0);
    assert_row(ROW(5), 1, CODES(2), 0, 5);
    assert_row(ROW(-5), 1, CODES(1), -5, 0);
}

/* The threshold comes from the weight, not from its rounded level. */
static void thresholds_use_unrounded_levels(void **state)
{
    const float high = 1 + 0x1p-8f + 0x1p-20f; /* rounds up to 1 + 2^-7 */
    (void)state;
    assert_int_equal(qmi_f32_to_bf16(high), qmi_f32_to_bf16(1 + 0x1p-7f));
    assert_row(ROW(high, 0.5f + 0x1p-9f + 0x1p-20f), 2, CODES(2, 2), 0, high);
    assert_row(ROW(high, 0.5f + 0x1p-9f), 2, CODES(2, 0), 0, high);
}

static void extreme_levels_stay_finite_and_canonical(void **state)
{
    const float largest = qmi_bf16_to_f32(0x7f7f);
    const float tiny = 0x1p-149f;
    (void)state;
    assert_row(ROW(FLT_MAX, -FLT_MAX), 2, CODES(2, 1), -largest, largest);
    /* A level that rounds to zero is no level. */
    assert_row(ROW(tiny, -tiny), 2, CODES(0, 0), 0, 0);
    assert_row(ROW(tiny, -1), 2, CODES(0, 1), -1, 0);
}

static void non_finite_weights_are_refused(void **state)
{
    static const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    (void)state;
    for (int i = 0; i < 4; i++)
        for (int at = 0; at < 3; at++) {
            float row[3] = {1, -2, 3};
            uint8_t codes[3] = {7, 7, 7};
            uint16_t levels[2] = {7, 7};
            qmi_error err = {0};
            char text[64];
            row[at] = bad[i];
            assert_int_equal(qmi_ternary_rtn_row(codes, levels, row, 3, &err),
                QMOE_E_FORMAT);
            snprintf(text, sizeof text, "column %d: non-finite weight", at);
            assert_string_equal(err.text, text);
            assert_memory_equal(codes, CODES(0, 0, 0), 3);
            assert_int_equal(levels[0], 0);
            assert_int_equal(levels[1], 0);
        }
}

/* Rounding, encoding and decoding together. */
static void decoded_rows_are_the_rounded_ones(void **state)
{
    enum { N_ROWS = 6, N_COLS = 131 };
    static float rows[N_ROWS][N_COLS], decoded[N_ROWS][N_COLS];
    static uint8_t codes[N_ROWS][N_COLS];
    uint16_t levels[N_ROWS][2];
    uint64_t seed = 13;
    (void)state;
    for (int r = 0; r < N_ROWS; r++) {
        for (int c = 0; c < N_COLS; c++)
            rows[r][c] = r == 0 ? 0 : (float)r * gauss(&seed);
        assert_int_equal(
            qmi_ternary_rtn_row(codes[r], levels[r], rows[r], N_COLS, NULL),
            QMOE_OK);
    }
    td_stack s = td_stack_encode(codes[0], 1, N_ROWS, N_COLS);
    memcpy(s.levels, levels, sizeof levels);
    assert_int_equal(s.w.format->open(&s.w, NULL), QMOE_OK);
    assert_int_equal(s.w.format->check(&s.w, 0, NULL), QMOE_OK);
    s.w.format->decode(&s.w, 0, 0, N_ROWS, decoded[0]);
    for (int r = 0; r < N_ROWS; r++)
        for (int c = 0; c < N_COLS; c++) {
            int code = codes[r][c];
            float expected =
                code == 0 ? 0 : qmi_bf16_to_f32(levels[r][code - 1]);
            assert_memory_equal(&decoded[r][c], &expected, sizeof expected);
        }
    td_stack_free(&s);
}

/* The example of docs/format.md, byte by byte. */
static void the_documented_example(void **state)
{
    enum { N_MATS = 2, N_ROWS = 2, N_COLS = 7 };
    static const float weights[N_MATS * N_ROWS][N_COLS] = {
        {0.02f, -0.11f, 0.9f, 0, 0.04f, -0.7f, 0.3f}, {0},
        {-0.5f, 0.1f, -0.25f, 0.2f, -0.26f, 0.06f, 0},
        {0.3f, -1, 0.4f, 0.21f, -0.6f, 0.01f, 0.39f}};
    static const uint8_t expert_offsets[24] = {[8] = 2, [16] = 6};
    static const uint8_t row_offsets[24] = {
        [4] = 1, [8] = 2, [16] = 1, [20] = 4};
    static const uint8_t levels[16] = {0x33, 0xbf, 0x66, 0x3f, 0, 0, 0, 0, 0x00,
        0xbf, 0x4d, 0x3e, 0x80, 0xbf, 0xcd, 0x3e};
    static const uint8_t codes[12] = {
        0x20, 0x02, 0x03, 0x00, 0x68, 0x21, 0x47, 0x01, 0xfa, 0x19, 0x0d, 0x00};
    uint8_t rounded[N_MATS * N_ROWS][N_COLS];
    uint16_t row_levels[N_MATS * N_ROWS][2];
    (void)state;
    for (int r = 0; r < N_MATS * N_ROWS; r++)
        assert_int_equal(qmi_ternary_rtn_row(rounded[r], row_levels[r],
                             weights[r], N_COLS, NULL),
            QMOE_OK);
    td_stack s = td_stack_encode(rounded[0], N_MATS, N_ROWS, N_COLS);
    assert_memory_equal(
        s.expert_offsets, expert_offsets, sizeof expert_offsets);
    assert_memory_equal(s.row_offsets, row_offsets, sizeof row_offsets);
    assert_memory_equal(row_levels, levels, sizeof levels);
    assert_int_equal(2 * s.n_codes, sizeof codes);
    assert_memory_equal(s.codes, codes, sizeof codes);
    td_stack_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_rows),
        cmocka_unit_test(rows_on_the_thresholds),
        cmocka_unit_test(half_a_level_is_zero),
        cmocka_unit_test(a_side_without_weights_has_level_zero),
        cmocka_unit_test(thresholds_use_unrounded_levels),
        cmocka_unit_test(extreme_levels_stay_finite_and_canonical),
        cmocka_unit_test(non_finite_weights_are_refused),
        cmocka_unit_test(decoded_rows_are_the_rounded_ones),
        cmocka_unit_test(the_documented_example),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
