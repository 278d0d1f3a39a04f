/* SPDX-License-Identifier: Apache-2.0
 * What differs between weight formats on the host side, by format id. */
#ifndef QCUDA_FORMATS_H
#define QCUDA_FORMATS_H

#include "qcuda_device.h"

typedef struct qcuda_format {
    const qcuda_entry *few;  /* products of 1 to QCUDA_FEW_ITEMS items */
    const qcuda_entry *many; /* by tensor cores, of formats whose weights are
                                exact in bf16; else NULL */
    /* Sets the places and sizes of `stack` from the parts on the device. */
    void (*describe)(
        qcuda_stack *stack, const qmi_buffer *parts, const qmi_weight *host);
} qcuda_format;

/* NULL: there are no kernels for the format. */
const qcuda_format *qcuda_format_of(int32_t id);
/* The table that codes of a format are looked up in, `n` integers which kernels
 * get as bf16; NULL: it has none. */
const int8_t *qcuda_format_table(int *n, const qmi_format *format);
/* Matrices a dense stack has on the device: one when all of them are the same
 * place, as in an ideal uncompressed model (`qmoe bench model`). */
int64_t qcuda_distinct_mats(const qmi_weight *host);

#endif
