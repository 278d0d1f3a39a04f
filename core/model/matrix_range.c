/* SPDX-License-Identifier: Apache-2.0 */
#include "matrix_range.h"

qmi_part qmi_matrix_range(const qmi_weight *w, int part, int64_t mat)
{
    const qmi_format *format = w->format;
    const uint8_t *data = w->parts[part].data;
    if (format->variable && part == format->offsets_part)
        return (qmi_part){data, 0};
    if (!format->variable || part != format->variable_part) {
        uint64_t each = w->parts[part].n_bytes / (uint64_t)w->n_mats;
        return (qmi_part){data + each * (uint64_t)mat, each};
    }
    const uint8_t *offsets = w->parts[format->offsets_part].data;
    uint64_t size = qmi_dtype_bits(format->parts[part].dtype) / 8;
    uint64_t begin = qmi_load_u64(offsets + 8 * mat);
    uint64_t end = qmi_load_u64(offsets + 8 * mat + 8);
    return (qmi_part){data + begin * size, (end - begin) * size};
}

qmoe_status qmi_matrix_fetch(
    const qmoe_model *model, const qmi_weight *w, int64_t mat, qmi_error *err)
{
    for (int i = 0; i < w->format->n_parts; i++) {
        qmi_part part = qmi_matrix_range(w, i, mat);
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
        qmi_part part = qmi_matrix_range(w, i, mat);
        qmi_checkpoint_release(model->checkpoint, part.data, part.n_bytes);
    }
}
