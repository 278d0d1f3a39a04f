/* SPDX-License-Identifier: Apache-2.0
 * In: a model's shapes and a recipe.  Out: seconds per unit of each kind of
 * work in a calibrated compression.  Each piece is timed with the code that
 * does the work, on one thread and in processor time, so that other load of the
 * machine does not count.  Operands are random but fixed by their seed. */
#include "measure_work.h"

#include <math.h>

#include "alloc.h"
#include "clock.h"
#include "context.h"
#include "forward.h"
#include "hessian.h"

/* Tokens that experts take at once, and that the dense parts do: too many for
 * the caches. */
enum { TOKENS = 256, CHUNK = QMI_FORWARD_TOKENS, ROUNDS = 3 };

/* One device of one thread with buffers. */
typedef struct bench {
    const qmi_backend *backend;
    qmi_device *device;
    qmi_buffer *buffers[6];
    uint32_t state;
    qmi_error *err;
} bench;

/* A linear congruential generator (Numerical Recipes): values need no quality
 * here.  The result is in -1 .. 1. */
static float draw(bench *b)
{
    b->state = b->state * 1664525 + 1013904223;
    return (float)(int32_t)b->state * 0x1p-31f;
}

/* NULL afterwards, so that the next piece starts with no buffers. */
static void close_bench(bench *b)
{
    for (int i = 0; i < 6; i++)
        b->backend->buffer_free(b->device, b->buffers[i]);
    for (int i = 0; i < 6; i++)
        b->buffers[i] = NULL;
}

/* Buffer `i` of n floats: random ones, or zeros.  Writing it makes its pages
 * exist before the clock starts. */
static qmoe_status fill(bench *b, int i, size_t n, bool random)
{
    float *values = qmi_calloc(n, sizeof *values, "a measurement", b->err);
    if (values == NULL)
        return QMOE_E_NOMEM;
    for (size_t j = 0; random && j < n; j++)
        values[j] = draw(b);
    qmoe_status status = b->backend->buffer_alloc(
        &b->buffers[i], b->device, n * sizeof *values, b->err);
    if (status == QMOE_OK)
        status = b->backend->buffer_write(b->device,
            (qmi_view){.buffer = b->buffers[i]}, values, n * sizeof *values,
            b->err);
    qmi_free(values);
    return status;
}

static qmi_view at(const bench *b, int i)
{
    return (qmi_view){.buffer = b->buffers[i]};
}

/* The mean, as of a run, of all but the first time, when buffers are new. */
static qmoe_status time_op(double *seconds, bench *b, const qmi_op *op)
{
    QMI_TRY(qmi_run(b->backend, b->device, op, b->err));
    const double begin = qmi_thread_seconds();
    for (int i = 0; i < ROUNDS; i++)
        QMI_TRY(qmi_run(b->backend, b->device, op, b->err));
    *seconds = (qmi_thread_seconds() - begin) / ROUNDS;
    return QMOE_OK;
}

static qmoe_status time_attention(
    qmi_work_rates *out, bench *b, const qmi_attention *a)
{
    /* At most 4 heads of 256: the rate is per head and scales with the
     * width. */
    const int64_t n_heads = a->n_heads < 4 ? a->n_heads : 4;
    const int64_t d_head = a->d_key < 256 ? a->d_key : 256;
    const size_t n = (size_t)(TOKENS * n_heads * d_head);
    const qmi_attention_span span = {.q_len = TOKENS, .k_len = TOKENS};
    for (int i = 0; i < 4; i++)
        QMI_TRY(fill(b, i, n, true));
    QMI_TRY(fill(b, 4, sizeof span / sizeof(float), false));
    /* 257 = distances -128 .. 128 of each head. */
    QMI_TRY(fill(b, 5, (size_t)(n_heads * 257), true));
    QMI_TRY(b->backend->buffer_write(
        b->device, at(b, 4), &span, sizeof span, b->err));
    const qmi_op op = {.kind = QMI_OP_ATTENTION,
        .u.attention = {.dst = at(b, 0),
            .q = at(b, 1),
            .k = at(b, 2),
            .v = at(b, 3),
            .spans = at(b, 4),
            .bias = at(b, 5),
            .n_spans = 1,
            .n_queries = TOKENS,
            .n_heads = n_heads,
            .n_kv_heads = n_heads,
            .d_key = d_head,
            .d_value = d_head,
            .max_distance = 128,
            .max_keys = TOKENS,
            .scale = 1.0f / (float)d_head}};
    QMI_TRY(time_op(&out->pair, b, &op));
    /* Time per pair grows with the width of a head. */
    out->pair *= (double)a->d_key / (double)d_head;
    out->pair /= (double)(TOKENS * TOKENS * n_heads);
    return QMOE_OK;
}

