/* SPDX-License-Identifier: Apache-2.0
 * Quantisers of the formats "tlut-*": the result against what it claims and
 * against other scales, hard inputs, failures. */
#include <pthread.h>
#include <time.h>

#include "alloc.h"
#include "cancel.h"
#include "clock.h"
#include "quantiser_problem.h"
#include "tlut_fit.h"

#define X(name, text) "tlut-" text,
static const char *const formats[] = {QMI_TLUT_MAP(X)};
#undef X
enum { N_FORMATS = sizeof formats / sizeof *formats };

static const qmi_quant_options plain = {.damping = 0.1, .passes = 4};

static double relative_error(
    const problem *p, const char *method, const char *format, int passes)
{
    qmi_quant_options options = plain;
    options.passes = passes;
    outcome o = quantise(p, method, format, &options);
    qmi_encoded_free(&o.encoded);
    return o.result.error / o.result.energy;
}

/* ---- errors ---- */

static void reported_numbers(void **state)
{
    (void)state;
    problem p = make_problem(81, 90, 300, 11);
    float *zero = calloc((size_t)(p.n_rows * p.n_cols), sizeof *zero);
    assert_non_null(zero);
    const double energy = true_error(&p, zero);
    for (int k = 0; k < 4 * N_FORMATS; k++) {
        qmi_quant_options options = plain;
        options.rotation = k & 2 ? 32 : 0;
        options.rotation_seed = 8;
        outcome o =
            quantise(&p, k & 1 ? "gptq" : "rtn", formats[k / 4], &options);
        float *q = decode(&o.encoded, &options);
        const double error = true_error(&p, q);
        assert_true(fabs(o.result.error - error) < 1e-3 * error);
        assert_true(fabs(o.result.energy - energy) < 1e-3 * energy);
        assert_false(o.result.fell_back);
        uint64_t n_zeros = 0;
        qmi_quant_options stored = options;
        stored.rotation = 0;
        float *values = decode(&o.encoded, &stored);
        for (int64_t i = 0; i < p.n_rows * p.n_cols; i++)
            n_zeros += values[i] == 0;
        assert_int_equal(o.result.n_zeros, n_zeros);
        free(values);
        free(q);
        qmi_encoded_free(&o.encoded);
    }
    free(zero);
    free_problem(&p);
}

static void each_step_helps(void **state)
{
    (void)state;
    problem p = make_problem(64, 192, 700, 1);
    double finer = INFINITY;
    for (int i = 0; i < N_FORMATS; i++) {
        const double rtn = relative_error(&p, "rtn", formats[i], 0);
        const double sweep = relative_error(&p, "gptq", formats[i], 0);
        const double one = relative_error(&p, "gptq", formats[i], 1);
        const double many = relative_error(&p, "gptq", formats[i], 8);
        print_message(
            "%s: %.5f %.5f %.5f %.5f\n", formats[i], rtn, sweep, one, many);
        assert_true(sweep < 0.6 * rtn);
        assert_true(one < 0.99 * sweep);
        assert_true(many < 0.99 * one);
        assert_true(many < 0.9 * finer);
        finer = many;
    }
    free_problem(&p);
}

/* Without moments: the distortion of Gaussian data, which scales fitted to few
 * weights lower a little. */
static void nearest_strings(void **state)
{
    (void)state;
    static const double most[N_FORMATS] = {
        0.767, 0.560, 0.415, 0.3025, 0.164, 0.0866, 0.0250, 0.0078};
    problem p = make_problem(128, 128, 0, 3);
    for (int i = 0; i < N_FORMATS; i++) {
        const double error = relative_error(&p, "rtn", formats[i], 0);
        print_message("%s: %.4f\n", formats[i], error);
        assert_true(error < most[i] && error > 0.8 * most[i]);
    }
    free_problem(&p);
}

/* ---- scales ---- */

