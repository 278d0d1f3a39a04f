/* SPDX-License-Identifier: Apache-2.0
 * Products with a matrix: what a kernel is, and the table of all kernels.
 * A product is cut into tiles of rows whose size depends on the weight alone,
 * and a row is computed by one thread in one order: results do not depend on
 * the number of threads. */
#ifndef QCPU_MATMUL_H
#define QCPU_MATMUL_H

#include "backend.h"
#include "cpu_features.h"
#include "weight.h"

/* One tile of a product: rows [row, row + n_rows) of a checked matrix. */
typedef struct qcpu_tile {
    const qmi_weight *w;
    int64_t mat, row, n_rows;
    const float *x;     /* f32 [n_tokens, n_cols], rotated if `w` is, but for
                           kernels that take it plain */
    const void *packed; /* the same, packed by the kernel */
    int64_t n_tokens;
} qcpu_tile;

/* A way to multiply by matrices of some formats.  Only `begin` is optional. */
typedef struct qcpu_matmul {
    unsigned needs; /* features */
    bool (*takes)(const qmi_weight *w);
    bool takes_plain_x; /* never rotated: it decodes rows by their format */
    /* Before the products of an operation, with the number of threads that may
     * run tiles; NULL: nothing has to be there. */
    qmoe_status (*begin)(int n_threads, qmi_error *err);
    /* Most tokens of a `linear` it should be given. */
    int64_t max_tokens;
    qmi_inputs inputs; /* how it takes them */
    /* Products per nanosecond, roughly: below a few microseconds of work no
     * other thread is asked. */
    int speed;
    int64_t (*tile_rows)(const qmi_weight *w);
    /* Input for one matrix as the kernel wants it, 64-byte aligned. */
    size_t (*packed_bytes)(const qmi_weight *w, int64_t n_tokens);
    void (*pack)(void *dst, const qmi_weight *w, int64_t mat, const float *x,
        int64_t n_tokens);
    /* Work space of one thread for one tile. */
    size_t (*tile_scratch)(const qmi_weight *w, int64_t n_tokens);
    /* y [n_tokens, n_rows] with rows n_rows apart; n_rows as in the tile. */
    void (*run)(float *y, const qcpu_tile *tile, void *scratch);
} qcpu_matmul;

/* X(symbol, "variant") for every kernel, best first; a kernel's table is
 * qcpu_matmul_<symbol>. */
#if defined(__x86_64__)
#define QCPU_ISA_KERNELS(X)                                                    \
    X(pvq_avx512vbmi, "pvq-avx512vbmi")                                        \
    X(pvq_avx512, "pvq-avx512")                                                \
    X(pvq_avx2, "pvq-avx2")                                                    \
    X(tlut_int8_avx512vbmi, "tlut-int8-avx512vbmi")                            \
    X(tlut_int16_avx512vbmi, "tlut-int16-avx512vbmi")                          \
    X(tlut_avx512vbmi, "tlut-avx512vbmi")                                      \
    X(tlut_int8_avx2, "tlut-int8-avx2")                                        \
    X(tlut_int16_avx2, "tlut-int16-avx2")                                      \
    X(tlut_avx2, "tlut-avx2")                                                  \
    X(ternary_dict_avx512, "ternary-dict-avx512")                              \
    X(ternary_dict_avx2, "ternary-dict-avx2")                                  \
    X(q2_avx512, "q2-avx512")                                                  \
    X(q2_avx2, "q2-avx2")                                                      \
    X(dense_avx512, "dense-avx512")                                            \
    X(dense_avx2, "dense-avx2")
#elif defined(__aarch64__)
#define QCPU_ISA_KERNELS(X)                                                    \
    X(pvq_neon, "pvq-neon")                                                    \
    X(tlut_int8_neon, "tlut-int8-neon")                                        \
    X(tlut_int16_neon, "tlut-int16-neon")                                      \
    X(tlut_neon, "tlut-neon")                                                  \
    X(q2_neon, "q2-neon")                                                      \
    X(dense_neon, "dense-neon")
#else
#define QCPU_ISA_KERNELS(X)
#endif
#define QCPU_KERNELS(X)                                                        \
    QCPU_ISA_KERNELS(X)                                                        \
    X(pvq_portable, "pvq-portable")                                            \
    X(tlut_int8_portable, "tlut-int8-portable")                                \
    X(tlut_int16_portable, "tlut-int16-portable")                              \
    X(tlut_portable, "tlut-portable")                                          \
    X(q2_portable, "q2-portable")                                              \
    X(ternary_dict_portable, "ternary-dict-portable")                          \
    X(ternary_dict_plain, "ternary-dict-plain")                                \
    X(blas, "blas")                                                            \
    X(decoded, "decoded")

#define X(symbol, text) extern const qcpu_matmul qcpu_matmul_##symbol;
QCPU_KERNELS(X)
#undef X

/* Before a loop of few rounds whose arrays must live in registers. */
#if defined(__clang__)
#define QCPU_UNROLL _Pragma("clang loop unroll(full)")
#else
#define QCPU_UNROLL _Pragma("GCC unroll 16")
#endif

enum { QCPU_ANY_TOKENS = INT32_MAX };

/* Fetches the cache line `ahead` bytes further on.  Through an integer: the
 * address may lie outside the object, where only a prefetch may point. */
static inline void qcpu_prefetch(const void *p, uintptr_t ahead)
{
    __builtin_prefetch((const void *)((uintptr_t)p + ahead));
}

/* For kernels that read x as it is. */
size_t qcpu_no_packed_bytes(const qmi_weight *w, int64_t n_tokens);
void qcpu_no_pack(void *dst, const qmi_weight *w, int64_t mat, const float *x,
    int64_t n_tokens);
/* For kernels without work space. */
size_t qcpu_no_scratch(const qmi_weight *w, int64_t n_tokens);

#endif
