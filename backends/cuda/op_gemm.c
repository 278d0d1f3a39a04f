/* SPDX-License-Identifier: Apache-2.0
 * Dense products of many tokens.  Activations must not be rounded to bf16, so
 * each is split into three (kernels/pack.cu) and three products are added up,
 * the smallest first.  Activations and sums lie in work space, so that their
 * alignment is one of the shape alone: a library chooses by it, and results
 * must not depend on where operands lie. */
#include "op_gemm.h"

#include "launches.h"
#include "portions.h"

enum {
    /* From so many tokens on.  A bf16 weight is read three times here, and once
     * per 32 tokens by product_many; an f32 weight once, and once per 4 tokens
     * by the other kernel.  Not measured. */
    LEAST_TOKENS_BF16 = 97,
    LEAST_TOKENS_F32 = 17,
    /* Tensor cores cut when they add, which over long sums of one sign would
     * leave the bound: so many columns are one product, as in product_many, and
     * products are added up in additions that round. */
    CHAIN_COLS_BF16 = 256,
    SLAB_TOKENS = 2048, /* at a time, which bounds the work space */
    WORKSPACE_BYTES = 32 << 20,
    ELEMENT_THREADS = 256,
    MOST_BLOCKS = 4096
};

/* ---- what is possible ---- */

static const qcuda_stack *stack_of(const qmi_op_linear *o)
{
    return &qcuda_weight_of(o->weight)->stack;
}

/* Callers have asked for bf16 or f32; f16 never comes here. */
static qdrv_element type_of(const qcuda_stack *w)
{
    return w->format == QMI_FORMAT_BF16 ? QDRV_BF16 : QDRV_F32;
}

/* Rows of 16 bytes begin where the driver wants them. */
static bool is_aligned(const qcuda_stack *w)
{
    return w->n_cols % (w->format == QMI_FORMAT_BF16 ? 8 : 4) == 0;
}

/* Where product_many is expected to be slower; what the library cannot do goes
 * to the kernels. */
bool qcuda_gemm_supports(const qmi_device *device, const qmi_op *op)
{
    const qmi_op_linear *o = &op->u.linear;
    const qcuda_stack *w = stack_of(o);
    const bool wanted =
        (w->format == QMI_FORMAT_BF16 && o->n_tokens >= LEAST_TOKENS_BF16) ||
        (w->format == QMI_FORMAT_F32 && o->n_tokens >= LEAST_TOKENS_F32);
    return wanted && w->rotation == 0 && is_aligned(w) &&
           qdrv_has_gemm(device->driver);
}

/* ---- one product ---- */

typedef struct product {
    const void *x;            /* [n, cols] */
    float *y;                 /* [n, rows] */
    int64_t n, begin, n_cols; /* columns that are summed up */
    float alpha, beta;
} product;

/* y = alpha x W^T + beta y, all row by row.  The driver counts by columns, and
 * a matrix row by row is its transpose column by column: W is its a [cols,
 * rows], x its b [cols, n], y its c [rows, n]. */
static qmoe_status multiply(qmi_device *device, const qmi_op_linear *o,
    const product *p, qmi_error *err)
{
    const qcuda_stack *w = stack_of(o);
    const int64_t at = p->begin * (type_of(w) == QDRV_BF16 ? 2 : 4);
    void *workspace;
    QMI_TRY(qcuda_reserve(
        &workspace, device, QCUDA_WORKSPACE, WORKSPACE_BYTES, err));
    const qdrv_gemm_args args = {
        .type = type_of(w),
        .a = w->codes + (uint64_t)o->mat * w->mat_bytes + at,
        .b = (const char *)p->x + at,
        .c = p->y,
        .m = w->n_rows,
        .n = (int32_t)p->n,
        .k = (int32_t)p->n_cols,
        .a_step = w->n_cols,
        .b_step = w->n_cols,
        .c_step = w->n_rows,
        .alpha = p->alpha,
        .beta = p->beta,
        .workspace = workspace,
        .workspace_bytes = WORKSPACE_BYTES,
    };
    const char *failure = qdrv_gemm(device->driver, &args);
    return failure == NULL ? QMOE_OK
                           : qcuda_fail(device, "a product", failure, err);
}

/* ---- a slab of tokens ---- */

typedef struct slab {
    int64_t n;
    const float *src, *residual; /* residual or NULL */
    float *dst, *sums;
} slab;

/* Threads take more elements in turn where blocks are not enough. */
static qcuda_grid element_grid(int64_t n)
{
    const int64_t blocks = (n + ELEMENT_THREADS - 1) / ELEMENT_THREADS;
    return (qcuda_grid){
        .x = (uint32_t)(blocks < MOST_BLOCKS ? blocks : MOST_BLOCKS),
        .y = 1,
        .z = 1,
        .threads = ELEMENT_THREADS,
    };
}

static qmoe_status multiply_bf16(
    qmi_device *device, const qmi_op_linear *o, const slab *s, qmi_error *err)
{
    const int64_t n_cols = stack_of(o)->n_cols, n = s->n * n_cols;
    void *parts;
    /* Three bf16 of every activation (kernels/pack.cu). */
    QMI_TRY(
        qcuda_reserve(&parts, device, QCUDA_SPLIT, (uint64_t)n * 3 * 2, err));
    const qcuda_split_args args = {.dst = parts, .src = s->src, .n = n};
    QMI_TRY(
        qcuda_launch(device, &qcuda_kernel_split, element_grid(n), &args, err));
    /* A library's call gives the driver work behind the recorder's back. */
    QMI_TRY(qcuda_flush(device, err));
    product p = {.y = s->sums, .n = s->n, .alpha = 1.0f};
    /* The smallest part first, so that the large sums are rounded last and
     * least; beta 0 for the very first product, which overwrites. */
    for (int i = 2; i >= 0; i--) {
        p.x = (uint16_t *)parts + i * n;
        for (p.begin = 0; p.begin < n_cols; p.begin += CHAIN_COLS_BF16) {
            const int64_t left = n_cols - p.begin;
            p.n_cols = left < CHAIN_COLS_BF16 ? left : CHAIN_COLS_BF16;
            QMI_TRY(multiply(device, o, &p, err));
            p.beta = 1.0f;
        }
    }
    return QMOE_OK;
}