/* With the bf16 scale `at` a step larger or smaller. */
static double moved_error(
    const problem *p, const outcome *o, int part, int64_t index, int step)
{
    uint8_t *at = o->encoded.parts[part] + 2 * index;
    const uint16_t bits = qmi_load_u16(at);
    const uint16_t moved = (uint16_t)(bits + step);
    memcpy(at, &moved, sizeof moved);
    float *q = decode(&o->encoded, &plain);
    memcpy(at, &bits, sizeof bits);
    double error = true_error(p, q), mean = 0;
    for (int64_t c = 0; c < p->n_cols; c++)
        mean += p->hessian.sum[c * p->n_cols + c] / (double)p->n_cols;
    for (int64_t i = 0; i < p->n_rows * p->n_cols; i++)
        error += 0.1 * mean * pow((double)p->w[i] - (double)q[i], 2);
    free(q);
    return error;
}

/* After enough passes no other scale is better: that needs G to be right to
 * the end. */
static void scales_end_in_a_minimum(void **state)
{
    (void)state;
    problem p = make_problem(70, 68, 200, 21);
    qmi_quant_options options = plain;
    options.passes = 30;
    outcome o = quantise(&p, "gptq", "tlut-1.5", &options);
    const double error = moved_error(&p, &o, QMI_TLUT_SCALES, 0, 0);
    for (int64_t r = 0; r < 70; r += 23)
        for (int step = -1; step <= 1; step += 2)
            assert_true(moved_error(&p, &o, QMI_TLUT_SCALES, r, step) >
                        error * (1 - 1e-6));
    for (int64_t c = 0; c < 68; c += 11)
        for (int step = -1; step <= 1; step += 2)
            assert_true(moved_error(&p, &o, QMI_TLUT_COL_SCALES, c, step) >
                        error * (1 - 1e-5));
    qmi_encoded_free(&o.encoded);
    free_problem(&p);
}

/* Error of the rows that count, those of even number. */
static double even_error(const problem *p, const float *weights)
{
    qmi_quant_options options = plain;
    options.row_weights = weights;
    outcome o = quantise(p, "gptq", "tlut-1", &options);
    float *q = decode(&o.encoded, &options);
    for (int64_t r = 1; r < p->n_rows; r += 2)
        memcpy(q + r * p->n_cols, p->w + r * p->n_cols,
            (size_t)p->n_cols * sizeof *q);
    const double error = true_error(p, q);
    free(q);
    qmi_encoded_free(&o.encoded);
    return error;
}

static void weights_of_rows(void **state)
{
    (void)state;
    problem p = make_problem(64, 96, 300, 5);
    float even[64], some[64];
    for (int r = 0; r < 64; r++) {
        even[r] = 1;
        some[r] = r % 2 == 0 ? 1.8f : 0.2f;
    }
    assert_true(even_error(&p, even) == even_error(&p, NULL));
    assert_true(even_error(&p, some) < 0.8 * even_error(&p, NULL));
    free_problem(&p);
}

/* ---- inputs ---- */

static void shapes(void **state)
{
    (void)state;
    static const int64_t sizes[][2] = {
        {1, 1}, {2, 7}, {64, 17}, {63, 16}, {65, 129}, {130, 65}};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
        for (int f = 0; f < N_FORMATS; f++) {
            problem p = make_problem(sizes[k][0], sizes[k][1], 40, 6);
            qmi_quant_options options = plain;
            options.rotation = f & 1 ? 64 : 0;
            outcome a = quantise(&p, "gptq", formats[f], &options);
            outcome b = quantise(&p, "gptq", formats[f], &options);
            outcome rtn = quantise(&p, "rtn", formats[f], &options);
            assert_same_matrix(&a.encoded, &b.encoded);
            float *q = decode(&a.encoded, &options);
            for (int64_t i = 0; i < p.n_rows * p.n_cols; i++)
                assert_true(isfinite(q[i]));
            /* Of a few weights, either may hit. */
            assert_true(p.n_rows < 3 || a.result.error < rtn.result.error);
            free(q);
            qmi_encoded_free(&a.encoded);
            qmi_encoded_free(&b.encoded);
            qmi_encoded_free(&rtn.encoded);
            free_problem(&p);
        }
}

