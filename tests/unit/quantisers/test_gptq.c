/* SPDX-License-Identifier: Apache-2.0
 * The ternary and 2-bit quantisers as their callers see them. */
#include "quant_matrix.h"

#include <math.h>

#include "alloc.h"
#include "blas.h"
#include "ternary_dict.h"

typedef struct outcome {
    qmi_encoded encoded;
    qmi_quant_result result;
    qmoe_status status;
    qmi_error err;
} outcome;

static outcome run(const char *method, const char *format, const float *w,
    int64_t n_rows, int64_t n_cols, const qmi_hessian *h,
    qmi_quant_options options)
{
    outcome o = {0};
    const qmi_quantiser *q = qmi_quantiser_find(method, format);
    assert_non_null(q);
    o.status =
        q->run(&o.encoded, &o.result, w, n_rows, n_cols, h, &options, &o.err);
    return o;
}

static outcome must_run(const char *method, const char *format, const float *w,
    int64_t n_rows, int64_t n_cols, const qmi_hessian *h,
    qmi_quant_options options)
{
    outcome o = run(method, format, w, n_rows, n_cols, h, options);
    if (o.status != QMOE_OK)
        fail_msg("%s", o.err.text);
    return o;
}

static void outcome_free(outcome *o)
{
    qmi_encoded_free(&o->encoded);
}

static const char *const formats[] = {"ternary-dict", "q2"};
static const qmi_quant_options minmax = {0};
static const qmi_quant_options fitted = {.fit_levels = true, .passes = 2};

/* ---- the table ---- */

static void table_knows_its_entries(void **state)
{
    (void)state;
    for (size_t i = 0; qmi_quantiser_at(i) != NULL; i++) {
        const qmi_quantiser *q = qmi_quantiser_at(i);
        assert_ptr_equal(qmi_quantiser_find(q->method, q->format->name), q);
        assert_ptr_equal(qmi_format_find(q->format->name), q->format);
        assert_int_equal(q->needs_hessian, strcmp(q->method, "gptq") == 0);
    }
    assert_null(qmi_quantiser_find("gptq", "f32"));
    assert_null(qmi_quantiser_find("", "q2"));
}

/* ---- feedback ---- */

/* Columns that do not interact leave nothing to make up for. */
static void identity_is_rounding(void **state)
{
    static const int64_t shapes[][2] = {
        {1, 1}, {1, 7}, {33, 1}, {40, 130}, {65, 300}};
    (void)state;
    for (size_t i = 0; i < 2 * sizeof shapes / sizeof *shapes; i++) {
        const int64_t n_rows = shapes[i / 2][0], n_cols = shapes[i / 2][1];
        float *w = random_matrix(n_rows, n_cols, i);
        qmi_hessian h = scaled_identity(n_cols, 2.5);
        outcome a =
            must_run("rtn", formats[i % 2], w, n_rows, n_cols, NULL, minmax);
        outcome b =
            must_run("gptq", formats[i % 2], w, n_rows, n_cols, &h, minmax);
        assert_same_matrix(&a.encoded, &b.encoded);
        assert_int_equal(a.result.n_zeros, b.result.n_zeros);
        assert_true(fabs(b.result.error - 2.5 * a.result.error) <
                    1e-5 * b.result.error + 1e-30);
        assert_false(a.result.fell_back || b.result.fell_back);
        outcome_free(&a);
        outcome_free(&b);
        qmi_hessian_destroy(&h);
        free(w);
    }
}

static void feedback_beats_rounding(void **state)
{
    enum { N_ROWS = 96, N_COLS = 300 };
    float *w = random_matrix(N_ROWS, N_COLS, 3);
    qmi_hessian h = random_moments(N_COLS, 1000, 5);
    (void)state;
    for (int i = 0; i < 2; i++) {
        outcome a = must_run("rtn", formats[i], w, N_ROWS, N_COLS, &h, minmax);
        outcome b = must_run("gptq", formats[i], w, N_ROWS, N_COLS, &h, minmax);
        assert_true(b.result.error < 0.6 * a.result.error);
        assert_true(
            fabs(a.result.energy - b.result.energy) < 1e-5 * a.result.energy);
        outcome_free(&a);
        outcome_free(&b);
    }
    qmi_hessian_destroy(&h);
    free(w);
}

