/* SPDX-License-Identifier: Apache-2.0
 * The choice of formats under a bit budget against all possible choices, and
 * what the formats cost at the shapes of published models. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "allocate_bits.h"
#include "quant_matrix.h"
#include "scratch_file.h"
#include "stack_writer.h"

enum { N = 9 };

static double total_error(const qmi_bits_choice *c, unsigned sizes)
{
    double sum = 0;
    for (int i = 0; i < N; i++)
        sum += c[i].error[sizes >> i & 1];
    return sum;
}

static uint64_t total_bytes(const qmi_bits_choice *c, unsigned sizes)
{
    uint64_t sum = 0;
    for (int i = 0; i < N; i++)
        sum += c[i].bytes[sizes >> i & 1];
    return sum;
}

/* Some gains are negative: a larger format that is worse is never chosen. */
static void make(qmi_bits_choice *c, int n_sizes, uint64_t *state)
{
    for (int i = 0; i < N; i++) {
        static const uint64_t bytes[][QMI_N_SIZES] = {
            {90, 130}, {100, 157}, {100, 170}};
        memcpy(c[i].bytes, bytes[i % n_sizes], sizeof c[i].bytes);
        c[i].error[QMI_SMALL] = random_unit(state);
        c[i].error[QMI_LARGE] = 1.1 * random_unit(state) * c[i].error[0];
    }
}

static void best_of_all(void **state)
{
    (void)state;
    uint64_t random = 12345;
    qmi_error err = {0};
    for (int trial = 0; trial < 200; trial++) {
        qmi_bits_choice c[N];
        make(c, 1 + trial % 3, &random);
        uint64_t least = total_bytes(c, 0), most = total_bytes(c, (1 << N) - 1);
        uint64_t budget =
            least + (uint64_t)((double)(most - least) * random_unit(&random));
        double best = INFINITY;
        for (unsigned sizes = 0; sizes < 1 << N; sizes++)
            if (total_bytes(c, sizes) <= budget)
                best = fmin(best, total_error(c, sizes));
        assert_int_equal(qmi_allocate_bits(c, N, budget, &err), QMOE_OK);
        unsigned chosen = 0;
        for (int i = 0; i < N; i++) {
            chosen |= (unsigned)c[i].size << i;
            if (c[i].error[QMI_LARGE] >= c[i].error[QMI_SMALL])
                assert_int_equal(c[i].size, QMI_SMALL);
        }
        assert_true(total_bytes(c, chosen) <= budget);
        assert_true(total_error(c, chosen) <= best + 1e-12);
    }
}

static void ends_and_equals(void **state)
{
    (void)state;
    qmi_error err = {0};
    qmi_bits_choice c[3];
    for (int i = 0; i < 3; i++)
        c[i] = (qmi_bits_choice){.error = {2, 1}, .bytes = {10, 14}};
    assert_int_equal(qmi_allocate_bits(c, 3, 30, &err), QMOE_OK);
    assert_true(c[0].size + c[1].size + c[2].size == 0);
    assert_int_equal(qmi_allocate_bits(c, 3, 33, &err), QMOE_OK);
    assert_true(c[0].size + c[1].size + c[2].size == 0);
    /* Of equals the first. */
    assert_int_equal(qmi_allocate_bits(c, 3, 34, &err), QMOE_OK);
    assert_true(c[0].size == 1 && c[1].size == 0 && c[2].size == 0);
    assert_int_equal(qmi_allocate_bits(c, 3, 1000, &err), QMOE_OK);
    assert_true(c[0].size + c[1].size + c[2].size == 3);
    assert_int_equal(qmi_allocate_bits(c, 3, 29, &err), QMOE_E_INTERNAL);
    /* More sizes than are searched. */
    qmi_bits_choice many[QMI_MAX_STACK_SIZES + 1] = {{{0}, {0}, 0}};
    for (uint64_t i = 0; i <= QMI_MAX_STACK_SIZES; i++)
        many[i].bytes[QMI_LARGE] = i;
    assert_int_equal(
        qmi_allocate_bits(many, QMI_MAX_STACK_SIZES + 1, 100, &err),
        QMOE_E_UNSUPPORTED);
}

/* ---- sizes of files ---- */

/* Bits per weight of a shard of two matrices, header and all. */
static double file_bits(const char *format, int64_t n_rows, int64_t n_cols)
{
    const char *path = QMOE_TEST_DIR "/shape.safetensors";
    const qmi_quantiser *q = qmi_quantiser_find("rtn", format);
    qmi_new_file file;
    const qmi_stack_plan plan = {.name = "stack",
        .format = qmi_format_find(format),
        .n_mats = 2,
        .n_rows = n_rows,
        .n_cols = n_cols};
    const qmi_quant_options options = {0};
    uint64_t hash, bytes = 0;
    qmi_error err = {0};
    qmi_encoded encoded;
    qmi_quant_result result;
    qmi_stack_writer *writer;
    float *w = random_matrix(n_rows, n_cols, 1);
    assert_int_equal(
        q->run(&encoded, &result, w, n_rows, n_cols, NULL, &options, &err),
        QMOE_OK);
    assert_int_equal(scratch_new_file(&file, path, &err), QMOE_OK);
    assert_int_equal(
        qmi_stack_writer_create(&writer, &file, &plan, &err), QMOE_OK);
    for (int i = 0; i < 2; i++)
        assert_int_equal(qmi_stack_writer_add(writer, &encoded, &err), QMOE_OK);
    assert_int_equal(
        qmi_stack_writer_finish(writer, &hash, &bytes, &err), QMOE_OK);
    qmi_stack_writer_destroy(writer);
    qmi_encoded_free(&encoded);
    free(w);
    assert_int_equal(unlink(path), 0);
    return 8 * (double)bytes / (2 * (double)n_rows * (double)n_cols);
}

static void bits_of_published_shapes(void **state)
{
    (void)state;
    static const struct {
        const char *format;
        int64_t n_rows, n_cols;
        double most;
    } cases[] = {
        {"pvq", 6144, 2080, 0.575},
        {"pvq", 2080, 6144, 0.575},
        {"pvq8", 3072, 768, 0.9},
        {"pvq", 768, 3072, 0.575},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double bits =
            file_bits(cases[i].format, cases[i].n_rows, cases[i].n_cols);
        printf("  %s %d x %d: %.4f bits\n", cases[i].format,
            (int)cases[i].n_rows, (int)cases[i].n_cols, bits);
        assert_true(bits <= cases[i].most);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(best_of_all),
        cmocka_unit_test(ends_and_equals),
        cmocka_unit_test(bits_of_published_shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
