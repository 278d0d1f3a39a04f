/* SPDX-License-Identifier: Apache-2.0
 * Long operations in portions (backends/cuda/portions.h) on the emulated device,
 * between whose launches and waits this program looks: portions change no bit, a
 * wish to end early is seen before the next, a step is not cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "cancel.h"
#include "driver.h"
#include "portions.h"

const qmi_backend *qmoe_backend_entry(void);

enum {
    LONG = 200,
    VERY_LONG = 2100,
    TOP_K = 2,
    MAX_BUFFERS = 8,
    MAX_WEIGHTS = 3
};

/* ---- what the driver is given ---- */

static struct qmi_cancel cancel;
static int n_launches, n_waits; /* of the operation at hand */
static int cancel_at;           /* launch that raises the flag; 0: none */

const char *__real_qdrv_launch(qdrv_device *device, const qcuda_entry *kernel,
    qcuda_grid grid, const void *args);
const char *__wrap_qdrv_launch(qdrv_device *device, const qcuda_entry *kernel,
    qcuda_grid grid, const void *args);
const char *__real_qdrv_sync(qdrv_device *device);
const char *__wrap_qdrv_sync(qdrv_device *device);

const char *__wrap_qdrv_launch(qdrv_device *device, const qcuda_entry *kernel,
    qcuda_grid grid, const void *args)
{
    if (++n_launches == cancel_at)
        atomic_store(&cancel.wanted, true);
    return __real_qdrv_launch(device, kernel, grid, args);
}

const char *__wrap_qdrv_sync(qdrv_device *device)
{
    n_waits++;
    return __real_qdrv_sync(device);
}

/* ---- an operation on a device of its own ---- */

typedef struct bench {
    qmi_device *device;
    qmi_error err;
    qmi_op op;
    qmi_buffer *buffers[MAX_BUFFERS];
    size_t n_buffers;
    qmi_weight host[MAX_WEIGHTS];
    void *parts[MAX_WEIGHTS][QMI_MAX_PARTS];
    qmi_bound_weight bound[MAX_WEIGHTS];
    size_t n_weights;
    qmi_view dst;
    size_t n_dst; /* floats */
} bench;

static void need(bench *b, qmoe_status status)
{
    if (status != QMOE_OK)
        fail_msg("%s", b->err.text);
}

static qmi_view add(bench *b, const void *data, size_t n_bytes)
{
    const qmi_backend *backend = qmoe_backend_entry();
    assert_true(b->n_buffers < MAX_BUFFERS);
    qmi_buffer **buffer = &b->buffers[b->n_buffers++];
    need(b, backend->buffer_alloc(buffer, b->device, n_bytes, &b->err));
    const qmi_view at = {.buffer = *buffer};
    if (data != NULL)
        need(b, backend->buffer_write(b->device, at, data, n_bytes, &b->err));
    return at;
}

/* The same numbers in every run. */
static float number(size_t i)
{
    const uint32_t x = (uint32_t)i * 2654435761u;
    return (float)(int32_t)(x ^ x >> 15) / 2147483648.0f;
}

static qmi_view add_numbers(bench *b, size_t n)
{
    float *data = malloc(n * sizeof *data);
    assert_non_null(data);
    for (size_t i = 0; i < n; i++)
        data[i] = number(i + 17 * b->n_buffers);
    const qmi_view view = add(b, data, n * sizeof *data);
    free(data);
    return view;
}

static void add_dst(bench *b, qmi_view *dst, int64_t n)
{
    b->n_dst = (size_t)n;
    b->dst = *dst = add(b, NULL, b->n_dst * sizeof(float));
}

