/* SPDX-License-Identifier: Apache-2.0
 * Worked examples of routing, sinks and activations, computed elsewhere: the
 * reference is what judges the backends, so something must judge it.  Every
 * variant of the CPU backend is held to them, too. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "backend.h"
#include "cpu.h"

enum { N_EXPERTS = 8, TOP_K = 3 };

static const float logits[N_EXPERTS] = {2, -1, 0.5f, 1.5f, -0.5f, 1, 0, 3};

static const struct {
    const char *name;
    qmi_router router;
    float bias[N_EXPERTS]; /* all 0: none */
    int32_t expert[TOP_K];
    double weight[TOP_K];
} routes[] = {
    {"OLMoE", {QMI_SOFTMAX, 0, 0, 0, false, 0}, {0}, {7, 0, 3},
        {0.524458, 0.192937, 0.117022}},
    {"Qwen3", {QMI_SOFTMAX, 0, 0, 0, true, 0}, {0}, {7, 0, 3},
        {0.628532, 0.231224, 0.140244}},
    {"DeepSeek-V2", {QMI_SOFTMAX, 4, 2, 1, false, 16}, {0}, {7, 0, 6},
        {8.391330, 3.086998, 0.417780}},
    {"DeepSeek-V3", {QMI_SIGMOID, 4, 2, 2, true, 2.5f},
        {-0.9f, 0, 0.1f, -0.8f, 0.3f, -0.2f, 0.05f, -0.95f}, {2, 4, 5},
        {0.898958, 0.545245, 1.055797}},
    {"without groups", {QMI_SIGMOID, 0, 0, 0, true, 2.5f},
        {-0.9f, 0, 0.1f, -0.8f, 0.3f, -0.2f, 0.05f, -0.95f}, {2, 4, 6},
        {1.037432, 0.629234, 0.833333}},
    /* Scores below 0 must not lose to experts of other groups. */
    {"negative", {QMI_SIGMOID, 4, 2, 2, true, 2.5f},
        {-0.9f, -0.95f, -0.9f, -0.95f, -0.9f, -0.95f, -0.9f, -0.98f}, {7, 3, 2},
        {0.995330, 0.854271, 0.650398}},
};

/* One float array in, or a result. */
typedef struct array {
    qmi_view *view; /* in the operation */
    float *data;
    size_t n;
} array;

/* Runs `op` by every variant that takes it and calls `judge` after each. */
static void run_all(qmi_op *op, const array *arrays, size_t n_arrays,
    void (*judge)(const void *want), const void *want)
{
    const qmi_backend *backends[] = {
        qmi_backend_reference(), qmi_backend_cpu()};
    for (size_t b = 0; b < 2; b++) {
        const qmi_backend *backend = backends[b];
        const qmi_device_options options = {.n_threads = 2};
        qmi_error err = {0};
        qmi_device *device = NULL;
        qmi_buffer *buffer = NULL;
        size_t n_variants = 0, n_ran = 0;
        assert_int_equal(
            backend->device_open(&device, 0, &options, &err), QMOE_OK);
        assert_int_equal(
            backend->buffer_alloc(&buffer, device, 4096, &err), QMOE_OK);
        const qmi_variant *variants =
            backend->variants(device, op->kind, &n_variants);
        for (size_t v = 0; v < n_variants; v++) {
            for (size_t i = 0; i < n_arrays; i++) {
                *arrays[i].view = (qmi_view){buffer, 256 * i};
                memcpy(qmi_host_pointer(*arrays[i].view), arrays[i].data,
                    arrays[i].n * sizeof(float));
            }
            if (!variants[v].supports(device, op))
                continue;
            n_ran++;
            assert_int_equal(variants[v].run(device, op, &err), QMOE_OK);
            assert_int_equal(backend->sync(device, &err), QMOE_OK);
            for (size_t i = 0; i < n_arrays; i++)
                memcpy(arrays[i].data, qmi_host_pointer(*arrays[i].view),
                    arrays[i].n * sizeof(float));
            judge(want);
        }
        assert_true(n_ran != 0);
        backend->buffer_free(device, buffer);
        backend->device_close(device);
    }
}

