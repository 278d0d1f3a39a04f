/* SPDX-License-Identifier: Apache-2.0
 * How much the loss depends on each output of each matrix: the mean squared
 * gradient of the cross entropy by the output, over the tokens that the matrix
 * sees (docs/backward.md).  A quantiser whose codes serve several rows trades
 * their errors by it. */
#ifndef QMI_ROW_WEIGHTS_H
#define QMI_ROW_WEIGHTS_H

#include "gradient.h"

/* Begins as zeros. */
typedef struct qmi_row_weights {
    const qmoe_model *model;
    float **rows;       /* [n_weights]: [n_mats * n_rows], sums, then weights;
                        * NULL: nobody wants them */
    int64_t **n_tokens; /* [n_weights]: [n_mats] that were added up */
} qmi_row_weights;

typedef struct qmi_row_weights_options {
    /* Of a longer text about so many tokens are used, in whole sequences that
     * are spread over it; 0: all. */
    int64_t max_tokens;
    int n_threads;
    const char *work_dir;  /* as qmi_gradient_options */
    uint64_t memory_bytes; /* for the pass; 0: no bound.  Less than a chunk of
                            * tokens takes is taken as that */
    bool (*takes)(void *user, const qmi_weight *weight);
    /* So many thousandths of the pass are done. */
    qmoe_status (*progress)(void *user, int64_t thousandths);
    void *user;
} qmi_row_weights_options;

/* Weights of the rows of the matrices that `takes` wants.  Texts that do not
 * fit the memory go through the model in several sections, without an effect on
 * the result.  E_UNSUPPORTED: as qmi_gradient_run. */
qmoe_status qmi_row_weights_measure(qmi_row_weights *out, qmoe_model *model,
    const qmi_calibration *text, const qmi_row_weights_options *options,
    qmi_error *err);
void qmi_row_weights_free(qmi_row_weights *weights);

/* [n_mats * n_rows], positive, of mean 1 in each matrix; a matrix without
 * tokens has ones.  NULL: not measured. */
const float *qmi_row_weights_of(
    const qmi_row_weights *weights, const qmi_weight *weight);

/* Bytes that the pass takes, about. */
uint64_t qmi_row_weights_bytes(const qmoe_model *model,
    const qmi_calibration *text, const qmi_row_weights_options *options);

#endif
