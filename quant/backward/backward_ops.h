/* SPDX-License-Identifier: Apache-2.0
 * The backward pass of each operation of ops.h, on host memory.  In: the
 * gradient of a loss with respect to what the operation wrote (`d_dst`), and the
 * values that it read.  Out: what that adds to the gradients of those (`d_src`
 * and its like).  Gradients of inputs are added to, never overwritten, because a
 * value may have several readers.  Weights are frozen: theirs are not made,
 * except those of vectors, in double.
 *
 * Sums are double where those of the reference operations are, and otherwise
 * those of OpenBLAS over pieces of fixed sizes: results do not depend on the
 * number of threads. */
#ifndef QMI_BACKWARD_OPS_H
#define QMI_BACKWARD_OPS_H

#include "ops.h"
#include "team.h"

/* What the products of a backward pass work with. */
typedef struct qmi_backward {
    qmi_team *team; /* owned */
    float *slab;    /* rows of a matrix in float32; grows */
    size_t n_slab;
    int n_threads;
} qmi_backward;

/* Loads OpenBLAS. */
qmoe_status qmi_backward_open(qmi_backward *out, int n_threads, qmi_error *err);
void qmi_backward_close(qmi_backward *backward);

/* y f32 [n, n_rows] = x [n, n_cols] W^T, of one matrix of a weight of any
 * format; rows [row, row + n_rows) of it. */
typedef struct qmi_matrix_rows {
    const qmi_weight *weight;
    int64_t mat, row, n_rows;
} qmi_matrix_rows;
qmi_matrix_rows qmi_all_rows(const qmi_weight *weight, int64_t mat);
qmoe_status qmi_backward_multiply(qmi_backward *backward, float *y,
    const float *x, int64_t n, qmi_matrix_rows rows, qmi_error *err);
/* d_x [n, n_cols] += alpha * d_y [n, n_rows] W. */
qmoe_status qmi_backward_linear(qmi_backward *backward, float *d_x,
    const float *d_y, int64_t n, float alpha, qmi_matrix_rows rows,
    qmi_error *err);

/* act'(x). */
double qmi_act_slope(qmi_act act, double x);
/* d_y[i] *= act'(x), from y[i] = act(x).  False: the value does not tell. */
bool qmi_backward_act(float *d_y, const float *y, int64_t n, qmi_act act);

typedef struct qmi_backward_rmsnorm {
    float *d_src;     /* f32 [n_tokens, n_cols] */
    double *d_weight; /* [n_cols], added to; NULL: not wanted */
    const float *d_dst, *src, *weight;
    int64_t n_tokens, n_cols;
    double epsilon;
} qmi_backward_rmsnorm;
void qmi_backward_rmsnorm_run(const qmi_backward_rmsnorm *o);

/* The shapes and turns of `rope`, whose views of values are not looked at. */
void qmi_backward_rope(float *d_src, const float *d_dst,
    const qmi_op_rope *rope, const float *turns);

typedef struct qmi_backward_glu {
    float *d_up, *d_gate;
    const float *d_dst, *up, *gate;
    int64_t n_tokens, n_cols, n_gate_cols;
    qmi_act act;
} qmi_backward_glu;
void qmi_backward_glu_run(const qmi_backward_glu *o);

/* The choice of experts is taken as it is; through it flows nothing. */
typedef struct qmi_backward_route {
    float *d_logits;       /* [n_tokens, n_experts] */
    const float *d_weight; /* [n_tokens, top_k] */
    const float *logits;
    const int32_t *expert; /* of a dropped token -1: its choice is lost, and it
                            * adds nothing */
    int64_t n_tokens, n_experts, top_k;
    qmi_router router;
} qmi_backward_route;
qmoe_status qmi_backward_route_run(const qmi_backward_route *o, qmi_error *err);

/* All operands f32 in rows of tokens, as in ops.h. */
typedef struct qmi_backward_attention {
    float *d_q, *d_k, *d_v;
    const float *d_dst, *q, *k, *v;
    const qmi_attention_span *spans;
    const float *bias;  /* as ops.h; NULL: none */
    const float *sinks; /* [n_heads]; NULL: none */
    int64_t n_spans, max_distance, max_keys;
    int64_t n_heads, n_kv_heads, d_key, d_value, window;
    float scale;
    bool causal;
} qmi_backward_attention;
qmoe_status qmi_backward_attention_run(
    qmi_backward *backward, const qmi_backward_attention *o, qmi_error *err);

/* Told of each product of an expert: d_y f32 [n, n_rows], the gradient of its
 * result for the n tokens of the expert. */
typedef qmoe_status qmi_backward_rows_fn(void *user, const qmi_weight *weight,
    int64_t mat, const float *d_y, int64_t n, qmi_error *err);

typedef struct qmi_backward_experts {
    float *d_src, *d_weight; /* [n_tokens, d_model], [n_tokens, top_k] */
    const float *d_dst, *src, *weight;
    const int32_t *expert;
    const qmi_weight *up, *down, *gate; /* gate or NULL */
    int64_t n_tokens, top_k;
    qmi_act act;
    qmi_backward_rows_fn *rows; /* NULL: nobody is told */
    void *user;
} qmi_backward_experts;
qmoe_status qmi_backward_experts_run(
    qmi_backward *backward, const qmi_backward_experts *o, qmi_error *err);

/* Logits [n, n_cols] become the gradient of the sum of cross entropies with
 * the targets; a target of -1 counts for nothing.  Returns the sum. */
double qmi_backward_cross_entropy(
    float *logits, const int32_t *targets, int64_t n, int64_t n_cols);
/* ... of the sum of KL(reference || model), both given as logits. */
double qmi_backward_kl(
    float *logits, const float *reference, int64_t n, int64_t n_cols);

#endif
