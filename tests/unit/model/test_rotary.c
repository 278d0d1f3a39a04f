/* SPDX-License-Identifier: Apache-2.0
 * Rotary position embeddings: frequencies and scales of every type against
 * vectors computed elsewhere or formulas written another way, and the rotation
 * itself against worked examples. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "backend.h"
#include "rotary.h"

static const double pi = 3.14159265358979323846;

static void assert_near(double got, double want, double relative)
{
    if (fabs(got - want) > relative * fabs(want))
        fail_msg("%.9g, not %.9g", got, want);
}

static qmi_rotary_spec configured(
    const char *config, int64_t width, int64_t max_positions)
{
    qmi_rotary_spec spec;
    qmi_error err = {0};
    cJSON *json = cJSON_Parse(config);
    assert_non_null(json);
    const qmoe_status status = qmi_rotary_configure(
        &spec, json, width, 10000, max_positions, "config.json", &err);
    cJSON_Delete(json);
    if (status != QMOE_OK)
        fail_msg("%s", err.text);
    return spec;
}

/* Cosines and sines of one position, for pair m of a spec of that many. */
static void assert_angle(
    const qmi_rotary_spec *s, int64_t position, int64_t length, double want)
{
    float turns[QMI_MAX_ROTARY];
    qmi_rotary_turn(turns, s, position, length);
    /* Of the last pair: its angles are small, so a sine tells the angle. */
    const double sine = turns[s->width - 1] / s->scale;
    assert_near(asin(sine), want, 1e-5);
}

/* ---- the rotation ---- */

static void rotate(float *x, bool interleaved)
{
    const qmi_rotary_spec spec = configured("{}", 4, 2048);
    const qmi_backend *reference = qmi_backend_reference();
    qmi_error err = {0};
    qmi_buffer *buffer = NULL;
    float turns[4];
    qmi_rotary_turn(turns, &spec, 3, 4);
    assert_int_equal(reference->buffer_alloc(&buffer, NULL, 64, &err), QMOE_OK);
    memcpy(qmi_host_pointer((qmi_view){buffer, 0}), turns, sizeof turns);
    memcpy(qmi_host_pointer((qmi_view){buffer, 32}), x, 4 * sizeof *x);
    const qmi_op op = {.kind = QMI_OP_ROPE,
        .u.rope = {.dst = {buffer, 32},
            .src = {buffer, 32},
            .turns = {buffer, 0},
            .n_tokens = 1,
            .n_heads = 1,
            .d_head = 4,
            .d_rotary = 4,
            .interleaved = interleaved}};
    size_t n = 0;
    assert_int_equal(
        reference->variants(NULL, op.kind, &n)->run(NULL, &op, &err), QMOE_OK);
    memcpy(x, qmi_host_pointer((qmi_view){buffer, 32}), 4 * sizeof *x);
    reference->buffer_free(NULL, buffer);
}

static void test_worked_examples(void **state)
{
    (void)state;
    static const double halves[] = {-1.413353, 1.879118, -2.828857, 4.058191};
    static const double pairs[] = {-1.272233, -1.838865, 2.878668, 4.088187};
    for (int interleaved = 0; interleaved < 2; interleaved++) {
        float x[] = {1, 2, 3, 4};
        rotate(x, interleaved != 0);
        for (int i = 0; i < 4; i++)
            assert_near((double)x[i], interleaved ? pairs[i] : halves[i], 1e-6);
    }
}

/* ---- yarn ---- */

static const int64_t yarn_pairs[] = {0, 8, 12, 16, 20, 24, 31};

static const struct {
    const char *name, *config;
    double scale;
    double frequency[7];
} yarn_vectors[] = {
    {"DeepSeek-V2-Lite",
        "{\"rope_theta\": 10000, \"rope_scaling\": {\"type\": \"yarn\","
        "\"factor\": 40, \"original_max_position_embeddings\": 4096,"
        "\"beta_fast\": 32, \"beta_slow\": 1, \"mscale\": 0.707,"
        "\"mscale_all_dim\": 0.707}}",
        1, {1, 1e-1, 2.687936e-2, 5.5e-3, 7.905694e-4, 2.5e-5, 3.333804e-6}},
    {"Kimi-K2-Instruct",
        "{\"rope_theta\": 50000, \"rope_scaling\": {\"type\": \"yarn\","
        "\"factor\": 32, \"original_max_position_embeddings\": 4096,"
        "\"beta_fast\": 1, \"beta_slow\": 1, \"mscale\": 1,"
        "\"mscale_all_dim\": 1}}",
        1,
        {1, 6.687403e-2, 1.729363e-2, 4.472136e-3, 3.614047e-5, 9.345930e-6,
            8.764413e-7}},
    {"Kimi-K2.5",
        "{\"rope_theta\": 50000, \"rope_scaling\": {\"type\": \"yarn\","
        "\"factor\": 64, \"original_max_position_embeddings\": 4096,"
        "\"beta_fast\": 32, \"beta_slow\": 1, \"mscale\": 1,"
        "\"mscale_all_dim\": 1}}",
        1,
        {1, 6.687403e-2, 1.161916e-2, 1.537297e-3, 1.807023e-5, 4.672965e-6,
            4.382206e-7}},
    {"gpt-oss",
        "{\"rope_theta\": 150000, \"rope_parameters\": {\"rope_type\":"
        "\"yarn\", \"factor\": 32, \"truncate\": false,"
        "\"original_max_position_embeddings\": 4096, \"beta_fast\": 32,"
        "\"beta_slow\": 1}}",
        1.3465736,
        {1, 5.081327e-2, 6.794959e-3, 4.564839e-4, 1.818834e-5, 4.099978e-6,
            3.023511e-7}},
};

