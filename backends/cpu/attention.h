/* SPDX-License-Identifier: Apache-2.0
 * Attention of one sequence: what its kernels are given.  Two forms: a block
 * of queries of one head over all keys, and one query of a few neighbouring
 * heads over a chunk of keys.  Neither keeps a row of scores of full length,
 * and the cut depends on the shape alone, never on the number of threads. */
#ifndef QCPU_ATTENTION_H
#define QCPU_ATTENTION_H

#include "cpu_features.h"
#include "ops.h"

enum {
    QCPU_QUERIES = 64, /* of a block */
    QCPU_KEYS = 64,    /* that a block of queries meets at once */
    QCPU_CHUNK = 256,  /* keys of one step */
    QCPU_TILE = 16     /* keys that a step widens at once */
};

/* Keys, or values, of a sequence in the cache. */
typedef struct qcpu_kv_rows {
    const uint8_t *rows; /* first key */
    uint64_t row_bytes;
    qmi_kv_type type;
    int64_t first; /* column of the first head wanted */
    int64_t width; /* of a head */
} qcpu_kv_rows;

/* Rows of queries and results begin at the first head wanted; strides are
 * floats between rows. */
typedef struct qcpu_attention_task {
    const float *q; /* [n_queries] rows of n_heads * d_key */
    float *dst;     /* [n_queries] rows of n_heads * d_value */
    int64_t q_stride, dst_stride;
    qcpu_kv_rows k, v;
    int64_t n_queries, n_keys, d_key, d_value;
    int64_t n_heads; /* of queries; `shared` neighbours read one of keys */
    int64_t shared;
    int64_t q_pos; /* of the first query among the keys */
    float scale;
    const float *bias; /* [n_heads, 2 * max_distance + 1]; NULL: none */
    int64_t max_distance;
    const float *sinks; /* [n_heads]; NULL: none.  Steps leave them out. */
    int64_t window;     /* keys so far before a query do not count; 0: none */
    bool causal;        /* keys behind a query do not count for it */
} qcpu_attention_task;

/* Result of one head over some of its keys, in the form that can be merged:
 * dst = sum e^(largest - of all) values / sum e^(largest - of all) sum.
 * Without keys: -FLT_MAX, 0 and zeros. */
typedef struct qcpu_partial {
    float largest; /* score */
    float sum;     /* of e^(score - largest) */
    /* and f32 [d_value], the values so weighted, behind it */
} qcpu_partial;

typedef struct qcpu_attention_kernel {
    unsigned needs; /* features */
    /* dst of at most QCPU_QUERIES queries of one head.  Ends early, with dst
     * undefined, when `err` knows that it is cancelled. */
    void (*block)(
        const qcpu_attention_task *a, void *scratch, const qmi_error *err);
    /* The partial of each head, partial_bytes apart, of the only query over
     * keys [first, first + n), n <= QCPU_CHUNK, all of which it sees. */
    void (*step)(uint8_t *partials, size_t partial_bytes,
        const qcpu_attention_task *a, int64_t first, int64_t n, void *scratch);
} qcpu_attention_kernel;

/* Work space of either, a multiple of 64 bytes; of steps of so many heads of
 * queries and of keys. */
size_t qcpu_attention_scratch_bytes(
    int64_t n_heads, int64_t n_kv_heads, int64_t d_key, int64_t d_value);

/* Keys that come before all that a query at q_pos sees. */
static inline int64_t qcpu_first_key(int64_t window, int64_t q_pos)
{
    return window > 0 && q_pos + 1 > window ? q_pos + 1 - window : 0;
}

/* All that depends on the distance between a query and a key alone, bias and
 * mask, as one line: key `first + j` and query i have
 * line[n_keys - 1 - j + i].  n_keys - 1 + n_queries numbers are written. */
void qcpu_attention_line(float *line, const qcpu_attention_task *a,
    int64_t head, int64_t n_queries, int64_t first, int64_t n_keys);

/* X(symbol, "variant", features) for every kernel, best first; a kernel's
 * table is qcpu_attention_<symbol>. */
#if defined(__x86_64__)
#define QCPU_ISA_ATTENTION(X)                                                  \
    X(avx512, "avx512")                                                        \
    X(avx2, "avx2")
#elif defined(__aarch64__)
#define QCPU_ISA_ATTENTION(X) X(neon, "neon")
#else
#define QCPU_ISA_ATTENTION(X)
#endif
#define QCPU_ATTENTION(X) QCPU_ISA_ATTENTION(X) X(portable, "portable")

#define X(symbol, text)                                                        \
    extern const qcpu_attention_kernel qcpu_attention_##symbol;
QCPU_ATTENTION(X)
#undef X

#endif