/* Reported figures against the decoded matrix. */
static void figures_are_those_of_the_bytes(void **state)
{
    enum { N_ROWS = 50, N_COLS = 150 };
    static const char *const methods[] = {"rtn", "gptq"};
    float *w = random_matrix(N_ROWS, N_COLS, 7);
    qmi_hessian h = random_moments(N_COLS, 500, 11);
    (void)state;
    for (int i = 0; i < 8; i++) {
        outcome o = must_run(methods[i & 1], formats[i >> 1 & 1], w, N_ROWS,
            N_COLS, &h, i < 4 ? minmax : fitted);
        float *decoded = decode_matrix(&o.encoded);
        uint64_t counts[3] = {0};
        double entropy = 0;
        for (int j = 0; j < N_ROWS * N_COLS; j++) {
            counts[decoded[j] > 0 ? 2 : decoded[j] < 0]++;
            decoded[j] = w[j] - decoded[j];
        }
        for (int j = 0; j < 3; j++)
            entropy -= (double)counts[j] / (N_ROWS * N_COLS) *
                       log2((double)counts[j] / (N_ROWS * N_COLS));
        double error = qmi_quadratic_error(decoded, N_ROWS, N_COLS, &h, NULL);
        double energy = qmi_quadratic_error(w, N_ROWS, N_COLS, &h, NULL);
        assert_true(fabs(o.result.error - error) < 1e-3 * error);
        assert_true(fabs(o.result.energy - energy) < 1e-4 * energy);
        assert_int_equal(o.result.n_zeros, counts[0]);
        if (i >> 1 & 1)
            assert_true(o.result.entropy_bits == 0);
        else
            assert_true(fabs(o.result.entropy_bits - entropy) < 1e-9);
        free(decoded);
        outcome_free(&o);
    }
    qmi_hessian_destroy(&h);
    free(w);
}

static void same_input_same_bytes(void **state)
{
    float *w = random_matrix(70, 200, 13);
    qmi_hessian h = random_moments(200, 300, 17);
    (void)state;
    for (int i = 0; i < 3; i++) {
        const qmi_quant_options options = i == 2 ? fitted : minmax;
        outcome a = must_run("gptq", formats[i % 2], w, 70, 200, &h, options);
        outcome b = must_run("gptq", formats[i % 2], w, 70, 200, &h, options);
        assert_same_matrix(&a.encoded, &b.encoded);
        assert_true(a.result.error == b.result.error);
        outcome_free(&a);
        outcome_free(&b);
    }
    qmi_hessian_destroy(&h);
    free(w);
}

/* ---- what falls back ---- */

static void useless_hessians_fall_back(void **state)
{
    enum {
        N_ROWS = 20,
        N = 60,
        NONE,
        NO_TOKENS,
        ZERO,
        NOT_A_NUMBER,
        INDEFINITE,
        LAST
    };
    float *w = random_matrix(N_ROWS, N, 19);
    (void)state;
    for (int i = 0; i < 3 * (LAST - NONE); i++) {
        const int kind = NONE + i / 3;
        const qmi_quant_options options = i % 3 == 2 ? fitted : minmax;
        qmi_hessian h = random_moments(N, 100, 23);
        if (kind == NO_TOKENS)
            h.n_tokens = 0;
        if (kind == ZERO)
            memset(h.sum, 0, N * N * sizeof *h.sum);
        if (kind == NOT_A_NUMBER)
            h.sum[3] = NAN;
        if (kind == INDEFINITE)
            h.sum[7 * N + 7] = -1e6;
        outcome a =
            must_run("rtn", formats[i % 2], w, N_ROWS, N, NULL, options);
        outcome b = must_run("gptq", formats[i % 2], w, N_ROWS, N,
            kind == NONE ? NULL : &h, options);
        assert_same_matrix(&a.encoded, &b.encoded);
        assert_true(b.result.fell_back && !a.result.fell_back);
        assert_true(a.result.error == b.result.error && a.result.error > 0);
        outcome_free(&a);
        outcome_free(&b);
        qmi_hessian_destroy(&h);
    }
    free(w);
}

