/* SPDX-License-Identifier: Apache-2.0
 * Calibration data: the token lists of all samples, per program that reads
 * tokens, in one contiguous list each (the paper's list buffer, section 3.2). */
#ifndef QMI_CALIBRATION_H
#define QMI_CALIBRATION_H

#include "model.h"
#include "qmoe/quant.h"

/* All tokens of one program, sequence after sequence. */
typedef struct qmi_token_set {
    int64_t n_tokens;
    int64_t longest; /* tokens of the longest sequence */
    size_t n_sequences;
    int32_t *ids;     /* [n_tokens] */
    int64_t *begin;   /* [n_sequences + 1] */
    uint8_t *counted; /* [n_tokens] 1: part of the Hessians.  Left out are
                       * sentinels in the encoder and, in the decoder,
                       * positions that predict one (paper section 3.2,
                       * special-token masking). */
} qmi_token_set;

static inline int64_t qmi_sequence_length(
    const qmi_token_set *set, size_t sequence)
{
    return set->begin[sequence + 1] - set->begin[sequence];
}

typedef struct qmi_calibration {
    qmi_token_set sets[QMI_N_PROGRAMS]; /* that of CROSS is empty */
    size_t n_samples;
    uint64_t n_skipped; /* documents */
    uint64_t hash;      /* of all samples */
} qmi_calibration;

/* Draws samples from text files (qmi_samples).  E_FORMAT: no usable one;
 * E_UNSUPPORTED: the model has another objective than span corruption. */
qmoe_status qmi_calibration_load(qmi_calibration *out, const qmoe_model *model,
    const qmoe_compress_options *options, qmi_error *err);
void qmi_calibration_free(qmi_calibration *calibration);

#endif