static void test_yarn(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof yarn_vectors / sizeof *yarn_vectors; i++) {
        const qmi_rotary_spec s =
            configured(yarn_vectors[i].config, 64, 163840);
        assert_near((double)s.scale, yarn_vectors[i].scale, 1e-6);
        for (size_t m = 0; m < 7; m++)
            assert_near((double)s.near[yarn_pairs[m]],
                yarn_vectors[i].frequency[m], 1e-6);
    }
}

/* Qwen3 extended by 4; without a factor that is maximum over original. */
static void test_yarn_scale(void **state)
{
    (void)state;
    static const char *const configs[] = {
        "{\"rope_theta\": 1000000, \"rope_scaling\": {\"rope_type\": \"yarn\","
        "\"factor\": 4, \"original_max_position_embeddings\": 32768}}",
        "{\"rope_theta\": 1000000, \"rope_scaling\": {\"rope_type\": \"yarn\","
        "\"original_max_position_embeddings\": 32768}}"};
    for (int i = 0; i < 2; i++) {
        const qmi_rotary_spec s = configured(configs[i], 128, 131072);
        assert_near((double)s.scale, 1.1386294, 1e-6);
        /* Pairs up to 23 turn as before, those from 40 on by a quarter. */
        const double f23 = exp(-23 / 64.0 * log(1e6));
        const double f40 = exp(-40 / 64.0 * log(1e6));
        assert_near((double)s.near[23], f23, 1e-6);
        assert_near((double)s.near[40], f40 / 4, 1e-6);
        assert_near((double)s.near[24],
            exp(-24 / 64.0 * log(1e6)) * (1 - 0.75 / 17), 1e-6);
    }
}

/* ---- the other types ---- */

static void test_linear(void **state)
{
    (void)state;
    const qmi_rotary_spec s = configured(
        "{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 8}}", 32, 2048);
    for (int64_t m = 0; m < 16; m++)
        assert_near(
            (double)s.near[m], exp(-log(1e4) * (double)m / 16) / 8, 1e-6);
    assert_near((double)s.scale, 1, 0);
}

/* By wavelengths, as the definition has it. */
static void test_llama3(void **state)
{
    (void)state;
    const qmi_rotary_spec s = configured(
        "{\"rope_theta\": 500000, \"rope_scaling\": {\"rope_type\": \"llama3\","
        "\"factor\": 8, \"low_freq_factor\": 1, \"high_freq_factor\": 4,"
        "\"original_max_position_embeddings\": 8192}}",
        128, 131072);
    int n_between = 0;
    for (int64_t m = 0; m < 64; m++) {
        const double f = exp(-log(5e5) * (double)m / 64);
        const double wavelength = 2 * pi / f;
        double want = f;
        if (wavelength > 8192) {
            want = f / 8;
        } else if (wavelength >= 8192 / 4.0) {
            const double smooth = (8192 / wavelength - 1) / (4 - 1);
            want = (1 - smooth) * f / 8 + smooth * f;
            n_between++;
        }
        assert_near((double)s.near[m], want, 1e-6);
    }
    assert_true(n_between > 2);
}

static void test_dynamic(void **state)
{
    (void)state;
    const qmi_rotary_spec s = configured(
        "{\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 4}}", 16, 1000);
    const double last = 14.0 / 16;
    assert_angle(&s, 300, 1000, 300 * pow(1e4, -last));
    /* Three times the length: ((4 * 3) - 3) more of the base, to 16 / 14. */
    const double base = 1e4 * pow(9, 16 / 14.0);
    assert_angle(&s, 300, 3000, 300 * pow(base, -last));
}

static void test_longrope(void **state)
{
    (void)state;
    const qmi_rotary_spec s = configured(
        "{\"original_max_position_embeddings\": 4096, \"rope_scaling\":"
        "{\"type\": \"longrope\", \"original_max_position_embeddings\": 4096,"
        "\"short_factor\": [1, 1.5, 2, 3],"
        "\"long_factor\": [1, 4, 20, 40]}}",
        8, 131072);
    /* 32 times as long. */
    assert_near((double)s.scale, sqrt(1 + log(32) / log(4096)), 1e-6);
    assert_angle(&s, 100, 4096, 100 * pow(1e4, -0.75) / 3);
    assert_angle(&s, 100, 4097, 100 * pow(1e4, -0.75) / 40);
}

static void test_refusals(void **state)
{
    (void)state;
    static const char *const configs[] = {
        "{\"rope_scaling\": {\"type\": \"spiral\"}}",
        "{\"rope_scaling\": {\"type\": \"linear\"}}",
        "{\"rope_scaling\": {\"type\": \"linear\", \"factor\": -1}}",
        "{\"rope_theta\": 1}",
        "{\"rope_scaling\": {\"type\": \"longrope\", \"short_factor\": [1],"
        "\"long_factor\": [1]}}",
        "{\"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8,"
        "\"low_freq_factor\": 4, \"high_freq_factor\": 1}}"};
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        qmi_rotary_spec spec;
        qmi_error err = {0};
        cJSON *json = cJSON_Parse(configs[i]);
        assert_non_null(json);
        const qmoe_status status = qmi_rotary_configure(
            &spec, json, 8, 10000, 2048, "config.json", &err);
        cJSON_Delete(json);
        assert_int_equal(status, i == 0 ? QMOE_E_UNSUPPORTED : QMOE_E_FORMAT);
        assert_non_null(strstr(err.text, "config.json"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_worked_examples),
        cmocka_unit_test(test_yarn),
        cmocka_unit_test(test_yarn_scale),
        cmocka_unit_test(test_linear),
        cmocka_unit_test(test_llama3),
        cmocka_unit_test(test_dynamic),
        cmocka_unit_test(test_longrope),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
