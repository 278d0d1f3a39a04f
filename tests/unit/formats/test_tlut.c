/* SPDX-License-Identifier: Apache-2.0
 * Formats "tlut-*": the tables against their hash, strings against rings of
 * single bits, decoding against the sums of docs/format.md, its example,
 * validation. */
#include "scratch.h"

#include <stdbool.h>
#include <stdlib.h>

#include "mt19937.h"
#include "rotation.h"
#include "tlut.h"

/* ---- the format as the document defines it ---- */

/* Section 9.1, written again. */
static const struct rate {
    const char *name;
    const qmi_format *format;
    const qmi_tlut_rate *own;
    int k, v, n_words;
} rates[] = {
    {"tlut-0.25", &qmi_format_tlut_025, &qmi_tlut_rate_025, 1, 4, 1},
    {"tlut-0.5", &qmi_format_tlut_05, &qmi_tlut_rate_05, 2, 4, 2},
    {"tlut-0.75", &qmi_format_tlut_075, &qmi_tlut_rate_075, 3, 4, 3},
    {"tlut-1", &qmi_format_tlut_1, &qmi_tlut_rate_1, 2, 2, 4},
    {"tlut-1.5", &qmi_format_tlut_15, &qmi_tlut_rate_15, 3, 2, 6},
    {"tlut-2", &qmi_format_tlut_2, &qmi_tlut_rate_2, 2, 1, 8},
    {"tlut-3", &qmi_format_tlut_3, &qmi_tlut_rate_3, 3, 1, 12},
    {"tlut-4", &qmi_format_tlut_4, &qmi_tlut_rate_4, 4, 1, 16},
};
enum { N_RATES = sizeof rates / sizeof *rates, MOST_BITS = 256 };

/* Bit b of the string of column c of a tile whose bytes begin at `tile`. */
static int plain_bit(const uint8_t *tile, int n_words, int64_t c, int b)
{
    const uint8_t *word =
        tile + 8 * n_words * (c / 4) + 8 * (b / 16) + 2 * (c % 4);
    return (word[0] + 256 * word[1]) >> b % 16 & 1;
}

static int plain_window(
    const uint8_t *tile, const struct rate *r, int64_t c, int step)
{
    int window = 0;
    for (int i = 0; i < 6; i++)
        window += plain_bit(tile, r->n_words, c,
                      (r->k * step + i) % (64 * r->k / r->v))
                  << i;
    return window;
}

