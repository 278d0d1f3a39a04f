/* SPDX-License-Identifier: Apache-2.0
 * In: a model's graph and the number of a block.  Out: its experts' step and
 * stacks, and whether the block can be run in two parts with the experts
 * between them. */
#include "expert_steps.h"

#include <string.h>

int qmi_expert_last_kind(
    const qmi_expert_stacks *stacks, qmi_expert_input input)
{
    int kind = stacks->n - 1;
    while (qmi_expert_input_of(kind) != input)
        kind--;
    return kind;
}

const char *qmi_expert_kind_name(const qmi_weight *stack)
{
    const char *dot = strrchr(stack->name, '.');
    return dot != NULL ? dot + 1 : stack->name;
}

static const qmi_steps *steps_of(const qmoe_model *model, int32_t block)
{
    return &model->graph.programs[model->blocks[block].program];
}

const qmi_step *qmi_expert_step(const qmoe_model *model, int32_t block)
{
    const qmi_steps *steps = steps_of(model, block);
    size_t first, last;
    qmi_steps_of_block(steps, block, &first, &last);
    for (size_t i = first; i < last; i++)
        if (steps->items[i].kind == QMI_OP_EXPERT_FFN)
            return &steps->items[i];
    return NULL;
}

qmi_expert_stacks qmi_expert_stacks_of(const qmoe_model *model, int32_t block)
{
    const qmi_step *step = qmi_expert_step(model, block);
    qmi_expert_stacks stacks = {.n = step != NULL ? step->n_weights : 0};
    for (int kind = 0; kind < stacks.n; kind++)
        stacks.of[kind] = &model->weights[step->weights[kind]];
    return stacks;
}

void qmi_steps_after_experts(
    const qmoe_model *model, int32_t block, size_t *first, size_t *last)
{
    const qmi_steps *steps = steps_of(model, block);
    qmi_steps_of_block(steps, block, first, last);
    *first = (size_t)(qmi_expert_step(model, block) - steps->items) + 1;
}

/* ---- blocks in two parts ---- */

/* Whether a value is there behind the experts: the two that are kept, and what
 * the steps [first, s) have made since. */
static bool is_there(const qmi_step *experts, const qmi_step *s, qmi_slot slot)
{
    if (slot == QMI_NONE || slot == experts->dst || slot == experts->src)
        return true;
    for (const qmi_step *before = experts + 1; before < s; before++)
        if (before->dst == slot)
            return true;
    return false;
}

static bool can_follow(const qmi_step *experts, const qmi_step *s)
{
    if (!is_there(experts, s, s->src) || !is_there(experts, s, s->residual))
        return false;
    switch (s->kind) {
    case QMI_OP_GLU:
        return is_there(experts, s, s->u.glu.gate);
    case QMI_OP_LINEAR:
    case QMI_OP_RMSNORM:
        return true;
    default: /* caches and routes would be of another pass */
        return false;
    }
}

qmoe_status qmi_expert_steps_check(
    const qmoe_model *model, int32_t block, qmi_error *err)
{
    const qmi_step *experts = qmi_expert_step(model, block);
    const qmi_slot residual = model->graph.residual;
    const qmi_block *at = &model->blocks[block];
    size_t first, last;
    qmi_steps_after_experts(model, block, &first, &last);
    const qmi_step *end = experts + 1 + (last - first);
    bool sound = experts->dst == residual && experts->residual == residual &&
                 experts->src != residual;
    for (const qmi_step *s = experts + 1; s < end; s++)
        sound = sound && can_follow(experts, s);
    if (sound)
        return QMOE_OK;
    return qmi_fail(err, QMOE_E_UNSUPPORTED,
        "%s: calibration of experts that do not add to the residual stream, "
        "or whose block goes on with other values than that and their input "
        "(%s block %d)",
        qmi_checkpoint_directory(model->checkpoint),
        qmi_program_name(at->program), (int)at->number);
}
