/* SPDX-License-Identifier: Apache-2.0
 * Texts as a model was trained on them, one passage after the other: windows of
 * the text for models that predict the next token, span-corrupted documents for
 * T5 (docs/evaluation.md). */
#ifndef QMI_PASSAGES_H
#define QMI_PASSAGES_H

#include "samples.h"
#include "windows.h"

typedef struct qmi_passage {
    const int32_t *encoder_ids; /* [n_encoder]; NULL: no encoder */
    int32_t n_encoder;
    const int32_t *ids; /* [n] of the decoder */
    int32_t n;          /* 0: the texts are at their end */
    /* From this position on, the prediction of the next token is scored. */
    int32_t first_scored;
} qmi_passage;

typedef struct qmi_passages {
    qmi_windows windows;
    int32_t *window; /* [windows.length] */
    qmi_samples *samples;
    qmi_sample sample;
    uint64_t n_read;
    uint64_t n; /* how many there are; 0: not known */
    uint64_t most;
    const char *first_path;
} qmi_passages;

/* The options' strings must outlive the passages.  Windows are read at once,
 * documents as they are asked for.  qmi_passages_close in any case. */
qmoe_status qmi_passages_open(qmi_passages *out, const qmoe_model *model,
    const qmoe_text_options *options, qmi_error *err);
/* The next passage, valid until the next call.  E_FORMAT: the texts have
 * none. */
qmoe_status qmi_passages_next(
    qmi_passages *passages, qmi_passage *out, qmi_error *err);
void qmi_passages_close(qmi_passages *passages);

#endif
