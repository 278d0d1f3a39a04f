/* SPDX-License-Identifier: Apache-2.0
 * The table of weight formats (formats.h): their kernels, and how their parts
 * become the stack that kernels are given.  In: a format's id, uploaded parts.
 * Out: pointers and strides that kernels trust: shapes were checked when the
 * weight was bound.  One line per format; NULL for `many` says that the kernel
 * for few items takes all. */
#include "formats.h"

#include "pvq.h"
#include "q2.h"
#include "ternary_dict.h"
#include "tlut.h"

/* Matrices may share one address; then one copy on the device stands for
 * all. */
int64_t qcuda_distinct_mats(const qmi_weight *host)
{
    if (host->mats == NULL)
        return host->n_mats;
    for (int64_t mat = 1; mat < host->n_mats; mat++)
        if (host->mats[mat] != host->mats[0])
            return host->n_mats;
    return 1;
}

static void describe_dense(
    qcuda_stack *s, const qmi_buffer *parts, const qmi_weight *host)
{
    s->codes = parts[0].data;
    s->mat_bytes = qmi_dense_bytes(host);
    if (qcuda_distinct_mats(host) < host->n_mats)
        s->mat_bytes = 0; /* every expert's is the first */
}

static void describe_ternary_dict(
    qcuda_stack *s, const qmi_buffer *parts, const qmi_weight *host)
{
    (void)host;
    s->codes = parts[QMI_TD_CODES].data;
    s->levels = parts[QMI_TD_LEVELS].data;
    s->row_offsets = parts[QMI_TD_ROW_OFFSETS].data;
    s->mat_offsets = parts[QMI_TD_EXPERT_OFFSETS].data;
}

static void describe_q2(
    qcuda_stack *s, const qmi_buffer *parts, const qmi_weight *host)
{
    s->codes = parts[QMI_Q2_CODES].data;
    s->levels = parts[QMI_Q2_LEVELS].data;
    s->mat_bytes =
        (uint64_t)host->n_rows * (uint64_t)qmi_q2_row_bytes(host->n_cols);
}

/* Both widths have one layout; their tiles differ in size. */
static void describe_pvq(
    qcuda_stack *s, const qmi_buffer *parts, const qmi_weight *host)
{
    const qmi_pvq_shape shape = qmi_pvq_shape_of(
        qmi_pvq_width(host->format), host->n_rows, host->n_cols);
    s->codes = parts[QMI_PVQ_CODES].data;
    s->levels = parts[QMI_PVQ_SCALES].data;
    s->tile_bytes = shape.tile_bytes;
    s->mat_bytes = (uint64_t)shape.n_tiles * shape.tile_bytes;
}

static void describe_tlut(
    qcuda_stack *s, const qmi_buffer *parts, const qmi_weight *host)
{
    const qmi_tlut_rate *rate = qmi_tlut_rate_of(host->format);
    const qmi_tlut_shape shape =
        qmi_tlut_shape_of(rate, host->n_rows, host->n_cols);
    s->codes = parts[QMI_TLUT_CODES].data;
    s->levels = parts[QMI_TLUT_SCALES].data;
    s->col_scales = parts[QMI_TLUT_COL_SCALES].data;
    s->tile_bytes = shape.tile_bytes;
    s->mat_bytes = (uint64_t)shape.n_tiles * shape.tile_bytes;
    s->k = rate->k;
    s->v = rate->v;
}

static const qcuda_format formats[QMI_N_FORMATS] = {
    [QMI_FORMAT_BF16] = {&qcuda_kernel_product_bf16,
        &qcuda_kernel_product_many_bf16, describe_dense},
    [QMI_FORMAT_F16] = {&qcuda_kernel_product_f16, NULL, describe_dense},
    [QMI_FORMAT_F32] = {&qcuda_kernel_product_f32, NULL, describe_dense},
    [QMI_FORMAT_TERNARY_DICT] = {&qcuda_kernel_product_ternary_dict, NULL,
        describe_ternary_dict},
    [QMI_FORMAT_Q2] = {&qcuda_kernel_product_q2, &qcuda_kernel_product_many_q2,
        describe_q2},
    [QMI_FORMAT_PVQ] = {&qcuda_kernel_product_pvq,
        &qcuda_kernel_product_many_pvq, describe_pvq},
    [QMI_FORMAT_PVQ8] = {&qcuda_kernel_product_pvq8,
        &qcuda_kernel_product_many_pvq8, describe_pvq},
    [QMI_FORMAT_TLUT_025] = {&qcuda_kernel_product_tlut4,
        &qcuda_kernel_product_many_tlut, describe_tlut},
    [QMI_FORMAT_TLUT_05] = {&qcuda_kernel_product_tlut4,
        &qcuda_kernel_product_many_tlut, describe_tlut},
    [QMI_FORMAT_TLUT_075] = {&qcuda_kernel_product_tlut4,
        &qcuda_kernel_product_many_tlut, describe_tlut},
    [QMI_FORMAT_TLUT_1] = {&qcuda_kernel_product_tlut2,
        &qcuda_kernel_product_many_tlut, describe_tlut},
    [QMI_FORMAT_TLUT_15] = {&qcuda_kernel_product_tlut2,
        &qcuda_kernel_product_many_tlut, describe_tlut},
    [QMI_FORMAT_TLUT_2] = {&qcuda_kernel_product_tlut1,
        &qcuda_kernel_product_many_tlut, describe_tlut},
    [QMI_FORMAT_TLUT_3] = {&qcuda_kernel_product_tlut1,
        &qcuda_kernel_product_many_tlut, describe_tlut},
    [QMI_FORMAT_TLUT_4] = {&qcuda_kernel_product_tlut1,
        &qcuda_kernel_product_many_tlut, describe_tlut},
};

/* An id past the table is that of a format no backend knows (format_ids.h). */
const qcuda_format *qcuda_format_of(int32_t id)
{
    if (id < 0 || id >= QMI_N_FORMATS || formats[id].few == NULL)
        return NULL;
    return &formats[id];
}

const int8_t *qcuda_format_table(int *n, const qmi_format *format)
{
    const qmi_tlut_rate *rate = qmi_tlut_rate_of(format);
    *n = rate != NULL ? QMI_TLUT_WINDOWS * rate->v : 0;
    return rate != NULL ? rate->table : NULL;
}
