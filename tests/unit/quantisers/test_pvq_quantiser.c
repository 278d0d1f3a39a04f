/* SPDX-License-Identifier: Apache-2.0
 * Quantisers of "pvq" and "pvq8": the result against what it claims and
 * against all single changes, hard inputs, failures. */
#include "alloc.h"
#include "pvq_fit.h"
#include "quantiser_problem.h"

/* ---- problems ---- */

static const qmi_quant_options plain = {.damping = 0.1, .passes = 8};

static double relative_error(
    const problem *p, const char *method, const char *format, int passes)
{
    qmi_quant_options options = plain;
    options.passes = passes;
    outcome o = quantise(p, method, format, &options);
    qmi_encoded_free(&o.encoded);
    return o.result.error / o.result.energy;
}

/* ---- rounding ---- */

/* Every block of a rounded matrix is the nearest one to its row's scale, the
 * last one with its padding too. */
static void rounding_is_nearest(void **state)
{
    (void)state;
    static const int64_t widths[] = {1, 5, 16, 40, 131};
    for (int n = 8; n <= 16; n += 8)
        for (int k = 0; k < 5; k++) {
            problem p = make_problem(19, widths[k], 0, 5);
            outcome o = quantise(&p, "rtn", n == 16 ? "pvq" : "pvq8", &plain);
            const qmi_pvq_shape s = qmi_pvq_shape_of(n, 19, p.n_cols);
            for (int64_t i = 0; i < 19 * s.n_blocks; i++) {
                const int64_t row = i / s.n_blocks, col = i % s.n_blocks * n;
                const float *w = p.w + row * p.n_cols + col;
                int left = (int)(p.n_cols - col < n ? p.n_cols - col : n);
                float scale = qmi_bf16_to_f32(
                    qmi_load_u16(o.encoded.parts[QMI_PVQ_SCALES] + 2 * row));
                double chosen = INFINITY, least = INFINITY;
                qmi_pvq_block stored = qmi_pvq_get(
                    &s, o.encoded.parts[QMI_PVQ_CODES], row, i % s.n_blocks);
                for (int code = 0; code < 2 * n * n; code++) {
                    int8_t q[16];
                    double distance = 0;
                    qmi_pvq_block b = {(uint8_t)(code / 2 % n),
                        (uint8_t)(code / 2 / n), (uint8_t)(code % 2)};
                    qmi_pvq_expand(q, n, b);
                    for (int j = 0; j < left; j++)
                        distance += pow((double)w[j] - scale * q[j], 2);
                    least = fmin(least, distance);
                    if (memcmp(&b, &stored, sizeof b) == 0)
                        chosen = distance;
                }
                assert_true(chosen <= least + 1e-6);
            }
            qmi_encoded_free(&o.encoded);
            free_problem(&p);
        }
}

/* ---- errors ---- */

static void reported_numbers(void **state)
{
    (void)state;
    static const char *const methods[] = {"rtn", "gptq"};
    static const char *const formats[] = {"pvq", "pvq8"};
    for (int k = 0; k < 8; k++) {
        problem p = make_problem(21, 90, 300, 11);
        qmi_quant_options options = plain;
        options.rotation = k & 4 ? 32 : 0;
        options.rotation_seed = 8;
        outcome o = quantise(&p, methods[k & 1], formats[k >> 1 & 1], &options);
        float *q = decode(&o.encoded, &options);
        float *zero = calloc((size_t)(p.n_rows * p.n_cols), sizeof *zero);
        assert_non_null(zero);
        double error = true_error(&p, q), energy = true_error(&p, zero);
        assert_true(fabs(o.result.error - error) < 1e-3 * error);
        assert_true(fabs(o.result.energy - energy) < 1e-3 * energy);
        assert_false(o.result.fell_back);
        assert_true(o.result.entropy_bits == 0);
        uint64_t n_zeros = 0;
        qmi_quant_options stored = options;
        stored.rotation = 0;
        float *values = decode(&o.encoded, &stored);
        for (int64_t i = 0; i < p.n_rows * p.n_cols; i++)
            n_zeros += values[i] == 0;
        assert_int_equal(o.result.n_zeros, n_zeros);
        free(values);
        free(zero);
        free(q);
        qmi_encoded_free(&o.encoded);
        free_problem(&p);
    }
}

