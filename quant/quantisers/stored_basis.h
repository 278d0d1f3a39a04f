/* SPDX-License-Identifier: Apache-2.0
 * What the quantisers of formats with a rotation share: the matrix and its
 * moments in the basis and the units in which codes are searched, scales as
 * they are stored, and the errors of what was encoded. */
#ifndef QMI_STORED_BASIS_H
#define QMI_STORED_BASIS_H

#include "gptq_frame.h"

/* Rows scaled by powers of two and then rotated, second moments scaled to a
 * mean diagonal of 1, columns padded to whole blocks. */
typedef struct qmi_basis {
    int64_t n_rows, n_cols;
    int width;      /* of a block of columns that are chosen together */
    int64_t stride; /* n_cols, padded to a multiple of width */
    float *w;       /* [n_rows, stride] rotated, scaled rows */
    int *exponent;  /* [n_rows] row r of the matrix is w * 2^exponent */
    qmi_gptq gptq;  /* sweep under the moments, or all zero */
    float *h;       /* [stride, stride] damped moments, or NULL */
    double mean;    /* what the moments were divided by to give h */
} qmi_basis;

/* Options and sizes: E_INVALID, E_UNSUPPORTED. */
qmoe_status qmi_basis_check(int64_t n_rows, int64_t n_cols,
    const qmi_hessian *hessian, const qmi_quant_options *options,
    qmi_error *err);
/* Sets up everything but the second moments.  E_FORMAT: a weight is not finite
 * or not below `limit`.  Release with _free, after a failure too. */
qmoe_status qmi_basis_init(qmi_basis *b, int width, float limit, const float *w,
    int64_t n_rows, int64_t n_cols, const qmi_quant_options *options,
    qmi_error *err);
/* gptq, h and mean, or fell_back: there are no moments, or they are not usable
 * or not positive definite.  Uses up expendable moments. */
qmoe_status qmi_basis_add_moments(qmi_basis *b, bool *fell_back,
    const qmi_hessian *hessian, const qmi_quant_options *options,
    qmi_error *err);
/* Releases h, which measuring does not need. */
void qmi_basis_drop_moments(qmi_basis *b);
void qmi_basis_free(qmi_basis *b);
/* Bytes of all that, with what fitting codes (`fitting`) or measuring them
 * takes. */
uint64_t qmi_basis_bytes(int width, int64_t n_rows, int64_t n_cols,
    bool moments, uint64_t fitting, const qmi_quant_options *options);

/* The bf16 next to `scale` of row r, as stored; 0 or positive. */
uint16_t qmi_basis_stored_scale(const qmi_basis *b, int64_t row, float scale);
/* What it is worth in units of w. */
float qmi_basis_round_scale(const qmi_basis *b, int64_t row, float scale);

/* Errors and energies of what the bytes decode to.  w: the matrix as it was
 * given; `hessian` usable or NULL. */
qmoe_status qmi_basis_measure(qmi_quant_result *result, const qmi_basis *b,
    const qmi_encoded *encoded, const float *w, const qmi_hessian *hessian,
    const qmi_quant_options *options, qmi_error *err);

#endif
