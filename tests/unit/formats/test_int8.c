/* SPDX-License-Identifier: Apache-2.0
 * The format "int8" and the grid of its quantiser. */
#include "quant_matrix.h"

#include <float.h>
#include <math.h>

#include "int8.h"

enum { N_MATS = 2, N_ROWS = 3, N_COLS = 5 };

typedef struct stack {
    qmi_weight w;
    int8_t codes[N_MATS * N_ROWS * N_COLS];
    uint16_t scales[N_MATS * N_ROWS];
} stack;

/* Row i of all has the scale (i - 2) / 4 and codes from -128 in steps of 9. */
static void fill(stack *s)
{
    memset(s, 0, sizeof *s);
    for (int i = 0; i < N_MATS * N_ROWS * N_COLS; i++)
        s->codes[i] = (int8_t)(-128 + 9 * i % 256);
    for (int i = 0; i < N_MATS * N_ROWS; i++)
        s->scales[i] = qmi_f32_to_bf16((float)(i - 2) / 4);
    s->w = (qmi_weight){.format = &qmi_format_int8,
        .name = "stack",
        .n_mats = N_MATS,
        .n_rows = N_ROWS,
        .n_cols = N_COLS,
        .parts = {{s->codes, sizeof s->codes}, {s->scales, sizeof s->scales}}};
}

static void decodes(void **state)
{
    stack s;
    qmi_error err = {0};
    (void)state;
    fill(&s);
    assert_ptr_equal(qmi_format_find("int8"), &qmi_format_int8);
    assert_int_equal(qmi_format_int8.open(&s.w, &err), QMOE_OK);
    for (int m = 0; m < N_MATS; m++)
        for (int row = 0; row < N_ROWS; row++) {
            float dst[2 * N_COLS + 1];
            const int n = row + 1 < N_ROWS ? 2 : 1;
            assert_int_equal(qmi_weight_check(&s.w, m, &err), QMOE_OK);
            dst[n * N_COLS] = 77;
            qmi_weight_decode(&s.w, m, row, n, dst);
            for (int i = 0; i < n * N_COLS; i++) {
                const int r = m * N_ROWS + row + i / N_COLS;
                const int code = s.codes[r * N_COLS + i % N_COLS];
                assert_true(dst[i] == (float)(r - 2) / 4 * (float)code);
            }
            assert_true(dst[n * N_COLS] == 77);
        }
}

/* The worked example of docs/format.md. */
static void example(void **state)
{
    static const int8_t codes[] = {127, -64, 0, -128, 1, 2};
    static const uint16_t scales[] = {0x3c00, 0xbf80};
    static const float expected[] = {
        0.9921875f, -0.5f, 0, 128, -1, -2}; /* 2^-7 and -1 */
    const qmi_weight w = {.format = &qmi_format_int8,
        .name = "example",
        .n_mats = 1,
        .n_rows = 2,
        .n_cols = 3,
        .parts = {{codes, sizeof codes}, {scales, sizeof scales}}};
    float got[6];
    (void)state;
    assert_int_equal(qmi_format_int8.open(&w, NULL), QMOE_OK);
    assert_int_equal(qmi_weight_check(&w, 0, NULL), QMOE_OK);
    qmi_weight_decode(&w, 0, 0, 2, got);
    assert_memory_equal(got, expected, sizeof got);
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
            assert_int_equal(qmi_format_int8.open(&s.w, &err), QMOE_E_FORMAT);
            assert_non_null(
                strstr(err.text, part == 0 ? "stack.codes" : "stack.scales"));
        }
    fill(&s);
    s.w.n_rows = INT64_MAX / 2;
    assert_int_equal(qmi_format_int8.open(&s.w, &err), QMOE_E_FORMAT);
    fill(&s);
    s.w.n_cols = 0;
    assert_int_equal(qmi_format_int8.open(&s.w, &err), QMOE_E_FORMAT);
}

/* Any product with a code is finite. */
static void scales_are_bounded(void **state)
{
    static const struct {
        uint16_t scale;
        qmoe_status status;
    } cases[] = {
        {0x7bff, QMOE_OK},
        {0xfbff, QMOE_OK},
        {0x0001, QMOE_OK},
        {0x7c00, QMOE_E_FORMAT},
        {0xfc00, QMOE_E_FORMAT},
        {0x7f80, QMOE_E_FORMAT},
        {0xffc0, QMOE_E_FORMAT},
    };
    stack s;
    qmi_error err = {0};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float row[N_COLS];
        fill(&s);
        s.codes[(N_ROWS + 1) * N_COLS] = -128;
        s.scales[N_ROWS + 1] = cases[i].scale;
        assert_int_equal(qmi_weight_check(&s.w, 0, &err), QMOE_OK);
        assert_int_equal(qmi_weight_check(&s.w, 1, &err), cases[i].status);
        if (cases[i].status != QMOE_OK) {
            assert_non_null(strstr(err.text, "row 1"));
            continue;
        }
        qmi_weight_decode(&s.w, 1, 1, 1, row);
        for (int c = 0; c < N_COLS; c++)
            assert_true(isfinite(row[c]));
    }
}