static void each_step_helps(void **state)
{
    (void)state;
    problem p = make_problem(64, 256, 700, 1);
    double rtn = relative_error(&p, "rtn", "pvq", 0);
    double sweep = relative_error(&p, "gptq", "pvq", 0);
    double one = relative_error(&p, "gptq", "pvq", 1);
    double four = relative_error(&p, "gptq", "pvq", 4);
    double many = relative_error(&p, "gptq", "pvq", 16);
    double finer = relative_error(&p, "gptq", "pvq8", 16);
    double ternary = relative_error(&p, "gptq", "ternary-dict", 0);
    assert_true(sweep < 0.5 * rtn);
    assert_true(one < 0.96 * sweep);
    assert_true(four < 0.985 * one);
    assert_true(many < 0.99 * four);
    assert_true(finer < 0.7 * many);
    assert_true(many < 0.9 * ternary);
    free_problem(&p);
}

/* Uneven inputs are what a rotation is for. */
static void rotation_helps(void **state)
{
    (void)state;
    problem p = make_problem(64, 256, 700, 2);
    for (int64_t i = 0; i < 256; i++)
        for (int64_t j = 0; j < 256; j++)
            p.hessian.sum[i * 256 + j] *=
                (i % 16 == 0 ? 6 : 1) * (j % 16 == 0 ? 6 : 1);
    double none = relative_error(&p, "gptq", "pvq", 8);
    qmi_quant_options options = plain;
    options.rotation = 64;
    outcome o = quantise(&p, "gptq", "pvq", &options);
    assert_true(o.result.error / o.result.energy < 0.9 * none);
    qmi_encoded_free(&o.encoded);
    free_problem(&p);
}

/* ---- optimality ---- */

/* e H_damped e^T of one row. */
static double damped_cost(const problem *p, const double *e)
{
    const int64_t n = p->n_cols;
    double cost = 0, mean = 0;
    for (int64_t i = 0; i < n; i++)
        mean += p->hessian.sum[i * n + i] / (double)n;
    for (int64_t i = 0; i < n; i++) {
        cost += 0.1 * mean * e[i] * e[i];
        for (int64_t j = 0; j < n; j++)
            cost += p->hessian.sum[i * n + j] * e[i] * e[j];
    }
    return cost;
}

/* After enough passes no block of a row can be replaced to advantage, and no
 * scale next to its own is better: that needs R to be right to the end. */
static void descent_ends_in_a_minimum(void **state)
{
    (void)state;
    const int n = 16;
    problem p = make_problem(3, 72, 200, 21);
    qmi_quant_options options = plain;
    options.passes = 40;
    outcome o = quantise(&p, "gptq", "pvq", &options);
    const qmi_pvq_shape s = qmi_pvq_shape_of(n, 3, 72);
    float *q = decode(&o.encoded, &options);
    for (int64_t row = 0; row < 3; row++) {
        const uint8_t *at = o.encoded.parts[QMI_PVQ_SCALES] + 2 * row;
        const uint16_t bits = qmi_load_u16(at);
        const double scale = (double)qmi_bf16_to_f32(bits);
        double e[72], cost;
        for (int i = 0; i < 72; i++)
            e[i] = (double)p.w[row * 72 + i] - (double)q[row * 72 + i];
        cost = damped_cost(&p, e);
        for (int64_t b = 0; b < s.n_blocks; b++)
            for (int code = 0; code < 512; code++) {
                int8_t other[16];
                double f[72];
                memcpy(f, e, sizeof f);
                qmi_pvq_expand(other, n,
                    (qmi_pvq_block){(uint8_t)(code & 15),
                        (uint8_t)(code >> 4 & 15), (uint8_t)(code >> 8)});
                for (int64_t i = b * 16; i < b * 16 + 16 && i < 72; i++)
                    f[i] =
                        (double)p.w[row * 72 + i] - scale * other[i - b * 16];
                assert_true(damped_cost(&p, f) > cost * (1 - 1e-4));
            }
        for (int step = -1; step <= 1; step += 2) {
            double f[72];
            double factor =
                (double)qmi_bf16_to_f32((uint16_t)(bits + step)) / scale;
            for (int i = 0; i < 72; i++)
                f[i] = (double)p.w[row * 72 + i] -
                       factor * (double)q[row * 72 + i];
            assert_true(damped_cost(&p, f) > cost * (1 - 1e-4));
        }
    }
    free(q);
    qmi_encoded_free(&o.encoded);
    free_problem(&p);
}

