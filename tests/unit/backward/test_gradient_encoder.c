/* SPDX-License-Identifier: Apache-2.0
 * Gradients through models with an encoder against differences of the loss: each
 * norm is moved along its gradient, by h and 2 h to both sides, and the slope
 * there is the gradient's length, within 5e-3 (float32 losses; steps are small,
 * since relu and routes have kinks).  Norms are everywhere: those of
 * the encoder see all of the decoder through cross attention.  Two sequences of
 * different lengths; no number of threads changes a bit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "gradient.h"

enum {
    MOST_WEIGHTS = 512,
    MOST_WIDTH = 128,
    N_ENCODER = 37, /* of two sequences */
    N_DECODER = 21,
    MOST_COPIES = 240 /* more than two chunks */
};

typedef struct sums {
    const qmoe_model *model;
    double vectors[MOST_WEIGHTS][MOST_WIDTH]; /* gradients of norms */
    double rows;                              /* all squares of all products */
    qmi_gradient_loss loss;
} sums;

static qmoe_status add_rows(void *user, const qmi_weight *w, int64_t mat,
    const float *d_y, int64_t n, qmi_error *err)
{
    sums *s = user;
    (void)mat, (void)err;
    for (int64_t i = 0; i < n * w->n_rows; i++)
        s->rows += (double)d_y[i] * d_y[i];
    return QMOE_OK;
}

static qmoe_status add_vector(
    void *user, const qmi_weight *w, const double *gradient, qmi_error *err)
{
    sums *s = user;
    (void)err;
    assert_true(w->n_cols <= MOST_WIDTH);
    for (int64_t c = 0; c < w->n_cols; c++)
        s->vectors[w - s->model->weights][c] += gradient[c];
    return QMOE_OK;
}

/* Two sequences, so many times. */
static void run(sums *out, qmoe_model *model, const char *backend,
    int n_threads, int64_t copies)
{
    static int32_t encoder[MOST_COPIES * N_ENCODER];
    static int32_t decoder[MOST_COPIES * N_DECODER];
    static int64_t encoder_begin[2 * MOST_COPIES + 1];
    static int64_t decoder_begin[2 * MOST_COPIES + 1];
    qmi_error err = {0};
    for (int i = 0; i < copies * N_ENCODER; i++)
        encoder[i] = 3 + (i % N_ENCODER) * (i % N_ENCODER + 7) % 29;
    for (int i = 0; i < copies * N_DECODER; i++) {
        const int at = i % N_DECODER;
        decoder[i] = at == 0 || at == 8 ? 0 : 2 + 7 * at * (at + 1) % 31;
    }
    for (int64_t c = 0; c < copies; c++) {
        encoder_begin[2 * c + 1] = c * N_ENCODER + 26;
        encoder_begin[2 * c + 2] = (c + 1) * N_ENCODER;
        decoder_begin[2 * c + 1] = c * N_DECODER + 8;
        decoder_begin[2 * c + 2] = (c + 1) * N_DECODER;
    }
    const size_t n = (size_t)(2 * copies);
    const qmi_calibration text = {.n_samples = n,
        .sets[QMI_ENCODE] = {.n_tokens = copies * N_ENCODER,
            .longest = 26,
            .n_sequences = n,
            .ids = encoder,
            .begin = encoder_begin},
        .sets[QMI_DECODE] = {.n_tokens = copies * N_DECODER,
            .longest = 13,
            .n_sequences = n,
            .ids = decoder,
            .begin = decoder_begin}};
    const qmoe_session_options place = {
        .size = sizeof place, .backend = backend};
    memset(out, 0, sizeof *out);
    out->model = model;
    const qmi_gradient_options options = {.n_threads = n_threads,
        .place = &place,
        .sink = {.rows = add_rows, .vector = add_vector, .user = out}};
    if (qmi_gradient_run(&out->loss, model, &text, &options, &err) != QMOE_OK)
        fail_msg("%s", err.text);
}

