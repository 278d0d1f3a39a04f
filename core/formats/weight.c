/* SPDX-License-Identifier: Apache-2.0
 * The table of weight formats, the dense formats, and what all formats share:
 * sizes, validation on first use, decoding. */
#include "weight.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>

#include "alloc.h"
#include "pvq.h"
#include "q2.h"
#include "ternary_dict.h"

static int shape_dense(
    int64_t shape[3], int64_t n_mats, int64_t n_rows, int64_t n_cols)
{
    shape[0] = n_mats;
    shape[1] = n_rows;
    shape[2] = n_cols;
    return 3;
}

static void decode_dense(
    const qmi_weight *w, int64_t mat, int64_t row, int64_t n, float *dst)
{
    const uint8_t *data = qmi_weight_dense(w, mat);
    int64_t row_bytes = w->n_cols * (qmi_dtype_bits(w->format->dtype) / 8);
    qmi_widen(
        dst, data + row * row_bytes, w->format->dtype, (size_t)(n * w->n_cols));
}

/* One of them would spread into every output. */
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

#define DENSE(text, type)                                                      \
    {                                                                          \
        .name = text, .dense = true, .dtype = type, .n_parts = 1,              \
        .parts = {{NULL, type, shape_dense}}, .check = check_dense,            \
        .decode = decode_dense                                                 \
    }
static const qmi_format format_bf16 = DENSE("bf16", QMI_BF16);
static const qmi_format format_f16 = DENSE("f16", QMI_F16);
static const qmi_format format_f32 = DENSE("f32", QMI_F32);

static const qmi_format *const formats[] = {
    &format_bf16,
    &format_f16,
    &format_f32,
    &qmi_format_ternary_dict,
    &qmi_format_q2,
    &qmi_format_pvq,
    &qmi_format_pvq8,
};
enum { N_FORMATS = sizeof formats / sizeof *formats };

const qmi_format *qmi_format_at(size_t index)
{
    return index < N_FORMATS ? formats[index] : NULL;
}

const qmi_format *qmi_format_find(const char *name)
{
    for (size_t i = 0; i < N_FORMATS; i++)
        if (strcmp(formats[i]->name, name) == 0)
            return formats[i];
    return NULL;
}

const qmi_format *qmi_format_dense(qmi_dtype dtype)
{
    for (size_t i = 0; i < N_FORMATS; i++)
        if (formats[i]->dense && formats[i]->dtype == dtype)
            return formats[i];
    return NULL;
}

uint64_t qmi_stack_size(const qmi_format *format, int64_t n_mats,
    int64_t n_rows, int64_t n_cols, double variable_bits)
{
    double weights = (double)n_mats * (double)n_rows * (double)n_cols;
    uint64_t total = 0;
    for (int i = 0; i < format->n_parts; i++) {
        int64_t shape[3];
        int rank = format->parts[i].shape(shape, n_mats, n_rows, n_cols);
        uint64_t n = qmi_dtype_bits(format->parts[i].dtype) / 8;
        bool fits = true;
        if (format->variable && i == format->variable_part) {
            n = (uint64_t)fmin(weights * variable_bits / 8, 0x1p63);
        } else {
            for (int j = 0; j < rank; j++)
                fits = fits && qmi_mul_u64(n, (uint64_t)shape[j], &n);
        }
        if (!fits || !qmi_add_u64(total, n, &total))
            return UINT64_MAX;
    }
    return total;
}

const void *qmi_weight_dense(const qmi_weight *w, int64_t mat)
{
    assert(w->format->dense);
    if (w->mats != NULL)
        return w->mats[mat];
    const uint8_t *data = w->parts[0].data;
    int64_t element_bytes = qmi_dtype_bits(w->format->dtype) / 8;
    return data + mat * w->n_rows * w->n_cols * element_bytes;
}

/* Of one dense matrix. */
static uint64_t dense_bytes(const qmi_weight *w)
{
    return (uint64_t)w->n_rows * (uint64_t)w->n_cols *
           (qmi_dtype_bits(w->format->dtype) / 8);
}

qmoe_status qmi_weight_check(const qmi_weight *w, int64_t mat, qmi_error *err)
{
    if (mat < 0 || mat >= w->n_mats)
        return qmi_fail(err, QMOE_E_INVALID,
            "'%s': no matrix %" PRId64 " among %" PRId64, w->name, mat,
            w->n_mats);
    if (w->fetch != NULL)
        QMI_TRY(
            w->fetch(w->owner, qmi_weight_dense(w, mat), dense_bytes(w), err));
    if (w->format->check == NULL)
        return QMOE_OK;
    /* Two threads may both check: the result is the same. */
    if (w->checked != NULL &&
        atomic_load_explicit(&w->checked[mat], memory_order_acquire) != 0)
        return QMOE_OK;
    qmoe_status status = w->format->check(w, mat, err);
    if (status != QMOE_OK)
        return qmi_error_prefix(
            err, status, "'%s', matrix %" PRId64, w->name, mat);
    if (w->checked != NULL)
        atomic_store_explicit(&w->checked[mat], 1, memory_order_release);
    return QMOE_OK;
}

uint64_t qmi_weight_bytes(const qmi_weight *w)
{
    uint64_t n_bytes = 0;
    for (int i = 0; i < w->format->n_parts; i++)
        n_bytes += w->parts[i].n_bytes;
    return n_bytes;
}

void qmi_weight_decode(
    const qmi_weight *w, int64_t mat, int64_t row, int64_t n, float *dst)
{
    w->format->decode(w, mat, row, n, dst);
}
