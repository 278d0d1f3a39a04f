/* SPDX-License-Identifier: Apache-2.0
 * What the files of the expert pass share. */
#ifndef QMI_EXPERT_TYPES_H
#define QMI_EXPERT_TYPES_H

#include "forward.h"
#include "quantiser.h"

enum { QMI_WI, QMI_WO, QMI_N_KINDS };

/* What is known about one expert after its compression. */
typedef struct qmi_expert_result {
    qmi_encoded encoded[QMI_N_KINDS];
    qmi_quant_result quality[QMI_N_KINDS];
    int64_t n_tokens;  /* that reached it */
    int64_t n_counted; /* that entered its Hessians */
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
} qmi_expert_pass_options;

#endif
