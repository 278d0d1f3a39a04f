/* SPDX-License-Identifier: Apache-2.0
 * Gradients through whole decoder-only models against those of PyTorch
 * (tests/golden/decoders/NAME/gradients.safetensors): squared gradients of every
 * output of every matrix, summed over tokens, and gradients of norms, each
 * within 1e-4 of the largest of its vector.  Gradients of the same text twice
 * are twice those, and no number of threads changes a bit.  Arguments: the
 * models to be tested instead of all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "gradient.h"
#include "safetensors.h"

static const char *const models[] = {"llama", "llama-dynamic", "llama-longrope",
    "mistral", "qwen2", "qwen3", "olmoe", "mixtral", "qwen2-moe", "qwen3-moe"};
enum { N_MODELS = sizeof models / sizeof *models, MOST_IDS = 256 };

typedef struct fixture {
    const char *name;
    qmi_tensor_file *golden, *gradients;
    qmoe_context *context;
    qmoe_model *model;
    int32_t ids[MOST_IDS];
    int32_t n;
} fixture;

/* Of one run: rows of weight w from rows[w] on, all matrices of it. */
typedef struct sums {
    const qmoe_model *model;
    double **rows; /* [n_weights][n_mats * n_rows], or [n_cols] of a vector */
    int64_t *n;    /* [n_weights] of those */
    qmi_gradient_loss loss;
} sums;

