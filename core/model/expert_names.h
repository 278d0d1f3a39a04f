/* SPDX-License-Identifier: Apache-2.0
 * What one matrix of a stack is called. */
#ifndef QMI_EXPERT_NAMES_H
#define QMI_EXPERT_NAMES_H

#include "weight.h"

/* "encoder.block.1.layer.1.mlp.experts.expert_7.wi" of stack
 * "encoder.block.1.layer.1.mlp.experts.wi".  Cut off at `capacity` bytes. */
void qmi_expert_name(
    char *name, size_t capacity, const qmi_weight *stack, int64_t expert);

#endif
