/* SPDX-License-Identifier: Apache-2.0
 * The operations made of products: linear and expert_ffn, for every kernel of
 * the list below.  A product is cut into tiles of rows; a tile's result goes
 * to the thread's work space and is combined into the destination. */
#include "cpu.h"

#include <string.h>

/* ---- one product ---- */

typedef struct product {
    const qcpu_matmul *kernel;
    const qmi_weight *w;
    int64_t mat;
    qcpu_input x;
    float *dst; /* [n_tokens, w->n_rows] */
    const float *residual;
    float alpha;
    bool relu;
} product;

static size_t y_bytes(
    const qcpu_matmul *kernel, const qmi_weight *w, int64_t n_tokens)
{
    return qcpu_align(
        (size_t)(kernel->tile_rows(w) * n_tokens) * sizeof(float));
}

/* Work space one thread needs for a tile of `w`. */
static size_t thread_bytes(
    const qcpu_matmul *kernel, const qmi_weight *w, int64_t n_tokens)
{
    return y_bytes(kernel, w, n_tokens) +
           qcpu_align(kernel->tile_scratch(w, n_tokens));
}

static size_t lanes_bytes(
    const qcpu_matmul *kernel, int64_t n_tokens, int64_t n_cols)
{
    if (!kernel->wants_lanes || n_tokens == 1)
        return 0;
    return qcpu_align(qcpu_lanes_count(n_tokens, n_cols) * sizeof(float));
}

size_t qcpu_lanes_count(int64_t n_tokens, int64_t n_cols)
{
    int64_t n_blocks = (n_tokens + QCPU_LANES - 1) / QCPU_LANES;
    return (size_t)(n_blocks * QCPU_LANES * n_cols);
}

void qcpu_make_lanes(
    float *lanes, const float *x, int64_t n_tokens, int64_t n_cols)
{
    for (int64_t t = 0; t < n_tokens; t += QCPU_LANES) {
        float *block = lanes + t * n_cols;
        for (int64_t c = 0; c < n_cols; c++)
            for (int64_t i = 0; i < QCPU_LANES; i++)
                block[c * QCPU_LANES + i] =
                    t + i < n_tokens ? x[(t + i) * n_cols + c] : 0;
    }
}

/* Input of a product; fills `lanes` (of lanes_bytes) when needed. */
static qcpu_input make_input(const qcpu_matmul *kernel, const float *rows,
    float *lanes, int64_t n_tokens, int64_t n_cols)
{
    qcpu_input x = {.rows = rows, .n_tokens = n_tokens};
    if (lanes_bytes(kernel, n_tokens, n_cols) != 0) {
        qcpu_make_lanes(lanes, rows, n_tokens, n_cols);
        x.lanes = lanes;
    }
    return x;
}

static void combine_tile(
    const product *p, const float *y, int64_t row, int64_t n_rows)
{
    for (int64_t t = 0; t < p->x.n_tokens; t++) {
        int64_t at = t * p->w->n_rows + row;
        for (int64_t r = 0; r < n_rows; r++) {
            float value = p->alpha * y[t * n_rows + r];
            if (p->relu && value < 0)
                value = 0;
            if (p->residual != NULL)
                value += p->residual[at + r];
            p->dst[at + r] = value;
        }
    }
}

static void run_tile(const product *p, int64_t row, uint8_t *scratch)
{
    int64_t n_rows = p->kernel->tile_rows(p->w);
    if (n_rows > p->w->n_rows - row)
        n_rows = p->w->n_rows - row;
    float *y = (float *)(void *)scratch;
    p->kernel->tile(y, p->w, p->mat, row, n_rows, &p->x,
        scratch + y_bytes(p->kernel, p->w, p->x.n_tokens));
    combine_tile(p, y, row, n_rows);
}

/* `scratch`: n_threads times `stride` (>= thread_bytes). */
static void run_product(
    const product *p, int n_threads, uint8_t *scratch, size_t stride)
{
    int64_t step = p->kernel->tile_rows(p->w);
    int64_t n_tiles = (p->w->n_rows + step - 1) / step;
    QCPU_PARALLEL_FOR(n_threads)
    for (int64_t i = 0; i < n_tiles; i++)
        run_tile(p, i * step, scratch + stride * (size_t)qcpu_thread());
}

/* ---- linear ---- */

static qmoe_status linear(qmi_device *device, const qmi_op_linear *o,
    const qcpu_matmul *kernel, qmi_error *err)
{
    const qmi_weight *w = o->weight->host;
    QMI_TRY(qmi_weight_check(w, o->mat, err));
    size_t stride = thread_bytes(kernel, w, o->n_tokens);
    size_t lanes = lanes_bytes(kernel, o->n_tokens, w->n_cols);
    uint8_t *scratch =
        qcpu_scratch(device, lanes + stride * (size_t)device->n_threads, err);
    if (scratch == NULL)
        return QMOE_E_NOMEM;
    const product p = {
        .kernel = kernel,
        .w = w,
        .mat = o->mat,
        .x = make_input(kernel, qmi_host_pointer(o->src),
            (float *)(void *)scratch, o->n_tokens, w->n_cols),
        .dst = qmi_host_pointer(o->dst),
        .residual = qmi_host_pointer(o->residual),
        .alpha = o->alpha,
        .relu = o->relu,
    };
    run_product(&p, device->n_threads, scratch + lanes, stride);
    return QMOE_OK;
}

