/* SPDX-License-Identifier: Apache-2.0
 * In: a tensor that holds many matrices, and where they lie in it.  Out: each
 * matrix as a tensor of its own in C order: an address in the map, or a view
 * where the file holds it by columns. */
#include "tensor_file.h"
#include "views.h"

/* How far apart things are, in elements. */
typedef struct layout {
    uint64_t first, matrix, row, col;
} layout;

static layout layout_of(const qmi_tensor *t, const qmi_cut *cut)
{
    const uint64_t n_cols = (uint64_t)t->shape[2];
    const uint64_t row = cut->is_transposed ? 1 : n_cols;
    return (layout){
        .first = (uint64_t)cut->row * row,
        .matrix = (uint64_t)t->shape[1] * n_cols,
        .row = row,
        .col = cut->is_transposed ? n_cols : 1,
    };
}

static qmoe_status add_view(
    qmi_views *views, qmi_tensor *m, const layout *l, qmi_error *err)
{
    const uint64_t n_rows = (uint64_t)m->shape[0],
                   n_cols = (uint64_t)m->shape[1];
    const uint64_t element = qmi_dtype_bits(m->dtype) / 8;
    /* From the first element to the last: that is what has to be read. */
    const qmi_file_view view = {
        .source = m->data,
        .source_bytes =
            ((n_rows - 1) * l->row + (n_cols - 1) * l->col + 1) * element,
        .n_bytes = m->n_bytes,
        .rank = 2,
        .element_bytes = (int)element,
        .shape = {n_rows, n_cols},
        .strides = {l->row, l->col},
        .address = &m->data,
    };
    return qmi_views_add(views, &view, err);
}

qmoe_status qmi_tensor_file_cut(qmi_tensor_file *file, qmi_tensor *out,
    const qmi_tensor *t, const qmi_cut *cut, qmi_error *err)
{
    const layout l = layout_of(t, cut);
    const uint64_t element = qmi_dtype_bits(t->dtype) / 8;
    const size_t n = (size_t)t->shape[0];
    qmi_views *views = NULL;
    if (cut->is_transposed)
        QMI_TRY(qmi_tensor_file_add_views(file, &views, err));
    for (size_t i = 0; i < n; i++) {
        out[i] = (qmi_tensor){
            .name = t->name,
            .dtype = t->dtype,
            .rank = 2,
            .shape = {cut->n_rows, cut->n_cols},
            .data = t->data + (l.first + i * l.matrix) * element,
            .n_bytes = (uint64_t)cut->n_rows * (uint64_t)cut->n_cols * element,
            .is_view = cut->is_transposed,
            .file = t->file,
        };
        if (views != NULL)
            QMI_TRY(add_view(views, &out[i], &l, err));
    }
    return views == NULL ? QMOE_OK : qmi_views_place(views, t->n_bytes, err);
}
