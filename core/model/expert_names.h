/* SPDX-License-Identifier: Apache-2.0
 * Names of experts' matrices.  A pattern is the name that a tensor of an
 * uncompressed checkpoint has, with an asterisk for the expert's number:
 * "encoder.block.1.layer.1.mlp.experts.expert_*.wi.weight". */
#ifndef QMI_EXPERT_NAMES_H
#define QMI_EXPERT_NAMES_H

#include "weight.h"

/* The tensor of one expert.  Cut off at `capacity` bytes; so below. */
void qmi_expert_tensor(
    char *name, size_t capacity, const char *pattern, int64_t expert);
/* Whether `name` is the tensor of some expert, or the one of all of them, of an
 * uncompressed stack. */
bool qmi_expert_tensor_fits(const qmi_weight *stack, const char *name);
/* The name of a matrix's tensor, without ".weight". */
void qmi_expert_name(
    char *name, size_t capacity, const qmi_weight *stack, int64_t expert);

#endif
