/* SPDX-License-Identifier: Apache-2.0
 * The bytes of one matrix of a compressed stack in the file. */
#ifndef QMI_MATRIX_RANGE_H
#define QMI_MATRIX_RANGE_H

#include "model.h"

/* Bytes of part `part` that belong to matrix `mat` of an open stack; an empty
 * range for the offsets of variable formats. */
qmi_part qmi_matrix_range(const qmi_weight *w, int part, int64_t mat);
/* Reads all of them by system calls, so that a failing disk is an error, and
 * checks the payload. */
qmoe_status qmi_matrix_fetch(
    const qmoe_model *model, const qmi_weight *w, int64_t mat, qmi_error *err);
/* They will not be needed soon. */
void qmi_matrix_release(
    const qmoe_model *model, const qmi_weight *w, int64_t mat);

#endif
