/* SPDX-License-Identifier: Apache-2.0
 * Span-corrupted samples drawn from text files in order: what evaluation and
 * calibration feed a model with (docs/evaluation.md). */
#ifndef QMI_SAMPLES_H
#define QMI_SAMPLES_H

#include "span_corruption.h"

typedef struct qmi_samples qmi_samples;

typedef struct qmi_samples_options {
    const char *const *paths; /* [n_paths], read in order */
    size_t n_paths;
    uint32_t seed; /* of the masks; one stream over all files */
    int32_t start_id, end_id;
} qmi_samples_options;

/* `tokenizer` and the options' strings must outlive the stream. */
qmoe_status qmi_samples_open(qmi_samples **out, const qmi_tokenizer *tokenizer,
    const qmi_samples_options *options, qmi_error *err);
/* The next sample (qmi_sample_free); encoder_ids NULL at the end.  Documents
 * that are empty or longer than QMI_MAX_DOCUMENT_TOKENS are skipped. */
qmoe_status qmi_samples_next(
    qmi_samples *samples, qmi_sample *out, qmi_error *err);
/* Of which file the last sample is. */
size_t qmi_samples_path(const qmi_samples *samples);
uint64_t qmi_samples_skipped(const qmi_samples *samples);
void qmi_samples_close(qmi_samples *samples);

#endif
