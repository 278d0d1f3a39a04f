/* SPDX-License-Identifier: Apache-2.0
 * Calibration data: the token lists of all samples, per program that reads
 * tokens, in one contiguous list each (the paper's list buffer, section 3.2). */
#ifndef QMI_CALIBRATION_H
#define QMI_CALIBRATION_H

#include "model.h"

/* All tokens of one program, sequence after sequence. */
typedef struct qmi_token_set {
    int64_t n_tokens;
    int64_t longest; /* tokens of the longest sequence */
    size_t n_sequences;
    int32_t *ids;   /* [n_tokens] */
    int64_t *begin; /* [n_sequences + 1] */
    float *weight;  /* [n_tokens] of each in the second moments; 0: it is left
                    * out of them.  With span corruption 0 or 1: sentinels of
                    * the encoder and positions of the decoder that predict one
                    * are left out (paper section 3.2, special-token masking).
                    * Else the first token of a sequence and special tokens have
                    * frame_weight, the others 1. */
} qmi_token_set;

static inline int64_t qmi_sequence_length(
    const qmi_token_set *set, size_t sequence)
{
    return set->n_sequences != 0
               ? set->begin[sequence + 1] - set->begin[sequence]
               : 0;
}

typedef struct qmi_calibration {
    /* That of CROSS is empty, and that of ENCODE without an encoder. */
    qmi_token_set sets[QMI_N_PROGRAMS];
    size_t n_samples;   /* sequences of DECODE, and of ENCODE if there is one */
    uint64_t n_skipped; /* documents */
    uint64_t hash;      /* of all samples */
} qmi_calibration;

typedef struct qmi_calibration_options {
    const char *const *paths; /* [n_paths], read in order */
    size_t n_paths;
    uint64_t max_samples; /* documents or windows; 0: all */
    uint32_t seed;        /* of the span masks */
    int window;           /* tokens of a sequence that predicts the next one */
    double frame_weight;  /* its first token's and special ones' */
} qmi_calibration_options;

/* Draws samples from text files: of span corruption (samples.h) or windows of
 * their ids (token_windows.h), as the model was trained.  E_FORMAT: no usable
 * one. */
qmoe_status qmi_calibration_load(qmi_calibration *out, const qmoe_model *model,
    const qmi_calibration_options *options, qmi_error *err);
void qmi_calibration_free(qmi_calibration *calibration);

/* The ways from texts to token sets, one per objective; they fill the sets and
 * n_skipped of zeros.  After a failure the caller frees `c`. */
qmoe_status qmi_calibration_spans(qmi_calibration *c, const qmoe_model *model,
    const qmi_calibration_options *options, qmi_error *err);
qmoe_status qmi_calibration_windows(qmi_calibration *c, const qmoe_model *model,
    const qmi_calibration_options *options, qmi_error *err);

#endif