/* The loss with a norm moved by so much along a direction of length 1. */
static double loss_at(qmoe_model *model, size_t number, const float *values,
    const double *direction, double step)
{
    static sums moved;
    float changed[MOST_WIDTH];
    qmi_weight *w = &model->weights[number];
    const qmi_weight was = *w;
    for (int64_t c = 0; c < w->n_cols; c++)
        changed[c] = (float)((double)values[c] + step * direction[c]);
    w->format = qmi_format_dense(QMI_F32);
    w->parts[0] = (qmi_part){changed, (uint64_t)w->n_cols * sizeof *changed};
    run(&moved, model, "reference", 1, 1);
    *w = was;
    return moved.loss.sum;
}

static double check_norm(qmoe_model *model, size_t number, const sums *s)
{
    const double h = 0x1p-12;
    const qmi_weight *w = &model->weights[number];
    float values[MOST_WIDTH];
    double direction[MOST_WIDTH], length = 0;
    qmi_weight_decode(w, 0, 0, 1, values);
    for (int64_t c = 0; c < w->n_cols; c++)
        length += pow(s->vectors[number][c], 2);
    length = sqrt(length);
    assert_true(length > 0);
    for (int64_t c = 0; c < w->n_cols; c++)
        direction[c] = s->vectors[number][c] / length;
    double slope[2];
    for (int i = 0; i < 2; i++) {
        const double step = h * (i + 1);
        slope[i] = (loss_at(model, number, values, direction, step) -
                       loss_at(model, number, values, direction, -step)) /
                   (2 * step);
    }
    const double off = fabs((4 * slope[0] - slope[1]) / 3 - length) / length;
    if (off > 5e-3)
        fail_msg("%s: length %.6g, slope %.6g", w->name, length, slope[0]);
    return off;
}

/* A text many times has as many times the gradients, in several chunks. */
static void check_copies(qmoe_model *model)
{
    static sums one, all;
    run(&one, model, "cpu", 2, 1);
    run(&all, model, "cpu", 2, MOST_COPIES);
    for (size_t i = 0; i < model->n_weights; i++) {
        double largest = 0, worst = 0;
        for (int c = 0; c < MOST_WIDTH; c++) {
            const double expected = MOST_COPIES * one.vectors[i][c];
            largest = fmax(largest, fabs(expected));
            worst = fmax(worst, fabs(all.vectors[i][c] - expected));
        }
        assert_true(worst <= 1e-3 * largest);
    }
    assert_true(fabs(all.rows / MOST_COPIES / one.rows - 1) < 1e-3);
}

static void check_model(const char *directory)
{
    static sums one, three;
    qmoe_context *context = NULL;
    qmoe_model *model = NULL;
    double worst = 0;
    int n = 0;
    assert_int_equal(qmoe_context_create(&context, NULL), QMOE_OK);
    assert_int_equal(qmoe_model_open(&model, context, directory), QMOE_OK);
    assert_true(model->n_weights <= MOST_WEIGHTS);
    run(&one, model, "reference", 1, 1);
    run(&three, model, "reference", 3, 1);
    assert_memory_equal(&one, &three, sizeof one);
    assert_int_equal(one.loss.n, N_DECODER - 2);
    for (size_t i = 0; i < model->n_weights; i++) {
        if (model->weights[i].role != QMOE_ROLE_NORM)
            continue;
        worst = fmax(worst, check_norm(model, i, &one));
        n++;
    }
    printf("  %s: %d norms, worst difference %.3g\n", directory, n, worst);
    assert_true(n >= 2 * 2 + 2 * 3 + 2);
    check_copies(model);
    qmoe_model_close(model);
    qmoe_context_destroy(context);
}

static void test_encoder(void **state)
{
    (void)state;
    check_model(QMOE_SOURCE_DIR "/tests/golden/full-sparse");
    check_model(QMOE_SOURCE_DIR "/tests/golden/tied"); /* dense blocks, too */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_encoder)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
