/* SPDX-License-Identifier: Apache-2.0
 * A ternary matrix in memory, and its bytes in format "ternary-dict". */
#ifndef QMI_ENCODE_TERNARY_H
#define QMI_ENCODE_TERNARY_H

#include "quantiser.h"

typedef struct qmi_ternary_matrix {
    int64_t n_rows, n_cols;
    uint8_t *codes;   /* [n_rows, n_cols] QMI_CODE_* */
    uint16_t *levels; /* bf16 [n_rows, 2]: low, high */
} qmi_ternary_matrix;

/* Zeroed arrays; release with _free. */
qmoe_status qmi_ternary_matrix_alloc(
    qmi_ternary_matrix *out, int64_t n_rows, int64_t n_cols, qmi_error *err);
void qmi_ternary_matrix_free(qmi_ternary_matrix *matrix);

/* Parts row_offsets, levels and codes of one matrix.  `codebook`: const
 * qmi_dict *, NULL = the generic one.  E_UNSUPPORTED: a matrix that could need
 * 2^32 codewords. */
qmoe_status qmi_encode_ternary(qmi_encoded *out,
    const qmi_ternary_matrix *matrix, const void *codebook, qmi_error *err);
/* Zeros and the entropy of the codes, into `result`. */
void qmi_ternary_count(
    qmi_quant_result *result, const qmi_ternary_matrix *matrix);

#endif
