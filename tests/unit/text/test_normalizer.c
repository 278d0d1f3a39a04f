/* SPDX-License-Identifier: Apache-2.0
 * Normal forms: vectors of the Unicode standard (UAX 15), and marks without
 * end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>
#include <time.h>

#include "alloc.h"
#include "normalizer.h"

static void check(qmi_normal_kind kind, const char *text, const char *expected)
{
    const qmi_normalizer normalizer = {
        .steps = {{.kind = kind, .left = true, .right = true}}, .n = 1};
    qmi_text work[2] = {{0}, {0}};
    const char *out = NULL;
    size_t n = 0;
    assert_int_equal(qmi_normalize(&normalizer, NULL, work, &out, &n, text,
                         strlen(text), NULL),
        QMOE_OK);
    assert_int_equal(n, strlen(expected));
    assert_memory_equal(out, expected, n);
    qmi_free(work[0].data);
    qmi_free(work[1].data);
}

static void makes_normal_forms(void **state)
{
    (void)state;
    check(QMI_NORMAL_NFC, "abc \u00e9", "abc \u00e9");
    check(QMI_NORMAL_NFC, "xe\u0301y", "x\u00e9y");
    /* Marks are ordered by class: the dot below comes first. */
    check(QMI_NORMAL_NFC, "s\u0307\u0323", "\u1e69");
    check(QMI_NORMAL_NFD, "\u1e69", "s\u0323\u0307");
    check(QMI_NORMAL_NFC, "\u1e0b\u0323", "\u1e0d\u0307");
    check(QMI_NORMAL_NFC, "\u2126\u212b", "\u03a9\u00c5");
    check(QMI_NORMAL_NFC, "\u1112\u1161\u11ab", "\ud55c");
    check(QMI_NORMAL_NFD, "\ud55c", "\u1112\u1161\u11ab");
    check(QMI_NORMAL_NFC, "\ufb01", "\ufb01");
    check(QMI_NORMAL_NFKC, "\ufb01\u00b2", "fi2");
    check(QMI_NORMAL_NFKD, "\u1e9b\u0323", "s\u0323\u0307");
    check(QMI_NORMAL_LOWERCASE, "A\u00c9\u0130\u03a3", "a\u00e9i\u0307\u03c3");
    check(QMI_NORMAL_STRIP, " \u2003a b\t", "a b");
}

/* Linear: exchanging neighbours would take minutes. */
static void orders_any_number_of_marks(void **state)
{
    enum { N = 100000 };
    (void)state;
    char *text = qmi_calloc(4 * N + 2, 1, "a text", NULL);
    char *expected = qmi_calloc(4 * N + 2, 1, "a text", NULL);
    text[0] = expected[0] = 'x';
    for (size_t i = 0; i < N; i++) {
        memcpy(text + 1 + 4 * i, "\u0301\u0323", 4);
        memcpy(expected + 1 + 2 * i, "\u0323", 2);
        memcpy(expected + 1 + 2 * (N + i), "\u0301", 2);
    }
    const clock_t start = clock();
    check(QMI_NORMAL_NFC, text, expected);
    assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 5);
    qmi_free(text);
    qmi_free(expected);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(makes_normal_forms),
        cmocka_unit_test(orders_any_number_of_marks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
