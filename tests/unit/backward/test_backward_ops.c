/* SPDX-License-Identifier: Apache-2.0
 * The backward pass of each operation against differences of the reference
 * operation: the loss is a random weighting of the result, and the slope of the
 * loss along each value of each input is taken from steps of h and 2 h, so that
 * it is off by O(h^4) and by the rounding of float32 results.  Bound: 1e-4 of
 * the largest slope of the input. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "backward_ops.h"
#include "reference.h"

enum { MOST = 4096, MOST_INPUTS = 3 };

/* Inputs that are varied, and the weighting of the result. */
typedef struct problem {
    float in[MOST_INPUTS][MOST];
    int64_t n_in[MOST_INPUTS];
    int n_inputs;
    float weighting[MOST], out[MOST];
    int64_t n_out;
    qmi_op op;
    qmi_buffer *buffers[MOST_INPUTS + 1]; /* of the inputs, and the result */
    uint32_t state;
} problem;

static double draw(problem *p)
{
    p->state = p->state * 1664525u + 1013904223u;
    return p->state / 4294967296.0 * 2 - 1;
}

static void fill(problem *p, float *values, int64_t n)
{
    assert_true(n <= MOST);
    for (int64_t i = 0; i < n; i++)
        values[i] = (float)draw(p);
}

static qmi_view buffer_of(problem *p, int i, int64_t n)
{
    qmi_error err = {0};
    assert_int_equal(qmi_host_buffer_alloc(&p->buffers[i], NULL,
                         (uint64_t)n * sizeof(float), &err),
        QMOE_OK);
    return (qmi_view){.buffer = p->buffers[i]};
}

static qmi_view add_input(problem *p, int64_t n)
{
    const int i = p->n_inputs++;
    fill(p, p->in[i], n);
    p->n_in[i] = n;
    return buffer_of(p, i, n);
}

static qmi_view add_output(problem *p, int64_t n)
{
    fill(p, p->weighting, n);
    p->n_out = n;
    return buffer_of(p, MOST_INPUTS, n);
}

static problem *begin(void)
{
    problem *p = qmi_calloc(1, sizeof *p, "a problem", NULL);
    p->state = 7;
    return p;
}

static void end(problem *p)
{
    for (int i = 0; i <= MOST_INPUTS; i++)
        qmi_host_buffer_free(NULL, p->buffers[i]);
    qmi_free(p);
}

