/* SPDX-License-Identifier: Apache-2.0
 * Second moments of the inputs of matrices beside the experts, summed while a
 * part of a block takes all tokens through (forward.h).  Tokens weigh what the
 * calibration says.  Matrices with the same input share its moments. */
#ifndef QMI_DENSE_MOMENTS_H
#define QMI_DENSE_MOMENTS_H

#include "forward.h"
#include "hessian.h"

enum { QMI_MAX_DENSE_INPUTS = 12, QMI_MAX_DENSE_SHARED = 4 };

/* What some matrices are multiplied with. */
typedef struct qmi_dense_input {
    qmi_slot slot;
    qmi_program program; /* CROSS: tokens of the encoder */
    bool is_over;        /* a step has written to the slot since */
    int n;               /* of matrices, numbers of the model's weights */
    uint32_t weights[QMI_MAX_DENSE_SHARED];
    qmi_hessian hessian;
} qmi_dense_input;

typedef struct qmi_dense_moments {
    const qmi_forward *forward;
    qmi_probe probe;
    qmi_dense_input inputs[QMI_MAX_DENSE_INPUTS];
    int n;
    float *rows; /* [QMI_PIECE_TOKENS, the widest input] */
} qmi_dense_moments;

/* Which weights are meant. */
typedef struct qmi_dense_filter {
    bool (*takes)(const void *user, const qmi_weight *w);
    const void *user;
} qmi_dense_filter;

/* Of the part of a block that qmi_forward_block runs or, `is_rest`,
 * qmi_forward_after_experts.  Sums while `out->probe` is attached to the
 * session.  Release with _destroy, after a failure too. */
qmoe_status qmi_dense_moments_create(qmi_dense_moments *out,
    const qmi_forward *forward, int32_t block, bool is_rest,
    qmi_dense_filter filter, qmi_error *err);
/* Of the head, from the states that qmi_forward_before_head has left. */
qmoe_status qmi_dense_moments_of_head(qmi_dense_moments *out,
    const qmi_forward *forward, qmi_dense_filter filter, qmi_error *err);
/* Completes the sums. */
qmoe_status qmi_dense_moments_finish(
    qmi_dense_moments *moments, qmi_error *err);
void qmi_dense_moments_destroy(qmi_dense_moments *moments);

/* Bytes of the moments of the part of a block that has most, or of the head. */
uint64_t qmi_dense_moments_bytes(
    const qmoe_model *model, qmi_dense_filter filter);

#endif
