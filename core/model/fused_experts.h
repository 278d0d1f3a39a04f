/* SPDX-License-Identifier: Apache-2.0
 * Experts of a block in two tensors, as transformers 5 keeps them:
 * "gate_up_proj" [E, 2 d_ff, d_model], gate rows first, and "down_proj"
 * [E, d_model, d_ff]; or both transposed, [E, d_model, 2 d_ff] and
 * [E, d_ff, d_model]. */
#ifndef QMI_FUSED_EXPERTS_H
#define QMI_FUSED_EXPERTS_H

#include "checkpoint.h"

typedef struct qmi_fused_experts {
    const qmi_tensor *gate_up, *down; /* NULL: experts have tensors each */
    bool is_transposed;
} qmi_fused_experts;

/* `prefix` is what stands before the names: "model.layers.0.mlp.experts".  No
 * checkpoint has no such tensors.  E_FORMAT: one of the two is missing, a shape
 * is wrong.  E_UNSUPPORTED: the form of gpt-oss, or an order that a PyTorch file
 * gives to the whole tensor. */
qmoe_status qmi_fused_find(qmi_fused_experts *out,
    const qmi_checkpoint *checkpoint, const char *prefix, int64_t n_experts,
    int64_t d_ff, int64_t d_model, qmi_error *err);

#endif
