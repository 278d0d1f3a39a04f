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
    X(ROPE, rope, "rope")                                                      \
    X(LINEAR, linear, "linear")                                                \
    X(GLU, glu, "glu")                                                         \
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

/* What is applied to a product. */
typedef enum qmi_act {
    QMI_ACT_NONE,
    QMI_ACT_RELU,
    QMI_ACT_SILU, /* x * sigmoid(x) */
    QMI_ACT_SIGMOID,
    QMI_ACT_COUNT
} qmi_act;

/* dst[t] = src[t] * rsqrt(mean(src[t]^2) + epsilon) * weight. RMS norm, over
 * rows: a norm over each head is one with a row per token and head. */
typedef struct qmi_op_rmsnorm {
    qmi_view dst, src;              /* f32 [n_tokens, n_cols] */
    const qmi_bound_weight *weight; /* n_mats 1, n_rows 1 */
    int64_t n_tokens;
    float epsilon;
} qmi_op_rmsnorm;

/* Rotary position embedding.  Of each head the first d_rotary values are pairs
 * (a, b) that become (a cos - b sin, b cos + a sin); the others are copied.
 * Pair m is (m, m + d_rotary / 2), or (2m, 2m + 1) when interleaved. */
typedef struct qmi_op_rope {
    qmi_view dst, src; /* f32 [n_tokens, n_heads * d_head]; may be equal */
    /* f32 [n_tokens, d_rotary]: cosines of the pairs, then their sines. */
    qmi_view turns;
    int64_t n_tokens, n_heads, d_head;
    int64_t d_rotary; /* even, <= d_head */
    bool interleaved;
} qmi_op_rope;

/* dst[t, r] = residual[t, r] +
 *     act(alpha * sum_c src[t, c] * W[r, c] + bias[r]). */
typedef struct qmi_op_linear {
    qmi_view dst;                   /* f32 [n_tokens, n_rows] */
    qmi_view src;                   /* f32 [n_tokens, n_cols] */
    qmi_view residual;              /* like dst; optional; may equal dst */
    const qmi_bound_weight *weight; /* any format */
    const qmi_bound_weight *bias;   /* dense [1, n_rows]; NULL: none */
    int64_t mat;                    /* which matrix of the stack */
    int64_t n_tokens;
    float alpha;
    qmi_act act;
} qmi_op_linear;

/* dst[t, c] = act(gate[t, c]) * up[t, c]; with n_gate_cols 1 one gate for all
 * columns of a token. */
typedef struct qmi_op_glu {
    qmi_view dst, up; /* f32 [n_tokens, n_cols]; may be equal */
    qmi_view gate;    /* f32 [n_tokens, n_gate_cols]; may equal dst when
                          * n_gate_cols is n_cols */
    int64_t n_tokens, n_cols;
    int64_t n_gate_cols; /* n_cols or 1 */
    qmi_act act;
} qmi_op_glu;

/* How keys and values are kept.  A row of n values takes qmi_kv_row_bytes. */
typedef enum qmi_kv_type {
    QMI_KV_F32,
    QMI_KV_F16, /* rounded to nearest even; beyond its range: infinity */
    /* Blocks of 32 values of a row, the last one padded with zeros: the scale
     * f32, then 32 times i8.  scale = max |x| / 127; a value is
     * x / scale rounded to nearest even, 0 when scale is 0. */
    QMI_KV_Q8,
    QMI_KV_COUNT
} qmi_kv_type;

enum { QMI_KV_BLOCK = 32, QMI_KV_BLOCK_BYTES = 36 };

/* A multiple of 4. */
static inline uint64_t qmi_kv_row_bytes(qmi_kv_type type, int64_t n)
{
    const uint64_t cols = (uint64_t)n;
    if (type == QMI_KV_Q8)
        return (cols + QMI_KV_BLOCK - 1) / QMI_KV_BLOCK * QMI_KV_BLOCK_BYTES;
    return type == QMI_KV_F16 ? (2 * cols + 3) / 4 * 4 : 4 * cols;
}

/* cache[rows[t]] = src[t]. */
typedef struct qmi_op_kv_store {
    qmi_view cache; /* n_cache_rows rows of `type`, only rows[] are written */
    qmi_view src;   /* f32 [n_tokens, n_cols] */
    qmi_view rows;  /* i32 [n_tokens], distinct, < n_cache_rows */
    int64_t n_tokens, n_cols, n_cache_rows;
    qmi_kv_type type;
} qmi_op_kv_store;