/* ---- expert_ffn ---- */

/* Work space of one expert_ffn call, cut from the device's scratch. */
typedef struct expert_work {
    int32_t *order; /* [n_slots] slots (token * top_k + j) sorted by expert */
    int32_t *begin; /* [n_experts + 2] dropped first, then experts */
    float *x;       /* [most, d_model] gathered inputs */
    float *h;       /* [most, d_ff] */
    float *y;       /* [most, d_model] */
    float *lanes;   /* of x, then of h */
    uint8_t *tiles;
    size_t tile_stride;
} expert_work;

/* Sorts slots by expert, stable: order and begin of `work`. */
static int64_t group_by_expert(expert_work *work, const qmi_op_expert_ffn *o)
{
    const int32_t *expert = qmi_host_pointer(o->expert);
    int64_t n_slots = o->n_tokens * o->top_k;
    int64_t n_bins = o->wi->host->n_mats + 1;
    int64_t most = 0;
    memset(work->begin, 0, (size_t)(n_bins + 1) * sizeof *work->begin);
    for (int64_t s = 0; s < n_slots; s++) {
        int32_t *count = &work->begin[expert[s] + 2];
        if (++*count > most)
            most = *count;
    }
    for (int64_t b = 0; b < n_bins; b++)
        work->begin[b + 1] += work->begin[b];
    for (int64_t s = 0; s < n_slots; s++)
        work->order[work->begin[expert[s] + 1]++] = (int32_t)s;
    for (int64_t b = n_bins; b > 0; b--)
        work->begin[b] = work->begin[b - 1];
    work->begin[0] = 0;
    return most;
}

/* A part of n_bytes at *at; NULL while only sizes are counted. */
static void *take(uint8_t *base, size_t *at, size_t n_bytes)
{
    void *block = base == NULL ? NULL : base + *at;
    *at += qcpu_align(n_bytes);
    return block;
}

/* Largest number of slots any expert can get is not known before grouping, so
 * the work space is laid out in two steps with the same function. */
static size_t lay_out(expert_work *work, uint8_t *base,
    const qmi_op_expert_ffn *o, const qcpu_matmul *kernel, int64_t most,
    int n_threads)
{
    const qmi_weight *wi = o->wi->host, *wo = o->wo->host;
    size_t at = 0;
    work->order =
        take(base, &at, (size_t)(o->n_tokens * o->top_k) * sizeof *work->order);
    work->begin =
        take(base, &at, (size_t)(wi->n_mats + 2) * sizeof *work->begin);
    if (most == 0)
        return at;
    size_t wi_lanes = lanes_bytes(kernel, most, wi->n_cols);
    size_t wo_lanes = lanes_bytes(kernel, most, wo->n_cols);
    size_t wi_tile = thread_bytes(kernel, wi, most);
    size_t wo_tile = thread_bytes(kernel, wo, most);
    work->tile_stride = wi_tile > wo_tile ? wi_tile : wo_tile;
    work->x = take(base, &at, (size_t)(most * wi->n_cols) * sizeof(float));
    work->h = take(base, &at, (size_t)(most * wi->n_rows) * sizeof(float));
    work->y = take(base, &at, (size_t)(most * wo->n_rows) * sizeof(float));
    work->lanes = take(base, &at, wi_lanes > wo_lanes ? wi_lanes : wo_lanes);
    work->tiles = take(base, &at, work->tile_stride * (size_t)n_threads);
    return at;
}

static void expert_products(const expert_work *work, const qmi_op_expert_ffn *o,
    const qcpu_matmul *kernel, int64_t expert, int64_t n, int n_threads)
{
    const qmi_weight *wi = o->wi->host, *wo = o->wo->host;
    product p = {.kernel = kernel, .w = wi, .mat = expert, .alpha = 1.0f};
    p.x = make_input(kernel, work->x, work->lanes, n, wi->n_cols);
    p.dst = work->h;
    p.relu = true;
    run_product(&p, n_threads, work->tiles, work->tile_stride);
    p.w = wo;
    p.x = make_input(kernel, work->h, work->lanes, n, wo->n_cols);
    p.dst = work->y;
    p.relu = false;
    run_product(&p, n_threads, work->tiles, work->tile_stride);
}

static void add_weighted(
    const qmi_op_expert_ffn *o, int32_t slot, const float *y, int64_t d_model)
{
    float weight = ((const float *)qmi_host_pointer(o->weight))[slot];
    float *dst = (float *)qmi_host_pointer(o->dst) + slot / o->top_k * d_model;
    for (int64_t c = 0; c < d_model; c++)
        dst[c] += weight * y[c];
}

