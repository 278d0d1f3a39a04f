/* SPDX-License-Identifier: Apache-2.0
 * Reading one matrix of a compressed stack from its file. */
#ifndef QMI_MATRIX_RANGE_H
#define QMI_MATRIX_RANGE_H

#include "model.h"

/* Reads all bytes of a matrix by system calls, so that a failing disk is an error, and
 * checks the payload. */
qmoe_status qmi_matrix_fetch(
    const qmoe_model *model, const qmi_weight *w, int64_t mat, qmi_error *err);
/* They will not be needed soon. */
void qmi_matrix_release(
    const qmoe_model *model, const qmi_weight *w, int64_t mat);

#endif
