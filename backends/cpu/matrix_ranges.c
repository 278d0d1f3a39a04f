/* SPDX-License-Identifier: Apache-2.0
 * The bytes of a matrix (matrix_ranges.h). */
#include "matrix_ranges.h"

qcpu_range qcpu_matrix_range(const qmi_weight *w, int part, int64_t mat)
{
    const qmi_format *format = w->format;
    const qmi_part *p = &w->parts[part];
    const uint64_t even = p->n_bytes / (uint64_t)w->n_mats;
    if (format->dense)
        return (qcpu_range){qmi_weight_dense(w, mat),
            (uint64_t)w->n_rows * (uint64_t)w->n_cols *
                (qmi_dtype_bits(format->dtype) / 8)};
    if (!format->variable ||
        (part != format->offsets_part && part != format->variable_part))
        return (qcpu_range){
            (const uint8_t *)p->data + (uint64_t)mat * even, even};
    if (part == format->offsets_part)
        return (qcpu_range){0};
    const uint64_t size =
        qmi_dtype_bits(format->parts[format->variable_part].dtype) / 8;
    const uint8_t *offsets = w->parts[format->offsets_part].data;
    const uint64_t begin = qmi_load_u64(offsets + 8 * mat);
    const uint64_t end = qmi_load_u64(offsets + 8 * mat + 8);
    return (qcpu_range){
        (const uint8_t *)p->data + size * begin, size * (end - begin)};
}
