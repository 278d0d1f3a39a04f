/* SPDX-License-Identifier: Apache-2.0
 * Small known answers for every kernel.  In: a device that has just been
 * opened, or the first weight of a format.  Out: nothing, or an error that
 * names the kernel.  Drivers do miscompile: a device whose kernel computes
 * something else is refused by that kernel's name.  Kernels without a format
 * are compared with the reference operations when a device opens; those of a
 * format with the host's decoder, on the first weight that comes in it. */
#include "qocl_device.h"

#include <math.h>
#include <string.h>

#include "alloc.h"
#include "clblast.h"

static qmoe_status refuse(const qmi_device *device, const char *kernel,
    const char *format, double got, double want, qmi_error *err)
{
    return qmi_fail(err, QMOE_E_DEVICE,
        "OpenCL device '%s': kernel %s%s%s fails its self-test (%g instead of "
        "%g): its compiler is at fault; use another device or driver, or "
        "--backend cpu",
        device->name, kernel, format[0] != '\0' ? " of format " : "", format,
        got, want);
}

/* Spread in (-1, 1), the same everywhere, and no half but 0. */
static float pattern(int64_t i)
{
    return (float)((i * 37 + 11) % 101 - 50) / 63.0f;
}

/* Far above the rounding of a right kernel. */
static bool close_to(double got, double want, double size)
{
    return fabs(got - want) <= 1e-4 * size + 1e-30;
}

/* ---- formats ---- */

enum { TEST_ROWS = 40 };

/* Some rows of a weight as the host has them, and what the device says. */
typedef struct weight_test {
    const qmi_bound_weight *weight;
    int64_t n_rows, n_tokens;
    float *rows, *x, *got;
    qmi_buffer *src, *dst, *bias;
} weight_test;

static void weight_test_free(qmi_device *device, weight_test *t)
{
    qocl_backend.buffer_free(device, t->src);
    qocl_backend.buffer_free(device, t->dst);
    qocl_backend.buffer_free(device, t->bias);
    qmi_free(t->rows);
    qmi_free(t->x);
    qmi_free(t->got);
}

static qmoe_status weight_test_prepare(
    weight_test *t, qmi_device *device, qmi_error *err)
{
    const qmi_weight *w = t->weight->host;
    const size_t n_rows = (size_t)w->n_rows, n_cols = (size_t)w->n_cols;
    const size_t n_tokens = (size_t)t->n_tokens;
    const size_t n_decoded = (size_t)t->n_rows * n_cols;
    /* One buffer for both tests, so as large as the larger needs. */
    const size_t n_got =
        n_tokens * n_rows > n_decoded ? n_tokens * n_rows : n_decoded;
    t->rows = qmi_calloc(n_decoded, 4, "a self-test", err);
    t->x = qmi_calloc(n_tokens * n_cols, 4, "a self-test", err);
    t->got = qmi_calloc(n_got, 4, "a self-test", err);
    if (t->rows == NULL || t->x == NULL || t->got == NULL)
        return QMOE_E_NOMEM;
    for (size_t i = 0; i < n_tokens * n_cols; i++)
        t->x[i] = pattern((int64_t)i);
    /* The last rows: they are where tiles end. */
    qmi_weight_decode(w, 0, w->n_rows - t->n_rows, t->n_rows, t->rows);
    const qmi_backend *b = &qocl_backend;
    QMI_TRY(b->buffer_alloc(&t->src, device, n_tokens * n_cols * 4, err));
    QMI_TRY(b->buffer_alloc(&t->dst, device, n_got * 4, err));
    QMI_TRY(b->buffer_alloc(&t->bias, device, n_rows * 4, err));
    QMI_TRY(b->buffer_write(device, (qmi_view){.buffer = t->src}, t->x,
        n_tokens * n_cols * 4, err));
    for (size_t r = 0; r < n_rows; r++)
        t->got[r] = pattern((int64_t)r);
    return b->buffer_write(
        device, (qmi_view){.buffer = t->bias}, t->got, n_rows * 4, err);
}

