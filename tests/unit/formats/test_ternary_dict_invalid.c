/* SPDX-License-Identifier: Apache-2.0
 * "ternary-dict" stacks that break one rule each: open or check must refuse
 * them and say which.  And whatever check accepts must decode safely. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "alloc.h"
#include "td_stack.h"

/* 3 matrices of 4 rows of 31 weights. */
enum { N_MATS = 3, N_ROWS = 4, N_COLS = 31 };

static td_stack good_stack(void)
{
    uint8_t weights[N_MATS * N_ROWS * N_COLS];
    uint64_t seed = 7;
    random_codes(weights, sizeof weights, 0.6, &seed);
    return td_stack_encode(weights, N_MATS, N_ROWS, N_COLS);
}

static void the_good_stack_is_good(void **state)
{
    td_stack s = good_stack();
    (void)state;
    assert_int_equal(s.w.format->open(&s.w, NULL), QMOE_OK);
    for (int64_t m = 0; m < N_MATS; m++)
        assert_int_equal(s.w.format->check(&s.w, m, NULL), QMOE_OK);
    td_stack_free(&s);
}

static void parts_have_the_documented_shapes(void **state)
{
    static const char *const suffixes[] = {
        "expert_offsets", "row_offsets", "levels", "codes"};
    static const qmi_dtype dtypes[] = {QMI_U64, QMI_U32, QMI_BF16, QMI_U16};
    static const int ranks[] = {1, 2, 3, 1};
    static const int64_t shapes[4][3] = {{N_MATS + 1, 0, 0},
        {N_MATS, N_ROWS + 1, 0}, {N_MATS, N_ROWS, 2}, {-1, 0, 0}};
    const qmi_format *format = &qmi_format_ternary_dict;
    (void)state;
    assert_int_equal(format->n_parts, 4);
    for (int i = 0; i < 4; i++) {
        int64_t shape[3] = {0};
        assert_string_equal(format->parts[i].suffix, suffixes[i]);
        assert_int_equal(format->parts[i].dtype, dtypes[i]);
        assert_int_equal(
            format->parts[i].shape(shape, N_MATS, N_ROWS, N_COLS), ranks[i]);
        assert_memory_equal(shape, shapes[i], sizeof shape);
    }
}

/* ---- one broken rule each ---- */

typedef struct bad_case {
    const char *name;
    void (*spoil)(td_stack *s);
    const char *text; /* part of the error */
} bad_case;

static void no_matrices(td_stack *s)
{
    s->w.n_mats = 0;
}
static void no_rows(td_stack *s)
{
    s->w.n_rows = 0;
}
static void negative_columns(td_stack *s)
{
    s->w.n_cols = -1;
}
static void short_expert_offsets(td_stack *s)
{
    s->w.parts[QMI_TD_EXPERT_OFFSETS].n_bytes -= 8;
}
static void too_many_matrices(td_stack *s)
{
    /* 8 * (n + 1) wraps to the size that is there. */
    s->w.n_mats = (INT64_C(1) << 61) + N_MATS;
}
static void long_row_offsets(td_stack *s)
{
    s->w.parts[QMI_TD_ROW_OFFSETS].n_bytes += 4;
}
static void one_more_row(td_stack *s)
{
    s->w.n_rows++;
}
static void too_many_rows(td_stack *s)
{
    /* 4 * 4 * (n + 1) wraps to the size that is there. */
    s->w.n_mats = 4;
    s->w.parts[QMI_TD_EXPERT_OFFSETS].n_bytes = 40;
    s->w.n_rows = (INT64_C(1) << 60) + N_ROWS;
    s->w.parts[QMI_TD_ROW_OFFSETS].n_bytes = 16 * (N_ROWS + 1);
}
static void rows_at_the_limit(td_stack *s)
{
    s->w.n_rows = INT64_MAX;
}
static void short_levels(td_stack *s)
{
    s->w.parts[QMI_TD_LEVELS].n_bytes -= 2;
}
static void half_a_codeword(td_stack *s)
{
    s->w.parts[QMI_TD_CODES].n_bytes--;
}
static void first_offset_not_zero(td_stack *s)
{
    s->expert_offsets[0] = 1;
}
static void falling_expert_offsets(td_stack *s)
{
    s->expert_offsets[2] = s->expert_offsets[1] - 1;
}
static void huge_expert_offset(td_stack *s)
{
    s->expert_offsets[1] = UINT64_MAX;
}
static void fewer_codewords_than_rows(td_stack *s)
{
    s->expert_offsets[1] = N_ROWS - 1;
}
static void codewords_left_over(td_stack *s)
{
    s->expert_offsets[N_MATS]--;
}
static void codewords_missing(td_stack *s)
{
    s->expert_offsets[N_MATS]++;
}

