/* SPDX-License-Identifier: Apache-2.0
 * The operations a backend provides.  Each is listed once in QMI_OP_MAP and
 * described by a struct of operands.  All activations are float32, row-major;
 * every output element is overwritten; inputs are left alone, except that
 * `residual` may be the same view as `dst`.  Other operands never alias.
 * Plain bodies with double accumulators: ops_reference.c. */
#ifndef QMI_OPS_H
#define QMI_OPS_H

#include "weight.h"

/* X(NAME, member, "text"). */
#define QMI_OP_MAP(X)                                                          \
    X(EMBED, embed, "embed")                                                   \
    X(RMSNORM, rmsnorm, "rmsnorm")                                             \
    X(LINEAR, linear, "linear")                                                \
    X(KV_STORE, kv_store, "kv-store")                                          \
    X(ATTENTION, attention, "attention")                                       \
    X(ROUTE, route, "route")                                                   \
    X(EXPERT_FFN, expert_ffn, "expert-ffn")                                    \
    X(DECODE, decode, "decode")                                                \
    X(TOP_LOGITS, top_logits, "top-logits")

typedef enum qmi_op_kind {
#define X(name, member, text) QMI_OP_##name,
    QMI_OP_MAP(X)
#undef X
        QMI_OP_COUNT
} qmi_op_kind;

const char *qmi_op_name(qmi_op_kind kind);

/* Device memory; opaque outside its backend. */
typedef struct qmi_buffer qmi_buffer;

/* A place in device memory.  `buffer` NULL = operand absent. */
typedef struct qmi_view {
    qmi_buffer *buffer;
    uint64_t offset; /* bytes, a multiple of 4 */
} qmi_view;

/* A weight made usable by a device (backend.h weight_bind).  `host` describes
 * shape and format; on the CPU its data is used directly. */
typedef struct qmi_bound_weight {
    const qmi_weight *host;
    void *device; /* the backend's own */
} qmi_bound_weight;

/* dst f32 [n_tokens, n_cols] = table[ids[t]].  ids i32 [n_tokens], each in
 * [0, table rows) (checked by the session). */
typedef struct qmi_op_embed {
    qmi_view dst, ids;
    const qmi_bound_weight *table; /* n_mats 1 */
    int64_t n_tokens;
} qmi_op_embed;

/* dst[t] = src[t] * rsqrt(mean(src[t]^2) + epsilon) * weight. T5 RMS norm. */
typedef struct qmi_op_rmsnorm {
    qmi_view dst, src;              /* f32 [n_tokens, n_cols] */
    const qmi_bound_weight *weight; /* n_mats 1, n_rows 1 */
    int64_t n_tokens;
    float epsilon;
} qmi_op_rmsnorm;

/* dst[t, r] = residual[t, r] + act(alpha * sum_c src[t, c] * W[r, c]). */
typedef struct qmi_op_linear {
    qmi_view dst;                   /* f32 [n_tokens, n_rows] */
    qmi_view src;                   /* f32 [n_tokens, n_cols] */
    qmi_view residual;              /* like dst; optional; may equal dst */
    const qmi_bound_weight *weight; /* any format */
    int64_t mat;                    /* which matrix of the stack */
    int64_t n_tokens;
    float alpha;
    bool relu;
} qmi_op_linear;

/* cache[rows[t]] = src[t], rows of n_cols f32. */
typedef struct qmi_op_kv_store {
    qmi_view cache; /* f32 [n_cache_rows, n_cols], only rows[] are written */
    qmi_view src;   /* f32 [n_tokens, n_cols] */
    qmi_view rows;  /* i32 [n_tokens], distinct, < n_cache_rows */
    int64_t n_tokens, n_cols, n_cache_rows;
} qmi_op_kv_store;

/* One sequence of an attention batch, all counts in rows (tokens). */
typedef struct qmi_attention_span {
    int32_t q_begin, q_len; /* its rows in q and dst */
    int32_t k_begin, k_len; /* its rows in k and v, k_len >= 1 */
    int32_t q_pos;          /* position of its first query among the keys */
} qmi_attention_span;

/* dst[q, h] = softmax_k(scale * q.k + bias[h][k - q]) v, per head h of width
 * d_head, for each span; causal: keys with position > query's are masked.
 * Head h occupies columns [h * d_head, (h + 1) * d_head). */
typedef struct qmi_op_attention {
    qmi_view dst, q; /* f32 [n_queries, n_heads * d_head] */
    qmi_view k, v;   /* f32 [*, n_heads * d_head] */
    qmi_view spans;  /* qmi_attention_span [n_spans], cover all queries */
    /* f32 [n_heads, 2 * max_distance + 1], optional: column
     * clamp(k_pos - q_pos, -max_distance, max_distance) + max_distance. */
    qmi_view bias;
    int64_t n_spans, n_queries, n_heads, d_head, max_distance;
    int64_t max_keys; /* largest k_len of the spans */
    float scale;
    bool causal;
} qmi_op_attention;

/* Softmax over logits f32 [n_tokens, n_experts]; the top_k largest
 * probabilities per token, largest first (ties: lowest index):
 * expert i32 and weight f32, both [n_tokens, top_k].
 * capacity > 0: within each sequence, tokens beyond the capacity-th of an
 * expert are dropped: expert = -1, weight kept (Hugging Face 4.27 rule). */
typedef struct qmi_op_route {
    qmi_view expert, weight, logits;
    qmi_view sequence; /* i32 [n_tokens], non-decreasing; used with capacity */
    int64_t n_tokens, n_experts, top_k, capacity;
} qmi_op_route;

/* dst[t] = residual[t] + sum_j weight[t, j] * F_{expert[t, j]}(src[t]) with
 * F_e(x) = wo_e relu(wi_e x), and F_{-1}(x) = x (a dropped token passes its
 * normed input: transformers 4.27). */
typedef struct qmi_op_expert_ffn {
    qmi_view dst, src, residual; /* f32 [n_tokens, d_model] */
    qmi_view expert, weight;     /* i32, f32 [n_tokens, top_k] */
    const qmi_bound_weight *wi,
        *wo; /* [E, d_ff, d_model], [E, d_model, d_ff] */
    int64_t n_tokens, top_k;
} qmi_op_expert_ffn;

/* dst f32 [n_rows, n_cols] = rows [row, row + n_rows) of one matrix. */
typedef struct qmi_op_decode {
    qmi_view dst;
    const qmi_bound_weight *weight;
    int64_t mat, row, n_rows;
} qmi_op_decode;

enum { QMI_TOP_LOGITS_MAX = 128 };

/* The top_k largest logits of each token, largest first, of equals the lowest
 * id first: value f32 and id i32, both [n_tokens, top_k].  The numbers of a row
 * are compared, not changed: NaN counts as -infinity, +infinity as FLT_MAX, -0
 * equals +0; `value` is what the logit counts as (-0 stays -0), so that all
 * bits of a result are defined.
 * 1 <= top_k <= min(QMI_TOP_LOGITS_MAX, n_cols), n_cols <= INT32_MAX. */
typedef struct qmi_op_top_logits {
    qmi_view value, id;
    qmi_view logits; /* f32 [n_tokens, n_cols] */
    int64_t n_tokens, n_cols, top_k;
} qmi_op_top_logits;

typedef struct qmi_op {
    qmi_op_kind kind;
    union {
#define X(name, member, text) qmi_op_##member member;
        QMI_OP_MAP(X)
#undef X
    } u;
} qmi_op;

#endif
