/* SPDX-License-Identifier: Apache-2.0
 * The expected length of ternary-dict's codes, against the encoder itself. */
#include <math.h>

#include "alloc.h"
#include "mt19937.h"
#include "dictionary_rate.h"
#include "scratch.h"

static void init(qmi_dictionary_rate *rate, const qmi_dict *dict, double p0)
{
    assert_int_equal(qmi_dictionary_rate_init(rate, dict, p0, NULL), QMOE_OK);
}

static void assert_close(double value, double expected, double share)
{
    if (!(fabs(value - expected) <= share * expected))
        fail_msg("%.9g is not %.9g within %g", value, expected, share);
}

/* Narrow rows: all of them, weighted. */
static double enumerate(const qmi_dict *dict, double p0, int n_cols)
{
    uint8_t codes[16];
    uint16_t words[16];
    double sum = 0;
    int n_rows = 1;
    for (int i = 0; i < n_cols; i++)
        n_rows *= 3;
    for (int row = 0; row < n_rows; row++) {
        double p = 1;
        for (int i = 0, rest = row; i < n_cols; i++, rest /= 3) {
            codes[i] = (uint8_t)(rest % 3);
            p *= codes[i] == QMI_CODE_ZERO ? p0 : (1 - p0) / 2;
        }
        sum += p * (double)qmi_dict_encode_row(dict, words, codes, n_cols);
    }
    return sum;
}

static void test_all_rows(void **state)
{
    static const double shares[] = {0.4, 0.885, 0.99};
    (void)state;
    for (int i = 0; i < 3; i++) {
        qmi_dictionary_rate rate;
        init(&rate, qmi_dict_generic(), shares[i]);
        for (int n_cols = 2; n_cols <= 12; n_cols += 2)
            assert_close(qmi_dictionary_codewords(&rate, n_cols),
                enumerate(qmi_dict_generic(), shares[i], n_cols), 1e-10);
    }
}

/* Mean number of codewords of random rows. */
static double sample(
    const qmi_dict *dict, double p0, int64_t n_cols, int n_rows)
{
    qmi_mt19937 rng;
    uint8_t *codes = qmi_calloc((size_t)n_cols, 1, "a row", NULL);
    uint16_t *words = qmi_calloc((size_t)n_cols, 2, "a row", NULL);
    double sum = 0;
    assert_non_null(codes);
    assert_non_null(words);
    qmi_mt19937_seed(&rng, 7);
    for (int row = 0; row < n_rows; row++) {
        for (int64_t i = 0; i < n_cols; i++) {
            const double u = qmi_mt19937_double(&rng);
            codes[i] = u < p0             ? QMI_CODE_ZERO
                       : u < (1 + p0) / 2 ? QMI_CODE_LOW
                                          : QMI_CODE_HIGH;
        }
        sum += (double)qmi_dict_encode_row(dict, words, codes, n_cols);
    }
    qmi_free(codes);
    qmi_free(words);
    return sum / n_rows;
}

static void test_random_rows(void **state)
{
    static const int64_t widths[] = {256, 768, 2080, 6144, 20001};
    static const double shares[] = {0.8, 0.885, 0.95};
    (void)state;
    for (int i = 0; i < 3; i++) {
        qmi_dictionary_rate rate;
        init(&rate, qmi_dict_generic(), shares[i]);
        for (int k = 0; k < 5; k++) {
            const double expected = qmi_dictionary_codewords(&rate, widths[k]);
            assert_close(sample(qmi_dict_generic(), shares[i], widths[k], 100),
                expected, 0.01);
            /* Remembered. */
            assert_true(qmi_dictionary_codewords(&rate, widths[k]) == expected);
        }
    }
}

/* Another dictionary has another rate. */
static void test_another_dictionary(void **state)
{
    qmi_dictionary_rate rate;
    qmi_dict *dict;
    (void)state;
    assert_int_equal(qmi_dict_build(&dict, 0.7, NULL), QMOE_OK);
    init(&rate, dict, 0.7);
    assert_close(sample(dict, 0.7, 2080, 100),
        qmi_dictionary_codewords(&rate, 2080), 0.01);
    qmi_free(dict);
}

/* The remark of docs/format.md, section 4.7. */
static void test_sizes_of_the_format(void **state)
{
    static const struct {
        int64_t rows, cols;
        double bits;
    } table[] = {{768, 3072, 0.758}, {3072, 768, 0.827}, {2080, 6144, 0.747},
        {6144, 2080, 0.769}};
    qmi_dictionary_rate rate;
    (void)state;
    init(&rate, qmi_dict_generic(), 0.885);
    for (int i = 0; i < 4; i++) {
        const int64_t cols = table[i].cols;
        const double bits =
            (16 * qmi_dictionary_codewords(&rate, cols) + 64) / (double)cols;
        if (fabs(bits - table[i].bits) > 0.00051)
            fail_msg("%d x %d: %.4f", (int)table[i].rows, (int)cols, bits);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_rows),
        cmocka_unit_test(test_random_rows),
        cmocka_unit_test(test_another_dictionary),
        cmocka_unit_test(test_sizes_of_the_format),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
