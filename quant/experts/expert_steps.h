/* SPDX-License-Identifier: Apache-2.0
 * What the steps of a model say of its experts: where they are, which matrices
 * they have, and what each of these is multiplied with. */
#ifndef QMI_EXPERT_STEPS_H
#define QMI_EXPERT_STEPS_H

#include "model.h"

enum { QMI_MAX_EXPERT_MATRICES = QMI_MAX_STEP_WEIGHTS };

/* The stacks of a sparse block, in the order of its step's weights; the number
 * of one is its kind. */
typedef struct qmi_expert_stacks {
    int n;
    const qmi_weight *of[QMI_MAX_EXPERT_MATRICES];
} qmi_expert_stacks;

/* What a matrix is multiplied with.  Matrices with one input share the second
 * moments of it. */
typedef enum qmi_expert_input {
    QMI_INPUT_BLOCK,  /* the tokens, as the block gives them to its experts */
    QMI_INPUT_HIDDEN, /* what the expert itself makes of them */
    QMI_N_EXPERT_INPUTS
} qmi_expert_input;

static inline qmi_expert_input qmi_expert_input_of(int kind)
{
    return kind == QMI_EXPERT_DOWN ? QMI_INPUT_HIDDEN : QMI_INPUT_BLOCK;
}

/* The last kind with this input, whose width is the input's. */
int qmi_expert_last_kind(
    const qmi_expert_stacks *stacks, qmi_expert_input input);
/* What a stack's matrices are called in their model: the last part of its
 * name, "down_proj". */
const char *qmi_expert_kind_name(const qmi_weight *stack);

/* The step of a block that applies the experts; NULL for a dense block. */
const qmi_step *qmi_expert_step(const qmoe_model *model, int32_t block);
/* n 0 for a dense block. */
qmi_expert_stacks qmi_expert_stacks_of(const qmoe_model *model, int32_t block);
/* The steps of a sparse block that follow its experts: [*first, *last) of its
 * program; first == last: none do. */
void qmi_steps_after_experts(
    const qmoe_model *model, int32_t block, size_t *first, size_t *last);
/* E_UNSUPPORTED, naming the block: a block that cannot be stopped before its
 * experts and continued behind them with the residual stream and their input
 * alone. */
qmoe_status qmi_expert_steps_check(
    const qmoe_model *model, int32_t block, qmi_error *err);

#endif