/* Rows and columns that are zero stay zero. */
static void zeros(void **state)
{
    (void)state;
    problem p = make_problem(70, 40, 200, 4);
    for (int64_t i = 0; i < 70 * 40; i++)
        if (i / 40 % 3 == 0 || i % 40 == 7)
            p.w[i] = 0;
    for (int k = 0; k < 2; k++) {
        outcome o = quantise(&p, k == 0 ? "rtn" : "gptq", "tlut-2", &plain);
        float *q = decode(&o.encoded, &plain);
        for (int64_t i = 0; i < 70 * 40; i++)
            if (i / 40 % 3 == 0)
                assert_true(q[i] == 0);
        for (int64_t r = 0; r < 70; r++)
            assert_true(k == 1 || q[r * 40 + 7] == 0);
        free(q);
        qmi_encoded_free(&o.encoded);
    }
    memset(p.w, 0, 70 * 40 * sizeof *p.w);
    outcome o = quantise(&p, "gptq", "tlut-0.5", &plain);
    assert_true(o.result.error == 0 && o.result.energy == 0);
    assert_int_equal(o.result.n_zeros, 70 * 40);
    qmi_encoded_free(&o.encoded);
    free_problem(&p);
}

/* Scaling all weights by a power of two scales the result. */
static void extreme_weights(void **state)
{
    (void)state;
    static const int exponents[] = {-140, -120, -40, 40, 60};
    problem p = make_problem(5, 64, 100, 9);
    qmi_quant_options options = plain;
    options.rotation = 16;
    outcome unit = quantise(&p, "gptq", "tlut-1", &options);
    for (int k = 0; k < 5; k++) {
        problem s = make_problem(5, 64, 100, 9);
        for (int i = 0; i < 5 * 64; i++)
            s.w[i] = ldexpf(s.w[i], exponents[k]);
        outcome o = quantise(&s, "gptq", "tlut-1", &options);
        float *q = decode(&o.encoded, &options);
        for (int i = 0; i < 5 * 64; i++)
            assert_true(isfinite(q[i]));
        if (exponents[k] > -100)
            assert_memory_equal(o.encoded.parts[QMI_TLUT_CODES],
                unit.encoded.parts[QMI_TLUT_CODES],
                unit.encoded.part_bytes[QMI_TLUT_CODES]);
        free(q);
        qmi_encoded_free(&o.encoded);
        free_problem(&s);
    }
    qmi_encoded_free(&unit.encoded);
    free_problem(&p);
}

static void refused(void **state)
{
    (void)state;
    const float odd[] = {NAN, INFINITY, -INFINITY, 0x1p60f};
    for (int k = 0; k < 8; k++) {
        problem p = make_problem(3, 40, 20, 1);
        qmi_error err = {0};
        outcome o;
        p.w[2 * 40 + 37] = odd[k / 2];
        qmoe_status status =
            qmi_quantiser_find(k % 2 == 0 ? "rtn" : "gptq", "tlut-3")
                ->run(&o.encoded, &o.result, p.w, 3, 40, &p.hessian, &plain,
                    &err);
        assert_error(status, QMOE_E_FORMAT, err.text, "row 2: column 37");
        assert_null(o.encoded.parts[0]);
        free_problem(&p);
    }
}

/* Without usable second moments GPTQ is rounding, and says so. */
static void fallback(void **state)
{
    (void)state;
    problem p = make_problem(10, 50, 60, 3);
    outcome rtn = quantise(&p, "rtn", "tlut-1", &plain);
    for (int k = 0; k < 3; k++) {
        problem bad = make_problem(10, 50, 60, 3);
        outcome o;
        qmi_error err = {0};
        if (k == 0)
            bad.hessian.n_tokens = 0;
        if (k == 1)
            bad.hessian.sum[51] = -1e9;
        qmoe_status status =
            qmi_quantiser_find("gptq", "tlut-1")
                ->run(&o.encoded, &o.result, bad.w, 10, 50,
                    k == 2 ? NULL : &bad.hessian, &plain, &err);
        assert_int_equal(status, QMOE_OK);
        assert_string_equal(err.text, "");
        assert_true(o.result.fell_back);
        assert_same_matrix(&o.encoded, &rtn.encoded);
        qmi_encoded_free(&o.encoded);
        free_problem(&bad);
    }
    qmi_encoded_free(&rtn.encoded);
    free_problem(&p);
}

