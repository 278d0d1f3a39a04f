/* SPDX-License-Identifier: Apache-2.0
 * The generator against vectors of NumPy's RandomState. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>
#include <string.h>

#include "mt19937.h"

static void first_words(void **state)
{
    (void)state;
    static const struct {
        uint32_t seed, words[3];
    } cases[] = {
        {0, {2357136044u, 2546248239u, 3071714933u}},
        {1, {1791095845u, 4282876139u, 3093770124u}},
        {5489, {3499211612u, 581869302u, 3890346734u}},
        {4294967295u, {419326371u, 479346978u, 3918654476u}},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        qmi_mt19937 rng;
        qmi_mt19937_seed(&rng, cases[c].seed);
        for (int i = 0; i < 3; i++)
            assert_int_equal(qmi_mt19937_u32(&rng), cases[c].words[i]);
    }
}

/* Far enough for many refills of the state; the value is the one the C++
 * standard requires of its mt19937. */
static void ten_thousandth_word(void **state)
{
    (void)state;
    qmi_mt19937 rng;
    qmi_mt19937_seed(&rng, 5489);
    uint32_t word = 0;
    for (int i = 0; i < 10000; i++)
        word = qmi_mt19937_u32(&rng);
    assert_int_equal(word, 4123659995u);
}

static void doubles(void **state)
{
    (void)state;
    static const double expected[3] = {
        0x1.18fe1565f12a8p-1, 0x1.6e2d4cf608733p-1, 0x1.349d66b6e894bp-1};
    qmi_mt19937 rng;
    qmi_mt19937_seed(&rng, 0);
    for (int i = 0; i < 3; i++)
        assert_true(qmi_mt19937_double(&rng) == expected[i]);
    for (int i = 0; i < 10000; i++) {
        double x = qmi_mt19937_double(&rng);
        assert_true(x >= 0.0 && x < 1.0);
    }
}

static void intervals(void **state)
{
    (void)state;
    static const uint32_t expected[] = {2, 0, 1, 3, 0, 0, 0, 5, 5, 3, 2, 3};
    qmi_mt19937 rng, untouched;
    qmi_mt19937_seed(&rng, 3);
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        assert_int_equal(qmi_mt19937_interval(&rng, 6), expected[i]);

    qmi_mt19937_seed(&rng, 9);
    untouched = rng;
    assert_int_equal(qmi_mt19937_interval(&rng, 0), 0);
    assert_memory_equal(&rng, &untouched, sizeof rng);
    assert_int_equal(
        qmi_mt19937_interval(&rng, UINT32_MAX), qmi_mt19937_u32(&untouched));

    bool seen[11] = {false};
    for (int i = 0; i < 1000; i++) {
        uint32_t value = qmi_mt19937_interval(&rng, 10);
        assert_true(value <= 10);
        seen[value] = true;
    }
    for (int i = 0; i <= 10; i++)
        assert_true(seen[i]);
}

static void shuffle_of_ten(void **state)
{
    (void)state;
    static const uint8_t expected[10] = {2, 8, 4, 9, 1, 6, 7, 3, 0, 5};
    uint8_t values[10];
    qmi_mt19937 rng;
    for (int i = 0; i < 10; i++)
        values[i] = (uint8_t)i;
    qmi_mt19937_seed(&rng, 0);
    qmi_mt19937_shuffle_bytes(&rng, values, 10);
    assert_memory_equal(values, expected, 10);
}

static void shuffle_of_flags(void **state)
{
    (void)state;
    static const uint8_t set[60] = {2, 3, 5, 16, 19, 30, 44, 45, 46, 48, 50, 51,
        55, 56, 61, 64, 67, 73, 77, 78, 79, 86, 88, 89, 92, 99, 104, 105, 106,
        107, 111, 114, 116, 118, 119, 120, 121, 122, 126, 130, 131, 132, 135,
        140, 142, 152, 153, 160, 165, 166, 168, 171, 173, 174, 175, 176, 178,
        186, 190, 197};
    uint8_t flags[200] = {0}, expected[200] = {0};
    qmi_mt19937 rng;
    memset(flags, 1, sizeof set);
    for (size_t i = 0; i < sizeof set; i++)
        expected[set[i]] = 1;
    qmi_mt19937_seed(&rng, 7);
    qmi_mt19937_shuffle_bytes(&rng, flags, sizeof flags);
    assert_memory_equal(flags, expected, sizeof flags);
}

static void shuffle_of_nothing(void **state)
{
    (void)state;
    uint8_t value = 7;
    qmi_mt19937 rng, untouched;
    qmi_mt19937_seed(&rng, 0);
    untouched = rng;
    qmi_mt19937_shuffle_bytes(&rng, &value, 0);
    qmi_mt19937_shuffle_bytes(&rng, &value, 1);
    assert_int_equal(value, 7);
    assert_memory_equal(&rng, &untouched, sizeof rng);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_words),
        cmocka_unit_test(ten_thousandth_word),
        cmocka_unit_test(doubles),
        cmocka_unit_test(intervals),
        cmocka_unit_test(shuffle_of_ten),
        cmocka_unit_test(shuffle_of_flags),
        cmocka_unit_test(shuffle_of_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