static float plain_bf16(const uint8_t *at)
{
    const uint32_t bits = (uint32_t)at[0] << 16 | (uint32_t)at[1] << 24;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void random_bytes(uint8_t *bytes, size_t n, uint32_t seed)
{
    qmi_mt19937 rng;
    qmi_mt19937_seed(&rng, seed);
    for (size_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)qmi_mt19937_u32(&rng);
}

/* ---- tables ---- */

static void tables_are_those_of_the_document(void **state)
{
    static const char expected[] =
        "53449f5eac90d2734f1c92f01678595f9891ffaba599ab00422d9a62f1eadb64";
    char hash[sizeof expected] = {0};
    (void)state;
    FILE *file = fopen(scratch_path("tlut_tables.bin"), "wb");
    assert_non_null(file);
    for (int i = 0; i < N_RATES; i++)
        fwrite(rates[i].own->table, 1, 64 * (size_t)rates[i].v, file);
    assert_int_equal(fclose(file), 0);
    file = popen("sha256sum '" QMOE_TEST_DIR "/tlut_tables.bin'", "r");
    assert_non_null(file);
    assert_int_equal(fread(hash, 1, sizeof hash - 1, file), sizeof hash - 1);
    pclose(file);
    assert_string_equal(hash, expected);
}

static void formats_are_in_the_table(void **state)
{
    (void)state;
    for (int i = 0; i < N_RATES; i++) {
        const struct rate *r = &rates[i];
        assert_ptr_equal(qmi_format_find(r->name), r->format);
        assert_ptr_equal(qmi_tlut_rate_of(r->format), r->own);
        assert_int_equal(r->own->k, r->k);
        assert_int_equal(r->own->v, r->v);
        assert_int_equal(qmi_tlut_words(r->own), r->n_words);
        assert_int_equal(qmi_tlut_steps(r->own), 64 / r->v);
        for (int j = 0; j < 64 * r->v; j++)
            assert_in_range(abs(r->own->table[j]), 0, QMI_TLUT_MAX_VALUE);
    }
    assert_null(qmi_tlut_rate_of(qmi_format_find("pvq")));
    assert_null(qmi_tlut_rate_of(qmi_format_find("bf16")));
}

/* ---- geometry ---- */

static void shapes(void **state)
{
    static const int64_t sizes[][4] = {/* rows, columns, tiles, groups */
        {1, 1, 1, 1}, {64, 4, 1, 1}, {65, 5, 2, 2}, {63, 3, 1, 1},
        {2080, 6144, 33, 1536}, {128, 30, 2, 8}};
    (void)state;
    for (int i = 0; i < N_RATES; i++)
        for (size_t n = 0; n < sizeof sizes / sizeof *sizes; n++) {
            const int64_t n_rows = sizes[n][0], n_cols = sizes[n][1];
            const int64_t bytes = 8 * rates[i].n_words * sizes[n][3];
            const qmi_tlut_shape s =
                qmi_tlut_shape_of(rates[i].own, n_rows, n_cols);
            assert_int_equal(s.n_tiles, sizes[n][2]);
            assert_int_equal(s.n_groups, sizes[n][3]);
            assert_int_equal(s.tile_bytes, bytes);
            int64_t shape[3];
            const qmi_part_spec *parts = rates[i].format->parts;
            assert_int_equal(
                parts[QMI_TLUT_CODES].shape(shape, 7, n_rows, n_cols), 3);
            assert_int_equal(shape[0], 7);
            assert_int_equal(shape[1], sizes[n][2]);
            assert_int_equal(shape[2], bytes);
            assert_int_equal(
                parts[QMI_TLUT_SCALES].shape(shape, 7, n_rows, n_cols), 2);
            assert_int_equal(shape[1], n_rows);
            assert_int_equal(
                parts[QMI_TLUT_COL_SCALES].shape(shape, 7, n_rows, n_cols), 2);
            assert_int_equal(shape[1], n_cols);
        }
}

/* ---- strings ---- */

/* Bits set step by step lie where a ring of single bits has them, and no
 * other column changes. */
static void set_and_window(void **state)
{
    qmi_mt19937 rng;
    (void)state;
    qmi_mt19937_seed(&rng, 3);
    for (int i = 0; i < N_RATES; i++)
        for (int c = 0; c < 4; c++) {
            const struct rate *r = &rates[i];
            const int n_steps = 64 / r->v, n_bits = r->k * n_steps;
            uint8_t group[8 * QMI_TLUT_MAX_WORDS] = {0};
            int ring[MOST_BITS];
            assert_int_equal(n_bits, 16 * r->n_words);
            for (int step = 0; step < n_steps; step++) {
                const unsigned bits =
                    qmi_mt19937_u32(&rng) & ((1u << r->k) - 1);
                qmi_tlut_set(group + 2 * c, r->own, step, bits);
                for (int b = 0; b < r->k; b++)
                    ring[r->k * step + b] = (int)(bits >> b & 1);
            }
            for (int b = 0; b < n_bits; b++)
                for (int other = 0; other < 4; other++)
                    assert_int_equal(plain_bit(group, r->n_words, other, b),
                        other == c ? ring[b] : 0);
            for (int step = 0; step < n_steps; step++) {
                int window = 0;
                for (int b = 0; b < 6; b++)
                    window |= ring[(r->k * step + b) % n_bits] << b;
                assert_int_equal(
                    qmi_tlut_window(group + 2 * c, r->own, step), window);
            }
        }
}

/* ---- stacks ---- */

typedef struct stack {
    qmi_weight w;
    uint8_t *parts[3];
    size_t n_bytes[3];
} stack;

/* Random codes, scales around 1 of both signs. */
static stack make_stack(const struct rate *r, int64_t n_mats, int64_t n_rows,
    int64_t n_cols, int32_t rotation)
{
    stack s = {.w = {.format = r->format,
                   .name = "s",
                   .n_mats = n_mats,
                   .n_rows = n_rows,
                   .n_cols = n_cols,
                   .rotation = rotation,
                   .rotation_seed = 5}};
    s.n_bytes[0] = (size_t)(n_mats * ((n_rows + 63) / 64) * ((n_cols + 3) / 4) *
                            8 * r->n_words);
    s.n_bytes[1] = 2 * (size_t)(n_mats * n_rows);
    s.n_bytes[2] = 2 * (size_t)(n_mats * n_cols);
    for (int i = 0; i < 3; i++) {
        s.parts[i] = malloc(s.n_bytes[i]);
        assert_non_null(s.parts[i]);
        random_bytes(s.parts[i], s.n_bytes[i], (uint32_t)i);
        for (size_t b = 1; i > 0 && b < s.n_bytes[i]; b += 2)
            s.parts[i][b] = (s.parts[i][b] & 0x80) | 0x3f;
        s.w.parts[i] = (qmi_part){s.parts[i], s.n_bytes[i]};
    }
    return s;
}

static void free_stack(stack *s)
{
    for (int i = 0; i < 3; i++)
        free(s->parts[i]);
}

/* Row `row` of matrix `mat` as stored, from the bytes alone. */
static void plain_row(
    const stack *s, const struct rate *r, int64_t mat, int64_t row, float *dst)
{
    const int64_t n_cols = s->w.n_cols, n_tiles = (s->w.n_rows + 63) / 64;
    const uint8_t *tile = s->parts[0] + (mat * n_tiles + row / 64) *
                                            ((n_cols + 3) / 4) * 8 * r->n_words;
    const int step = (int)(row % 64) / r->v;
    const float scale = plain_bf16(s->parts[1] + 2 * (mat * s->w.n_rows + row));
    for (int64_t c = 0; c < n_cols; c++) {
        const float col_scale =
            plain_bf16(s->parts[2] + 2 * (mat * n_cols + c));
        const int value = r->own->table[plain_window(tile, r, c, step) * r->v +
                                        (int)(row % 64) % r->v];
        dst[c] = scale * col_scale * (float)value;
    }
}

static void compare_rows(stack *s, const struct rate *r)
{
    const int64_t n_cols = s->w.n_cols;
    qmi_error err = {0};
    float *expected = malloc((size_t)n_cols * sizeof(float));
    float *rows = malloc(2 * (size_t)n_cols * sizeof(float));
    assert_int_equal(s->w.format->open(&s->w, &err), QMOE_OK);
    for (int64_t mat = 0; mat < s->w.n_mats; mat++)
        for (int64_t row = 0; row < s->w.n_rows; row++) {
            const int n = row + 1 < s->w.n_rows ? 2 : 1;
            plain_row(s, r, mat, row, expected);
            if (s->w.rotation != 0)
                qmi_unrotate(expected, n_cols, s->w.rotation, 5);
            assert_int_equal(qmi_weight_check(&s->w, mat, &err), QMOE_OK);
            qmi_weight_decode(&s->w, mat, row, n, rows);
            assert_memory_equal(rows, expected, (size_t)n_cols * sizeof *rows);
        }
    free(rows);
    free(expected);
}

static void decoded_rows(void **state)
{
    static const int64_t sizes[][3] = {
        {1, 1, 1}, {2, 67, 6}, {3, 5, 130}, {1, 64, 64}, {2, 129, 31}};
    static const int32_t rotations[] = {0, 64, 1024};
    (void)state;
    for (int i = 0; i < N_RATES; i++)
        for (size_t n = 0; n < sizeof sizes / sizeof *sizes; n++)
            for (int k = 0; k < 3; k++) {
                stack s = make_stack(&rates[i], sizes[n][0], sizes[n][1],
                    sizes[n][2], rotations[k]);
                compare_rows(&s, &rates[i]);
                free_stack(&s);
            }
}

/* Padding is not read: rows and columns beyond the matrix change nothing. */
static void padding_is_ignored(void **state)
{
    const struct rate *r = &rates[4];
    stack s = make_stack(r, 1, 62, 5, 0);
    float before[62 * 5], after[62 * 5];
    (void)state;
    qmi_weight_decode(&s.w, 0, 0, 62, before);
    for (size_t i = 8 * (size_t)r->n_words; i < s.n_bytes[0]; i++)
        if (i % 8 >= 2)
            s.parts[0][i] ^= 0xff;
    qmi_weight_decode(&s.w, 0, 0, 62, after);
    assert_memory_equal(before, after, sizeof before);
    free_stack(&s);
}

/* ---- the example of docs/format.md ---- */

static void example(void **state)
{
    static const uint8_t codes[24] = {0x2b, 0x1a, 0x01, 0x80, 0, 0, 0, 0, 0xd4,
        0xc3, 0, 0, 0, 0, 0, 0, 0x6f, 0x5e, 0xff, 0xff, 0, 0, 0, 0};
    static const struct {
        int row, windows[2], n, values[2][4];
    } steps[] = {
        {0, {43, 1}, 4, {{0, 10, 29, -2}, {-46, -8, 10, 31}}},
        {4, {5, 0}, 4, {{-28, -23, 14, -32}, {-5, -13, 5, -58}}},
        {20, {40, 1}, 4, {{38, -3, 13, 18}, {-46, -8, 10, 31}}},
        {56, {23, 63}, 4, {{52, 11, -18, 20}, {-23, -10, -43, -25}}},
        {60, {26, 15}, 2, {{34, -12}, {-14, 22}}},
    };
    uint8_t scales[2 * 62], col_scales[4] = {0x80, 0x3f, 0x00, 0xc0};
    qmi_weight w = {.format = &qmi_format_tlut_075,
        .name = "s",
        .n_mats = 1,
        .n_rows = 62,
        .n_cols = 2,
        .parts = {{codes, sizeof codes}, {scales, sizeof scales},
            {col_scales, sizeof col_scales}}};
    qmi_error err = {0};
    float rows[62][2];
    (void)state;
    for (int r = 0; r < 62; r++)
        memcpy(scales + 2 * r, "\x00\x3f", 2);
    assert_int_equal(w.format->open(&w, &err), QMOE_OK);
    assert_int_equal(qmi_weight_check(&w, 0, &err), QMOE_OK);
    qmi_weight_decode(&w, 0, 0, 62, rows[0]);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        for (int c = 0; c < 2; c++) {
            const int step = steps[i].row / 4;
            assert_int_equal(
                qmi_tlut_window(codes + 2 * c, &qmi_tlut_rate_075, step),
                steps[i].windows[c]);
            for (int r = 0; r < steps[i].n; r++) {
                const float scale = c == 0 ? 0.5F : -1.0F;
                assert_true(rows[steps[i].row + r][c] ==
                            scale * (float)steps[i].values[c][r]);
            }
        }
    assert_true(rows[1][0] == 5 && rows[1][1] == 8);
    assert_true(rows[61][0] == -6 && rows[61][1] == -22);
}

/* ---- refusals ---- */

static void wrong_sizes_are_refused(void **state)
{
    static const char *const names[] = {
        "'s.codes'", "'s.scales'", "'s.col_scales'"};
    (void)state;
    for (int i = 0; i < N_RATES; i++) {
        stack s = make_stack(&rates[i], 2, 70, 10, 0);
        qmi_error err = {0};
        for (int part = 0; part < 3; part++)
            for (int more = -1; more <= 1; more += 2) {
                qmi_weight w = s.w;
                w.parts[part].n_bytes += (uint64_t)more;
                assert_error(w.format->open(&w, &err), QMOE_E_FORMAT, err.text,
                    names[part]);
            }
        /* Those of another rate. */
        qmi_weight w = s.w;
        w.format = rates[(i + 1) % N_RATES].format;
        assert_error(
            w.format->open(&w, &err), QMOE_E_FORMAT, err.text, "'s.codes'");
        free_stack(&s);
    }
}

static void absurd_shapes_are_refused(void **state)
{
    static const int64_t sizes[][3] = {{0, 70, 10}, {2, 0, 10}, {2, 70, 0},
        {-1, 70, 10}, {2, 70, (INT64_C(1) << 32) + 1},
        {INT64_MAX, INT64_MAX, INT64_C(1) << 32}, {2, INT64_MAX, 10},
        {INT64_MAX, 70, 10}};
    (void)state;
    for (int i = 0; i < N_RATES; i++) {
        stack s = make_stack(&rates[i], 2, 70, 10, 0);
        qmi_error err = {0};
        for (size_t n = 0; n < sizeof sizes / sizeof *sizes; n++) {
            qmi_weight w = s.w;
            w.n_mats = sizes[n][0];
            w.n_rows = sizes[n][1];
            w.n_cols = sizes[n][2];
            assert_error(
                w.format->open(&w, &err), QMOE_E_FORMAT, err.text, "'s");
        }
        free_stack(&s);
    }
}

static void wrong_rotations_are_refused(void **state)
{
    static const int32_t rotations[] = {-1, 3, 2048};
    stack s = make_stack(&rates[0], 2, 70, 10, 0);
    qmi_error err = {0};
    (void)state;
    for (int i = 0; i < 3; i++) {
        s.w.rotation = rotations[i];
        assert_error(s.w.format->open(&s.w, &err), QMOE_E_FORMAT, err.text,
            "power of two");
    }
    s.w.rotation = 1024;
    assert_int_equal(s.w.format->open(&s.w, &err), QMOE_OK);
    free_stack(&s);
}

/* Section 9.6: the first scales that are too large, and the last that are
 * not.  Of the second matrix only. */
static void scales_out_of_range_are_refused(void **state)
{
    static const uint16_t bad[] = {0x5e00, 0xde00, 0x7f80, 0xff80, 0x7fc0};
    static const uint16_t good[] = {0x5dff, 0xddff, 0x0001, 0x8000};
    static const char *const texts[] = {
        "scales: row 69: 0x", "col_scales: column 9: 0x"};
    static const int64_t last[] = {2 * 70 - 1, 2 * 10 - 1};
    (void)state;
    for (int part = 0; part < 2; part++) {
        stack s = make_stack(&rates[3], 2, 70, 10, 0);
        qmi_error err = {0};
        uint8_t *at = s.parts[1 + part] + 2 * last[part];
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
            at[0] = bad[i] & 0xff;
            at[1] = bad[i] >> 8;
            assert_int_equal(qmi_weight_check(&s.w, 0, &err), QMOE_OK);
            assert_error(qmi_weight_check(&s.w, 1, &err), QMOE_E_FORMAT,
                err.text, texts[part]);
        }
        for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
            at[0] = good[i] & 0xff;
            at[1] = good[i] >> 8;
            assert_int_equal(qmi_weight_check(&s.w, 1, &err), QMOE_OK);
        }
        free_stack(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables_are_those_of_the_document),
        cmocka_unit_test(formats_are_in_the_table),
        cmocka_unit_test(shapes),
        cmocka_unit_test(set_and_window),
        cmocka_unit_test(decoded_rows),
        cmocka_unit_test(padding_is_ignored),
        cmocka_unit_test(example),
        cmocka_unit_test(wrong_sizes_are_refused),
        cmocka_unit_test(absurd_shapes_are_refused),
        cmocka_unit_test(wrong_rotations_are_refused),
        cmocka_unit_test(scales_out_of_range_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