/* One sequence of an attention batch, all counts in rows (tokens). */
typedef struct qmi_attention_span {
    int32_t q_begin, q_len; /* its rows in q and dst */
    int32_t k_begin, k_len; /* its rows in k and v, k_len >= 1 */
    int32_t q_pos;          /* position of its first query among the keys */
} qmi_attention_span;

/* dst[q, h] = softmax_k(scale * q.k + bias[h][k - q]) v, per head h of queries
 * for each span.  Query head h reads head h / (n_heads / n_kv_heads) of keys
 * and values.  causal: keys with position > query's are masked; window: those
 * with position <= query's - window are, too.  A sink is one more score of a
 * head, without a value: it takes its share of the softmax.  Head h occupies
 * columns [h * width, (h + 1) * width).  A query sees at least one key. */
typedef struct qmi_op_attention {
    qmi_view dst;   /* f32 [n_queries, n_heads * d_value] */
    qmi_view q;     /* f32 [n_queries, n_heads * d_key] */
    qmi_view k, v;  /* rows of kv_type: n_kv_heads * d_key, * d_value values */
    qmi_view spans; /* qmi_attention_span [n_spans], cover all queries */
    /* f32 [n_heads, 2 * max_distance + 1], optional: column
     * clamp(k_pos - q_pos, -max_distance, max_distance) + max_distance. */
    qmi_view bias;
    const qmi_bound_weight *sinks; /* dense [1, n_heads]; NULL: none */
    int64_t n_spans, n_queries, max_distance;
    int64_t n_heads, n_kv_heads; /* the first a multiple of the second */
    int64_t d_key, d_value;      /* of one head */
    int64_t max_keys;            /* largest k_len of the spans */
    int64_t window;              /* 0: none; else causal */
    qmi_kv_type kv_type;
    float scale;
    bool causal;
} qmi_op_attention;

/* How a router's logits become experts and weights. */
typedef enum qmi_scoring { QMI_SOFTMAX, QMI_SIGMOID } qmi_scoring;
typedef struct qmi_router {
    qmi_scoring scoring;
    /* Experts are chosen within the top_groups groups of n_experts / n_groups
     * neighbours that score most; a group's score is the sum of its group_best
     * (1 or 2) largest.  n_groups 0: no groups. */
    int64_t n_groups, top_groups;
    int group_best;
    bool normalises; /* weights of the chosen sum up to `scale` */
    float scale;     /* of the weights; 0 stands for 1 */
} qmi_router;

/* Scores of logits f32 [n_tokens, n_experts]: softmax over all experts, or
 * sigmoid.  The top_k with the largest score + bias per token, largest first
 * (ties: lowest index), are its experts, their scores without the bias its
 * weights: expert i32 and weight f32, both [n_tokens, top_k].
 * (A softmax over the chosen logits is the normalised softmax over all.)
 * capacity > 0: within each sequence, tokens beyond the capacity-th of an
 * expert are dropped: expert = -1, weight kept (Hugging Face 4.27 rule). */
typedef struct qmi_op_route {
    qmi_view expert, weight, logits;
    qmi_view sequence; /* i32 [n_tokens], non-decreasing; used with capacity */
    const qmi_bound_weight *bias; /* dense [1, n_experts]; NULL: none */
    int64_t n_tokens, n_experts, top_k, capacity;
    qmi_router router;
} qmi_op_route;

/* dst[t] = residual[t] + sum_j weight[t, j] * F_{expert[t, j]}(src[t]) with
 * F_e(x) = down_e (act(gate_e x) * up_e x), or down_e act(up_e x) without a
 * gate, and F_{-1}(x) = x (a dropped token passes its normed input:
 * transformers 4.27). */
typedef struct qmi_op_expert_ffn {
    qmi_view dst, src, residual;       /* f32 [n_tokens, d_model] */
    qmi_view expert, weight;           /* i32, f32 [n_tokens, top_k] */
    const qmi_bound_weight *gate, *up; /* [E, d_ff, d_model]; gate or NULL */
    const qmi_bound_weight *down;      /* [E, d_model, d_ff] */
    int64_t n_tokens, top_k;
    qmi_act act;
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
