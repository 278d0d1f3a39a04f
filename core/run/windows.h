/* SPDX-License-Identifier: Apache-2.0
 * Windows of a text through models that predict the next token: what loss and
 * comparison have in common (docs/evaluation.md). */
#ifndef QMI_WINDOWS_H
#define QMI_WINDOWS_H

#include "session.h"
#include "token_windows.h"

/* Rows of logits that are on the host at once. */
enum { QMI_WINDOW_PORTION = 128 };

typedef struct qmi_windows {
    qmi_token_text text;
    int32_t length; /* tokens of a window */
    size_t n;
    bool half;        /* only the second half of a window is scored */
    int32_t begin_id; /* stands in place of a window's first token; -1: none */
} qmi_windows;

/* E_INVALID: there is no text, or one is NULL; E_UNSUPPORTED: the model has no
 * tokenizer. */
qmoe_status qmi_windows_check_texts(
    const qmoe_model *model, const qmoe_text_options *options, qmi_error *err);
/* E_FORMAT: the texts have fewer tokens than a window. */
qmoe_status qmi_windows_read(qmi_windows *out, const qmoe_model *model,
    const qmoe_text_options *options, qmi_error *err);
void qmi_windows_free(qmi_windows *windows);

/* Ids of window number w, in `ids` [length]. */
void qmi_window_ids(int32_t *ids, const qmi_windows *windows, size_t w);
/* From this position on, the prediction of the next token is scored; the last
 * token of a window predicts nothing. */
int32_t qmi_window_first_scored(const qmi_windows *windows);

/* -log softmax(logits)[id] of one position, and the logarithm of the sum. */
double qmi_cross_entropy(
    const float *logits, int64_t n, int32_t id, double *log_sum);

#endif
