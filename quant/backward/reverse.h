/* SPDX-License-Identifier: Apache-2.0
 * The steps of a part of a program in reverse: from the gradient of what it left
 * to that of what it was given. */
#ifndef QMI_REVERSE_H
#define QMI_REVERSE_H

#include "backward_ops.h"
#include "tape.h"

/* Who is told of gradients on the way; either may be NULL. */
typedef struct qmi_gradient_sink {
    /* Of the result of each product, before bias and activation: d_y
     * f32 [n, n_rows] of n tokens (of an expert: its own). */
    qmi_backward_rows_fn *rows;
    /* Of a vector, f64 [n_cols], added up over the chunk's tokens: norms. */
    qmoe_status (*vector)(void *user, const qmi_weight *weight,
        const double *gradient, qmi_error *err);
    void *user;
} qmi_gradient_sink;

typedef struct qmi_reverse qmi_reverse;
struct qmi_reverse {
    qmi_backward *backward;
    const qmoe_session *session; /* whose lists are those of the chunk */
    const qmi_tape *tape;
    const qmi_gradient_sink *sink;
    const qmi_pass *pass;
    /* The steps whose caches the attention to the encoder reads; NULL: there
     * are none. */
    qmi_reverse *cross;
    float **slots; /* [n_slots + 1], gradients f32 [n_tokens, width]; NULL: 0 */
    float **caches; /* [n_caches + 1], of the rows that this chunk stored */
};

/* Of one chunk; `tape` has its values. */
qmoe_status qmi_reverse_begin(qmi_reverse *out, qmi_backward *backward,
    const qmoe_session *session, const qmi_tape *tape,
    const qmi_gradient_sink *sink, const qmi_pass *pass, qmi_error *err);
void qmi_reverse_end(qmi_reverse *reverse);

/* The gradient of a slot, of zeros where nothing was added; NULL: out of
 * memory. */
float *qmi_reverse_slot(qmi_reverse *reverse, qmi_slot slot, qmi_error *err);
/* Steps [first, last) of the tape's program, the last one first.
 * E_UNSUPPORTED names an operation whose backward pass is not known. */
qmoe_status qmi_reverse_run(
    qmi_reverse *reverse, size_t first, size_t last, qmi_error *err);

#endif
