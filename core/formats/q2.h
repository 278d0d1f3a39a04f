/* SPDX-License-Identifier: Apache-2.0
 * The paper's 2-bit setting, format "q2" (docs/format.md): two bits per weight
 * choose one of four values of its row. */
#ifndef QMI_Q2_H
#define QMI_Q2_H

#include "weight.h"

enum { QMI_Q2_VALUES = 4 };

/* Storage of a stack, parts in this order. */
enum {
    QMI_Q2_CODES, /* u8 [n_mats, n_rows, ceil(n_cols / 4)]: the code of column
                   * c in bits 2 * (c % 4) of byte c / 4; unused bits are 0 and
                   * ignored */
    QMI_Q2_LEVELS /* bf16 [n_mats, n_rows, 4]: the value of each code, finite */
};

/* Bytes of the codes of one row. */
static inline int64_t qmi_q2_row_bytes(int64_t n_cols)
{
    return n_cols / 4 + (n_cols % 4 != 0);
}

/* The rows of one checked matrix. */
typedef struct qmi_q2_matrix {
    const uint8_t *codes;  /* [n_rows, qmi_q2_row_bytes(n_cols)] */
    const uint8_t *levels; /* bf16 [n_rows, 4], any alignment */
} qmi_q2_matrix;
qmi_q2_matrix qmi_q2_matrix_of(const qmi_weight *w, int64_t mat);

extern const qmi_format qmi_format_q2;

#endif
