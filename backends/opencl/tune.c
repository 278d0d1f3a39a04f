/* SPDX-License-Identifier: Apache-2.0
 * Measures candidates of the tuning on a device, one group of parameters after
 * the other, and keeps the winners on disk.  In: a device.  Out: a report per
 * candidate, and a tuning that later runs load.  Every candidate gets a device
 * of its own, whose self-test refuses what the driver compiles wrongly.
 * Nothing is kept unless every group has a winner. */
#include <float.h>
#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "clock.h"
#include "qocl_device.h"
#include "pvq.h"

/* wi of the base models; the larger batch is one where tiles of many tokens
 * count. */
enum { TUNE_ROWS = 3072, TUNE_COLS = 768, MAX_TOKENS = 16, N_SAMPLES = 5 };

/* One group of parameters: assignments to try on a product. */
typedef struct tune_step {
    const char *format;
    int64_t n_tokens;
    const char *candidates[9];
} tune_step;

/* In this order: later groups are measured with the winners of earlier ones.
 * Parameters of a group depend on each other, so they are tried together. */
static const tune_step steps[] = {
    {"pvq", 1,
        {"pvq_rows=16,pvq_lookup=2,pvq_split=1",
            "pvq_rows=16,pvq_lookup=1,pvq_split=1", "pvq_rows=1,pvq_split=1",
            "pvq_rows=1,pvq_split=2", "pvq_rows=1,pvq_split=4",
            "pvq_rows=1,pvq_split=8"}},
    {"pvq", MAX_TOKENS,
        {"pvq_many=2", "pvq_many=4", "pvq_many=8", "pvq_many=16"}},
    {"bf16", 1,
        {"lanes=1,width=16", "lanes=1,width=8", "lanes=16,width=8",
            "lanes=32,width=4", "lanes=64,width=4", "lanes=128,width=2"}},
    {"bf16", 1,
        {"dense_rows=1", "dense_rows=2", "dense_rows=4", "dense_rows=8"}},
    {"bf16", MAX_TOKENS, {"many=2", "many=4", "many=8", "many=16"}},
};

/* A random matrix; every payload of these formats is valid.  Its parts are
 * released with qmi_free. */
static qmoe_status make_weight(
    qmi_weight *out, const char *format, qmi_error *err)
{
    const qmi_pvq_shape shape = qmi_pvq_shape_of(16, TUNE_ROWS, TUNE_COLS);
    const bool dense = strcmp(format, "bf16") == 0;
    const size_t n = dense ? (size_t)TUNE_ROWS * TUNE_COLS * 2
                           : (size_t)shape.n_tiles * shape.tile_bytes;
    unsigned char *codes = qmi_calloc(n, 1, "a matrix", err);
    uint16_t *scales = qmi_calloc(TUNE_ROWS, 2, "a matrix", err);
    uint32_t random = 1;
    *out = (qmi_weight){.format = qmi_format_find(format),
        .name = "tuning",
        .n_mats = 1,
        .n_rows = TUNE_ROWS,
        .n_cols = TUNE_COLS,
        .parts = {{codes, n}, {scales, dense ? 0 : TUNE_ROWS * 2}}};
    if (codes == NULL || scales == NULL)
        return QMOE_E_NOMEM;
    /* A linear congruential generator (Numerical Recipes): any bytes will
     * do. */
    for (size_t i = 0; i < n; i++) {
        random = random * 1664525u + 1013904223u;
        /* bf16: sign and mantissa vary, the exponent stays. */
        codes[i] = (unsigned char)(random >> 24);
        if (dense && i % 2 != 0)
            codes[i] = (unsigned char)((codes[i] & 0x80) | 0x3c);
    }
    for (size_t i = 0; i < TUNE_ROWS; i++)
        /* A bf16 of 2^-7. */
        scales[i] = 0x3c00;
    return QMOE_OK;
}

static void free_weight(qmi_weight *w)
{
    for (int i = 0; i < 2; i++)
        qmi_free((void *)w->parts[i].data);
}

/* Seconds of one run: the least of some samples of 10 ms. */
static qmoe_status time_product(
    double *seconds, qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_backend *b = &qocl_backend;
    int64_t n_runs = 1;
    *seconds = DBL_MAX;
    /* Runs that are too short only double the next; the least sample is the one
     * that nothing disturbed. */
    for (int i = 0; i < N_SAMPLES;) {
        const double begin = qmi_seconds();
        for (int64_t k = 0; k < n_runs; k++)
            QMI_TRY(qocl_run_linear(device, op, err));
        QMI_TRY(b->sync(device, err));
        const double taken = qmi_seconds() - begin;
        if (taken < 1e-2 && n_runs < 1 << 16) {
            n_runs *= 2;
            continue;
        }
        if (taken / (double)n_runs < *seconds)
            *seconds = taken / (double)n_runs;
        i++;
    }
    return QMOE_OK;
}