/* ---- inputs ---- */

static void shapes(void **state)
{
    (void)state;
    static const int64_t sizes[][2] = {
        {1, 1}, {2, 7}, {33, 17}, {15, 16}, {17, 129}, {65, 130}, {40, 300}};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
        for (int f = 0; f < 4; f++) {
            problem p = make_problem(sizes[k][0], sizes[k][1], 40, 6);
            qmi_quant_options options = plain;
            options.rotation = f & 2 ? 64 : 0;
            const char *format = f & 1 ? "pvq8" : "pvq";
            outcome a = quantise(&p, "gptq", format, &options);
            outcome b = quantise(&p, "gptq", format, &options);
            outcome rtn = quantise(&p, "rtn", format, &options);
            assert_same_matrix(&a.encoded, &b.encoded);
            float *q = decode(&a.encoded, &options);
            for (int64_t i = 0; i < p.n_rows * p.n_cols; i++)
                assert_true(isfinite(q[i]));
            assert_true(a.result.error <= 1.05 * rtn.result.error);
            free(q);
            qmi_encoded_free(&a.encoded);
            qmi_encoded_free(&b.encoded);
            qmi_encoded_free(&rtn.encoded);
            free_problem(&p);
        }
}

/* Rows that are zero stay zero, and leave the others as they are. */
static void rows_of_zeros(void **state)
{
    (void)state;
    problem p = make_problem(20, 96, 200, 4);
    for (int64_t r = 0; r < 20; r += 3)
        memset(p.w + r * 96, 0, 96 * sizeof *p.w);
    for (int k = 0; k < 2; k++) {
        qmi_quant_options options = plain;
        options.rotation = 32;
        outcome o = quantise(&p, k == 0 ? "rtn" : "gptq", "pvq", &options);
        float *q = decode(&o.encoded, &options);
        for (int64_t i = 0; i < 20 * 96; i++)
            if (i / 96 % 3 == 0)
                assert_true(q[i] == 0);
        for (int64_t r = 0; r < 20; r++) {
            uint16_t scale =
                qmi_load_u16(o.encoded.parts[QMI_PVQ_SCALES] + 2 * r);
            assert_int_equal(scale == 0, r % 3 == 0);
        }
        free(q);
        qmi_encoded_free(&o.encoded);
    }
    memset(p.w, 0, 20 * 96 * sizeof *p.w);
    outcome o = quantise(&p, "gptq", "pvq8", &plain);
    assert_true(o.result.error == 0 && o.result.energy == 0);
    assert_int_equal(o.result.n_zeros, 20 * 96);
    for (size_t i = 0; i < o.encoded.part_bytes[QMI_PVQ_CODES]; i++)
        assert_int_equal(o.encoded.parts[QMI_PVQ_CODES][i], 0);
    qmi_encoded_free(&o.encoded);
    free_problem(&p);
}

