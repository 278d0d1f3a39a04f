/* SPDX-License-Identifier: Apache-2.0
 * The one struct each kernel takes, and the list of kernels.  Shared by C (the
 * host side) and CUDA C++ (the kernels).  Pointers are device memory; those to
 * activations are aligned to 4 bytes only, those to weights to 16 at the start
 * of a part. */
#ifndef QCUDA_ARGS_H
#define QCUDA_ARGS_H

#include <stdint.h>

#include "format_ids.h"

struct uint2; /* CUDA's: two u32 */

/* Structs have no padding, whose bytes nothing defines: launches.c compares and
 * keeps them as bytes.  Compilers of the host see to it. */
#if defined(__GNUC__) && !defined(__CUDACC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic error "-Wpadded"
#endif

/* qmi_act, qmi_kv_type, qmi_scoring and sizes of ops.h, which kernels cannot
 * include; cuda.c compares them. */
enum { QCUDA_ACT_NONE, QCUDA_ACT_RELU, QCUDA_ACT_SILU, QCUDA_ACT_SIGMOID };
enum { QCUDA_KV_F32, QCUDA_KV_F16, QCUDA_KV_Q8 };
enum { QCUDA_KV_BLOCK = 32, QCUDA_KV_BLOCK_BYTES = 36 };
enum { QCUDA_SOFTMAX, QCUDA_SIGMOID };

/* A weight on the device: the stored parts, unchanged. */
typedef struct qcuda_stack {
    const uint8_t *codes;        /* dense: the elements */
    const uint16_t *levels;      /* bf16: scales or levels of the rows */
    const uint32_t *row_offsets; /* ternary-dict */
    const uint64_t *mat_offsets; /* ternary-dict, in codewords */
    const uint32_t *dict;        /* ternary-dict: qcuda_dict_word */
    const uint16_t *col_scales;  /* tlut: bf16; else NULL */
    const uint16_t *table;       /* tlut: bf16 [64, v] */
    uint64_t mat_bytes;          /* of codes, when equal for all matrices; 0:
                                    all are the first */
    uint64_t tile_bytes;         /* pvq, pvq8, tlut */
    int32_t format, n_mats, n_rows, n_cols; /* format: qmi_format_id */
    int32_t rotation;
    uint32_t rotation_seed;
    int32_t k, v; /* tlut: bits and rows per step; else 0 */
} qcuda_stack;

/* A codeword of ternary-dict in one word: 0..4 number of weights; then three
 * times 7 bits: position 0..27 and code (0: unused, 1: low, 2: high). */
enum { QCUDA_DICT_COUNT_BITS = 5, QCUDA_DICT_ENTRY_BITS = 7 };

typedef struct qcuda_decode_args {
    qcuda_stack w;
    float *dst;         /* [grid.x, n_cols] */
    const int32_t *ids; /* rows; NULL: first_row, first_row + 1, ... */
    int64_t mat, first_row;
} qcuda_decode_args;

typedef struct qcuda_rmsnorm_args {
    float *dst;
    const float *src;    /* [grid.x, n_cols] */
    const float *weight; /* [n_cols] */
    int32_t n_cols;
    float epsilon;
} qcuda_rmsnorm_args;

/* A block takes `blockDim` values, or pairs, of a token; block token *
 * token_blocks + part. */
typedef struct qcuda_rope_args {
    float *dst;
    const float *src;   /* [n_tokens, n_heads, d_head] */
    const float *turns; /* [n_tokens, d_rotary] */
    int32_t n_heads, d_head, d_rotary, interleaved;
    int32_t token_blocks, unused;
} qcuda_rope_args;

typedef struct qcuda_glu_args {
    float *dst;
    const float *up;   /* [n_tokens, n_cols] */
    const float *gate; /* [n_tokens, n_gate_cols] */
    int32_t n_cols, n_gate_cols, act;
    int32_t token_blocks;
} qcuda_glu_args;

typedef struct qcuda_kv_store_args {
    uint8_t *cache;
    const float *src; /* [grid.x, n_cols] */
    const int32_t *rows;
    int64_t row_bytes;
    int32_t n_cols, type;
} qcuda_kv_store_args;

