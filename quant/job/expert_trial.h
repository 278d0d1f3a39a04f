/* SPDX-License-Identifier: Apache-2.0
 * What two ways to compress would cost an expert, without compressing it:
 * tokens go on through the expert as it is. */
#ifndef QMI_EXPERT_TRIAL_H
#define QMI_EXPERT_TRIAL_H

#include "allocate_bits.h"

typedef struct qmi_expert_trial {
    /* Relative errors: of the output over tokens where `measured`, else of
     * the weights, because the expert saw no token (or singular ones). */
    int n_kinds; /* stacks of the block */
    double error[QMI_MAX_EXPERT_MATRICES][QMI_N_SIZES];
    bool measured[QMI_MAX_EXPERT_MATRICES];
} qmi_expert_trial;

/* Tries experts[n] of the pass's block by `recipes`, one of each size per kind:
 * trials[n].  The bits of
 * the result do not depend on the number of threads. */
qmoe_status qmi_expert_pass_try(qmi_expert_pass *pass, qmi_expert_trial *trials,
    const int64_t *experts, int64_t n,
    const qmi_stack_recipe (*recipes)[QMI_N_SIZES], qmi_error *err);
/* Takes the tokens of experts [first, first + n) through the originals. */
qmoe_status qmi_expert_pass_through(
    qmi_expert_pass *pass, int64_t first, int64_t n, qmi_error *err);

#endif