static qmoe_status measure_on(double *seconds, qmi_device *device,
    const qmi_weight *w, int64_t n_tokens, qmi_error *err)
{
    const qmi_backend *b = &qocl_backend;
    /* A product's time does not depend on its inputs. */
    static const float zeros[MAX_TOKENS * TUNE_COLS];
    qmi_bound_weight bound = {0};
    qmi_buffer *src = NULL, *dst = NULL;
    qmoe_status status = b->buffer_alloc(&src, device, sizeof zeros, err);
    if (status == QMOE_OK)
        status = b->buffer_alloc(&dst, device, MAX_TOKENS * TUNE_ROWS * 4, err);
    if (status == QMOE_OK)
        status = b->buffer_write(
            device, (qmi_view){.buffer = src}, zeros, sizeof zeros, err);
    if (status == QMOE_OK)
        status = b->weight_bind(&bound, device, w, err);
    const qmi_op op = {.kind = QMI_OP_LINEAR,
        .u.linear = {.dst = {.buffer = dst},
            .src = {.buffer = src},
            .weight = &bound,
            .n_tokens = n_tokens,
            .alpha = 1.0f}};
    if (status == QMOE_OK)
        status = time_product(seconds, device, &op, err);
    if (bound.host != NULL)
        b->weight_unbind(device, &bound);
    b->buffer_free(device, src);
    b->buffer_free(device, dst);
    return status;
}

/* Seconds of a product under a tuning. */
static qmoe_status measure(double *seconds, int index, const qocl_tuning *t,
    const tune_step *step, const qmi_weight *w, qmi_error *err)
{
    qmi_device *device = NULL;
    qmoe_status status = qocl_open_tuned(&device, index, t, err);
    if (status == QMOE_OK)
        status = measure_on(seconds, device, w, step->n_tokens, err);
    /* NULL when it could not be opened, which is accepted. */
    qocl_backend.device_close(device);
    return status;
}

/* Tries a step's candidates on top of *best, which becomes the winner. */
static qmoe_status run_step(qocl_tuning *best, int index,
    const qocl_limits *limits, const tune_step *step, qmi_tune_report *report,
    void *user, qmi_error *err)
{
    qmi_weight w = {0};
    const qocl_tuning start = *best;
    double least = DBL_MAX;
    qmoe_status status = make_weight(&w, step->format, err);
    for (int i = 0; status == QMOE_OK && step->candidates[i] != NULL; i++) {
        qocl_tuning candidate = start;
        double seconds = 0;
        qmi_error why = {0};
        status = qocl_tuning_parse(&candidate, step->candidates[i], err);
        /* A candidate that this device cannot have is no candidate. */
        if (status != QMOE_OK || !qocl_tuning_fits(&candidate, limits))
            continue;
        const qmoe_status measured =
            measure(&seconds, index, &candidate, step, &w, &why);
        /* Told also when it fails: the reader sees what does not run here. */
        if (report != NULL)
            status = report(user, step->format, step->n_tokens,
                step->candidates[i], measured == QMOE_OK ? seconds : -1);
        if (measured == QMOE_OK && seconds < least) {
            least = seconds;
            *best = candidate;
        }
    }
    free_weight(&w);
    /* Without a winner the start would be kept as if it had been measured. */
    if (status == QMOE_OK && least == DBL_MAX)
        return qmi_fail(err, QMOE_E_DEVICE,
            "OpenCL tuning: no candidate for %s runs on this device",
            step->format);
    return status;
}

qmoe_status qocl_run_tune(
    int index, qmi_tune_report *report, void *user, qmi_error *err)
{
    qmi_device *device = NULL;
    /* The default is the start: what no group sets stays as it is. */
    qmoe_status status = qocl_open_tuned(&device, index, NULL, err);
    if (status == QMOE_OK) {
        qocl_tuning best = device->tuning;
        for (size_t i = 0;
             i < sizeof steps / sizeof *steps && status == QMOE_OK; i++)
            status = run_step(
                &best, index, &device->limits, &steps[i], report, user, err);
        if (status == QMOE_OK)
            qocl_keep_tuning(device, &best);
    }
    qocl_backend.device_close(device);
    return status;
}