static qmoe_status time_product(
    double *rate, bench *b, const qmi_weight *w, int64_t n_tokens)
{
    qmi_bound_weight bound;
    QMI_TRY(fill(b, 0, (size_t)(n_tokens * w->n_rows), false));
    QMI_TRY(fill(b, 1, (size_t)(n_tokens * w->n_cols), true));
    QMI_TRY(b->backend->weight_bind(&bound, b->device, w, b->err));
    const qmi_op op = {.kind = QMI_OP_LINEAR,
        .u.linear = {.dst = at(b, 0),
            .src = at(b, 1),
            .weight = &bound,
            .n_tokens = n_tokens,
            .alpha = 1}};
    qmoe_status status = time_op(rate, b, &op);
    b->backend->weight_unbind(b->device, &bound);
    /* Per weight and token, whatever the shape was. */
    *rate /= (double)(n_tokens * w->n_rows * w->n_cols);
    return status;
}

/* ---- a matrix ---- */

typedef struct matrix_times {
    double few, many; /* seconds for FEW and MANY rows */
    double moment;    /* per token */
} matrix_times;

/* Rows and columns that are tried. */
enum { FEW = 64, MANY = 192, NARROW = 256, MOST_COLS = 1536 };

/* The wider of the model's widths, if it does not take too long. */
static int64_t wide_of(const qmoe_model *m)
{
    int64_t n = m->shape.d_model;
    for (int32_t i = 0; i < m->n_blocks; i++)
        if (qmi_block_is_sparse(&m->blocks[i]) && m->blocks[i].ffn.d_ff > n)
            n = m->blocks[i].ffn.d_ff;
    if (n >= MOST_COLS)
        return MOST_COLS;
    return n > 2 * NARROW ? n / NARROW * NARROW : 2 * NARROW;
}

/* With fewer tokens than columns the damping makes the moments definite, as in
 * a run. */
static qmoe_status make_moments(
    qmi_hessian *h, double *moment, bench *b, int64_t n)
{
    float *x = qmi_calloc(
        (size_t)(2 * TOKENS * n), sizeof *x, "a measurement", b->err);
    if (x == NULL)
        return QMOE_E_NOMEM;
    for (int64_t i = 0; i < 2 * TOKENS * n; i++)
        x[i] = draw(b);
    /* Only the sums are timed; qmi_hessian_finish is once per matrix. */
    const double begin = qmi_thread_seconds();
    qmoe_status status = qmi_hessian_add(h, x, 2 * TOKENS, b->err);
    *moment = (qmi_thread_seconds() - begin) / (2 * TOKENS);
    qmi_free(x);
    return status == QMOE_OK ? qmi_hessian_finish(h, b->err) : status;
}

/* The shorter of two times: what disturbs one lengthens it. */
static qmoe_status time_rows(double *seconds, qmi_encoded *encoded, bench *b,
    const float *w, int64_t n_rows, const qmi_hessian *h,
    const qmi_stack_recipe *recipe)
{
    qmi_quant_result result;
    *seconds = INFINITY;
    for (int i = 0; i < 2; i++) {
        qmi_encoded_free(encoded);
        const double begin = qmi_thread_seconds();
        QMI_TRY(recipe->quantiser->run(
            encoded, &result, w, n_rows, h->n_cols, h, &recipe->quant, b->err));
        *seconds = fmin(*seconds, qmi_thread_seconds() - begin);
    }
    return QMOE_OK;
}

/* `encoded`: MANY rows of it, when it is not NULL; qmi_encoded_free. */
static qmoe_status time_matrix(matrix_times *out, qmi_encoded *encoded,
    bench *b, int64_t n, const qmi_stack_recipe *recipe)
{
    qmi_hessian h;
    qmi_encoded first = {0}, second = {0};
    QMI_TRY(qmi_hessian_create(&h, n, b->err));
    float *w =
        qmi_calloc((size_t)(MANY * n), sizeof *w, "a measurement", b->err);
    qmoe_status status = w != NULL ? QMOE_OK : QMOE_E_NOMEM;
    for (int64_t i = 0; w != NULL && i < MANY * n; i++)
        /* A sum of three draws is near a normal distribution. */
        w[i] = (draw(b) + draw(b) + draw(b)) / 16;
    if (status == QMOE_OK)
        status = make_moments(&h, &out->moment, b, n);
    if (status == QMOE_OK)
        status = time_rows(&out->few, &first, b, w, FEW, &h, recipe);
    if (status == QMOE_OK)
        status = time_rows(&out->many, &second, b, w, MANY, &h, recipe);
    qmi_encoded_free(&first);
    if (encoded != NULL)
        *encoded = second;
    else
        qmi_encoded_free(&second);
    qmi_hessian_destroy(&h);
    qmi_free(w);
    return status;
}

/* Two widths tell what grows with the square and what with the line; what does
 * not depend on the rows is the factorisation. */