static size_t part_bytes(const qmi_weight *w, int part)
{
    const qmi_part_spec *spec = &w->format->parts[part];
    int64_t shape[3] = {w->n_mats, w->n_rows, w->n_cols};
    if (w->format->dense)
        return (size_t)(shape[0] * shape[1] * shape[2]) * sizeof(uint16_t);
    const int rank = spec->shape(shape, w->n_mats, w->n_rows, w->n_cols);
    size_t n = qmi_dtype_bits(spec->dtype) / 8;
    for (int i = 0; i < rank; i++)
        n *= (size_t)shape[i];
    return n;
}

/* Signs and exponents of moderate numbers in bf16 and f16; as codes of pvq they
 * are as good as any. */
static void *numbers_of_16_bits(size_t n_bytes)
{
    const size_t n = (n_bytes + 1) / sizeof(uint16_t);
    uint16_t *values = malloc(n * sizeof *values);
    assert_non_null(values);
    for (size_t i = 0; i < n; i++)
        values[i] = (uint16_t)(0x3c00 | (i * 40503u >> 3 & 0x81ff));
    return values;
}

static const qmi_bound_weight *add_weight(bench *b, const char *format,
    int64_t n_mats, int64_t n_rows, int64_t n_cols)
{
    const size_t at = b->n_weights++;
    qmi_weight *w = &b->host[at];
    *w = (qmi_weight){.format = qmi_format_find(format),
        .name = "a test",
        .n_mats = n_mats,
        .n_rows = n_rows,
        .n_cols = n_cols};
    for (int p = 0; p < w->format->n_parts; p++) {
        const size_t n_bytes = part_bytes(w, p);
        b->parts[at][p] = numbers_of_16_bits(n_bytes);
        w->parts[p] = (qmi_part){.data = b->parts[at][p], .n_bytes = n_bytes};
    }
    need(b, qmoe_backend_entry()->weight_bind(
                &b->bound[at], b->device, &b->host[at], &b->err));
    return &b->bound[at];
}

/* Two sequences, the second short; two heads that share keys. */
static void make_attention(bench *b, int64_t n)
{
    enum { HEADS = 2, D_HEAD = 8, WIDTH = HEADS * D_HEAD };
    const int32_t first = (int32_t)(n - n / 8), rest = (int32_t)n - first;
    const qmi_attention_span spans[] = {
        {0, first, 0, first, 0}, {first, rest, first, rest, 0}};
    qmi_op_attention *o = &b->op.u.attention;
    const size_t n_numbers = (size_t)n * WIDTH;
    b->op.kind = QMI_OP_ATTENTION;
    *o = (qmi_op_attention){.q = add_numbers(b, n_numbers),
        .k = add_numbers(b, (size_t)n * D_HEAD),
        .v = add_numbers(b, (size_t)n * D_HEAD),
        .spans = add(b, spans, sizeof spans),
        .n_spans = 2,
        .n_queries = n,
        .n_heads = HEADS,
        .n_kv_heads = 1,
        .d_key = D_HEAD,
        .d_value = D_HEAD,
        .max_keys = first,
        .scale = 1.0f,
        .causal = true};
    add_dst(b, &o->dst, n * WIDTH);
}

/* So few rows that the columns are split among blocks. */
static void make_linear(bench *b, int64_t n, const char *format, int64_t n_cols)
{
    enum { ROWS = 40 };
    qmi_op_linear *o = &b->op.u.linear;
    b->op.kind = QMI_OP_LINEAR;
    *o = (qmi_op_linear){.src = add_numbers(b, (size_t)(n * n_cols)),
        .residual = add_numbers(b, (size_t)n * ROWS),
        .weight = add_weight(b, format, 1, ROWS, n_cols),
        .n_tokens = n,
        .alpha = 0.7f};
    add_dst(b, &o->dst, n * ROWS);
}

static void make_own_bf16(bench *b, int64_t n)
{
    make_linear(b, n, "bf16", 512);
}

static void make_own_f16(bench *b, int64_t n)
{
    make_linear(b, n, "f16", 64);
}

static void make_library(bench *b, int64_t n)
{
    make_linear(b, n, "bf16", 8);
}

