/* SPDX-License-Identifier: Apache-2.0
 * Refuses tokenizer files that the SentencePiece library would read beyond
 * its buffers for: it trusts the tables inside a file it can parse. */
#ifndef QMI_SPIECE_CHECK_H
#define QMI_SPIECE_CHECK_H

#include "error.h"

typedef struct qmi_spiece_info {
    int32_t n_pieces;
    /* Most bytes one character of text can become by normalization. */
    int32_t max_growth;
} qmi_spiece_info;

/* Checks the bytes of a spiece.model file.  E_FORMAT naming `file` and the
 * rule. */
qmoe_status qmi_spiece_check(qmi_spiece_info *out, const void *data,
    size_t n_bytes, const char *file, qmi_error *err);

#endif
