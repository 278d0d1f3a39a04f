/* SPDX-License-Identifier: Apache-2.0
 * GPTQ without the quantiser: the factor of the damped Hessian and the walk
 * over the columns that lets later columns make up for the errors of earlier
 * ones.
 *
 * Notation: A = H + d I = V V^T with V upper triangular, W the weights, Q what
 * is stored, D = W - Q.  The output error is tr(D A D^T) = |D V|^2.  Columns
 * are chosen left to right in groups b of neighbours; with all earlier
 * columns fixed, the error of group b is |(C_b - Q_b) V_bb|^2 where
 *     C_b = W_b + sum over j before b of D_j F_j,b,  F_j,b = V_j,b V_bb^-1.
 * This equals the usual form with U = V^-1, the upper Cholesky factor of the
 * inverse (error / U_jj spread along row j of U), but needs no inverse.
 *
 * A coordinate-descent pass is the same walk with F_j,k = A_jk / A_kk on both
 * sides of the diagonal: C then is the best value of a column given all
 * others, later ones as they were chosen before.
 *
 * BLAS must run single-threaded, as backends leave it. */
#ifndef QMI_GPTQ_FRAME_H
#define QMI_GPTQ_FRAME_H

#include "quantiser.h"
#include "sweep_tile.h"

enum { QMI_SWEEP_MAX_GROUP = 16 };

typedef struct qmi_gptq {
    int64_t n_cols;
    int group;       /* columns chosen together: 1, 4, 8 or 16; the last group
                      * of a row may be narrower */
    double damping;  /* d */
    float *feedback; /* [n_cols, n_cols]: F above the diagonal blocks, identity
                      * on them, zero below */
    float *metric;   /* [n_cols, group]: row k = row of V_bb of column k */
} qmi_gptq;

/* False: NULL, without tokens, zero, or not finite. */
bool qmi_hessian_usable(const qmi_hessian *hessian);

/* `damping` is relative to the mean diagonal, 0 = 0.1; the paper's floor of
 * 1e-6 on its scale (2 / tokens of ours) applies.  E_UNSUPPORTED: the Hessian
 * is not usable, or not positive definite after damping; `out` is then all
 * zero. */
qmoe_status qmi_gptq_prepare(qmi_gptq *out, const qmi_hessian *hessian,
    double damping, int group, qmi_error *err);
/* The same, without another matrix: hessian->sum, which must be expendable,
 * holds the factor while it is needed and nothing of use afterwards. */
qmoe_status qmi_gptq_prepare_in_place(qmi_gptq *out, const qmi_hessian *hessian,
    double damping, int group, qmi_error *err);
/* The d of both: E_UNSUPPORTED when the Hessian is not usable. */
qmoe_status qmi_gptq_damping(
    double *out, const qmi_hessian *hessian, double damping, qmi_error *err);
/* The descent form, groups of one: F on both sides of a unit diagonal,
 * metric = sqrt(A_kk).  A need not be positive definite. */
qmoe_status qmi_gptq_prepare_descent(
    qmi_gptq *out, const qmi_hessian *hessian, double damping, qmi_error *err);
/* Accepts one that is all zero. */
void qmi_gptq_release(qmi_gptq *gptq);

/* Chooses columns [col, col + n) of the QMI_SWEEP_ROWS rows from `row`; rows
 * past the end of the matrix have c = 0, w = 0 and are ignored afterwards.
 * c: the values aimed at; q: the values chosen; codes: anything of the
 * caller's.  All [n, QMI_SWEEP_ROWS], a column being contiguous. */
typedef void (*qmi_choose_fn)(void *user, int64_t row, int64_t col, int n,
    const float *c, float *q, uint8_t *codes);

typedef struct qmi_sweep {
    int64_t n_rows, n_cols;
    const float *w;       /* [n_rows, n_cols] */
    float *work;          /* [n_rows, n_cols] in: w plus what descent adds;
                           * out: D = w - q */
    uint8_t *codes;       /* [n_rows, n_cols] out; NULL: not wanted */
    const qmi_gptq *gptq; /* NULL: no feedback, A = I */
    qmi_choose_fn choose;
    void *user;
    _Atomic(int64_t) *n_coded; /* as in qmi_quant_options; NULL: not wanted */
    double error; /* out: sum |(c - q) V_bb|^2 = tr(D A D^T) for a factor */
} qmi_sweep;

/* Bits of the result depend neither on the CPU's vector width nor on threads
 * outside BLAS. */
qmoe_status qmi_sweep_run(qmi_sweep *sweep, qmi_error *err);

/* work D -> D (I + L), L the part of F below the diagonal: Q added to this is
 * where a descent pass starts from. */
qmoe_status qmi_sweep_look_ahead(
    float *work, int64_t n_rows, const qmi_gptq *descent, qmi_error *err);

/* tr(D H D^T) of d [n_rows, n_cols], which is used up; `gptq` is a factor of
 * H.  In float but for the sum: accurate to about 1e-5 of tr(D A D^T). */
qmoe_status qmi_gptq_error(double *out, float *d, int64_t n_rows,
    const qmi_gptq *gptq, qmi_error *err);
/* Errors and energies of a result.  d = w - q is used up.  `gptq` is the factor
 * of the Hessian or all zero, `hessian` usable or NULL. */
qmoe_status qmi_gptq_measure(qmi_quant_result *result, float *d, const float *w,
    int64_t n_rows, int64_t n_cols, const qmi_hessian *hessian,
    const qmi_gptq *gptq, qmi_error *err);

/* A matrix BLAS can index, and a Hessian of its width or none; E_INVALID or
 * E_UNSUPPORTED. */
qmoe_status qmi_gptq_check(
    int64_t n_rows, int64_t n_cols, const qmi_hessian *hessian, qmi_error *err);

#endif