static void open_refuses(void **state)
{
    static const bad_case cases[] = {
        {"no matrices", no_matrices, "is empty"},
        {"no rows", no_rows, "is empty"},
        {"negative columns", negative_columns, "is empty"},
        {"short expert offsets", short_expert_offsets,
            "'stack.expert_offsets': 24 bytes do not fit"},
        {"too many matrices", too_many_matrices,
            "'stack.expert_offsets': 32 bytes do not fit"},
        {"long row offsets", long_row_offsets,
            "'stack.row_offsets': 64 bytes do not fit"},
        {"one more row", one_more_row,
            "'stack.row_offsets': 60 bytes do not fit"},
        {"too many rows", too_many_rows,
            "'stack.row_offsets': 80 bytes do not fit"},
        {"rows at the limit", rows_at_the_limit, "'stack.row_offsets'"},
        {"short levels", short_levels, "'stack.levels': 46 bytes do not fit"},
        {"half a codeword", half_a_codeword, "not a whole number of codewords"},
        {"first offset", first_offset_not_zero, "starts at 1, not 0"},
        {"falling", falling_expert_offsets, "matrix 1 from"},
        {"huge", huge_expert_offset, "matrix 1 from"},
        {"few codewords", fewer_codewords_than_rows,
            "matrix 0 from 0 to 3 has no room for 4 rows"},
        {"left over", codewords_left_over, "ends at"},
        {"missing", codewords_missing, "ends at"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qmi_error err = {0};
        td_stack s = good_stack();
        cases[i].spoil(&s);
        if (s.w.format->open(&s.w, &err) != QMOE_E_FORMAT ||
            strstr(err.text, cases[i].text) == NULL)
            fail_msg("%s: '%s'", cases[i].name, err.text);
        td_stack_free(&s);
    }
}

/* The cases below break row 1 of matrix 1. */
static uint32_t *row_offset(td_stack *s, int row)
{
    return s->row_offsets + (N_ROWS + 1) + row;
}
static uint16_t *row_codes(td_stack *s, int row)
{
    return s->codes + s->expert_offsets[1] + *row_offset(s, row);
}

static void rows_start_late(td_stack *s)
{
    *row_offset(s, 0) = 1;
}
static void falling_row_offsets(td_stack *s)
{
    *row_offset(s, 2) = *row_offset(s, 1) - 1;
}
static void row_past_the_end(td_stack *s)
{
    *row_offset(s, 2) = *row_offset(s, N_ROWS) + 1;
}
static void row_at_the_limit(td_stack *s)
{
    *row_offset(s, 2) = UINT32_MAX;
}
static void last_row_past_the_matrix(td_stack *s)
{
    ++*row_offset(s, N_ROWS);
}
static void empty_row(td_stack *s)
{
    *row_offset(s, 2) = *row_offset(s, 1);
}
static void row_too_short(td_stack *s)
{
    --*row_offset(s, 2);
}
static void row_too_long(td_stack *s)
{
    ++*row_offset(s, 2);
}
static void codewords_behind_the_last_row(td_stack *s)
{
    s->expert_offsets[2]++;
}
static void padding_not_zero(td_stack *s)
{
    /* Runs of zero pairs, then a pair whose second weight is padding. */
    const qmi_dict *dict = qmi_dict_generic();
    int64_t n_left = (N_COLS + 1) / 2;
    uint16_t *code = row_codes(s, 1), *end = row_codes(s, 2);
    for (; code < end - 1; code++) {
        int64_t most = n_left - (end - 1 - code);
        int64_t n = most < 12 ? most : 12;
        *code = (uint16_t)(n - 1);
        n_left -= n;
    }
    assert_int_equal(n_left, 1);
    *code = (uint16_t)dict->root[3 * QMI_CODE_LOW];
}
static void low_is_infinite(td_stack *s)
{
    s->levels[2 * (N_ROWS + 1)] = 0xff80;
}
static void high_is_infinite(td_stack *s)
{
    s->levels[2 * (N_ROWS + 1) + 1] = 0x7f80;
}
static void low_is_nan(td_stack *s)
{
    s->levels[2 * (N_ROWS + 1)] = 0x7fc0;
}
static void high_is_nan(td_stack *s)
{
    s->levels[2 * (N_ROWS + 1) + 1] = 0xffff;
}

static void check_refuses(void **state)
{
    static const bad_case cases[] = {
        {"late start", rows_start_late, "row_offsets: starts at 1, not 0"},
        {"falling", falling_row_offsets, "row_offsets: row 1 from"},
        {"past the end", row_past_the_end, "row_offsets: row 1 from"},
        {"at the limit", row_at_the_limit, "row_offsets: row 1 from"},
        {"last row", last_row_past_the_matrix, "row_offsets: row 3 from"},
        {"empty row", empty_row, "codes: row 1 holds 0 weights, expected 32"},
        {"short row", row_too_short, "codes: row 1 holds"},
        {"long row", row_too_long, "codes: row 1 holds"},
        {"left over", codewords_behind_the_last_row, "row_offsets: ends at"},
        {"padding", padding_not_zero,
            "codes: row 1 has a padding weight that is not zero"},
        {"low inf", low_is_infinite, "levels: row 1: 0xff80 is not finite"},
        {"high inf", high_is_infinite, "levels: row 1: 0x7f80 is not finite"},
        {"low nan", low_is_nan, "levels: row 1: 0x7fc0 is not finite"},
        {"high nan", high_is_nan, "levels: row 1: 0xffff is not finite"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qmi_error err = {0};
        td_stack s = good_stack();
        cases[i].spoil(&s);
        if (s.w.format->check(&s.w, 1, &err) != QMOE_E_FORMAT ||
            strstr(err.text, cases[i].text) == NULL)
            fail_msg("%s: '%s'", cases[i].name, err.text);
        td_stack_free(&s);
    }
}

/* Levels a careful writer would not choose, but which decode. */
static void check_accepts_any_finite_levels(void **state)
{
    td_stack s = good_stack();
    (void)state;
    s.levels[0] = 0x7f7f;
    s.levels[1] = 0xff7f;
    s.levels[2] = 0x8000;
    s.levels[3] = 0x0001;
    assert_int_equal(s.w.format->check(&s.w, 0, NULL), QMOE_OK);
    td_stack_free(&s);
}

/* ---- random damage ---- */

/* Decodes the matrix when it passes.  Returns whether it did. */
static bool try_matrix(const td_stack *s, int64_t mat)
{
    qmi_error err = {0};
    qmoe_status status = s->w.format->check(&s->w, mat, &err);
    if (status != QMOE_OK) {
        assert_int_equal(status, QMOE_E_FORMAT);
        assert_true(err.text[0] != '\0');
        return false;
    }
    float *rows = exact_block(N_ROWS * N_COLS, sizeof *rows);
    s->w.format->decode(&s->w, mat, 0, N_ROWS, rows);
    free(rows);
    return true;
}

static void damage_is_refused_or_harmless(void **state)
{
    enum { N_TRIES = 20000 };
    uint64_t seed = 9;
    int n_refused = 0, n_accepted = 0;
    (void)state;
    for (int i = 0; i < N_TRIES; i++) {
        td_stack s = good_stack();
        int part = (int)(random_u64(&seed) % 4);
        int n_flips = 1 + (int)(random_u64(&seed) % 3);
        uint8_t *data = (uint8_t *)s.w.parts[part].data;
        for (int k = 0; k < n_flips; k++)
            data[random_u64(&seed) % s.w.parts[part].n_bytes] ^=
                (uint8_t)(1 << random_u64(&seed) % 8);
        bool opened = s.w.format->open(&s.w, NULL) == QMOE_OK;
        n_refused += !opened;
        for (int64_t m = 0; opened && m < N_MATS; m++)
            *(try_matrix(&s, m) ? &n_accepted : &n_refused) += 1;
        td_stack_free(&s);
    }
    assert_true(n_refused > N_TRIES / 4);
    assert_true(n_accepted > N_TRIES / 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_good_stack_is_good),
        cmocka_unit_test(parts_have_the_documented_shapes),
        cmocka_unit_test(open_refuses),
        cmocka_unit_test(check_refuses),
        cmocka_unit_test(check_accepts_any_finite_levels),
        cmocka_unit_test(damage_is_refused_or_harmless),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