static qmoe_status test_decode(
    weight_test *t, qmi_device *device, qmi_error *err)
{
    const qmi_weight *w = t->weight->host;
    const size_t n = (size_t)(t->n_rows * w->n_cols);
    const qmi_op op = {.kind = QMI_OP_DECODE,
        .u.decode = {.dst = {.buffer = t->dst},
            .weight = t->weight,
            .row = w->n_rows - t->n_rows,
            .n_rows = t->n_rows}};
    QMI_TRY(qocl_run_decode(device, &op, err));
    QMI_TRY(
        qocl_backend.buffer_read(device, t->got, op.u.decode.dst, n * 4, err));
    /* Exactly: the decoder's roundings are fixed by the format. */
    for (size_t i = 0; i < n; i++)
        if (t->got[i] != t->rows[i] && !(isnan(t->got[i]) && isnan(t->rows[i])))
            return refuse(device, "decode_rows", w->format->name,
                (double)t->got[i], (double)t->rows[i], err);
    return QMOE_OK;
}

typedef qmoe_status (*run_op)(
    qmi_device *device, const qmi_op *op, qmi_error *err);

/* One token alone, many with a bias and an activation. */
static qmoe_status test_product(weight_test *t, qmi_device *device, run_op run,
    const char *name, int64_t n_tokens, qmi_error *err)
{
    const qmi_weight *w = t->weight->host;
    const int64_t first = w->n_rows - t->n_rows;
    qocl_weight vector = {.vector = t->bias->mem};
    const qmi_bound_weight bias = {.device = &vector};
    const bool many = n_tokens > 1;
    const qmi_op op = {.kind = QMI_OP_LINEAR,
        .u.linear = {.dst = {.buffer = t->dst},
            .src = {.buffer = t->src},
            .weight = t->weight,
            .bias = many ? &bias : NULL,
            .n_tokens = n_tokens,
            .alpha = 1.0f,
            .act = many ? QMI_ACT_SILU : QMI_ACT_NONE}};
    QMI_TRY(run(device, &op, err));
    QMI_TRY(qocl_backend.buffer_read(device, t->got, op.u.linear.dst,
        (size_t)(n_tokens * w->n_rows) * 4, err));
    for (int64_t token = 0; token < n_tokens; token++)
        for (int64_t r = 0; r < t->n_rows; r++) {
            double sum = many ? (double)pattern(first + r) : 0;
            double size = fabs(sum);
            for (int64_t c = 0; c < w->n_cols; c++) {
                const double y = (double)t->x[token * w->n_cols + c] *
                                 (double)t->rows[r * w->n_cols + c];
                sum += y;
                size += fabs(y);
            }
            if (many)
                sum /= 1 + exp(-sum);
            const double got = t->got[token * w->n_rows + first + r];
            /* Sums that overflow float have no right answer to compare with. */
            if (isfinite(size) && size < 1e37 && !close_to(got, sum, size))
                return refuse(device, name, w->format->name, got, sum, err);
        }
    return QMOE_OK;
}

qmoe_status qocl_test_weight(
    qmi_device *device, const qmi_bound_weight *weight, qmi_error *err)
{
    const qmi_weight *w = weight->host;
    /* More tokens than tiles of both kinds hold: full and partial tiles are
     * met. */
    weight_test t = {
        .weight = weight,
        .n_rows = w->n_rows < TEST_ROWS ? w->n_rows : TEST_ROWS,
        .n_tokens = device->tuning.many + device->tuning.pvq_many + 1,
    };
    /* A streamed stack was not checked yet. */
    QMI_TRY(qmi_weight_check(w, 0, err));
    qmoe_status status = weight_test_prepare(&t, device, err);
    if (status == QMOE_OK)
        status = test_decode(&t, device, err);
    if (status == QMOE_OK)
        status = test_product(
            &t, device, qocl_run_linear, "product of one token", 1, err);
    if (status == QMOE_OK)
        status = test_product(&t, device, qocl_run_linear,
            "product of many tokens", t.n_tokens, err);
    /* Streamed weights do not go there. */
    if (status == QMOE_OK && device->limits.clblast_tokens != 0 &&
        w->format->dense && !qocl_is_streamed(weight))
        status = test_product(&t, device, qocl_clblast_linear,
            "clblast, product", t.n_tokens, err);
    weight_test_free(device, &t);
    return status;
}

/* ---- operations without a format ---- */

/* One buffer per backend holds all operands of all tests, at these elements. */
enum {
    N_ROWS = 5,    /* of norm, cache and attention */
    N_TOKENS = 34, /* of router and experts: several tiles for an expert */
    N_COLS = 32,
    N_FF = 12,
    N_EXPERTS = 6,
    TOP_K = 3,
    AT_DST = 0,
    AT_SRC = 1300,
    AT_BIAS = 2600,
    AT_TURNS = 2640,
    AT_LOGITS = 2700,
    AT_WEIGHT = 2960,
    AT_EXPERT = 3080, /* from here on results must agree in every bit */
    AT_CACHE = 3200,
    AT_INTS = 3280, /* from here on are operands alone */
    AT_SEQUENCE = 3290,
    AT_SPANS = 3330,
    AT_TOP = 3340, /* a row that takes top_segments two steps */
    N_ELEMENTS = 5500
};

