/* SPDX-License-Identifier: Apache-2.0
 * What a tokenizer changes in a text before it is split. */
#ifndef QMI_NORMALIZER_H
#define QMI_NORMALIZER_H

#include "pattern.h"

typedef enum qmi_normal_kind {
    QMI_NORMAL_NFC,
    QMI_NORMAL_NFD,
    QMI_NORMAL_NFKC,
    QMI_NORMAL_NFKD,
    QMI_NORMAL_LOWERCASE,
    QMI_NORMAL_REPLACE, /* every match of `pattern` by `content` */
    QMI_NORMAL_PREPEND, /* `content`, unless the text is empty */
    QMI_NORMAL_STRIP    /* white space at the `left` and `right` end */
} qmi_normal_kind;

enum { QMI_MAX_NORMAL_STEPS = 16 };

typedef struct qmi_normalizer {
    struct qmi_normal_step {
        qmi_normal_kind kind;
        qmi_pattern *pattern; /* owned */
        char *content;        /* owned */
        bool left, right;
    } steps[QMI_MAX_NORMAL_STEPS]; /* [n] */
    size_t n;
} qmi_normalizer;

void qmi_normalizer_free(qmi_normalizer *normalizer);

/* All steps on text[0..n), valid UTF-8.  *out is the result, valid until
 * `work` changes, or the text itself if nothing is to do.  `work` begins with
 * zeros but `err`; its data are released with qmi_free. */
qmoe_status qmi_normalize(const qmi_normalizer *normalizer,
    qmi_matcher *matcher, qmi_text work[2], const char **out, size_t *n_out,
    const char *text, size_t n, qmi_error *err);

#endif