static qmoe_status time_quantiser(qmi_work_rates *out, qmi_encoded *encoded,
    bench *b, int64_t n_wide, const qmi_stack_recipe *recipe)
{
    matrix_times narrow, wide;
    const double n = (double)n_wide;
    QMI_TRY(time_matrix(&narrow, NULL, b, NARROW, recipe));
    QMI_TRY(time_matrix(&wide, encoded, b, n_wide, recipe));
    const double a = (narrow.many - narrow.few) / (MANY - FEW) / NARROW;
    const double z = (wide.many - wide.few) / (MANY - FEW) / n;
    /* Seconds per row and column at width n are square * n + line: two widths
     * give both. fmax: noise must not make a rate negative. */
    out->square = fmax(z - a, 0) / (n - NARROW);
    out->line = fmax(a - out->square * NARROW, 0);
    const double rows = FEW * n * (out->square * n + out->line);
    /* What remains of the small matrix is the factorisation, which does not
     * depend on the rows. */
    out->cube = fmax(wide.few - rows, 0) / (n * n * n);
    out->moment = wide.moment / (n * n);
    return QMOE_OK;
}

/* Of the width of the token states: narrow products reach less.  The width is
 * bounded, since a wider one takes longer to time. */
static qmoe_status time_products(qmi_work_rates *out, bench *b, int64_t d_model)
{
    const int64_t n_cols = d_model < MOST_COLS / 2 ? d_model : MOST_COLS / 2;
    const int64_t n_rows = n_cols;
    uint16_t *values = qmi_calloc(
        (size_t)(n_rows * n_cols), sizeof *values, "a measurement", b->err);
    if (values == NULL)
        return QMOE_E_NOMEM;
    for (int64_t i = 0; i < n_rows * n_cols; i++)
        values[i] = qmi_f32_to_bf16(draw(b));
    /* Finite by construction: the check of a weight's values is not part of the
     * time. */
    _Atomic(uint8_t) checked = 1;
    const qmi_weight dense = {.format = qmi_format_dense(QMI_BF16),
        .name = "a measurement",
        .n_mats = 1,
        .n_rows = n_rows,
        .n_cols = n_cols,
        .parts[0] = {values, (uint64_t)(n_rows * n_cols) * sizeof *values},
        .checked = &checked};
    qmoe_status status = time_product(&out->product, b, &dense, CHUNK);
    close_bench(b);
    qmi_free(values);
    return status;
}

qmoe_status qmi_measure_rounding(
    double *seconds, const qmi_stack_recipe *recipe, qmi_error *err)
{
    enum { ROWS = 64, COLS = 512, N = ROWS * COLS };
    qmi_encoded encoded;
    qmi_quant_result result;
    *seconds = 0;
    float *w = qmi_calloc(N, sizeof *w, "a measurement", err);
    if (w == NULL)
        return QMOE_E_NOMEM;
    for (int i = 0; i < N; i++)
        /* 101 values, in an order that makes every row a different one. */
        w[i] = (float)(i * 37 % 101 - 50) / 64;
    const double begin = qmi_thread_seconds();
    qmoe_status status = recipe->quantiser->run(
        &encoded, &result, w, ROWS, COLS, NULL, &recipe->quant, err);
    *seconds = (qmi_thread_seconds() - begin) / N;
    if (status == QMOE_OK)
        qmi_encoded_free(&encoded);
    qmi_free(w);
    return status;
}

/* The order frees each piece's buffers before the next; only the encoded matrix
 * of time_quantiser is kept, as the operand of the last one. */
static qmoe_status measure(qmi_work_rates *out, bench *b,
    const qmoe_model *model, const qmi_stack_recipe *recipe)
{
    qmi_encoded encoded = {0};
    qmoe_status status = time_attention(out, b, &model->blocks[0].attention);
    close_bench(b);
    if (status == QMOE_OK)
        status = time_quantiser(out, &encoded, b, wide_of(model), recipe);
    if (status == QMOE_OK)
        status = qmi_measure_rounding(&out->rounding, recipe, b->err);
    if (status == QMOE_OK)
        status = time_products(out, b, model->shape.d_model);
    if (status == QMOE_OK) {
        uint64_t offsets[2];
        const qmi_weight w =
            qmi_encoded_weight(&encoded, offsets, &recipe->quant);
        status = time_product(&out->expert, b, &w, TOKENS);
        close_bench(b);
    }
    qmi_encoded_free(&encoded);
    return status;
}

qmoe_status qmi_measure_work(qmi_work_rates *out, const qmoe_model *model,
    const qmi_stack_recipe *recipe, qmi_error *err)
{
    const qmi_device_options options = {.n_threads = 1};
    bench b = {.err = err, .state = 1};
    qmi_stack_recipe measured = *recipe;
    if (measured.quant.rotation > NARROW)
        measured.quant.rotation = NARROW; /* has to divide both widths */
    *out = (qmi_work_rates){0};
    QMI_TRY(qmi_registry_find(qmi_context_of(model->hooks)->registry,
        &b.backend, QMI_HOST_BACKEND, err));
    QMI_TRY(b.backend->device_open(&b.device, 0, &options, err));
    qmoe_status status = measure(out, &b, model, &measured);
    b.backend->device_close(b.device);
    return status;
}