static qmi_tensor_file *open_file(const char *directory, const char *name)
{
    char path[700];
    qmi_error err = {0};
    qmi_tensor_file *file = NULL;
    snprintf(path, sizeof path, "%s/%s", directory, name);
    if (qmi_safetensors_open(&file, path, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    return file;
}

static void open_fixture(fixture *f, const char *name)
{
    char directory[512];
    f->name = name;
    snprintf(directory, sizeof directory, "%s/tests/golden/decoders/%s",
        QMOE_SOURCE_DIR, name);
    f->golden = open_file(directory, "golden.safetensors");
    f->gradients = open_file(directory, "gradients.safetensors");
    assert_int_equal(qmoe_context_create(&f->context, NULL), QMOE_OK);
    if (qmoe_model_open(&f->model, f->context, directory) != QMOE_OK)
        fail_msg("%s", qmoe_context_error(f->context));
    const qmi_tensor *ids = qmi_tensor_file_find(f->golden, "case0.ids");
    f->n = (int32_t)ids->shape[0];
    assert_true(2 * f->n <= MOST_IDS);
    memcpy(f->ids, ids->data, (size_t)f->n * sizeof *f->ids);
    memcpy(f->ids + f->n, ids->data, (size_t)f->n * sizeof *f->ids);
}

static void close_fixture(fixture *f)
{
    qmoe_model_close(f->model);
    qmoe_context_destroy(f->context);
    qmi_tensor_file_close(f->gradients);
    qmi_tensor_file_close(f->golden);
}

static double *room_of(sums *s, const qmi_weight *w, int64_t n)
{
    double **room = &s->rows[w - s->model->weights];
    s->n[w - s->model->weights] = n;
    if (*room == NULL)
        *room = qmi_calloc((size_t)n, sizeof **room, "sums", NULL);
    return *room;
}

static qmoe_status add_rows(void *user, const qmi_weight *w, int64_t mat,
    const float *d_y, int64_t n, qmi_error *err)
{
    (void)err;
    double *sum = room_of(user, w, w->n_mats * w->n_rows) + mat * w->n_rows;
    for (int64_t t = 0; t < n; t++)
        for (int64_t r = 0; r < w->n_rows; r++)
            sum[r] += (double)d_y[t * w->n_rows + r] * d_y[t * w->n_rows + r];
    return QMOE_OK;
}

static qmoe_status add_vector(
    void *user, const qmi_weight *w, const double *gradient, qmi_error *err)
{
    (void)err;
    double *sum = room_of(user, w, w->n_cols);
    for (int64_t c = 0; c < w->n_cols; c++)
        sum[c] += gradient[c];
    return QMOE_OK;
}

static void run(sums *out, fixture *f, size_t n_sequences, int n_threads)
{
    qmi_error err = {0};
    int64_t begin[3] = {0, f->n, 2 * f->n};
    float weight[MOST_IDS] = {0};
    const qmi_calibration text = {.n_samples = n_sequences,
        .sets[QMI_DECODE] = {.n_tokens = begin[n_sequences],
            .longest = f->n,
            .n_sequences = n_sequences,
            .ids = f->ids,
            .begin = begin,
            .weight = weight}};
    const qmoe_session_options place = {.size = sizeof place, .backend = "cpu"};
    *out = (sums){.model = f->model,
        .rows =
            qmi_calloc(f->model->n_weights, sizeof *out->rows, "sums", NULL)};
    out->n = qmi_calloc(f->model->n_weights, sizeof *out->n, "sums", NULL);
    const qmi_gradient_options options = {.n_threads = n_threads,
        .place = &place,
        .sink = {.rows = add_rows, .vector = add_vector, .user = out}};
    if (qmi_gradient_run(&out->loss, f->model, &text, &options, &err) !=
        QMOE_OK)
        fail_msg("%s: %s", f->name, err.text);
}

static void release(sums *s)
{
    for (size_t w = 0; w < s->model->n_weights; w++)
        qmi_free(s->rows[w]);
    qmi_free(s->rows);
    qmi_free(s->n);
}

/* The name of a matrix in the files of its model. */
static const qmi_tensor *golden_of(
    const fixture *f, const qmi_weight *w, int64_t mat, char name[256])
{
    const char *star = w->n_mats > 1 ? strchr(w->source, '*') : NULL;
    if (star == NULL)
        snprintf(name, 256, "%s", w->name);
    else
        snprintf(name, 256, "%.*s%d%s", (int)(star - w->source), w->source,
            (int)mat, star + 1);
    const qmi_tensor *t = qmi_tensor_file_find(f->gradients, name);
    /* A tied head has the embedding's matrix, and a name of its own there. */
    return t != NULL || w->role != QMOE_ROLE_EMBEDDING
               ? t
               : qmi_tensor_file_find(f->gradients, "lm_head.weight");
}

static double difference(
    const double *got, const qmi_tensor *expected, double factor)
{
    double largest = 0, worst = 0;
    for (int64_t i = 0; i < (int64_t)(expected->n_bytes / sizeof(float)); i++) {
        float value;
        memcpy(&value, (const char *)expected->data + i * 4, sizeof value);
        assert_true(isfinite(got[i]));
        largest = fmax(largest, fabs(factor * (double)value));
        worst = fmax(worst, fabs(got[i] - factor * (double)value));
    }
    return largest > 0 ? worst / largest : worst;
}

/* All that the file has is there; returns the worst difference. */
static double compare(const fixture *f, const sums *s, double factor)
{
    double worst = 0;
    size_t n = 0;
    for (size_t i = 0; i < f->model->n_weights; i++) {
        const qmi_weight *w = &f->model->weights[i];
        for (int64_t mat = 0; s->rows[i] != NULL && mat < w->n_mats; mat++) {
            char name[256];
            const qmi_tensor *t = golden_of(f, w, mat, name);
            /* Torch has no gradient for experts without tokens. */
            if (t == NULL)
                continue;
            const double d =
                difference(s->rows[i] + mat * w->n_rows, t, factor);
            if (d > 1e-4)
                fail_msg("%s, %s: off by %.3g", f->name, name, d);
            worst = fmax(worst, d);
            n++;
        }
    }
    /* Beside the loss. */
    assert_int_equal(n, qmi_tensor_file_count(f->gradients) - 1);
    return worst;
}

static void same_bits(const fixture *f, const sums *a, const sums *b)
{
    assert_true(memcmp(&a->loss, &b->loss, sizeof a->loss) == 0);
    for (size_t i = 0; i < f->model->n_weights; i++) {
        assert_int_equal(a->n[i], b->n[i]);
        if (a->n[i] != 0)
            assert_memory_equal(
                a->rows[i], b->rows[i], (size_t)a->n[i] * sizeof **a->rows);
    }
}

static void check_model(const char *name)
{
    fixture f;
    sums one, two, threads;
    float loss;
    open_fixture(&f, name);
    run(&one, &f, 1, 1);
    run(&two, &f, 2, 1);
    run(&threads, &f, 2, 3);
    memcpy(&loss, qmi_tensor_file_find(f.gradients, "loss")->data, sizeof loss);
    assert_true(fabs(one.loss.sum - (double)loss) <= 1e-5 * (double)loss);
    assert_int_equal(one.loss.n, f.n - 1);
    const double worst = compare(&f, &one, 1);
    printf("  %s: worst difference %.3g, of two sequences %.3g\n", name, worst,
        compare(&f, &two, 2));
    same_bits(&f, &two, &threads);
    release(&threads);
    release(&two);
    release(&one);
    close_fixture(&f);
}

static const char *const *chosen = models;
static int n_chosen = N_MODELS;

static void test_models(void **state)
{
    (void)state;
    for (int i = 0; i < n_chosen; i++)
        check_model(chosen[i]);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_models)};
    if (argc > 1) {
        chosen = (const char *const *)argv + 1;
        n_chosen = argc - 1;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
