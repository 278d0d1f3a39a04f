/* SPDX-License-Identifier: Apache-2.0
 * The rotation of docs/format.md: its vectors, orthogonality, tails. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mt19937.h"
#include "rotation.h"

static void random_row(float *x, int64_t n, uint32_t seed)
{
    qmi_mt19937 rng;
    qmi_mt19937_seed(&rng, seed);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(2 * qmi_mt19937_double(&rng) - 1);
}

/* ---- the definition, written down plainly ---- */

static uint32_t plain_mix(uint64_t x)
{
    x = (x ^ x >> 16) * 1779033703u % (UINT64_C(1) << 32);
    x = (x ^ x >> 15) * 3144134277u % (UINT64_C(1) << 32);
    return (uint32_t)(x ^ x >> 16);
}

static int plain_sign(uint32_t seed, uint32_t column)
{
    uint64_t start = ((uint64_t)seed + 2654435769u) % (UINT64_C(1) << 32);
    return plain_mix(plain_mix(start) ^ column) & 0x80000000u ? -1 : 1;
}

/* y = R x by the sum over all columns of a part. */
static void plain_rotate(
    double *y, const float *x, int64_t n, int64_t block, uint32_t seed)
{
    for (int64_t begin = 0; begin < n; begin += block) {
        while (begin + block > n)
            block /= 2;
        for (int64_t i = 0; i < block; i++) {
            y[begin + i] = 0;
            for (int64_t j = 0; j < block; j++) {
                int odd = __builtin_parityll((uint64_t)(i & j));
                int sign = plain_sign(seed, (uint32_t)(begin + j));
                y[begin + i] += (odd ? -1 : 1) * sign * (double)x[begin + j];
            }
            y[begin + i] /= sqrt((double)block);
        }
    }
}

/* ---- tests ---- */

static void signs(void **state)
{
    (void)state;
    static const struct {
        uint32_t seed;
        int64_t first;
        const char *text;
    } vectors[] = {
        {0, 0, "--++--++--+--+-+++---+-+++--++++"},
        {1, 0, "-++-----+-+-+++-+---++---+--+---"},
        {1, 2048, "--+---++-+-+-+++---++---++++++++"},
        {UINT32_MAX, 0, "++++++-++-+-+---+--+-+++++---+++"},
        {1234567, 1000000, "+++--+-++---+--+-+-+-++++++++--+"},
    };
    for (size_t v = 0; v < sizeof vectors / sizeof *vectors; v++)
        for (int i = 0; vectors[v].text[i] != '\0'; i++) {
            float expected = vectors[v].text[i] == '-' ? -1 : 1;
            assert_true(qmi_rotation_sign(
                            vectors[v].seed, vectors[v].first + i) == expected);
        }
}

static void signs_by_definition(void **state)
{
    (void)state;
    static const uint32_t seeds[] = {0, 1, 2, 1000, 0x61c88647u, UINT32_MAX};
    for (size_t s = 0; s < sizeof seeds / sizeof *seeds; s++)
        for (int64_t c = 0; c < 5000; c++)
            assert_true(qmi_rotation_sign(seeds[s], c) ==
                        (float)plain_sign(seeds[s], (uint32_t)c));
}

/* Signs are balanced, and rows of different seeds unrelated: a correlation of
 * 1024 fair signs has a standard deviation of 32. */
static void signs_look_random(void **state)
{
    (void)state;
    for (uint32_t seed = 0; seed < 200; seed++) {
        float sum = 0, shifted = 0, other = 0;
        for (int64_t c = 0; c < 1024; c++) {
            float sign = qmi_rotation_sign(seed, c);
            sum += sign;
            shifted += sign * qmi_rotation_sign(seed, c + 1);
            other += sign * qmi_rotation_sign(seed + 1, c);
        }
        assert_true(fabsf(sum) < 160);
        assert_true(fabsf(shifted) < 160);
        assert_true(fabsf(other) < 160);
    }
}

static void rows_by_definition(void **state)
{
    (void)state;
    static const int64_t widths[] = {1, 2, 3, 7, 16, 63, 64, 100, 257, 2080};
    for (size_t k = 0; k < sizeof widths / sizeof *widths; k++)
        for (int32_t block = 1; block <= QMI_ROTATION_MAX_BLOCK; block *= 2) {
            const int64_t n = widths[k];
            float *x = malloc((size_t)n * sizeof *x);
            double *y = malloc((size_t)n * sizeof *y);
            random_row(x, n, (uint32_t)k);
            plain_rotate(y, x, n, block, 3);
            qmi_rotate(x, n, block, 3);
            for (int64_t i = 0; i < n; i++)
                assert_true(fabs((double)x[i] - y[i]) < 1e-5);
            free(x);
            free(y);
        }
}