/* Scaling all weights by a power of two scales the result. */
static void extreme_weights(void **state)
{
    (void)state;
    static const int exponents[] = {-140, -126, -40, 60, 99};
    problem p = make_problem(5, 64, 100, 9);
    qmi_quant_options options = plain;
    options.rotation = 16;
    outcome unit = quantise(&p, "gptq", "pvq", &options);
    for (int k = 0; k < 5; k++) {
        problem s = make_problem(5, 64, 100, 9);
        for (int i = 0; i < 5 * 64; i++)
            s.w[i] = ldexpf(s.w[i], exponents[k]);
        outcome o = quantise(&s, "gptq", "pvq", &options);
        float *q = decode(&o.encoded, &options);
        for (int i = 0; i < 5 * 64; i++)
            assert_true(isfinite(q[i]));
        if (exponents[k] > -100)
            assert_memory_equal(o.encoded.parts[QMI_PVQ_CODES],
                unit.encoded.parts[QMI_PVQ_CODES],
                unit.encoded.part_bytes[QMI_PVQ_CODES]);
        free(q);
        qmi_encoded_free(&o.encoded);
        free_problem(&s);
    }
    qmi_encoded_free(&unit.encoded);
    free_problem(&p);
}

static void odd_rotations_refused(void **state)
{
    (void)state;
    static const int32_t odd[] = {-1, 3, 48, 2048};
    problem p = make_problem(3, 40, 20, 1);
    for (int k = 0; k < 4; k++) {
        qmi_error err = {0};
        outcome o;
        const qmi_quant_options options = {.rotation = odd[k]};
        assert_error(
            qmi_quantiser_find("rtn", "pvq")
                ->run(&o.encoded, &o.result, p.w, 3, 40, NULL, &options, &err),
            QMOE_E_INVALID, err.text, "power of two");
    }
    free_problem(&p);
}

static void odd_weights_refused(void **state)
{
    (void)state;
    static const char *const methods[] = {"rtn", "gptq"};
    const float odd[] = {NAN, INFINITY, -INFINITY, 0x1p100f};
    for (int k = 0; k < 8; k++) {
        problem p = make_problem(3, 40, 20, 1);
        qmi_error err = {0};
        outcome o;
        p.w[2 * 40 + 37] = odd[k / 2];
        qmoe_status status = qmi_quantiser_find(methods[k % 2], "pvq")
                                 ->run(&o.encoded, &o.result, p.w, 3, 40,
                                     &p.hessian, &plain, &err);
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
    outcome rtn = quantise(&p, "rtn", "pvq", &plain);
    for (int k = 0; k < 5; k++) {
        problem bad = make_problem(10, 50, 60, 3);
        if (k == 0)
            bad.hessian.n_tokens = 0;
        if (k == 1)
            bad.hessian.sum[7] = NAN;
        if (k == 2)
            bad.hessian.sum[51] = -1e9;
        if (k == 3)
            memset(bad.hessian.sum, 0, 2500 * sizeof(double));
        outcome o;
        qmi_error err = {0};
        qmi_quant_options options = plain;
        qmoe_status status =
            qmi_quantiser_find("gptq", "pvq")
                ->run(&o.encoded, &o.result, bad.w, 10, 50,
                    k == 4 ? NULL : &bad.hessian, &options, &err);
        assert_int_equal(status, QMOE_OK);
        assert_string_equal(err.text, "");
        assert_true(o.result.fell_back);
        assert_true(isfinite(o.result.error));
        assert_same_matrix(&o.encoded, &rtn.encoded);
        qmi_encoded_free(&o.encoded);
        free_problem(&bad);
    }
    qmi_encoded_free(&rtn.encoded);
    free_problem(&p);
}

static void out_of_memory(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        problem p = make_problem(9, 40, 60, 3);
        const qmi_quantiser *q =
            qmi_quantiser_find(k == 0 ? "rtn" : "gptq", "pvq8");
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
                assert_null(o.encoded.parts[1]);
            }
            qmi_encoded_free(&o.encoded);
            assert_true(n < 100);
        }
        assert_true(n > (k == 0 ? 6 : 15));
        free_problem(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rounding_is_nearest),
        cmocka_unit_test(reported_numbers),
        cmocka_unit_test(each_step_helps),
        cmocka_unit_test(rotation_helps),
        cmocka_unit_test(descent_ends_in_a_minimum),
        cmocka_unit_test(shapes),
        cmocka_unit_test(rows_of_zeros),
        cmocka_unit_test(extreme_weights),
        cmocka_unit_test(odd_weights_refused),
        cmocka_unit_test(odd_rotations_refused),
        cmocka_unit_test(fallback),
        cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, load_blas, NULL);
}
