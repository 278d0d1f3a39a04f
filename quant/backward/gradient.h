/* SPDX-License-Identifier: Apache-2.0
 * Gradients of the cross entropy of a text through a model whose weights are
 * frozen (docs/backward.md).  All tokens go through the model block by block,
 * with the states before each block kept; then the gradient goes back block by
 * block, and each block runs once more for the values in it. */
#ifndef QMI_GRADIENT_H
#define QMI_GRADIENT_H

#include "forward.h"
#include "reverse.h"

typedef struct qmi_gradient_options {
    int n_threads;
    const qmoe_session_options *place; /* of the forward passes */
    const char *work_dir;              /* of states; NULL: in memory */
    qmi_gradient_sink sink;
    /* After each block, forward and back: of so many parts so many are done.
     * NULL: nobody asks. */
    qmoe_status (*progress)(void *user, int64_t n_done, int64_t n_parts);
    void *user;
} qmi_gradient_options;

/* A text's loss. */
typedef struct qmi_gradient_loss {
    double sum; /* of cross entropies, nats */
    int64_t n;  /* of tokens that have a next one in their sequence */
} qmi_gradient_loss;

/* Of the sum of cross entropies of `text`.  E_UNSUPPORTED names an operation
 * whose backward pass is not known. */
qmoe_status qmi_gradient_run(qmi_gradient_loss *loss, qmoe_model *model,
    const qmi_calibration *text, const qmi_gradient_options *options,
    qmi_error *err);
/* Bytes of states for so many tokens. */
uint64_t qmi_gradient_state_bytes(const qmoe_model *model, int64_t n_tokens);

#endif