static qmoe_status round_rows(qmi_encoded *encoded, qmi_quant_result *result,
    const float *w, int64_t n_rows, int64_t n_cols)
{
    const qmi_quant_options options = {0};
    qmi_error err = {0};
    return qmi_quantiser_find("rtn", "int8")
        ->run(encoded, result, w, n_rows, n_cols, NULL, &options, &err);
}

/* The nearest of 255 values, the outermost at the largest weight; also of rows
 * without scale, of numbers too small for one, and of the largest. */
static void rounds_to_nearest(void **state)
{
    enum { ROWS = 6, COLS = 37 };
    static const float sizes[ROWS] = {1, 0, 1e-42f, FLT_MAX, 3e-5f, 1000};
    float w[ROWS * COLS], got[ROWS * COLS];
    qmi_encoded encoded;
    qmi_quant_result result;
    double error = 0, energy = 0;
    (void)state;
    for (int i = 0; i < ROWS * COLS; i++)
        w[i] = sizes[i / COLS] * ((float)(i * 29 % 41 - 20) / 20);
    assert_int_equal(round_rows(&encoded, &result, w, ROWS, COLS), QMOE_OK);
    const qmi_weight rounded = {.format = &qmi_format_int8,
        .name = "rounded",
        .n_mats = 1,
        .n_rows = ROWS,
        .n_cols = COLS,
        .parts = {{encoded.parts[0], encoded.part_bytes[0]},
            {encoded.parts[1], encoded.part_bytes[1]}}};
    assert_int_equal(qmi_format_int8.open(&rounded, NULL), QMOE_OK);
    assert_int_equal(qmi_weight_check(&rounded, 0, NULL), QMOE_OK);
    qmi_weight_decode(&rounded, 0, 0, ROWS, got);
    for (int i = 0; i < ROWS * COLS; i++) {
        /* Half a step, and of the outermost code what bf16 rounds off its
         * scale. */
        const float scale = qmi_bf16_to_f32(
            qmi_load_u16(qmi_int8_scales(&rounded, 0) + 2 * (i / COLS)));
        const float most = 0.5f * scale + fabsf(w[i]) / 256;
        /* Too small for a scale, and at the end of what scales reach. */
        if (i / COLS == 2)
            assert_true(got[i] == 0);
        else if (i / COLS == 3)
            assert_true(fabsf(w[i] - got[i]) <= FLT_MAX / 64);
        else
            assert_true(fabsf(w[i] - got[i]) <= most);
        error += pow((double)w[i] - (double)got[i], 2);
        energy += pow((double)w[i], 2);
    }
    assert_true(fabs(result.weight_error - error) <= 1e-9 * error);
    assert_true(fabs(result.weight_energy - energy) <= 1e-9 * energy);
    qmi_encoded_free(&encoded);
}

/* What by_rows promises. */
static void rows_are_alone(void **state)
{
    enum { ROWS = 4, COLS = 9 };
    float w[ROWS * COLS];
    qmi_encoded whole, row;
    qmi_quant_result result;
    (void)state;
    assert_true(qmi_quantiser_find("rtn", "int8")->by_rows);
    for (int i = 0; i < ROWS * COLS; i++)
        w[i] = (float)((i * i) % 23 - 11);
    assert_int_equal(round_rows(&whole, &result, w, ROWS, COLS), QMOE_OK);
    for (int r = 0; r < ROWS; r++) {
        assert_int_equal(
            round_rows(&row, &result, w + r * COLS, 1, COLS), QMOE_OK);
        for (int part = 0; part < 2; part++)
            assert_memory_equal(
                whole.parts[part] + (size_t)r * row.part_bytes[part],
                row.parts[part], row.part_bytes[part]);
        qmi_encoded_free(&row);
    }
    qmi_encoded_free(&whole);
}

static void weights_must_be_finite(void **state)
{
    float w[4] = {1, 2, INFINITY, 3};
    qmi_encoded encoded;
    qmi_quant_result result;
    (void)state;
    assert_int_equal(round_rows(&encoded, &result, w, 2, 2), QMOE_E_FORMAT);
    assert_null(encoded.parts[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decodes),
        cmocka_unit_test(example),
        cmocka_unit_test(sizes_must_fit),
        cmocka_unit_test(scales_are_bounded),
        cmocka_unit_test(rounds_to_nearest),
        cmocka_unit_test(rows_are_alone),
        cmocka_unit_test(weights_must_be_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