/* All weights are counted, whatever the rounds. */
static void counts_weights(void **state)
{
    (void)state;
    problem p = make_problem(70, 131, 60, 3);
    for (int k = 0; k < 2; k++) {
        _Atomic(int64_t) n = 0;
        qmi_quant_options options = plain;
        options.n_coded = &n;
        outcome o = quantise(&p, k == 0 ? "rtn" : "gptq", "tlut-1", &options);
        assert_int_equal(n, 70 * 131);
        qmi_encoded_free(&o.encoded);
    }
    free_problem(&p);
}

/* ---- cancellation ---- */

typedef struct stopper {
    struct qmi_cancel cancel;
    _Atomic(int64_t) n_coded;
    double at; /* when the wish was uttered */
} stopper;

/* Wishes for the end once some weights are done. */
static void *stop_soon(void *user)
{
    stopper *s = user;
    const struct timespec moment = {.tv_nsec = 1000000};
    while (s->n_coded == 0)
        nanosleep(&moment, NULL);
    s->at = qmi_seconds();
    s->cancel.wanted = true;
    return NULL;
}

/* A ring of rows that takes seconds is left within one, with nothing to
 * free. */
static void cancelled(void **state)
{
    (void)state;
    problem p = make_problem(64, 512, 30, 3);
    stopper s = {.n_coded = 0};
    outcome o;
    pthread_t thread;
    qmi_error err = {.cancel = &s.cancel};
    qmi_quant_options options = plain;
    options.passes = 3000;
    options.n_coded = &s.n_coded;
    const qmi_quantiser *q = qmi_quantiser_find("gptq", "tlut-4");
    assert_int_equal(pthread_create(&thread, NULL, stop_soon, &s), 0);
    const qmoe_status status = q->run(&o.encoded, &o.result, p.w, p.n_rows,
        p.n_cols, &p.hessian, &options, &err);
    const double end = qmi_seconds();
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_error(status, QMOE_E_CANCELLED, err.text, "cancelled");
    assert_true(end - s.at < 1);
    assert_null(o.encoded.parts[0]);
    qmi_encoded_free(&o.encoded);
    free_problem(&p);
}

static void out_of_memory(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        problem p = make_problem(9, 40, 60, 3);
        const qmi_quantiser *q =
            qmi_quantiser_find(k == 0 ? "rtn" : "gptq", "tlut-4");
        qmi_quant_options options = plain;
        options.rotation = 8;
        qmoe_status status = QMOE_E_NOMEM;
        int n = 0;
        while (status != QMOE_OK) {
            outcome o;
            qmi_error err = {0};
            qmi_alloc_fail_after((uint64_t)++n);
            status = q->run(&o.encoded, &o.result, p.w, p.n_rows, p.n_cols,
                &p.hessian, &options, &err);
            qmi_alloc_fail_after(0);
            if (status != QMOE_OK) {
                assert_error(status, QMOE_E_NOMEM, err.text, "out of memory");
                assert_null(o.encoded.parts[0]);
                assert_null(o.encoded.parts[2]);
            }
            qmi_encoded_free(&o.encoded);
            assert_true(n < 100);
        }
        assert_true(n > (k == 0 ? 8 : 14));
        free_problem(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reported_numbers),
        cmocka_unit_test(each_step_helps),
        cmocka_unit_test(nearest_strings),
        cmocka_unit_test(scales_end_in_a_minimum),
        cmocka_unit_test(weights_of_rows),
        cmocka_unit_test(shapes),
        cmocka_unit_test(zeros),
        cmocka_unit_test(extreme_weights),
        cmocka_unit_test(refused),
        cmocka_unit_test(fallback),
        cmocka_unit_test(counts_weights),
        cmocka_unit_test(cancelled),
        cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, load_blas, NULL);
}