static void bad_input_is_refused(void **state)
{
    enum { N_ROWS = 40, N = 33 };
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    qmi_hessian h = random_moments(N, 100, 29),
                narrow = random_moments(8, 9, 1);
    float *w = random_matrix(N_ROWS, N, 31);
    (void)state;
    for (int i = 0; i < 12; i++) {
        const qmi_quant_options options = i < 6 ? minmax : fitted;
        const float good = w[37 * N + 5];
        w[37 * N + 5] = bad[i % 3];
        outcome o = run("gptq", formats[i % 2], w, N_ROWS, N, &h, options);
        assert_int_equal(o.status, QMOE_E_FORMAT);
        assert_non_null(strstr(o.err.text, "row 37"));
        assert_null(o.encoded.format);
        assert_null(o.encoded.parts[0]);
        assert_true(o.result.energy == 0);
        w[37 * N + 5] = good;
        o = run("gptq", formats[i % 2], w, N_ROWS, N, &narrow, options);
        assert_int_equal(o.status, QMOE_E_INVALID);
        o = run("rtn", formats[i % 2], w, 0, N, NULL, options);
        assert_int_equal(o.status, QMOE_E_INVALID);
    }
    qmi_hessian_destroy(&h);
    qmi_hessian_destroy(&narrow);
    free(w);
}

/* Rows of zeros, of one sign, and of the largest and smallest numbers decode
 * to something finite. */
static void odd_rows_are_survived(void **state)
{
    enum { N_ROWS = 40, N = 40 };
    static const float sizes[] = {0, 1, -1, 3e38f, -3e38f, 1e-45f, -1e-45f};
    qmi_hessian h = random_moments(N, 100, 37);
    float *w = random_matrix(N_ROWS, N, 41);
    (void)state;
    for (int r = 0; r < N_ROWS; r++)
        for (int c = 0; c < N; c++)
            w[r * N + c] = r < 7 ? sizes[r] * fminf(fabsf(w[r * N + c]) / 3, 1)
                                 : w[r * N + c];
    for (int i = 0; i < 4; i++) {
        outcome o = must_run(i & 1 ? "gptq" : "rtn", "ternary-dict", w, N_ROWS,
            N, &h, i < 2 ? minmax : fitted);
        float *decoded = decode_matrix(&o.encoded);
        for (int c = 0; c < N; c++)
            assert_true(decoded[c] == 0);
        uint64_t n_zeros = 0;
        for (int j = 0; j < N_ROWS * N; j++) {
            assert_true(isfinite(decoded[j]));
            n_zeros += decoded[j] == 0;
        }
        /* Levels of zero are coded as zeros. */
        assert_int_equal(o.result.n_zeros, n_zeros);
        free(decoded);
        outcome_free(&o);
    }
    outcome o = run("gptq", "q2", w, N_ROWS, N, &h, minmax);
    assert_true(o.status == QMOE_OK || o.status == QMOE_E_FORMAT);
    outcome_free(&o);
    qmi_hessian_destroy(&h);
    free(w);
}

/* ---- fitted levels ---- */

static void fitted_levels_are_better_and_sparser(void **state)
{
    enum { N_ROWS = 256, N_COLS = 384 };
    float *w = random_matrix(N_ROWS, N_COLS, 43);
    qmi_hessian h = random_moments(N_COLS, 1500, 47);
    (void)state;
    outcome paper =
        must_run("gptq", "ternary-dict", w, N_ROWS, N_COLS, &h, minmax);
    double last = paper.result.error;
    for (int passes = 0; passes <= 4; passes += 2) {
        outcome o = must_run("gptq", "ternary-dict", w, N_ROWS, N_COLS, &h,
            (qmi_quant_options){.fit_levels = true, .passes = passes});
        assert_true(o.result.entropy_bits < paper.result.entropy_bits);
        assert_true(o.result.error < last);
        last = o.result.error;
        outcome_free(&o);
    }
    print_message(
        "  fitted / paper's error: %.3f\n", last / paper.result.error);
    assert_true(last < 0.65 * paper.result.error);
    outcome_free(&paper);
    qmi_hessian_destroy(&h);
    free(w);
}