static qmoe_status multiply_f32(
    qmi_device *device, const qmi_op_linear *o, const slab *s, qmi_error *err)
{
    const uint64_t n_bytes = (uint64_t)s->n * (uint64_t)stack_of(o)->n_cols * 4;
    const void *x = s->src;
    /* cudaMalloc's alignment: every slab then looks alike to the library. */
    if ((uintptr_t)x % 256 != 0) {
        void *aligned;
        QMI_TRY(qcuda_reserve(&aligned, device, QCUDA_SPLIT, n_bytes, err));
        QMI_TRY(qcuda_copy(device, aligned, x, n_bytes, err));
        x = aligned;
    }
    QMI_TRY(qcuda_flush(device, err));
    const product p = {.x = x,
        .y = s->sums,
        .n = s->n,
        .n_cols = stack_of(o)->n_cols,
        .alpha = 1.0f};
    return multiply(device, o, &p, err);
}

static qmoe_status run_slab(
    qmi_device *device, const qmi_op_linear *o, slab s, qmi_error *err)
{
    const int64_t n = s.n * stack_of(o)->n_rows;
    /* A slab stays whole: libraries choose kernels by the number of tokens. */
    const qcuda_work work = {
        .n_items = o->n_tokens,
        .n_units = 1,
        .cost = (double)n * stack_of(o)->n_cols,
    };
    int64_t all;
    void *sums;
    QMI_TRY(qcuda_begin_portion(&all, device, &work, 0, err));
    QMI_TRY(qcuda_reserve(&sums, device, QCUDA_SUMS, (uint64_t)n * 4, err));
    s.sums = sums;
    if (type_of(stack_of(o)) == QDRV_BF16)
        QMI_TRY(multiply_bf16(device, o, &s, err));
    else
        QMI_TRY(multiply_f32(device, o, &s, err));
    /* What follows the products once all sums are there, as in the other
     * variants. */
    const qcuda_finish_args args = {
        .dst = s.dst,
        .residual = s.residual,
        .sum = s.sums,
        .bias = o->bias != NULL ? qcuda_weight_of(o->bias)->vector : NULL,
        .n = n,
        .n_cols = stack_of(o)->n_rows,
        .alpha = o->alpha,
        .act = o->act,
    };
    return qcuda_launch(
        device, &qcuda_kernel_finish, element_grid(n), &args, err);
}

/* ---- the variants ---- */

qmoe_status qcuda_gemm_linear(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_linear *o = &op->u.linear;
    const int64_t n_rows = stack_of(o)->n_rows, n_cols = stack_of(o)->n_cols;
    const float *src = qcuda_pointer(o->src);
    const float *residual = qcuda_pointer(o->residual);
    float *dst = qcuda_pointer(o->dst);
    /* Slabs bound the work space, whatever the number of tokens. */
    for (int64_t t = 0; t < o->n_tokens; t += SLAB_TOKENS) {
        const int64_t left = o->n_tokens - t;
        const slab s = {
            .n = left < SLAB_TOKENS ? left : SLAB_TOKENS,
            .src = src + t * n_cols,
            .residual = residual != NULL ? residual + t * n_rows : NULL,
            .dst = dst + t * n_rows,
        };
        QMI_TRY(run_slab(device, o, s, err));
    }
    return QMOE_OK;
}

/* ---- to compare with ---- */

/* What the library alone would do with bf16 activations: a row of `bench
 * kernels`, which no model runs. */
static bool supports_bf16(const qmi_device *device, const qmi_op *op)
{
    const qmi_op_linear *o = &op->u.linear;
    const qcuda_stack *w = stack_of(o);
    return w->format == QMI_FORMAT_BF16 && w->rotation == 0 && is_aligned(w) &&
           o->n_tokens <= INT32_MAX && o->residual.buffer == NULL &&
           o->act == QMI_ACT_NONE && o->bias == NULL &&
           o->src.offset % 16 == 0 && o->dst.offset % 16 == 0 &&
           qdrv_has_gemm(device->driver);
}

static qmoe_status run_bf16(
    qmi_device *device, const qmi_op *op, qmi_error *err)
{
    const qmi_op_linear *o = &op->u.linear;
    QMI_TRY(qcuda_flush(device, err));
    const product p = {.x = qcuda_pointer(o->src),
        .y = qcuda_pointer(o->dst),
        .n = o->n_tokens,
        .n_cols = stack_of(o)->n_cols,
        .alpha = o->alpha};
    return multiply(device, o, &p, err);
}

const qmi_variant *qcuda_gemm_baselines(
    const qmi_device *device, qmi_op_kind kind, size_t *n)
{
    static const qmi_variant variant = {"cublas-bf16", supports_bf16, run_bf16};
    (void)device;
    *n = kind == QMI_OP_LINEAR && qdrv_gemm_name() != NULL;
    return *n != 0 ? &variant : NULL;
}
