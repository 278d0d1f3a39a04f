/* SPDX-License-Identifier: Apache-2.0
 * Products (product.h), and what kernels without packing share.  In: tokens,
 * one matrix, work space.  Out: dst of all rows.  The input is rotated and
 * packed once, by the calling thread; then tiles of rows are independent, and
 * each is one thread's.  Where a tile ends depends on the weight alone. */
#include "product.h"

#include <string.h>

#include "cancel.h"
#include "rotation.h"

/* Below it, waking another thread costs more than it saves. */
enum { MIN_PARALLEL_NS = 6000 };

qmoe_status qcpu_product_begin(
    const qcpu_matmul *kernel, int n_threads, qmi_error *err)
{
    return kernel->begin != NULL ? kernel->begin(n_threads, err) : QMOE_OK;
}

bool qcpu_product_allowed(const qmi_device *device, const qcpu_matmul *kernel)
{
    return !device->exact_inputs || kernel->inputs == QMI_INPUTS_F32 ||
           kernel->inputs == QMI_INPUTS_INT24;
}

/* Tokens that are multiplied at a time: bounds the work space, and the time
 * that a tile takes. */
enum { MAX_TOKENS = 4096 };

static int64_t at_a_time(int64_t n_tokens)
{
    return n_tokens < MAX_TOKENS ? n_tokens : MAX_TOKENS;
}

size_t qcpu_no_packed_bytes(const qmi_weight *w, int64_t n_tokens)
{
    (void)w;
    (void)n_tokens;
    return 0;
}

void qcpu_no_pack(void *dst, const qmi_weight *w, int64_t mat, const float *x,
    int64_t n_tokens)
{
    (void)dst;
    (void)w;
    (void)mat;
    (void)x;
    (void)n_tokens;
}

size_t qcpu_no_scratch(const qmi_weight *w, int64_t n_tokens)
{
    (void)w;
    (void)n_tokens;
    return 0;
}

/* Whether x is to be rotated: kernels multiply stored rows, which are rotated;
 * those that decode by the format get the model's own rows. */
static bool is_rotated(const qcpu_matmul *kernel, const qmi_weight *w)
{
    return w->rotation != 0 && w->format->rotates && !kernel->takes_plain_x;
}

static size_t rotated_bytes(
    const qcpu_matmul *kernel, const qmi_weight *w, int64_t n_tokens)
{
    if (!is_rotated(kernel, w))
        return 0;
    return qcpu_align((size_t)(n_tokens * w->n_cols) * sizeof(float));
}

static size_t y_bytes(
    const qcpu_matmul *kernel, const qmi_weight *w, int64_t n_tokens)
{
    return qcpu_align(
        (size_t)(kernel->tile_rows(w) * n_tokens) * sizeof(float));
}

size_t qcpu_product_input_bytes(
    const qcpu_matmul *kernel, const qmi_weight *w, int64_t n_tokens)
{
    n_tokens = at_a_time(n_tokens);
    return rotated_bytes(kernel, w, n_tokens) +
           qcpu_align(kernel->packed_bytes(w, n_tokens));
}

size_t qcpu_product_thread_bytes(
    const qcpu_matmul *kernel, const qmi_weight *w, int64_t n_tokens)
{
    n_tokens = at_a_time(n_tokens);
    return y_bytes(kernel, w, n_tokens) +
           qcpu_align(kernel->tile_scratch(w, n_tokens));
}

typedef struct run {
    const qcpu_product *p;
    qcpu_tile input; /* without rows */
    int64_t step;
    uint8_t *threads;
    size_t stride, y_bytes;
} run;

/* Values whose activations wait for the residual on the stack. */
enum { ACT_VALUES = 64 };

/* y of one token into dst, with a bias or an activation. */
static void combine_activated(
    const qcpu_product *p, const float *y, int64_t at, int64_t n_rows)
{
    const float *bias = p->bias != NULL ? p->bias + at % p->w->n_rows : NULL;
    /* dst may be the residual. */
    float values[ACT_VALUES];
    for (int64_t first = 0; first < n_rows; first += ACT_VALUES) {
        const int64_t left = n_rows - first;
        const int64_t n = left < ACT_VALUES ? left : ACT_VALUES;
        for (int64_t i = 0; i < n; i++) {
            const int64_t r = first + i;
            values[i] = p->alpha * y[r] + (bias != NULL ? bias[r] : 0.0f);
        }
        qcpu_act_rows(values, values, n, p->act);
        for (int64_t i = 0; i < n; i++) {
            const int64_t r = at + first + i;
            p->dst[r] =
                p->residual != NULL ? p->residual[r] + values[i] : values[i];
        }
    }
}

