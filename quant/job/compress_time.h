/* SPDX-License-Identifier: Apache-2.0
 * The processor time of a calibrated compression: counts of its parts times
 * rates measured on this machine (measure_work.h). */
#ifndef QMI_COMPRESS_TIME_H
#define QMI_COMPRESS_TIME_H

#include "dense_choice.h"
#include "expert_pass.h"

/* What there is to do. */
typedef struct qmi_workload {
    double tokens[QMI_N_PROGRAMS];
    /* Pairs of a query and a key in one block: attention within the sequences of
     * a program, and the decoder's to the encoder. */
    double own_pairs[QMI_N_PROGRAMS], cross_pairs;
    /* Share of the experts that get tokens; others are rounded. */
    double used_share[QMI_N_PROGRAMS];
    /* Share of the experts whose errors are measured first, with both formats,
     * which takes all tokens through the model once more. */
    double trials;
} qmi_workload;

/* Adds a sample of so many tokens of encoder and decoder, n times. */
void qmi_workload_add(
    qmi_workload *w, double n_encoder, double n_decoder, double n);
/* Adds n samples of a model, all as long as they can be. */
void qmi_workload_add_samples(
    qmi_workload *w, const qmoe_model *model, double n);

/* Experts of a block that some of n_routes, choices of tokens, go to, if all are
 * equally likely. */
double qmi_used_experts(double n_experts, double n_routes);

/* Seconds of one thread that has a processor to itself.  The measurement takes
 * a moment.  Statuses of qmi_measure_work. */
qmoe_status qmi_compression_seconds(double *seconds, const qmoe_model *model,
    const qmi_workload *work, const qmi_stack_recipe *recipe, qmi_error *err);

/* The matrices beside the experts. */
typedef struct qmi_dense_work {
    const qmi_dense_choice *choice;
    double n_tokens; /* that second moments are summed of */
    qmi_stack_recipe (*recipe)(const void *user, const qmi_weight *w);
    const void *user;
} qmi_dense_work;

/* Seconds of one thread. */
typedef struct qmi_dense_time {
    /* To sum moments, to quantise with them, and to take the tokens through:
     * work of all threads. */
    double with_moments;
    double rounded; /* without moments: work of one thread */
} qmi_dense_time;

/* Statuses of qmi_measure_work. */
qmoe_status qmi_dense_seconds(qmi_dense_time *out, const qmoe_model *model,
    const qmi_dense_work *work, qmi_error *err);

/* Seconds to read a source, twice unless its values are made, and to write the
 * result, at `rate` bytes per second or, if that is 0, at QMI_COPY_RATE. */
double qmi_copy_seconds(
    uint64_t source_bytes, uint64_t output_bytes, bool generated, double rate);
enum { QMI_COPY_RATE = 500000000 };

/* Tokens of a calibration window by default. */
enum { QMI_DEFAULT_WINDOW = 512 };

#endif