/* The last expert gets few pairs. */
static void make_ffn(bench *b, int64_t n, const char *format, int64_t d_model)
{
    enum { EXPERTS = 6, INNER = 64 };
    int32_t expert[LONG * TOP_K];
    qmi_op_expert_ffn *o = &b->op.u.expert_ffn;
    assert_true(n <= LONG);
    for (int32_t i = 0; i < n * TOP_K; i++)
        expert[i] = i % 11 == 0   ? -1
                    : i % 50 == 7 ? EXPERTS - 1
                                  : (i * i / 3) % (EXPERTS - 1);
    b->op.kind = QMI_OP_EXPERT_FFN;
    *o = (qmi_op_expert_ffn){.src = add_numbers(b, (size_t)(n * d_model)),
        .expert = add(b, expert, (size_t)n * TOP_K * sizeof *expert),
        .weight = add_numbers(b, (size_t)n * TOP_K),
        .act = QMI_ACT_SILU,
        .gate = add_weight(b, format, EXPERTS, INNER, d_model),
        .up = add_weight(b, format, EXPERTS, INNER, d_model),
        .down = add_weight(b, format, EXPERTS, d_model, INNER),
        .n_tokens = n,
        .top_k = TOP_K};
    add_dst(b, &o->dst, n * d_model);
}

static void make_bf16_experts(bench *b, int64_t n)
{
    make_ffn(b, n, "bf16", 64);
}

static void make_pvq_experts(bench *b, int64_t n)
{
    make_ffn(b, n, "pvq", 1024);
}

typedef struct long_op {
    const char *name;
    void (*make)(bench *b, int64_t n);
    int64_t n;           /* items */
    const char *library; /* QMOE_CUBLAS; NULL: as it is */
    const char *portion; /* a fraction of its work */
    int cancel_at;       /* a first launch of a portion */
    int after;           /* launches of that portion behind it */
} long_op;

static const long_op long_ops[] = {
    {"attention", make_attention, LONG, NULL, "portion=4000000", 2, 0},
    {"a product, tensor cores", make_own_bf16, LONG, "off", "portion=1500000",
        1, 1},
    {"a product, few items", make_own_f16, LONG, "off", "portion=200000", 2, 0},
    {"a product, library", make_library, VERY_LONG, NULL, "portion=100000", 1,
        1},
    /* Behind the two that group. */
    {"experts", make_bf16_experts, LONG, NULL, "portion=500000", 3, 2},
    {"experts in pvq", make_pvq_experts, 70, NULL, "portion=2500000", 3, 2},
};
enum { N_LONG_OPS = sizeof long_ops / sizeof *long_ops };
static const char unbounded[] = "portion=1000000000000";

static void begin(bench *b, const long_op *l, int64_t n, const char *portion)
{
    const qmi_device_options options = {.n_threads = 1};
    *b = (bench){.err = {.cancel = &cancel}};
    atomic_store(&cancel.wanted, false);
    setenv("QMOE_CUDA_EMU_LIMITS", portion, 1);
    if (l->library != NULL)
        setenv("QMOE_CUBLAS", l->library, 1);
    need(
        b, qmoe_backend_entry()->device_open(&b->device, 0, &options, &b->err));
    l->make(b, n);
}

static void end(bench *b)
{
    const qmi_backend *backend = qmoe_backend_entry();
    for (size_t i = 0; i < b->n_buffers; i++)
        backend->buffer_free(b->device, b->buffers[i]);
    for (size_t i = 0; i < b->n_weights; i++) {
        backend->weight_unbind(b->device, &b->bound[i]);
        for (int p = 0; p < QMI_MAX_PARTS; p++)
            free(b->parts[i][p]);
    }
    backend->device_close(b->device);
    unsetenv("QMOE_CUDA_EMU_LIMITS");
    unsetenv("QMOE_CUBLAS");
}

