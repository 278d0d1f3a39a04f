/* SPDX-License-Identifier: Apache-2.0
 * The CPU backend: OpenMP over rows, OpenBLAS on dense tiles, fused decode and
 * multiply on compressed weights.  Results do not depend on the number of
 * threads: work is cut into tiles of fixed size, and each output element is
 * computed by one thread in one order. */
#ifndef QCPU_CPU_H
#define QCPU_CPU_H

#include "backend.h"

const qmi_backend *qmi_backend_cpu(void);

/* ---- inside the backend ---- */

struct qmi_device {
    int n_threads;
    /* Work space of the running operation; grows, never shrinks. */
    uint8_t *scratch;
    size_t scratch_bytes;
};

/* At least n_bytes of 64-byte aligned work space, valid until the next call;
 * contents undefined.  NULL and an E_NOMEM text on failure. */
void *qcpu_scratch(qmi_device *device, size_t n_bytes, qmi_error *err);

/* Rounds a work-space part up so that the next one stays 64-byte aligned. */
static inline size_t qcpu_align(size_t n_bytes)
{
    return (n_bytes + 63) / 64 * 64;
}

#ifdef _OPENMP
#include <omp.h>
#define QCPU_PRAGMA(x) _Pragma(#x)
/* Parallel loop over independent iterations on n threads. */
#define QCPU_PARALLEL_FOR(n)                                                   \
    QCPU_PRAGMA(omp parallel for schedule(dynamic) num_threads(n))
static inline int qcpu_thread(void)
{
    return omp_get_thread_num();
}
#else
#define QCPU_PARALLEL_FOR(n) (void)(n);
static inline int qcpu_thread(void)
{
    return 0;
}
#endif

/* Input of a product: the same n_tokens vectors in two layouts. */
typedef struct qcpu_input {
    const float *rows; /* [n_tokens, n_cols] */
    /* Blocks of QCPU_LANES tokens, each [n_cols, QCPU_LANES], padded with
     * zeros; NULL unless the kernel asks for it. */
    const float *lanes;
    int64_t n_tokens;
} qcpu_input;

enum { QCPU_LANES = 16 };

/* A way to multiply by a (checked) matrix of some formats. */
typedef struct qcpu_matmul {
    const char *name;
    bool (*takes)(const qmi_weight *w);
    bool wants_lanes; /* when n_tokens > 1 */
    /* Rows computed per call; fixed per weight, so that the cut into tiles
     * does not depend on the number of threads. */
    int64_t (*tile_rows)(const qmi_weight *w);
    /* Work space of one thread for one tile. */
    size_t (*tile_scratch)(const qmi_weight *w, int64_t n_tokens);
    /* y [n_tokens, n_rows] (row stride n_rows) = rows [row, row + n_rows). */
    void (*tile)(float *y, const qmi_weight *w, int64_t mat, int64_t row,
        int64_t n_rows, const qcpu_input *x, void *scratch);
} qcpu_matmul;

extern const qcpu_matmul qcpu_matmul_blas;
extern const qcpu_matmul qcpu_matmul_ternary_dict;

/* Transposes x [n_tokens, n_cols] into lane blocks (see qcpu_input). */
size_t qcpu_lanes_count(int64_t n_tokens, int64_t n_cols);
void qcpu_make_lanes(
    float *lanes, const float *x, int64_t n_tokens, int64_t n_cols);

const qmi_variant *qcpu_embed(size_t *n);
const qmi_variant *qcpu_rmsnorm(size_t *n);
const qmi_variant *qcpu_linear(size_t *n);
const qmi_variant *qcpu_kv_store(size_t *n);
const qmi_variant *qcpu_attention(size_t *n);
const qmi_variant *qcpu_route(size_t *n);
const qmi_variant *qcpu_expert_ffn(size_t *n);
const qmi_variant *qcpu_decode(size_t *n);

#endif