/* A dense vector as a weight. */
static qmi_weight vector_of(const float *values, int64_t n)
{
    return (qmi_weight){.format = qmi_format_dense(QMI_F32),
        .name = "test",
        .n_mats = 1,
        .n_rows = 1,
        .n_cols = n,
        .parts = {{values, (uint64_t)n * sizeof(float)}}};
}

static void assert_values(const float *got, const double *want, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (fabs((double)got[i] - want[i]) > 2e-6 * fmax(1, fabs(want[i])))
            fail_msg("value %zu is %.7f, not %.7f", i, (double)got[i], want[i]);
}

/* ---- route ---- */

static float got_weight[TOP_K], got_expert[TOP_K];

static void judge_route(const void *index)
{
    const size_t i = *(const size_t *)index;
    int32_t expert[TOP_K];
    memcpy(expert, got_expert, sizeof expert);
    for (int j = 0; j < TOP_K; j++)
        if (expert[j] != routes[i].expert[j])
            fail_msg("%s: expert %d is %d, not %d", routes[i].name, j,
                expert[j], routes[i].expert[j]);
    assert_values(got_weight, routes[i].weight, TOP_K);
}

static void test_routes(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        const qmi_weight host = vector_of(routes[i].bias, N_EXPERTS);
        const qmi_bound_weight bias = {.host = &host};
        float x[N_EXPERTS];
        memcpy(x, logits, sizeof x);
        qmi_op op = {.kind = QMI_OP_ROUTE,
            .u.route = {.n_tokens = 1,
                .n_experts = N_EXPERTS,
                .top_k = TOP_K,
                .bias = routes[i].bias[0] != 0 ? &bias : NULL,
                .router = routes[i].router}};
        const array arrays[] = {{&op.u.route.logits, x, N_EXPERTS},
            {&op.u.route.weight, got_weight, TOP_K},
            {&op.u.route.expert, got_expert, TOP_K}};
        run_all(&op, arrays, 3, judge_route, &i);
    }
}

/* ---- attention with a sink, silu ---- */

static float got_values[4];

static void judge_values(const void *want)
{
    assert_values(got_values, want, 4);
}

/* Scores 1, 2, 0.5 and a sink of 1.5; the values are unit vectors, so that the
 * result is the shares of the softmax. */
static void test_sink(void **state)
{
    (void)state;
    static const double want[4] = {0.167405, 0.455054, 0.101536, 0};
    const float sink = 1.5f;
    const qmi_weight host = vector_of(&sink, 1);
    const qmi_bound_weight sinks = {.host = &host};
    float q[] = {2}, k[] = {1, 2, 0.5f};
    float v[] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0};
    qmi_attention_span span = {.q_len = 1, .k_len = 3, .q_pos = 2};
    float span_words[sizeof span / sizeof(float)];
    memcpy(span_words, &span, sizeof span);
    qmi_op op = {.kind = QMI_OP_ATTENTION,
        .u.attention = {.sinks = &sinks,
            .n_spans = 1,
            .n_queries = 1,
            .n_heads = 1,
            .n_kv_heads = 1,
            .d_key = 1,
            .d_value = 4,
            .max_keys = 3,
            .scale = 0.5f,
            .causal = true}};
    const array arrays[] = {{&op.u.attention.q, q, 1},
        {&op.u.attention.k, k, 3}, {&op.u.attention.v, v, 12},
        {&op.u.attention.spans, span_words, sizeof span / sizeof(float)},
        {&op.u.attention.dst, got_values, 4}};
    run_all(&op, arrays, 5, judge_values, want);
}

static void test_silu(void **state)
{
    (void)state;
    static const double want[4] = {-0.238406, -0.188770, 0.731059, 2.857722};
    float gate[] = {-2, -0.5f, 1, 3}, up[] = {1, 1, 1, 1};
    qmi_op op = {.kind = QMI_OP_GLU,
        .u.glu = {
            .n_tokens = 1, .n_cols = 4, .n_gate_cols = 4, .act = QMI_ACT_SILU}};
    const array arrays[] = {{&op.u.glu.gate, gate, 4}, {&op.u.glu.up, up, 4},
        {&op.u.glu.dst, got_values, 4}};
    run_all(&op, arrays, 3, judge_values, want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_routes),
        cmocka_unit_test(test_sink),
        cmocka_unit_test(test_silu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