static qmoe_status run(bench *b)
{
    n_launches = n_waits = 0;
    return qmi_run(qmoe_backend_entry(), b->device, &b->op, &b->err);
}

/* Its result, to be freed. */
static float *result_of(const long_op *l, int64_t n, const char *portion)
{
    bench b;
    begin(&b, l, n, portion);
    float *result = malloc(b.n_dst * sizeof *result);
    assert_non_null(result);
    need(&b, run(&b));
    need(&b, qmoe_backend_entry()->buffer_read(
                 b.device, result, b.dst, b.n_dst * sizeof *result, &b.err));
    end(&b);
    return result;
}

static size_t result_bytes(const long_op *l, int64_t n)
{
    bench b;
    begin(&b, l, n, unbounded);
    end(&b);
    return b.n_dst * sizeof(float);
}

/* ---- tests ---- */

static void test_same_bits(void **state)
{
    (void)state;
    for (int i = 0; i < N_LONG_OPS; i++) {
        const long_op *l = &long_ops[i];
        float *whole = result_of(l, l->n, unbounded);
        const int n_whole = n_launches;
        assert_int_equal(n_waits, 0);
        float *cut = result_of(l, l->n, l->portion);
        print_message(
            "%s: %d launches, %d waits\n", l->name, n_launches, n_waits);
        assert_true(n_waits > 0);
        /* A library's slabs are what they were. */
        assert_true(n_launches > n_whole || l->make == make_library);
        assert_memory_equal(whole, cut, result_bytes(l, l->n));
        free(whole);
        free(cut);
    }
}

static void test_cancelled(void **state)
{
    (void)state;
    for (int i = 0; i < N_LONG_OPS; i++) {
        const long_op *l = &long_ops[i];
        bench b;
        begin(&b, l, l->n, l->portion);
        cancel_at = l->cancel_at;
        assert_int_equal(run(&b), QMOE_E_CANCELLED);
        cancel_at = 0;
        print_message("%s: %d launches\n", l->name, n_launches);
        assert_in_range(n_launches, l->cancel_at, l->cancel_at + l->after);
        /* The device can be used again. */
        atomic_store(&cancel.wanted, false);
        need(&b, run(&b));
        need(&b, qmoe_backend_entry()->sync(b.device, &b.err));
        end(&b);
    }
}

/* However small a portion: what a graph holds stays what it was. */
static void test_step_is_whole(void **state)
{
    (void)state;
    for (int i = 0; i < N_LONG_OPS; i++) {
        const long_op *l = &long_ops[i];
        const bool pairs = strstr(l->name, "experts") != NULL;
        const int64_t n = QCUDA_STEP_ITEMS / (pairs ? TOP_K : 1);
        free(result_of(l, n, unbounded));
        const int n_whole = n_launches;
        free(result_of(l, n, "portion=1"));
        assert_int_equal(n_launches, n_whole);
        assert_int_equal(n_waits, 0);
    }
}

/* A token's experts, each with a gate, need no list: three products and their
 * sum. */
static void test_one_token(void **state)
{
    (void)state;
    for (int i = 0; i < N_LONG_OPS; i++)
        if (strstr(long_ops[i].name, "experts") != NULL) {
            free(result_of(&long_ops[i], 1, unbounded));
            assert_int_equal(n_launches, 4);
        }
}

/* Operations that are less than a portion each are waited for, too. */
static void test_queue_is_bounded(void **state)
{
    (void)state;
    bench b;
    int n = 0;
    begin(&b, &long_ops[0], LONG, "portion=50000000");
    for (int i = 0; i < 8; i++, n += n_waits) {
        need(&b, run(&b));
        assert_int_equal(n_launches, 1);
    }
    assert_in_range(n, 2, 4);
    end(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_cancelled),
        cmocka_unit_test(test_step_is_whole),
        cmocka_unit_test(test_one_token),
        cmocka_unit_test(test_queue_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
