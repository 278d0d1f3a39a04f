/* SPDX-License-Identifier: Apache-2.0
 * The dense formats "bf16", "f16" and "f32": one number per weight, as the
 * tensors of a plain checkpoint hold them.  In: the matrices of a stack, back
 * to back or scattered over files.  Out: float32 rows, which hold the stored
 * numbers exactly. */
#include "weight.h"

#include <assert.h>
#include <inttypes.h>

static int shape_dense(
    int64_t shape[3], int64_t n_mats, int64_t n_rows, int64_t n_cols)
{
    shape[0] = n_mats;
    shape[1] = n_rows;
    shape[2] = n_cols;
    return 3;
}

const void *qmi_weight_dense(const qmi_weight *w, int64_t mat)
{
    /* A checkpoint has one tensor per expert, wherever the writer put it;
     * stacks that we write are back to back. */
    assert(w->format->dense);
    if (w->mats != NULL)
        return w->mats[mat];
    const uint8_t *data = w->parts[0].data;
    return data + (uint64_t)mat * qmi_dense_bytes(w);
}

static void decode_dense(
    const qmi_weight *w, int64_t mat, int64_t row, int64_t n, float *dst)
{
    const uint8_t *data = qmi_weight_dense(w, mat);
    int64_t row_bytes = w->n_cols * (qmi_dtype_bits(w->format->dtype) / 8);
    qmi_widen(
        dst, data + row * row_bytes, w->format->dtype, (size_t)(n * w->n_cols));
}

/* One that is not finite would spread into every output.  An error names the
 * first, so that every run names the same. */
static qmoe_status check_dense(const qmi_weight *w, int64_t mat, qmi_error *err)
{
    const size_t n = (size_t)(w->n_rows * w->n_cols);
    const size_t at =
        qmi_first_non_finite(qmi_weight_dense(w, mat), w->format->dtype, n);
    if (at == n)
        return QMOE_OK;
    return qmi_fail(err, QMOE_E_FORMAT,
        "row %" PRId64 ", column %" PRId64 ": is not finite",
        (int64_t)at / w->n_cols, (int64_t)at % w->n_cols);
}

/* Three formats that differ in the type of an element only. */
#define DENSE(name_id, text, type)                                             \
    {                                                                          \
        .id = name_id, .name = text, .dense = true, .dtype = type,             \
        .n_parts = 1, .parts = {{NULL, type, shape_dense}},                    \
        .check = check_dense, .decode = decode_dense                           \
    }
const qmi_format qmi_format_bf16 = DENSE(QMI_FORMAT_BF16, "bf16", QMI_BF16);
const qmi_format qmi_format_f16 = DENSE(QMI_FORMAT_F16, "f16", QMI_F16);
const qmi_format qmi_format_f32 = DENSE(QMI_FORMAT_F32, "f32", QMI_F32);
