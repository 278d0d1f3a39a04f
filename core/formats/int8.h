/* SPDX-License-Identifier: Apache-2.0
 * The format "int8" (docs/format.md): a signed byte per weight and a scale per
 * row.  A weight is scale * code; every code is valid. */
#ifndef QMI_INT8_H
#define QMI_INT8_H

#include "weight.h"

enum {
    QMI_INT8_MAX_CODE = 127, /* that quantisers write; -128 can be read */
    /* The largest finite bf16 whose product with any code is finite. */
    QMI_INT8_MAX_SCALE = 0x7bff
};

/* Storage of a stack, parts in this order. */
enum {
    QMI_INT8_CODES, /* i8 [n_mats, n_rows, n_cols] */
    QMI_INT8_SCALES /* bf16 [n_mats, n_rows], at most QMI_INT8_MAX_SCALE by
                     * magnitude */
};

/* The rows of one checked matrix. */
const int8_t *qmi_int8_codes(const qmi_weight *w, int64_t mat);
const uint8_t *qmi_int8_scales(const qmi_weight *w, int64_t mat);

extern const qmi_format qmi_format_int8;

#endif
