/* SPDX-License-Identifier: Apache-2.0
 * Where the bytes of one matrix of a stack lie. */
#ifndef QCPU_MATRIX_RANGES_H
#define QCPU_MATRIX_RANGES_H

#include "weight.h"

typedef struct qcpu_range {
    const uint8_t *data;
    uint64_t n_bytes;
} qcpu_range;

/* The bytes of matrix `mat` in part `part`, an index below format->n_parts.
 * Empty for the offsets of a stack whose matrices differ in size, which belong
 * to the stack. */
qcpu_range qcpu_matrix_range(const qmi_weight *w, int part, int64_t mat);

#endif