/* Most heads of queries that a block takes together. */
enum { QCUDA_ATTENTION_HEADS = 8 };

/* Block (query - first) * n_kv_heads * parts + kv_head * parts + part, of
 * ceil(group / block_heads) parts. */
typedef struct qcuda_attention_args {
    float *dst;
    const float *q;
    const uint8_t *k, *v; /* rows of the kernel's type */
    int64_t k_row_bytes, v_row_bytes;
    const int32_t *spans; /* qmi_attention_span */
    const float *bias;    /* or NULL */
    const float *sinks;   /* or NULL */
    int64_t max_distance;
    int32_t n_spans, n_kv_heads, d_key, d_value;
    int32_t group;       /* heads of queries to a head of keys */
    int32_t block_heads; /* of them in a block */
    int32_t causal, window;
    float scale;
    int32_t first; /* query of the first block */
} qcuda_attention_args;

typedef struct qcuda_route_args {
    int32_t *expert;
    float *weight;
    const float *logits;
    const float *bias; /* [n_experts], or NULL */
    int32_t n_experts, top_k;
    int32_t scoring, n_groups, top_groups, group_best; /* qmi_router */
    int32_t normalises;
    float scale;
} qcuda_route_args;

typedef struct qcuda_drop_args {
    int32_t *expert;       /* [n_tokens, top_k] */
    const int32_t *chosen; /* the same before anything was dropped */
    const int32_t *sequence;
    int64_t n_pairs, capacity;
    int32_t top_k, unused;
} qcuda_drop_args;

/* A block of top_logits takes a segment of a row, some keys per thread. */
enum {
    QCUDA_TOP_THREADS = 256,
    QCUDA_TOP_EACH = 8,
    QCUDA_TOP_SEGMENT = QCUDA_TOP_THREADS * QCUDA_TOP_EACH,
    QCUDA_TOP_MAX = 128 /* QMI_TOP_LOGITS_MAX */
};

/* One step of top_logits: the top_k largest of every segment.  Block row *
 * n_segments + segment. */
typedef struct qcuda_top_args {
    const float *logits;  /* [n_rows, n_cols] */
    const uint64_t *keys; /* [n_rows, n] of the step before; NULL: logits */
    uint64_t *best;       /* [n_rows, n_segments, top_k]; NULL: the last step */
    float *value;         /* [n_rows, top_k] */
    int32_t *id;
    int64_t n_cols, n; /* n == n_cols in the first step */
    int32_t n_segments, top_k;
} qcuda_top_args;

/* Items a product takes together without tensor cores, and with them. */
enum { QCUDA_FEW_ITEMS = 4, QCUDA_MANY_ITEMS = 32 };

/* A run of items (rows of dst) that share a matrix. */
typedef struct qcuda_tile {
    int32_t mat;   /* -1: dropped tokens */
    int32_t begin; /* place of the first item in `order` */
    int32_t count; /* 0: an unused tile */
    int32_t slot;  /* of its first eight items among packed activations */
} qcuda_tile;

/* Sorting of the (token, choice) pairs of a step by expert.  A warp per expert
 * and one for the dropped pairs, whose number is n_experts. */
typedef struct qcuda_group_args {
    const int32_t *expert; /* [n_pairs] */
    int32_t *counts;       /* [n_experts + 1] */
    int32_t *order;        /* [n_pairs] pairs by expert, stable */
    qcuda_tile *tiles;     /* [n_tiles] */
    int32_t n_pairs, n_experts, n_tiles, tile_items;
    int32_t few; /* tiles of up to so many items get no slot */
    int32_t unused;
} qcuda_group_args;

/* dst[item, r] = finish(sum_c W[mat][r, c] * src[item / divisor, c]) for the
 * items of a tile (grid.y), where finish(s) is act(alpha * s + bias[r]) times
 * the factors, plus the residual.  Where the matrix comes from: tiles of `order`
 * if `tiles`, else expert[i] of tile i if `expert`, else `mat`; without `tiles`, tile i is
 * items [i * tile_items, ...). */