/* Weights; the norm is the sinks, too. */
enum { NORM, UP, DOWN, GATE, BIAS, N_WEIGHTS };

typedef struct device_test {
    float data[N_ELEMENTS];
    float norm[N_COLS], wi[N_EXPERTS * N_FF * N_COLS],
        wo[N_EXPERTS * N_COLS * N_FF], gate[N_EXPERTS * N_FF * N_COLS],
        bias[N_EXPERTS];
    qmi_weight weights[N_WEIGHTS];
} device_test;

static void fill_test(device_test *t)
{
    static const int32_t spans[] = {0, 2, 0, 3, 1, 2, 3, 0, 5, 1};
    static const int32_t rows[] = {4, 0, 2, 1, 3};
    const qmi_format *f32 = qmi_format_find("f32");
    float *const data[] = {t->norm, t->wi, t->wo, t->gate, t->bias};
    const int64_t shapes[][3] = {{1, 1, N_COLS}, {N_EXPERTS, N_FF, N_COLS},
        {N_EXPERTS, N_COLS, N_FF}, {N_EXPERTS, N_FF, N_COLS},
        {1, 1, N_EXPERTS}};
    /* Operands of all operations from one pattern; integers are put on top. */
    for (int64_t i = 0; i < N_ELEMENTS; i++)
        t->data[i] = pattern(i);
    memcpy(t->data + AT_INTS, rows, sizeof rows);
    memcpy(t->data + AT_SPANS, spans, sizeof spans);
    for (int32_t i = 0; i < N_TOKENS; i++) {
        /* Sequences of seven tokens: capacity is counted anew several times. */
        const int32_t sequence = i / 7;
        memcpy(t->data + AT_SEQUENCE + i, &sequence, sizeof sequence);
    }
    for (int w = 0; w < N_WEIGHTS; w++) {
        const int64_t n = shapes[w][0] * shapes[w][1] * shapes[w][2];
        /* A bias that logits can outweigh. */
        for (int64_t i = 0; i < n; i++)
            data[w][i] = pattern(i + 7 * w) / (w == BIAS ? 16.0f : 1.0f);
        t->weights[w] = (qmi_weight){.format = f32,
            .name = "self-test",
            .n_mats = shapes[w][0],
            .n_rows = shapes[w][1],
            .n_cols = shapes[w][2],
            .parts = {{data[w], (uint64_t)n * 4}}};
    }
}

/* Elements of 4 bytes. */
static qmi_view at(qmi_buffer *b, int element)
{
    return (qmi_view){b, (uint64_t)element * 4};
}

static qmi_op norm_op(int form, qmi_buffer *b, const qmi_bound_weight *w)
{
    (void)form;
    return (qmi_op){.kind = QMI_OP_RMSNORM,
        .u.rmsnorm = {at(b, AT_DST), at(b, AT_SRC), &w[NORM], N_ROWS, 1e-6f}};
}

static qmi_op rope_op(int form, qmi_buffer *b, const qmi_bound_weight *w)
{
    (void)w;
    return (qmi_op){.kind = QMI_OP_ROPE,
        .u.rope = {.dst = at(b, AT_DST),
            .src = at(b, AT_SRC),
            .turns = at(b, AT_TURNS),
            .n_tokens = N_ROWS,
            .n_heads = 4,
            .d_head = N_COLS / 4,
            .d_rotary = 4,
            .interleaved = form != 0}};
}

static qmi_op glu_op(int form, qmi_buffer *b, const qmi_bound_weight *w)
{
    (void)w;
    return (qmi_op){.kind = QMI_OP_GLU,
        .u.glu = {.dst = at(b, AT_DST),
            .up = at(b, AT_SRC),
            .gate = at(b, AT_SRC + 5),
            .n_tokens = N_ROWS,
            .n_cols = N_COLS,
            .n_gate_cols = form != 0 ? 1 : N_COLS,
            .act = form != 0 ? QMI_ACT_SIGMOID : QMI_ACT_SILU}};
}

