/* SPDX-License-Identifier: Apache-2.0
 * Rows of keys and values in the types of qmi_kv_type, on the host.  Plain: the
 * reference, and what backends on the host have no faster code for. */
#ifndef QMI_KV_ROWS_H
#define QMI_KV_ROWS_H

#include "ops.h"

/* "f32", "f16", "q8". */
const char *qmi_kv_type_name(qmi_kv_type type);
/* By its name; NULL is the widest.  E_INVALID: another name. */
qmoe_status qmi_kv_type_find(
    qmi_kv_type *out, const char *name, qmi_error *err);

/* Writes qmi_kv_row_bytes(type, n) bytes; `row` is aligned to 4.  In 8 bits NaN
 * counts as 0; a block whose scale is 0 (largest / 127 rounds to it) reads as
 * zeros, one with an infinity as NaN. */
void qmi_kv_pack(void *row, qmi_kv_type type, const float *src, int64_t n);
/* Columns [first, first + n) of a row. */
void qmi_kv_unpack(
    float *dst, const void *row, qmi_kv_type type, int64_t first, int64_t n);

#endif