static qmoe_status run_group(const expert_work *work,
    const qmi_op_expert_ffn *o, const qcpu_matmul *kernel, int64_t expert,
    int n_threads, qmi_error *err)
{
    int64_t d_model = o->wo->host->n_rows;
    const int32_t *slots = work->order + work->begin[expert + 1];
    int64_t n = work->begin[expert + 2] - work->begin[expert + 1];
    if (n == 0)
        return QMOE_OK;
    QMI_TRY(qmi_weight_check(o->wi->host, expert, err));
    QMI_TRY(qmi_weight_check(o->wo->host, expert, err));
    const float *src = qmi_host_pointer(o->src);
    for (int64_t i = 0; i < n; i++)
        memcpy(work->x + i * d_model, src + slots[i] / o->top_k * d_model,
            (size_t)d_model * sizeof *src);
    expert_products(work, o, kernel, expert, n, n_threads);
    for (int64_t i = 0; i < n; i++)
        add_weighted(o, slots[i], work->y + i * d_model, d_model);
    return QMOE_OK;
}

static qmoe_status expert_ffn(qmi_device *device, const qmi_op_expert_ffn *o,
    const qcpu_matmul *kernel, qmi_error *err)
{
    expert_work work = {0};
    size_t n_bytes = lay_out(&work, NULL, o, kernel, 0, device->n_threads);
    uint8_t *scratch = qcpu_scratch(device, n_bytes, err);
    if (scratch == NULL)
        return QMOE_E_NOMEM;
    lay_out(&work, scratch, o, kernel, 0, device->n_threads);
    int64_t most = group_by_expert(&work, o);
    n_bytes = lay_out(&work, NULL, o, kernel, most, device->n_threads);
    scratch = qcpu_scratch(device, n_bytes, err);
    if (scratch == NULL)
        return QMOE_E_NOMEM;
    lay_out(&work, scratch, o, kernel, most, device->n_threads);
    group_by_expert(&work, o);

    int64_t d_model = o->wo->host->n_rows;
    size_t dst_bytes = (size_t)(o->n_tokens * d_model) * sizeof(float);
    float *dst = qmi_host_pointer(o->dst);
    const float *src = qmi_host_pointer(o->src);
    const float *residual = qmi_host_pointer(o->residual);
    if (residual == NULL)
        memset(dst, 0, dst_bytes);
    else if (residual != dst)
        memcpy(dst, residual, dst_bytes);
    for (int32_t i = 0; i < work.begin[1]; i++)
        add_weighted(o, work.order[i], src + work.order[i] / o->top_k * d_model,
            d_model);
    for (int64_t e = 0; e < o->wi->host->n_mats; e++)
        QMI_TRY(run_group(&work, o, kernel, e, device->n_threads, err));
    return QMOE_OK;
}

/* ---- variants: one per kernel ---- */

#define KERNEL_VARIANTS(kernel)                                                \
    static bool linear_takes_##kernel(                                         \
        const qmi_device *device, const qmi_op *op)                            \
    {                                                                          \
        (void)device;                                                          \
        return qcpu_matmul_##kernel.takes(op->u.linear.weight->host);          \
    }                                                                          \
    static qmoe_status linear_##kernel(                                        \
        qmi_device *device, const qmi_op *op, qmi_error *err)                  \
    {                                                                          \
        return linear(device, &op->u.linear, &qcpu_matmul_##kernel, err);      \
    }                                                                          \
    static bool experts_take_##kernel(                                         \
        const qmi_device *device, const qmi_op *op)                            \
    {                                                                          \
        (void)device;                                                          \
        return qcpu_matmul_##kernel.takes(op->u.expert_ffn.wi->host) &&        \
               qcpu_matmul_##kernel.takes(op->u.expert_ffn.wo->host);          \
    }                                                                          \
    static qmoe_status experts_##kernel(                                       \
        qmi_device *device, const qmi_op *op, qmi_error *err)                  \
    {                                                                          \
        return expert_ffn(                                                     \
            device, &op->u.expert_ffn, &qcpu_matmul_##kernel, err);            \
    }

KERNEL_VARIANTS(ternary_dict)
KERNEL_VARIANTS(blas)

const qmi_variant *qcpu_linear(size_t *n)
{
    static const qmi_variant variants[] = {
        {"ternary-dict", linear_takes_ternary_dict, linear_ternary_dict},
        {"blas", linear_takes_blas, linear_blas},
    };
    *n = sizeof variants / sizeof *variants;
    return variants;
}

const qmi_variant *qcpu_expert_ffn(size_t *n)
{
    static const qmi_variant variants[] = {
        {"ternary-dict", experts_take_ternary_dict, experts_ternary_dict},
        {"blas", experts_take_blas, experts_blas},
    };
    *n = sizeof variants / sizeof *variants;
    return variants;
}