/* The form is the type of the rows. */
static qmi_op store_op(int form, qmi_buffer *b, const qmi_bound_weight *w)
{
    (void)w;
    return (qmi_op){.kind = QMI_OP_KV_STORE,
        .u.kv_store = {.cache = at(b, form == QMI_KV_F32 ? AT_DST : AT_CACHE),
            .src = at(b, AT_SRC),
            .rows = at(b, AT_INTS),
            .n_tokens = N_ROWS,
            .n_cols = N_COLS,
            .n_cache_rows = N_ROWS,
            .type = (qmi_kv_type)form}};
}

/* The rows that store_op has left last; as values they are read as shorter
 * ones. */
static qmi_op cached_op(int form, qmi_buffer *b, const qmi_bound_weight *w)
{
    (void)w;
    return (qmi_op){.kind = QMI_OP_ATTENTION,
        .u.attention = {.dst = at(b, AT_DST),
            .q = at(b, AT_SRC),
            .k = at(b, AT_CACHE),
            .v = at(b, AT_CACHE),
            .spans = at(b, AT_SPANS),
            .n_spans = 2,
            .n_queries = N_ROWS,
            .n_heads = 4,
            .n_kv_heads = 2,
            .d_key = 16,
            .d_value = 12,
            .max_keys = 5,
            .kv_type = (qmi_kv_type)form,
            .scale = 0.5f,
            .causal = true}};
}

/* All keys, or those of a window, fewer heads and a sink. */
static qmi_op attention_op(int form, qmi_buffer *b, const qmi_bound_weight *w)
{
    return (qmi_op){.kind = QMI_OP_ATTENTION,
        .u.attention = {.dst = at(b, AT_DST),
            .q = at(b, AT_SRC),
            .k = at(b, AT_SRC),
            .v = at(b, AT_SRC + 4),
            .spans = at(b, AT_SPANS),
            .bias = at(b, AT_BIAS),
            .sinks = form != 0 ? &w[NORM] : NULL,
            .n_spans = 2,
            .n_queries = N_ROWS,
            .n_heads = 4,
            .n_kv_heads = form != 0 ? 2 : 4,
            .d_key = 8,
            .d_value = form != 0 ? 6 : 8,
            .max_distance = 3,
            .max_keys = 5,
            .window = form != 0 ? 2 : 0,
            .scale = 0.5f,
            .causal = form != 0}};
}

/* Softmax, with a capacity, and sigmoid with a bias and groups. */
enum { ROUTE_PLAIN, ROUTE_CAPACITY, ROUTE_GROUPS };

static qmi_op route_op(int form, qmi_buffer *b, const qmi_bound_weight *w)
{
    const qmi_router groups = {.scoring = QMI_SIGMOID,
        .n_groups = 3,
        .top_groups = 2,
        .group_best = 2,
        .normalises = true,
        .scale = 2.5f};
    return (qmi_op){.kind = QMI_OP_ROUTE,
        .u.route = {.expert = at(b, AT_EXPERT),
            .weight = at(b, AT_WEIGHT),
            .logits = at(b, AT_LOGITS),
            .sequence = at(b, AT_SEQUENCE),
            .bias = form == ROUTE_GROUPS ? &w[BIAS] : NULL,
            .n_tokens = N_TOKENS,
            .n_experts = N_EXPERTS,
            .top_k = TOP_K,
            .capacity = form == ROUTE_CAPACITY ? 4 : 0,
            .router = form == ROUTE_GROUPS ? groups : (qmi_router){0}}};
}

/* Without a gate, or with one and few tokens; by the route that was taken
 * last. */
static qmi_op experts_op(int form, qmi_buffer *b, const qmi_bound_weight *w)
{
    return (qmi_op){.kind = QMI_OP_EXPERT_FFN,
        .u.expert_ffn = {.dst = at(b, AT_DST),
            .src = at(b, AT_SRC),
            .residual = at(b, AT_SRC),
            .expert = at(b, AT_EXPERT),
            .weight = at(b, AT_WEIGHT),
            .gate = form != 0 ? &w[GATE] : NULL,
            .up = &w[UP],
            .down = &w[DOWN],
            .n_tokens = form != 0 ? N_ROWS : N_TOKENS,
            .top_k = TOP_K,
            .act = form != 0 ? QMI_ACT_SILU : QMI_ACT_RELU}};
}

static qmi_op top_op(int form, qmi_buffer *b, const qmi_bound_weight *w)
{
    (void)form;
    (void)w;
    return (qmi_op){.kind = QMI_OP_TOP_LOGITS,
        .u.top_logits = {.value = at(b, AT_WEIGHT),
            .id = at(b, AT_EXPERT),
            .logits = at(b, AT_TOP),
            .n_tokens = 1,
            .n_cols = N_ELEMENTS - AT_TOP,
            .top_k = 6}};
}

