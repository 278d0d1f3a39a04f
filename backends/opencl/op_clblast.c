/* SPDX-License-Identifier: Apache-2.0
 * Dense products of many tokens by CLBlast.  In: dense weights of any dtype,
 * float32 activations.  Out: dst, by products into work space and one kernel
 * that finishes them.  It multiplies float32: narrower weights are widened slab
 * by slab into work space for every product, so that they take no more memory
 * than they are stored in. */
#include "clblast.h"

/* 32 MiB of widened rows. */
enum { SLAB_BYTES = 1 << 25 };

bool qocl_clblast_supports(const qmi_device *device, const qmi_op *op)
{
    const qmi_op_linear *o = &op->u.linear;
    const qocl_weight *w = o->weight->device;
    const qocl_limits *limits = &device->limits;
    const uint64_t row_bytes = (uint64_t)o->weight->host->n_cols * 4;
    const uint64_t out_bytes =
        (uint64_t)o->n_tokens * (uint64_t)o->weight->host->n_rows * 4;
    /* Wanted at all, enough tokens, and nothing that only our kernels do:
     * rotation, streaming. */
    return limits->clblast_tokens != 0 && qocl_has_vector(o->bias) &&
           o->n_tokens >= (int64_t)limits->clblast_tokens &&
           o->weight->host->format->dense && w->entries == NULL &&
           o->weight->host->rotation == 0 && o->n_tokens <= INT32_MAX - 64 &&
           row_bytes <= limits->max_alloc && out_bytes <= limits->max_alloc;
}

/* Rows [row, row + n) of a chunk's matrix, as float32. */
static qmoe_status widen(qmi_device *device, qmi_format_id format, cl_mem src,
    uint64_t first, uint64_t n, qmi_error *err)
{
    /* Elements per row of the launch, so that it can be cut along y. */
    const int64_t x = 1 << 14;
    qocl_call call = qocl_begin(device, QOCL_GEMM_PROGRAM, QOCL_K_widen);
    qocl_arg_mem(&call, device->scratch[QOCL_PACKED].mem);
    qocl_arg_mem(&call, src);
    qocl_arg_ulong(&call, first);
    qocl_arg_ulong(&call, n);
    qocl_arg_int(&call, format == QMI_FORMAT_F16);
    return qocl_run(&call, device->tuning.group, x,
        (int64_t)((n + (uint64_t)x - 1) / (uint64_t)x), 1, err);
}

static qmoe_status multiply_chunk(qmi_device *device, const qmi_op_linear *o,
    const qocl_chunk *chunk, qmi_error *err)
{
    const qocl_weight *w = o->weight->device;
    const uint64_t n_cols = (uint64_t)o->weight->host->n_cols;
    const uint64_t n_rows = (uint64_t)chunk->n_rows;
    /* Matrices of a chunk lie back to back. */
    const uint64_t begin = (uint64_t)(o->mat - chunk->first_mat) * n_rows;
    /* f32 is multiplied where it lies, in one piece. */
    uint64_t slab =
        w->format == QMI_FORMAT_F32 ? n_rows : SLAB_BYTES / (n_cols * 4);
    slab = slab < 1 ? 1 : slab > n_rows ? n_rows : slab;
    if (w->format != QMI_FORMAT_F32)
        QMI_TRY(qocl_reserve(device, QOCL_PACKED, slab * n_cols * 4, err));
    for (uint64_t row = 0; row < n_rows; row += slab) {
        const uint64_t n = n_rows - row < slab ? n_rows - row : slab;
        const uint64_t first = (begin + row) * n_cols;
        const bool widens = w->format != QMI_FORMAT_F32;
        if (widens)
            QMI_TRY(widen(
                device, w->format, chunk->parts[0], first, n * n_cols, err));
        /* c is [tokens, rows] with all rows of the weight: a slab fills its own
         * columns. */
        const qocl_gemm g = {
            .a = o->src.buffer->mem,
            .b = widens ? device->scratch[QOCL_PACKED].mem : chunk->parts[0],
            .c = device->scratch[QOCL_RESULTS].mem,
            .m = (size_t)o->n_tokens,
            .n = (size_t)n,
            .k = (size_t)n_cols,
            .a_at = (size_t)(o->src.offset / 4),
            .b_at = widens ? 0 : (size_t)first,
            .c_at = (size_t)chunk->first_row + (size_t)row,
            .a_step = (size_t)n_cols,
            .b_step = (size_t)n_cols,
            .c_step = (size_t)o->weight->host->n_rows,
        };
        QMI_TRY(qocl_clblast_run(device, &g, err));
    }
    return QMOE_OK;
}

qmoe_status qocl_clblast_linear(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_linear *o = &op->u.linear;
    const qocl_weight *w = o->weight->device;
    const int64_t n_rows = o->weight->host->n_rows;
    QMI_TRY(qocl_build(device, QOCL_GEMM_PROGRAM, err));
    QMI_TRY(qocl_reserve(
        device, QOCL_RESULTS, (uint64_t)(o->n_tokens * n_rows) * 4, err));
    /* A matrix larger than a buffer is several chunks, each with some of its
     * rows. */
    for (size_t i = 0; i < w->n_chunks; i++) {
        const qocl_chunk *chunk = &w->chunks[i];
        if (o->mat >= chunk->first_mat &&
            o->mat < chunk->first_mat + chunk->n_mats)
            QMI_TRY(multiply_chunk(device, o, chunk, err));
    }
    /* alpha, bias, activation and residual, which CLBlast's product has no
     * place for. */
    qocl_call call =
        qocl_begin(device, QOCL_GEMM_PROGRAM, QOCL_K_finish_product);
    qocl_arg_view(&call, o->dst);
    qocl_arg_mem(&call, device->scratch[QOCL_RESULTS].mem);
    qocl_arg_view(&call, o->residual);
    qocl_arg_int(&call, n_rows);
    qocl_arg_float(&call, o->alpha);
    qocl_arg_vector(&call, o->bias);
    qocl_arg_int(&call, o->act);
    qocl_arg_int(&call, o->residual.buffer != NULL);
    return qocl_run(&call, device->tuning.group, n_rows, o->n_tokens, 1, err);
}
