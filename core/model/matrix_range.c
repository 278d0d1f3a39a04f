/* SPDX-License-Identifier: Apache-2.0
 * In: one matrix of a stack in any format.  Out: its bytes in memory and
 * checked, or given back.  All parts of a matrix come and go together; a
 * failure in the middle leaves parts in memory, which cost space and nothing
 * else. */
#include "matrix_range.h"

qmoe_status qmi_matrix_fetch(
    const qmoe_model *model, const qmi_weight *w, int64_t mat, qmi_error *err)
{
    for (int i = 0; i < w->format->n_parts; i++) {
        qmi_part part = qmi_matrix_range(w, i, mat, 1);
        if (part.n_bytes != 0)
            QMI_TRY(qmi_checkpoint_fetch(
                model->checkpoint, part.data, part.n_bytes, err));
    }
    return qmi_weight_check(w, mat, err);
}

void qmi_matrix_release(
    const qmoe_model *model, const qmi_weight *w, int64_t mat)
{
    for (int i = 0; i < w->format->n_parts; i++) {
        qmi_part part = qmi_matrix_range(w, i, mat, 1);
        qmi_checkpoint_release(model->checkpoint, part.data, part.n_bytes);
    }
}