static void fitted_rounding_needs_no_data(void **state)
{
    enum { N_ROWS = 256, N_COLS = 384 };
    float *w = random_matrix(N_ROWS, N_COLS, 53);
    qmi_hessian h = random_moments(N_COLS, 1500, 59);
    (void)state;
    outcome paper =
        must_run("rtn", "ternary-dict", w, N_ROWS, N_COLS, NULL, minmax);
    outcome plain =
        must_run("rtn", "ternary-dict", w, N_ROWS, N_COLS, NULL, fitted);
    assert_true(plain.result.error < 0.9 * paper.result.error);
    assert_true(plain.result.entropy_bits < paper.result.entropy_bits);
    /* With data the codes stay, the levels move. */
    outcome data =
        must_run("rtn", "ternary-dict", w, N_ROWS, N_COLS, &h, fitted);
    assert_int_equal(data.result.n_zeros, plain.result.n_zeros);
    float *decoded = decode_matrix(&plain.encoded);
    for (int i = 0; i < N_ROWS * N_COLS; i++)
        decoded[i] = w[i] - decoded[i];
    assert_true(data.result.error <
                qmi_quadratic_error(decoded, N_ROWS, N_COLS, &h, NULL));
    free(decoded);
    outcome_free(&paper);
    outcome_free(&plain);
    outcome_free(&data);
    qmi_hessian_destroy(&h);
    free(w);
}

/* Few large weights: the paper's rule keeps almost only those. */
static void fitted_levels_survive_outliers(void **state)
{
    enum { N_ROWS = 64, N_COLS = 256 };
    float *w = random_matrix(N_ROWS, N_COLS, 61);
    qmi_hessian h = random_moments(N_COLS, 600, 67);
    (void)state;
    for (int r = 0; r < N_ROWS; r++)
        w[r * N_COLS + r] = r % 2 ? 15 : -15;
    outcome paper =
        must_run("gptq", "ternary-dict", w, N_ROWS, N_COLS, &h, minmax);
    outcome o = must_run("gptq", "ternary-dict", w, N_ROWS, N_COLS, &h, fitted);
    assert_true(o.result.error < 0.8 * paper.result.error);
    assert_true((double)o.result.n_zeros < 0.94 * N_ROWS * N_COLS);
    outcome_free(&o);
    outcome_free(&paper);
    qmi_hessian_destroy(&h);
    free(w);
}

/* ---- memory ---- */

static void every_allocation_may_fail(void **state)
{
    float *w = random_matrix(20, 40, 71);
    qmi_hessian h = random_moments(40, 100, 73);
    (void)state;
    assert_non_null(qmi_dict_generic()); /* built before anything fails */
    for (int i = 0; i < 5; i++) {
        const qmi_quant_options options = i < 3 ? minmax : fitted;
        uint64_t n = 0;
        qmoe_status status = QMOE_E_NOMEM;
        while (status == QMOE_E_NOMEM) {
            qmi_alloc_fail_after(++n);
            outcome o = run(i % 2 ? "gptq" : "rtn", formats[i == 1 || i == 2],
                w, 20, 40, &h, options);
            status = o.status;
            assert_true(status == QMOE_OK || o.encoded.parts[0] == NULL);
            assert_true(status == QMOE_OK || o.err.status == QMOE_E_NOMEM);
            outcome_free(&o);
        }
        qmi_alloc_fail_after(0);
        assert_int_equal(status, QMOE_OK);
        assert_true(n > 5);
    }
    qmi_hessian_destroy(&h);
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table_knows_its_entries),
        cmocka_unit_test(identity_is_rounding),
        cmocka_unit_test(feedback_beats_rounding),
        cmocka_unit_test(figures_are_those_of_the_bytes),
        cmocka_unit_test(same_input_same_bytes),
        cmocka_unit_test(useless_hessians_fall_back),
        cmocka_unit_test(bad_input_is_refused),
        cmocka_unit_test(odd_rows_are_survived),
        cmocka_unit_test(fitted_levels_are_better_and_sparser),
        cmocka_unit_test(fitted_rounding_needs_no_data),
        cmocka_unit_test(fitted_levels_survive_outliers),
        cmocka_unit_test(every_allocation_may_fail),
    };
    if (qmi_blas_load(1, NULL) != QMOE_OK)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