/* In this order: some read what those before have written. */
static const struct {
    qmi_op (*make)(int form, qmi_buffer *b, const qmi_bound_weight *w);
    int form;
} test_ops[] = {
    {norm_op, 0},
    {rope_op, 0},
    {rope_op, 1},
    {glu_op, 0},
    {glu_op, 1},
    {store_op, QMI_KV_F32},
    {store_op, QMI_KV_F16},
    {cached_op, QMI_KV_F16},
    {store_op, QMI_KV_Q8},
    {cached_op, QMI_KV_Q8},
    {attention_op, 0},
    {attention_op, 1},
    {route_op, ROUTE_GROUPS},
    {route_op, ROUTE_PLAIN},
    {route_op, ROUTE_CAPACITY},
    {experts_op, 0},
    {experts_op, 1},
    {top_op, 0},
};
enum { N_TEST_OPS = sizeof test_ops / sizeof *test_ops };

/* One backend's buffer and bindings. */
typedef struct side {
    const qmi_backend *backend;
    qmi_device *device;
    qmi_buffer *buffer;
    qmi_bound_weight weights[N_WEIGHTS];
} side;

/* Both sides begin with the same bytes, and each operation works on what the
 * ones before have left. */
static qmoe_status side_open(side *s, const device_test *t, qmi_error *err)
{
    QMI_TRY(
        s->backend->buffer_alloc(&s->buffer, s->device, sizeof t->data, err));
    for (int i = 0; i < N_WEIGHTS; i++)
        QMI_TRY(s->backend->weight_bind(
            &s->weights[i], s->device, &t->weights[i], err));
    return s->backend->buffer_write(
        s->device, at(s->buffer, 0), t->data, sizeof t->data, err);
}

static void side_close(side *s)
{
    for (int i = 0; i < N_WEIGHTS; i++)
        s->backend->weight_unbind(s->device, &s->weights[i]);
    s->backend->buffer_free(s->device, s->buffer);
}

/* The first variant is what a session would run. */
static qmoe_status side_run(
    side *s, int i, const char **name, float *out, qmi_error *err)
{
    const qmi_op op = test_ops[i].make(test_ops[i].form, s->buffer, s->weights);
    *name = qmi_op_name(op.kind);
    size_t n;
    const qmi_variant *v = s->backend->variants(s->device, op.kind, &n);
    QMI_TRY(v->run(s->device, &op, err));
    return s->backend->buffer_read(
        s->device, out, at(s->buffer, 0), N_ELEMENTS * sizeof *out, err);
}

static qmoe_status compare_ops(
    side *device, side *reference, float *got, float *want, qmi_error *err)
{
    /* Stops at the first that differs: later ones read its results. */
    for (int i = 0; i < N_TEST_OPS; i++) {
        const char *name;
        QMI_TRY(side_run(device, i, &name, got, err));
        QMI_TRY(side_run(reference, i, &name, want, err));
        /* Integers and cache rows: as floats they would all be near zero. */
        if (memcmp(got + AT_EXPERT, want + AT_EXPERT,
                (AT_INTS - AT_EXPERT) * sizeof *got) != 0)
            return refuse(device->device, name, "", 1, 0, err);
        for (int e = 0; e < AT_EXPERT; e++)
            if (!close_to((double)got[e], (double)want[e], 1))
                return refuse(device->device, name, "", (double)got[e],
                    (double)want[e], err);
    }
    return QMOE_OK;
}

qmoe_status qocl_test_device(qmi_device *device, qmi_error *err)
{
    device_test *t = qmi_calloc(1, sizeof *t, "a self-test", err);
    float *values =
        qmi_calloc(2 * N_ELEMENTS, sizeof *values, "a self-test", err);
    side ours = {.backend = &qocl_backend, .device = device};
    side reference = {.backend = qmi_backend_reference()};
    qmoe_status status = QMOE_E_NOMEM;
    if (t != NULL && values != NULL) {
        fill_test(t);
        status = side_open(&ours, t, err);
    }
    if (status == QMOE_OK)
        status = side_open(&reference, t, err);
    if (status == QMOE_OK)
        status =
            compare_ops(&ours, &reference, values, values + N_ELEMENTS, err);
    /* Accept what was never opened. */
    side_close(&ours);
    side_close(&reference);
    qmi_free(values);
    qmi_free(t);
    return status;
}
