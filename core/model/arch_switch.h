/* SPDX-License-Identifier: Apache-2.0
 * Inside of the Switch architecture: what its config.json says. */
#ifndef QMI_ARCH_SWITCH_H
#define QMI_ARCH_SWITCH_H

#include "model.h"
#include "switch_configs.h"

typedef struct qmi_switch {
    qmi_shape shape;
    int64_t d_ff, d_kv, n_heads, n_experts;
    int64_t n_blocks[QMI_SWITCH_STACKS];
    /* Block i is sparse iff step == 1, or step > 1 and i % step == 1. */
    int64_t sparse_step[QMI_SWITCH_STACKS];
    int64_t n_buckets, max_distance; /* relative position bias */
    double norm_epsilon;
    bool tied_head; /* head = embedding, its input scaled by d_model^-0.5 */
} qmi_switch;

enum { QMI_SWITCH_MAX_BLOCKS = 1024 };

bool qmi_switch_is_sparse(const qmi_switch *s, int stack, int64_t block);

/* E_FORMAT, E_UNSUPPORTED naming file and key. */
qmoe_status qmi_switch_configure(
    qmi_switch *out, const cJSON *json, const char *file, qmi_error *err);

/* Corrects number of blocks, sparse steps and the tied head where the tensors of
 * the checkpoint leave one reading only, and says so by a message of the
 * context.  What stays contradictory fails later, as a missing tensor. */
void qmi_switch_settle(qmi_switch *s, const qmoe_model *model);

/* Where a config.json without weights contradicts the published model of its
 * shapes: says it (qmi_arch.doubt). */
void qmi_switch_doubt(const qmoe_model *model, const char *file);

#endif