static double loss_of(problem *p)
{
    qmi_error err = {0};
    double loss = 0;
    for (int i = 0; i < p->n_inputs; i++)
        qmi_host_buffer_write(NULL, (qmi_view){.buffer = p->buffers[i]},
            p->in[i], (uint64_t)p->n_in[i] * sizeof(float), &err);
    if (qmi_run(qmi_backend_reference(), NULL, &p->op, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    qmi_host_buffer_read(NULL, p->out,
        (qmi_view){.buffer = p->buffers[MOST_INPUTS]},
        (uint64_t)p->n_out * sizeof(float), &err);
    for (int64_t i = 0; i < p->n_out; i++)
        loss += (double)p->weighting[i] * p->out[i];
    return loss;
}

static double slope(problem *p, float *at, double h)
{
    const float was = *at;
    *at = (float)(was + h);
    const double above = *at, more = loss_of(p);
    *at = (float)(was - h);
    const double below = *at, less = loss_of(p);
    *at = was;
    return (more - less) / (above - below);
}

/* Of input i; `got` is what the backward pass says. */
static void compare(problem *p, const char *what, int i, const float *got)
{
    const double h = 1.0 / 32;
    double largest = 0, worst = 0;
    for (int64_t k = 0; k < p->n_in[i]; k++) {
        float *at = &p->in[i][k];
        const double s = (4 * slope(p, at, h) - slope(p, at, 2 * h)) / 3;
        largest = fmax(largest, fabs(s));
        worst = fmax(worst, fabs(s - (double)got[k]));
    }
    printf("  %s, input %d: largest slope %.3g, worst difference %.3g of it\n",
        what, i, largest, worst / largest);
    assert_true(largest > 0 && worst <= 1e-4 * largest);
}

static float *zeros(int64_t n)
{
    return qmi_calloc((size_t)n, sizeof(float), "gradients", NULL);
}

/* A dense matrix or stack. */
static qmi_weight dense(
    const float *values, int64_t n_mats, int64_t n_rows, int64_t n_cols)
{
    return (qmi_weight){.format = qmi_format_dense(QMI_F32),
        .name = "w",
        .n_mats = n_mats,
        .n_rows = n_rows,
        .n_cols = n_cols,
        .parts[0] = {
            values, (uint64_t)(n_mats * n_rows * n_cols) * sizeof(float)}};
}

static qmi_backward backward_of(int n_threads)
{
    qmi_error err = {0};
    qmi_backward b;
    if (qmi_backward_open(&b, n_threads, &err) != QMOE_OK)
        fail_msg("%s", err.text);
    return b;
}

/* ---- operations ---- */

static void test_rmsnorm(void **state)
{
    (void)state;
    enum { N = 5, WIDTH = 12 };
    float weight[WIDTH];
    problem *p = begin();
    fill(p, weight, WIDTH);
    const qmi_weight w = dense(weight, 1, 1, WIDTH);
    const qmi_bound_weight bound = {.host = &w};
    p->op = (qmi_op){.kind = QMI_OP_RMSNORM,
        .u.rmsnorm = {.src = add_input(p, N * WIDTH),
            .dst = add_output(p, N * WIDTH),
            .weight = &bound,
            .n_tokens = N,
            .epsilon = 0.01f}};
    float *d_src = zeros(N * WIDTH);
    double d_weight[WIDTH] = {0}, expected[WIDTH] = {0};
    const qmi_backward_rmsnorm o = {.d_src = d_src,
        .d_weight = d_weight,
        .d_dst = p->weighting,
        .src = p->in[0],
        .weight = weight,
        .n_tokens = N,
        .n_cols = WIDTH,
        .epsilon = (double)0.01f};
    qmi_backward_rmsnorm_run(&o);
    compare(p, "rmsnorm", 0, d_src);
    /* The result is linear in the weight. */
    (void)loss_of(p);
    for (int i = 0; i < N * WIDTH; i++)
        expected[i % WIDTH] +=
            (double)p->weighting[i] * p->out[i] / weight[i % WIDTH];
    for (int c = 0; c < WIDTH; c++)
        assert_true(fabs(d_weight[c] - expected[c]) < 1e-5);
    qmi_free(d_src);
    end(p);
}

static void check_rope(bool interleaved)
{
    enum { N = 3, HEADS = 2, WIDTH = 10, TURNED = 6 };
    qmi_error err = {0};
    float turns[N * TURNED];
    problem *p = begin();
    const qmi_view src = add_input(p, N * HEADS * WIDTH);
    for (int i = 0; i < N; i++)
        for (int m = 0; m < TURNED / 2; m++) {
            turns[i * TURNED + m] = (float)cos(0.3 * i + m);
            turns[i * TURNED + TURNED / 2 + m] = (float)sin(0.3 * i + m);
        }
    const qmi_view list = buffer_of(p, 1, N * TURNED);
    qmi_host_buffer_write(NULL, list, turns, sizeof turns, &err);
    p->op = (qmi_op){.kind = QMI_OP_ROPE,
        .u.rope = {.src = src,
            .dst = add_output(p, N * HEADS * WIDTH),
            .turns = list,
            .n_tokens = N,
            .n_heads = HEADS,
            .d_head = WIDTH,
            .d_rotary = TURNED,
            .interleaved = interleaved}};
    float *d_src = zeros(N * HEADS * WIDTH);
    qmi_backward_rope(d_src, p->weighting, &p->op.u.rope, turns);
    compare(p, interleaved ? "rope, interleaved" : "rope", 0, d_src);
    qmi_free(d_src);
    end(p);
}

static void test_rope(void **state)
{
    (void)state;
    check_rope(false);
    check_rope(true);
}

static void check_glu(int64_t n_gate_cols, qmi_act act)
{
    enum { N = 4, WIDTH = 9 };
    problem *p = begin();
    const int64_t n_gate = N * n_gate_cols;
    const qmi_view up = add_input(p, N * WIDTH), gate = add_input(p, n_gate);
    p->op = (qmi_op){.kind = QMI_OP_GLU,
        .u.glu = {.up = up,
            .gate = gate,
            .dst = add_output(p, N * WIDTH),
            .n_tokens = N,
            .n_cols = WIDTH,
            .n_gate_cols = n_gate_cols,
            .act = act}};
    float *d_up = zeros(N * WIDTH), *d_gate = zeros(n_gate);
    const qmi_backward_glu o = {.d_up = d_up,
        .d_gate = d_gate,
        .d_dst = p->weighting,
        .up = p->in[0],
        .gate = p->in[1],
        .n_tokens = N,
        .n_cols = WIDTH,
        .n_gate_cols = n_gate_cols,
        .act = act};
    qmi_backward_glu_run(&o);
    compare(p, "glu", 0, d_up);
    compare(p, "glu", 1, d_gate);
    qmi_free(d_gate);
    qmi_free(d_up);
    end(p);
}

static void test_glu(void **state)
{
    (void)state;
    check_glu(9, QMI_ACT_SILU);
    check_glu(1, QMI_ACT_SIGMOID);
}

static void test_linear(void **state)
{
    (void)state;
    enum { N = 5, ROWS = 40, WIDTH = 24 };
    static float weight[ROWS * WIDTH];
    qmi_error err = {0};
    problem *p = begin();
    qmi_backward b = backward_of(2);
    fill(p, weight, ROWS * WIDTH);
    const qmi_weight w = dense(weight, 1, ROWS, WIDTH);
    const qmi_bound_weight bound = {.host = &w};
    p->op = (qmi_op){.kind = QMI_OP_LINEAR,
        .u.linear = {.src = add_input(p, N * WIDTH),
            .dst = add_output(p, N * ROWS),
            .weight = &bound,
            .n_tokens = N,
            .alpha = 0.7f,
            .act = QMI_ACT_SIGMOID}};
    float *d_src = zeros(N * WIDTH), *d_y = zeros(N * ROWS);
    (void)loss_of(p);
    memcpy(d_y, p->weighting, N * ROWS * sizeof *d_y);
    assert_true(qmi_backward_act(d_y, p->out, N * ROWS, QMI_ACT_SIGMOID));
    assert_int_equal(
        qmi_backward_linear(&b, d_src, d_y, N, 0.7f, qmi_all_rows(&w, 0), &err),
        QMOE_OK);
    compare(p, "linear", 0, d_src);
    assert_false(qmi_backward_act(d_y, p->out, N * ROWS, QMI_ACT_SILU));
    qmi_free(d_y);
    qmi_free(d_src);
    qmi_backward_close(&b);
    end(p);
}

typedef struct attention_case {
    const char *name;
    int64_t n, n_heads, n_kv_heads, window; /* n: queries, of two spans */
    bool causal, has_sinks, has_bias;
} attention_case;

static void check_attention(const attention_case *c)
{
    enum { KEY = 6, VALUE = 4, REACH = 3, HEADS = 4, FIRST = 5 };
    const int64_t n = c->n;
    const int32_t rest = (int32_t)n - FIRST;
    const qmi_attention_span spans[2] = {
        {.q_len = FIRST, .k_len = FIRST}, {FIRST, rest, FIRST, rest, 0}};
    float sinks[HEADS], bias[HEADS * (2 * REACH + 1)];
    qmi_error err = {0};
    qmi_buffer *lists[2] = {NULL};
    problem *p = begin();
    qmi_backward b = backward_of(2);
    fill(p, sinks, HEADS);
    fill(p, bias, HEADS * (2 * REACH + 1));
    const qmi_weight w = dense(sinks, 1, 1, HEADS);
    const qmi_bound_weight bound = {.host = &w};
    const void *values[2] = {spans, bias};
    const uint64_t bytes[2] = {sizeof spans, sizeof bias};
    for (int i = 0; i < 2; i++) {
        qmi_host_buffer_alloc(&lists[i], NULL, bytes[i], &err);
        qmi_host_buffer_write(
            NULL, (qmi_view){.buffer = lists[i]}, values[i], bytes[i], &err);
    }
    const int64_t n_q = n * c->n_heads * KEY, n_k = n * c->n_kv_heads * KEY;
    const int64_t n_v = n * c->n_kv_heads * VALUE;
    const qmi_view q = add_input(p, n_q), k = add_input(p, n_k);
    const qmi_view v = add_input(p, n_v);
    p->op = (qmi_op){.kind = QMI_OP_ATTENTION,
        .u.attention = {.dst = add_output(p, n * c->n_heads * VALUE),
            .q = q,
            .k = k,
            .v = v,
            .spans = {.buffer = lists[0]},
            .bias = {.buffer = c->has_bias ? lists[1] : NULL},
            .sinks = c->has_sinks ? &bound : NULL,
            .n_spans = 2,
            .n_queries = n,
            .max_distance = REACH,
            .n_heads = c->n_heads,
            .n_kv_heads = c->n_kv_heads,
            .d_key = KEY,
            .d_value = VALUE,
            .max_keys = rest > FIRST ? rest : FIRST,
            .window = c->window,
            .scale = 0.8f,
            .causal = c->causal}};
    float *d_q = zeros(n_q), *d_k = zeros(n_k), *d_v = zeros(n_v);
    const qmi_backward_attention o = {.d_q = d_q,
        .d_k = d_k,
        .d_v = d_v,
        .d_dst = p->weighting,
        .q = p->in[0],
        .k = p->in[1],
        .v = p->in[2],
        .spans = spans,
        .bias = c->has_bias ? bias : NULL,
        .sinks = c->has_sinks ? sinks : NULL,
        .n_spans = 2,
        .max_distance = REACH,
        .max_keys = rest > FIRST ? rest : FIRST,
        .n_heads = c->n_heads,
        .n_kv_heads = c->n_kv_heads,
        .d_key = KEY,
        .d_value = VALUE,
        .window = c->window,
        .scale = 0.8f,
        .causal = c->causal};
    assert_int_equal(qmi_backward_attention_run(&b, &o, &err), QMOE_OK);
    compare(p, c->name, 0, d_q);
    compare(p, c->name, 1, d_k);
    compare(p, c->name, 2, d_v);
    qmi_free(d_v);
    qmi_free(d_k);
    qmi_free(d_q);
    for (int i = 0; i < 2; i++)
        qmi_host_buffer_free(NULL, lists[i]);
    qmi_backward_close(&b);
    end(p);
}

static void test_attention(void **state)
{
    static const attention_case cases[] = {
        {"causal attention, grouped", 9, 4, 2, 0, true, false, false},
        {"windowed attention with sinks", 9, 4, 1, 2, true, true, false},
        {"attention with a bias", 9, 3, 3, 0, false, false, true},
        {"attention in tiles", 80, 1, 1, 66, true, false, false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_attention(&cases[i]);
}

static void check_route(const char *name, qmi_router router)
{
    enum { N = 6, EXPERTS = 5, TOP = 2 };
    int32_t expert[N * TOP];
    qmi_error err = {0};
    problem *p = begin();
    qmi_buffer *chosen = NULL;
    const qmi_view logits = add_input(p, N * EXPERTS);
    /* No step changes the order. */
    for (int i = 0; i < N * EXPERTS; i++)
        p->in[0][i] = (float)(0.4 * (i * 7 % EXPERTS) + 0.05 * draw(p));
    qmi_host_buffer_alloc(&chosen, NULL, sizeof expert, &err);
    p->op = (qmi_op){.kind = QMI_OP_ROUTE,
        .u.route = {.expert = {.buffer = chosen},
            .weight = add_output(p, N * TOP),
            .logits = logits,
            .n_tokens = N,
            .n_experts = EXPERTS,
            .top_k = TOP,
            .router = router}};
    (void)loss_of(p);
    qmi_host_buffer_read(
        NULL, expert, (qmi_view){.buffer = chosen}, sizeof expert, &err);
    float *d_logits = zeros(N * EXPERTS);
    const qmi_backward_route o = {.d_logits = d_logits,
        .d_weight = p->weighting,
        .logits = p->in[0],
        .expert = expert,
        .n_tokens = N,
        .n_experts = EXPERTS,
        .top_k = TOP,
        .router = router};
    assert_int_equal(qmi_backward_route_run(&o, &err), QMOE_OK);
    compare(p, name, 0, d_logits);
    qmi_free(d_logits);
    qmi_host_buffer_free(NULL, chosen);
    end(p);
}

static void test_route(void **state)
{
    (void)state;
    check_route("softmax router", (qmi_router){.scoring = QMI_SOFTMAX});
    check_route("normalised softmax router",
        (qmi_router){
            .scoring = QMI_SOFTMAX, .normalises = true, .scale = 2.5f});
    check_route("sigmoid router",
        (qmi_router){.scoring = QMI_SIGMOID, .normalises = true});
    check_route("sigmoid router, scaled",
        (qmi_router){.scoring = QMI_SIGMOID, .scale = 1.5f});
}

static void check_experts(const char *name, bool is_gated, qmi_act act)
{
    enum { N = 5, MODEL = 6, HIDDEN = 8, EXPERTS = 3, TOP = 2 };
    static float values[3][EXPERTS * MODEL * HIDDEN];
    /* Each token two different ones, or none. */
    static const int32_t expert[N * TOP] = {0, 2, 1, 0, -1, 1, 2, 1, 0, 1};
    qmi_error err = {0};
    problem *p = begin();
    qmi_backward b = backward_of(2);
    qmi_buffer *chosen = NULL;
    for (int i = 0; i < 3; i++)
        fill(p, values[i], EXPERTS * MODEL * HIDDEN);
    const qmi_weight up = dense(values[0], EXPERTS, HIDDEN, MODEL);
    const qmi_weight down = dense(values[1], EXPERTS, MODEL, HIDDEN);
    const qmi_weight gate = dense(values[2], EXPERTS, HIDDEN, MODEL);
    const qmi_bound_weight bound[3] = {
        {.host = &up}, {.host = &down}, {.host = &gate}};
    const qmi_view src = add_input(p, N * MODEL),
                   weight = add_input(p, N * TOP);
    qmi_host_buffer_alloc(&chosen, NULL, sizeof expert, &err);
    qmi_host_buffer_write(
        NULL, (qmi_view){.buffer = chosen}, expert, sizeof expert, &err);
    p->op = (qmi_op){.kind = QMI_OP_EXPERT_FFN,
        .u.expert_ffn = {.dst = add_output(p, N * MODEL),
            .src = src,
            .expert = {.buffer = chosen},
            .weight = weight,
            .up = &bound[0],
            .down = &bound[1],
            .gate = is_gated ? &bound[2] : NULL,
            .n_tokens = N,
            .top_k = TOP,
            .act = act}};
    float *d_src = zeros(N * MODEL), *d_weight = zeros(N * TOP);
    const qmi_backward_experts o = {.d_src = d_src,
        .d_weight = d_weight,
        .d_dst = p->weighting,
        .src = p->in[0],
        .weight = p->in[1],
        .expert = expert,
        .up = &up,
        .down = &down,
        .gate = is_gated ? &gate : NULL,
        .n_tokens = N,
        .top_k = TOP,
        .act = act};
    assert_int_equal(qmi_backward_experts_run(&b, &o, &err), QMOE_OK);
    compare(p, name, 0, d_src);
    compare(p, name, 1, d_weight);
    qmi_free(d_weight);
    qmi_free(d_src);
    qmi_host_buffer_free(NULL, chosen);
    qmi_backward_close(&b);
    end(p);
}

static void test_experts(void **state)
{
    (void)state;
    check_experts("gated experts", true, QMI_ACT_SILU);
    check_experts("experts", false, QMI_ACT_SIGMOID);
}

/* ---- losses, whose values are double ---- */

enum { N_LOSS = 3, N_CLASSES = 7 };

static double loss_at(const float *logits, const float *other)
{
    static const int32_t targets[N_LOSS] = {4, -1, 0};
    float copy[N_LOSS * N_CLASSES];
    memcpy(copy, logits, sizeof copy);
    return other != NULL
               ? qmi_backward_kl(copy, other, N_LOSS, N_CLASSES)
               : qmi_backward_cross_entropy(copy, targets, N_LOSS, N_CLASSES);
}

static void check_loss(const float *logits, const float *other)
{
    static const int32_t targets[N_LOSS] = {4, -1, 0};
    float gradient[N_LOSS * N_CLASSES], moved[N_LOSS * N_CLASSES];
    memcpy(gradient, logits, sizeof gradient);
    if (other != NULL)
        (void)qmi_backward_kl(gradient, other, N_LOSS, N_CLASSES);
    else
        (void)qmi_backward_cross_entropy(gradient, targets, N_LOSS, N_CLASSES);
    for (int i = 0; i < N_LOSS * N_CLASSES; i++) {
        memcpy(moved, logits, sizeof moved);
        moved[i] = logits[i] + 0x1p-10f;
        const double above = moved[i], more = loss_at(moved, other);
        moved[i] = logits[i] - 0x1p-10f;
        const double s =
            (more - loss_at(moved, other)) / (above - (double)moved[i]);
        assert_true(fabs(s - (double)gradient[i]) < 1e-5);
    }
}

static void test_losses(void **state)
{
    (void)state;
    problem *p = begin();
    fill(p, p->in[0], N_LOSS * N_CLASSES);
    fill(p, p->in[1], N_LOSS * N_CLASSES);
    check_loss(p->in[0], NULL);
    check_loss(p->in[0], p->in[1]);
    /* KL of a distribution to itself, shifted. */
    for (int i = 0; i < N_LOSS * N_CLASSES; i++)
        p->in[1][i] = p->in[0][i] + 3;
    assert_true(fabs(loss_at(p->in[0], p->in[1])) < 1e-5);
    end(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rmsnorm),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_glu),
        cmocka_unit_test(test_linear),
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_route),
        cmocka_unit_test(test_experts),
        cmocka_unit_test(test_losses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