typedef struct qcuda_product_args {
    qcuda_stack w;
    float *dst;
    const float *src;
    const float *residual;    /* like dst, or NULL */
    const float *bias;        /* [n_rows], or NULL */
    const float *factor;      /* like dst (it may be dst), or NULL */
    const float *item_factor; /* of each item, or NULL */
    const float *skip; /* with item_factor: stands for W x of dropped items */
    const qcuda_tile *tiles;
    const int32_t *order;
    const int32_t *expert;
    float *partial;       /* [grid.z, n_items, n_rows] when grid.z > 1 */
    uint32_t *arrived;    /* [grid.y, grid.x], zero between launches */
    struct uint2 *packed; /* kernels/pack.cu writes, product_many reads */
    int64_t mat;
    int32_t n_items, tile_items, divisor;
    int32_t first_tile;  /* of grid.y = 0 */
    int32_t least, most; /* a tile with a count outside is another kernel's */
    int32_t n_steps;     /* of 16 columns, in packed activations */
    int32_t split_cols;  /* columns of one of grid.z splits; pack: of grid.x */
    int32_t row_tiles;   /* tiles of 32 rows per block; tlut: 2 */
    int32_t block_rows;  /* row kernels: rows per block */
    int32_t staged;      /* src is staged in shared memory */
    int32_t act;
    float alpha;
    int32_t unused;
} qcuda_product_args;

/* The paper's matvec (kernels/paper.cu), for comparison. */
typedef struct qcuda_paper_args {
    qcuda_product_args p;
    const uint32_t *table; /* [65536, 2]: docs/format.md, "Decode table" */
} qcuda_paper_args;

typedef struct qcuda_combine_args {
    float *dst;
    const float *residual; /* or NULL */
    const float *src, *result;
    const int32_t *expert;
    const float *weight;
    int32_t d_model, top_k;
} qcuda_combine_args;

/* Activations for dense products: each split exactly into three bf16. */
typedef struct qcuda_split_args {
    uint16_t *dst; /* [3, n], the largest part first */
    const float *src;
    int64_t n;
} qcuda_split_args;

/* dst = residual + act(alpha * sum + bias), element by element. */
typedef struct qcuda_finish_args {
    float *dst;
    const float *residual; /* or NULL */
    const float *sum;      /* n values of rows of n_cols */
    const float *bias;     /* [n_cols], or NULL */
    int64_t n;
    int32_t n_cols;
    float alpha;
    int32_t act, unused;
} qcuda_finish_args;

#if defined(__GNUC__) && !defined(__CUDACC__)
#pragma GCC diagnostic pop
#endif

/* X(name): every kernel, in kernels/<file>.cu. */
#define QCUDA_KERNEL_MAP(X)                                                    \
    X(decode_rows)                                                             \
    X(rmsnorm)                                                                 \
    X(rope)                                                                    \
    X(glu)                                                                     \
    X(kv_store)                                                                \
    X(attention_f32)                                                           \
    X(attention_f16)                                                           \
    X(attention_q8)                                                            \
    X(route)                                                                   \
    X(drop)                                                                    \
    X(top_logits)                                                              \
    X(group_count)                                                             \
    X(group_fill)                                                              \
    X(combine)                                                                 \
    X(product_bf16)                                                            \
    X(product_f16)                                                             \
    X(product_f32)                                                             \
    X(product_q2)                                                              \
    X(product_ternary_dict)                                                    \
    X(product_pvq)                                                             \
    X(product_pvq8)                                                            \
    X(product_tlut1)                                                           \
    X(product_tlut2)                                                           \
    X(product_tlut4)                                                           \
    X(pack)                                                                    \
    X(product_many_bf16)                                                       \
    X(product_many_q2)                                                         \
    X(product_many_pvq)                                                        \
    X(product_many_pvq8)                                                       \
    X(product_many_tlut)                                                       \
    X(split)                                                                   \
    X(finish)                                                                  \
    X(paper_matvec)

#ifdef __cplusplus
extern "C" {
#endif
struct qcuda_entry;
#define X(name) extern const struct qcuda_entry qcuda_kernel_##name;
QCUDA_KERNEL_MAP(X)
#undef X
#ifdef __cplusplus
}
#endif

#endif