static void inverse_and_length(void **state)
{
    (void)state;
    static const int64_t widths[] = {1, 5, 48, 64, 768, 2080, 3001};
    for (size_t k = 0; k < sizeof widths / sizeof *widths; k++)
        for (int32_t block = 1; block <= QMI_ROTATION_MAX_BLOCK; block *= 4) {
            const int64_t n = widths[k];
            float *x = malloc((size_t)n * sizeof *x);
            float *y = malloc((size_t)n * sizeof *y);
            double before = 0, after = 0;
            random_row(x, n, 9);
            memcpy(y, x, (size_t)n * sizeof *x);
            qmi_rotate(y, n, block, 77);
            for (int64_t i = 0; i < n; i++) {
                before += (double)x[i] * (double)x[i];
                after += (double)y[i] * (double)y[i];
            }
            assert_true(fabs(after - before) < 1e-5 * before);
            qmi_unrotate(y, n, block, 77);
            for (int64_t i = 0; i < n; i++)
                assert_true(fabsf(x[i] - y[i]) < 2e-6f);
            free(x);
            free(y);
        }
}

/* Blocks of 64 in 100 columns: 64, 32 and 4. */
static void tail_of_smaller_blocks(void **state)
{
    (void)state;
    static const int edges[] = {0, 64, 96, 100};
    for (int part = 0; part < 3; part++)
        for (int c = edges[part]; c < edges[part + 1]; c++) {
            float x[100] = {0};
            float size = (float)(edges[part + 1] - edges[part]);
            x[c] = 1;
            qmi_rotate(x, 100, 64, 1);
            for (int i = 0; i < 100; i++) {
                int inside = i >= edges[part] && i < edges[part + 1];
                float expected = inside ? 1 / sqrtf(size) : 0;
                assert_true(fabsf(fabsf(x[i]) - expected) < 1e-6f);
            }
        }
}

/* Exact values: a power of four scales by a power of two. */
static void exact_row(void **state)
{
    (void)state;
    float x[4] = {1, 2, 3, 4}, y[4];
    const float s[4] = {qmi_rotation_sign(1, 0), qmi_rotation_sign(1, 1),
        qmi_rotation_sign(1, 2), qmi_rotation_sign(1, 3)};
    const float a = s[0], b = 2 * s[1], c = 3 * s[2], d = 4 * s[3];
    memcpy(y, x, sizeof x);
    qmi_rotate(y, 4, 4, 1);
    assert_true(y[0] == (a + b + c + d) / 2);
    assert_true(y[1] == (a - b + c - d) / 2);
    assert_true(y[2] == (a + b - c - d) / 2);
    assert_true(y[3] == (a - b - c + d) / 2);
    qmi_unrotate(y, 4, 4, 1);
    assert_memory_equal(x, y, sizeof x);
}

/* The example of docs/format.md: blocks of 4 in 5 columns. */
static void example(void **state)
{
    (void)state;
    float x[5] = {1, 2, 3, 4, 5};
    const float expected[5] = {0, 2, 1, -5, -5};
    qmi_rotate(x, 5, 4, 1);
    for (int i = 0; i < 5; i++)
        assert_true(x[i] == expected[i]);
}

/* Bits of a whole row, so that another compiler or CPU that sums differently
 * is noticed. */
static void bits_of_a_row(void **state)
{
    (void)state;
    float x[2080];
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    random_row(x, 2080, 4);
    qmi_rotate(x, 2080, 64, 42);
    for (int i = 0; i < 2080; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        hash = (hash ^ bits) * UINT64_C(0x100000001b3);
    }
    assert_int_equal(hash, UINT64_C(0x86fbb6303452f4b2));
}

static void block_for_a_width(void **state)
{
    (void)state;
    static const struct {
        int64_t n_cols;
        int32_t block;
    } cases[] = {{768, 64}, {3072, 64}, {6144, 64}, {2080, 32}, {256, 64},
        {48, 16}, {100, 4}, {6, 2}, {7, 0}, {1, 0}, {32, 32}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(qmi_rotation_for(cases[i].n_cols), cases[i].block);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(signs),
        cmocka_unit_test(signs_by_definition),
        cmocka_unit_test(signs_look_random),
        cmocka_unit_test(rows_by_definition),
        cmocka_unit_test(inverse_and_length),
        cmocka_unit_test(tail_of_smaller_blocks),
        cmocka_unit_test(exact_row),
        cmocka_unit_test(example),
        cmocka_unit_test(bits_of_a_row),
        cmocka_unit_test(block_for_a_width),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
