/* SPDX-License-Identifier: Apache-2.0
 * Quantisers: one matrix and the second moments of its inputs in, the bytes of
 * one matrix in a format out.  Pure: no I/O, no state, deterministic, single
 * thread (the caller runs many at once).  One entry of the table in
 * quantiser.c each. */
#ifndef QMI_QUANTISER_H
#define QMI_QUANTISER_H

#include <stdatomic.h>

#include "weight.h"

/* Second moments of the inputs of a matrix: sum over tokens of x x^T. */
typedef struct qmi_hessian {
    int64_t n_cols;
    int64_t n_tokens; /* 0: nothing is known, quantisers round to nearest */
    double *sum;      /* [n_cols, n_cols], symmetric, both halves filled */
    /* While it grows: tokens not yet in the sum.  Afterwards the inputs
     * themselves [n_tokens, n_cols] when they are few, else NULL: then the sum
     * has low rank, and factoring can use it. */
    double *waiting;
    int n_waiting;
    bool complete;
    /* Its owner needs `sum` no more: a quantiser may use it up instead of
     * copying it, and whatever it says afterwards means nothing. */
    bool expendable;
} qmi_hessian;

/* A matrix compressed in memory: for each part of the format the bytes that
 * belong to it.  Offset parts of variable-length formats (expert_offsets) are
 * left empty: the stack writer makes them. */
typedef struct qmi_encoded {
    const qmi_format *format;
    int64_t n_rows, n_cols;
    uint8_t *parts[QMI_MAX_PARTS]; /* qmi_free; n_bytes below */
    size_t part_bytes[QMI_MAX_PARTS];
} qmi_encoded;
void qmi_encoded_free(qmi_encoded *encoded);

/* How well a matrix was compressed.  Output error and energy are sums over
 * tokens of |(W - Q) x|^2 and |W x|^2 = tr((W - Q) H (W - Q)^T) and
 * tr(W H W^T), H without damping; without a Hessian H = I. */
typedef struct qmi_quant_result {
    double error, energy;
    bool on_inputs;                     /* there was a usable Hessian */
    double weight_error, weight_energy; /* with H = I in any case */
    uint64_t n_zeros;
    double entropy_bits; /* per weight, ternary formats; else 0 */
    bool fell_back;      /* the Hessian was singular: rounded to nearest */
} qmi_quant_result;

typedef struct qmi_quant_options {
    double damping;   /* of the mean diagonal; 0 = the default 0.1 */
    bool fit_levels;  /* ternary: levels fitted instead of min / max */
    void *codebook;   /* as qmi_weight.codebook */
    int32_t rotation; /* pvq, tlut: Hadamard block, 0 = none */
    uint32_t rotation_seed;
    int passes; /* pvq, tlut, fit_levels: coordinate-descent passes */
    /* tlut: [n_rows] how much the error of a row counts, finite and positive,
     * of mean 1; NULL: all alike. */
    const float *row_weights;
    /* Weights are added as they get their codes, for a progress line: of
     * formats with a long search, not all of them.  NULL: nobody looks. */
    _Atomic(int64_t) *n_coded;
} qmi_quant_options;

static inline void qmi_count_coded(_Atomic(int64_t) *n_coded, int64_t n)
{
    if (n_coded != NULL)
        atomic_fetch_add_explicit(n_coded, n, memory_order_relaxed);
}

/* How the matrices of one stack are compressed. */
typedef struct qmi_stack_recipe {
    const struct qmi_quantiser *quantiser;
    qmi_quant_options quant;
    /* [n_mats * n_rows]: quant.row_weights of each matrix; NULL: all alike. */
    const float *row_weights;
} qmi_stack_recipe;

typedef struct qmi_quantiser {
    const char *method; /* "rtn", "gptq" */
    const qmi_format *format;
    bool needs_hessian;
    /* Without a Hessian each row is quantised by itself: the bytes of a matrix
     * are those of its pieces of rows, one after the other in every part. */
    bool by_rows;
    /* Descent passes for a caller without a wish (docs/quantisers.md); 0: it
     * makes none. */
    int default_passes;
    bool passes_fit_levels; /* there are passes with fit_levels only */
    bool weighs_rows;       /* options.row_weights */
    /* Most bytes that `run` has allocated at once, its result among them, with
     * an expendable Hessian (`moments`) or none. */
    uint64_t (*work_bytes)(int64_t n_rows, int64_t n_cols, bool moments,
        const qmi_quant_options *options);
    /* w [n_rows, n_cols] f32, row-major, not modified.  `hessian` may be NULL
     * (round to nearest).  E_FORMAT: a weight is not finite. */
    qmoe_status (*run)(qmi_encoded *out, qmi_quant_result *result,
        const float *w, int64_t n_rows, int64_t n_cols,
        const qmi_hessian *hessian, const qmi_quant_options *options,
        qmi_error *err);
} qmi_quantiser;

/* Sets format and parameters of a stack that is made so. */
void qmi_stack_recipe_set(qmi_weight *stack, const qmi_stack_recipe *recipe);

/* All of them, NULL at the end (quantiser_table.c). */
extern const qmi_quantiser *const qmi_quantisers[];
/* NULL when there is no such pair. */
const qmi_quantiser *qmi_quantiser_find(const char *method, const char *format);
/* Whether it makes descent passes with these options. */
bool qmi_quantiser_makes_passes(
    const qmi_quantiser *quantiser, bool fit_levels);
/* What a bit budget chooses between for each stack, the smaller first. */
enum { QMI_SMALL, QMI_LARGE, QMI_N_SIZES };
extern const qmi_format *const qmi_budget_formats[QMI_N_SIZES];
/* By bits: what matrices beside the experts are compressed to; NULL: there is
 * none of so many. */
enum { QMI_MAX_DENSE_BITS = 8 };
extern const qmi_format *const qmi_dense_formats[QMI_MAX_DENSE_BITS + 1];
/* Writes names of formats, "a, b, c": those that quantisers of `method` make
 * (NULL: all) and that have what `has` asks (NULL: nothing).  Returns text. */
const char *qmi_format_names(char *text, size_t capacity, const char *method,
    bool (*has)(const qmi_format *format));
bool qmi_format_rotates(const qmi_format *format);
bool qmi_format_has_levels(const qmi_format *format);
bool qmi_format_has_dictionary(const qmi_format *format);
bool qmi_format_weighs_rows(const qmi_format *format);
const qmi_quantiser *qmi_quantiser_at(size_t index);

/* ---- shared by quantisers (gptq_factor.c, gptq_frame.c) ---- */

/* U [n, n] f32, upper Cholesky factor of (H + d I)^-1 with
 * d = max(damping * mean(diag H), 1e-6 * 2 / n_tokens), by LAPACK in double;
 * damping 0 is the default.  E_UNSUPPORTED: H has no tokens, is zero, not
 * finite, or not positive definite even so. */
qmoe_status qmi_gptq_factor(
    float *u, const qmi_hessian *hessian, double damping, qmi_error *err);
/* tr(D H D^T) of D f32 [n_rows, n_cols], in double; H = I when hessian is NULL
 * or has no tokens.  NaN when out of memory or cancelled (or H is not finite). */
double qmi_quadratic_error(const float *d, int64_t n_rows, int64_t n_cols,
    const qmi_hessian *hessian, qmi_error *err);

#endif
