/* SPDX-License-Identifier: Apache-2.0
 * Weights of rows from gradients: those of a sequence against PyTorch's
 * (tests/golden/decoders/qwen3-moe/gradients.safetensors), and those of a text
 * of three chunks, which depend neither on the memory, which decides how many
 * sections the text is cut into, nor on the number of threads, nor on a work
 * directory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "row_weights.h"
#include "safetensors.h"

static const char directory[] =
    QMOE_SOURCE_DIR "/tests/golden/decoders/qwen3-moe";
enum { MOST_SEQUENCES = 250, EQUAL_TOKENS = 32 };

typedef struct fixture {
    qmoe_context *context;
    qmoe_model *model;
    qmi_tensor_file *golden, *gradients;
    qmi_calibration text;
    int64_t length; /* of a sequence */
} fixture;

static qmi_tensor_file *open_file(const char *name)
{
    char path[700];
    qmi_error err = {0};
    qmi_tensor_file *file = NULL;
    snprintf(path, sizeof path, "%s/%s", directory, name);
    if (qmi_safetensors_open(&file, path, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    return file;
}

/* The golden sequence, and others made of it. */
static void open_fixture(fixture *f, size_t n_sequences)
{
    *f = (fixture){.golden = open_file("golden.safetensors"),
        .gradients = open_file("gradients.safetensors")};
    assert_int_equal(qmoe_context_create(&f->context, NULL), QMOE_OK);
    assert_int_equal(
        qmoe_model_open(&f->model, f->context, directory), QMOE_OK);
    const qmi_tensor *ids = qmi_tensor_file_find(f->golden, "case0.ids");
    qmi_token_set *set = &f->text.sets[QMI_DECODE];
    f->length = ids->shape[0];
    const size_t n = n_sequences * (size_t)f->length;
    f->text.n_samples = n_sequences;
    *set = (qmi_token_set){.n_tokens = (int64_t)n,
        .longest = f->length,
        .n_sequences = n_sequences,
        .ids = qmi_calloc(n, sizeof *set->ids, "ids", NULL),
        .weight = qmi_calloc(n, sizeof *set->weight, "weights", NULL),
        .begin =
            qmi_calloc(n_sequences + 1, sizeof *set->begin, "sequences", NULL)};
    for (size_t s = 0; s < n_sequences; s++) {
        int32_t *to = set->ids + s * (size_t)f->length;
        memcpy(to, ids->data, (size_t)f->length * sizeof *to);
        for (int64_t t = 0; t < f->length; t++)
            to[t] = (int32_t)((to[t] + (int64_t)s * t) %
                              f->model->shape.vocab_size);
        set->begin[s + 1] = (int64_t)(s + 1) * f->length;
    }
}

static void close_fixture(fixture *f)
{
    qmi_calibration_free(&f->text);
    qmoe_model_close(f->model);
    qmoe_context_destroy(f->context);
    qmi_tensor_file_close(f->gradients);
    qmi_tensor_file_close(f->golden);
}

static bool takes(void *user, const qmi_weight *w)
{
    (void)user;
    return w->role == QMOE_ROLE_EXPERTS || w->role == QMOE_ROLE_ATTENTION;
}

static qmi_row_weights measure(fixture *f, qmi_row_weights_options options)
{
    qmi_error err = {0};
    qmi_row_weights w;
    options.takes = takes;
    if (qmi_row_weights_measure(&w, f->model, &f->text, &options, &err) !=
        QMOE_OK)
        fail_msg("%s", err.text);
    return w;
}

/* Tokens are not in the file: 0 of them stand for any number. */
static double check_matrix(
    const float *got, const qmi_tensor *sums, int64_t n, double exponent)
{
    double mean = 0, own = 0, ratio = 0;
    float value;
    for (int64_t r = 0; r < n; r++) {
        memcpy(&value, (const char *)sums->data + r * 4, sizeof value);
        mean += pow((double)value, exponent) / (double)n;
    }
    /* w = (N own + 32) / (N + 32): one N for all rows. */
    for (int64_t r = 0; r < n; r++) {
        memcpy(&value, (const char *)sums->data + r * 4, sizeof value);
        own = pow((double)value, exponent) / mean - 1;
        if (fabs(own) < 0.1)
            continue;
        const double share = ((double)got[r] - 1) / own;
        assert_true(share > 0 && share < 1);
        assert_true(ratio == 0 || fabs(share - ratio) < 2e-4);
        ratio = share;
    }
    const double n_tokens = ratio / (1 - ratio) * EQUAL_TOKENS;
    assert_true(fabs(n_tokens - round(n_tokens)) < 0.05);
    return round(n_tokens);
}

static void test_golden(void **state)
{
    (void)state;
    fixture f;
    int n_checked = 0;
    open_fixture(&f, 1);
    qmi_row_weights w = measure(&f, (qmi_row_weights_options){.n_threads = 1});
    for (size_t i = 0; i < f.model->n_weights; i++) {
        const qmi_weight *weight = &f.model->weights[i];
        const float *rows = qmi_row_weights_of(&w, weight);
        assert_int_equal(rows != NULL, takes(NULL, weight));
        for (int64_t mat = 0; rows != NULL && mat < weight->n_mats; mat++) {
            char name[256];
            const char *star =
                weight->n_mats > 1 ? strchr(weight->source, '*') : NULL;
            if (star == NULL)
                snprintf(name, sizeof name, "%s", weight->name);
            else
                snprintf(name, sizeof name, "%.*s%d%s",
                    (int)(star - weight->source), weight->source, (int)mat,
                    star + 1);
            const qmi_tensor *sums = qmi_tensor_file_find(f.gradients, name);
            const float *of = rows + mat * weight->n_rows;
            double mean = 0;
            for (int64_t r = 0; r < weight->n_rows; r++)
                mean += (double)of[r] / (double)weight->n_rows;
            assert_true(fabs(mean - 1) < 1e-5);
            /* Norms are vectors, experts without tokens have no gradient. */
            if (weight->n_rows == 1 || sums == NULL)
                continue;
            const double n = check_matrix(of, sums, weight->n_rows,
                weight->role == QMOE_ROLE_EXPERTS ? 0.5 : 1);
            assert_true(weight->role == QMOE_ROLE_EXPERTS
                            ? n < (double)f.length
                            : n == (double)f.length);
            n_checked++;
        }
    }
    assert_true(n_checked > 20);
    qmi_row_weights_free(&w);
    close_fixture(&f);
}

static void same(const fixture *f, const qmi_row_weights *a, qmi_row_weights b)
{
    for (size_t i = 0; i < f->model->n_weights; i++) {
        const qmi_weight *w = &f->model->weights[i];
        const size_t n = (size_t)(w->n_mats * w->n_rows);
        if (a->rows[i] != NULL)
            assert_memory_equal(a->rows[i], b.rows[i], n * sizeof(float));
    }
    qmi_row_weights_free(&b);
}

/* Thousandths rise, and by thirds at least. */
static qmoe_status note(void *user, int64_t thousandths)
{
    int64_t *last = user;
    assert_true(thousandths >= *last && thousandths < *last + 334);
    *last = thousandths;
    return QMOE_OK;
}

static void test_sections(void **state)
{
    (void)state;
    fixture f;
    int64_t last = 0;
    open_fixture(&f, MOST_SEQUENCES);
    const qmi_row_weights_options one = {.n_threads = 1, .takes = takes};
    const qmi_row_weights_options cut = {.n_threads = 3,
        .memory_bytes = 1,
        .takes = takes,
        .progress = note,
        .user = &last};
    assert_true(qmi_row_weights_bytes(f.model, &f.text, &cut) <
                qmi_row_weights_bytes(f.model, &f.text, &one));
    qmi_row_weights w = measure(&f, one);
    same(&f, &w, measure(&f, cut));
    assert_true(last > 900);
    same(&f, &w,
        measure(&f, (qmi_row_weights_options){
                        .n_threads = 2, .work_dir = QMOE_TEST_DIR "/rows"}));
    qmi_row_weights_free(&w);
    close_fixture(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_sections),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