/* y of one token into dst; `at` offsets of its first row. */
static void combine(
    const qcpu_product *p, const float *y, int64_t at, int64_t n_rows)
{
    float *dst = p->dst + at;
    const float alpha = p->alpha;
    if (p->bias != NULL || p->act != QMI_ACT_NONE) {
        combine_activated(p, y, at, n_rows);
        return;
    }
    /* Loops without branches inside, since the compiler vectorises each. */
    if (p->residual != NULL)
        for (int64_t r = 0; r < n_rows; r++)
            dst[r] = p->residual[at + r] + alpha * y[r];
    else
        for (int64_t r = 0; r < n_rows; r++)
            dst[r] = alpha * y[r];
}

static void run_tile(void *context, int64_t item, int thread)
{
    const run *job = context;
    const qcpu_product *p = job->p;
    qcpu_tile tile = job->input;
    uint8_t *scratch = job->threads + job->stride * (size_t)thread;
    float *y = (float *)(void *)scratch;
    /* The last tile is shorter. */
    tile.row = item * job->step;
    tile.n_rows = p->w->n_rows - tile.row;
    if (tile.n_rows > job->step)
        tile.n_rows = job->step;
    p->kernel->run(y, &tile, scratch + job->y_bytes);
    for (int64_t t = 0; t < p->n_tokens; t++)
        combine(
            p, y + t * tile.n_rows, t * p->w->n_rows + tile.row, tile.n_rows);
}

/* By the kernel's own rough speed: a fixed choice per shape, which in any case
 * changes no bit. */
static bool is_small(const qcpu_product *p)
{
    double n = (double)p->w->n_rows * (double)p->w->n_cols;
    double ns = n * (double)p->n_tokens / p->kernel->speed;
    return ns < MIN_PARALLEL_NS;
}

/* At most MAX_TOKENS of them. */
static void run_tokens(const qcpu_product *p, qmi_team *team, void *input,
    uint8_t *threads, size_t stride, qmi_error *err)
{
    const qmi_weight *w = p->w;
    const float *x = p->x;
    uint8_t *packed =
        (uint8_t *)input + rotated_bytes(p->kernel, w, p->n_tokens);
    if (is_rotated(p->kernel, w)) {
        float *rotated = input;
        /* x stays as it is: other products may use it. */
        memcpy(rotated, x, (size_t)(p->n_tokens * w->n_cols) * sizeof *rotated);
        for (int64_t t = 0; t < p->n_tokens; t++)
            qmi_rotate(rotated + t * w->n_cols, w->n_cols, w->rotation,
                w->rotation_seed);
        x = rotated;
    }
    p->kernel->pack(packed, w, p->mat, x, p->n_tokens);
    run job = {
        .p = p,
        .input = {.w = w,
            .mat = p->mat,
            .x = x,
            .packed = packed,
            .n_tokens = p->n_tokens},
        .step = p->kernel->tile_rows(w),
        .threads = threads,
        .stride = stride,
        .y_bytes = y_bytes(p->kernel, w, p->n_tokens),
    };
    int64_t n_tiles = (w->n_rows + job.step - 1) / job.step;
    if (team != NULL && !is_small(p)) {
        /* The caller asks again: cancelling leaves tiles out. */
        (void)qmi_team_run(team, n_tiles, run_tile, &job, err);
        return;
    }
    for (int64_t i = 0; i < n_tiles && !qmi_cancelled(err); i++)
        run_tile(&job, i, 0);
}

void qcpu_product_run(const qcpu_product *p, qmi_team *team, void *input,
    uint8_t *threads, size_t stride, qmi_error *err)
{
    qcpu_product part = *p;
    /* Portions of tokens, each over all rows: the wish to end early is heard in
     * between. */
    for (int64_t t = 0; t < p->n_tokens && !qmi_cancelled(err);
         t += MAX_TOKENS) {
        part.n_tokens = at_a_time(p->n_tokens - t);
        part.x = p->x + t * p->w->n_cols;
        part.dst = p->dst + t * p->w->n_rows;
        part.residual =
            p->residual != NULL ? p->residual + t * p->w->n_rows : NULL;
        run_tokens(&part, team, input, threads, stride, err);
    }
}

/* In the order of preference, as they stand in the list. */
size_t qcpu_usable_variants(
    qmi_variant *out, const qcpu_kernel_variant *all, size_t n)
{
    size_t n_usable = 0;
    for (size_t i = 0; i < n; i++)
        if ((all[i].kernel->needs & ~qmi_cpu_features()) == 0)
            out[n_usable++] = all[i].variant;
    return n_usable;
}
