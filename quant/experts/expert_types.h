/* SPDX-License-Identifier: Apache-2.0
 * What the files of the expert pass share. */
#ifndef QMI_EXPERT_TYPES_H
#define QMI_EXPERT_TYPES_H

#include "expert_steps.h"
#include "forward.h"
#include "quantiser.h"

/* What is known about one expert after its compression; of its matrices in the
 * order of its stacks. */
typedef struct qmi_expert_result {
    qmi_encoded encoded[QMI_MAX_EXPERT_MATRICES];
    qmi_quant_result quality[QMI_MAX_EXPERT_MATRICES];
    int64_t n_tokens;  /* that reached it */
    int64_t n_counted; /* of these, that entered its moments */
    int64_t n_borrowed[QMI_MAX_EXPERT_MATRICES]; /* that entered beside them */
} qmi_expert_result;

typedef struct qmi_expert_pass qmi_expert_pass;

/* What was done of the experts at hand. */
typedef struct qmi_expert_tally {
    int64_t n_experts, n_matrices, n_weights;
    int64_t n_tokens; /* taken through them */
    double error;     /* sum of the matrices' relative errors */
} qmi_expert_tally;

typedef struct qmi_expert_pass_options {
    int n_workers; /* experts at the same time */
    bool by_route; /* tokens weigh the square of their route's weight */
    /* An expert with fewer tokens than a matrix has columns gets the
     * difference from the tokens of the whole block. */
    bool borrows;
} qmi_expert_pass_options;

#endif
