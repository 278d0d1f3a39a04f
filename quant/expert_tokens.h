/* SPDX-License-Identifier: Apache-2.0
 * The tokens of one expert, as its workers take them: gathered from the
 * residual stream, summed up as second moments, moved on through an expert.
 * Inside of expert_pass.h. */
#ifndef QMI_EXPERT_TOKENS_H
#define QMI_EXPERT_TOKENS_H

#include "expert_pass.h"

/* Tokens gathered at a time; fixed, so that sums have one order. */
enum { QMI_CHUNK_TOKENS = 256 };

/* One thread's device and device buffers. */
typedef struct qmi_expert_worker {
    qmi_device *device;
    qmi_buffer *residual, *normed, *hidden, *expert, *weight;
    float *host; /* [QMI_CHUNK_TOKENS, max(d_model, d_ff)] */
    qmi_error error;
} qmi_expert_worker;

struct qmi_expert_pass {
    qmoe_model *model;
    qmi_forward *forward;
    qmi_expert_pass_options options;
    const qmi_backend *backend;
    qmi_expert_worker *workers;
    int n_workers;
    /* The current block. */
    int stack;
    const qmi_weight *stacks[QMI_N_KINDS];
    qmi_stack_recipe recipes[QMI_N_KINDS];
    qmi_bound_weight bound_wi, bound_norm;
    int64_t *order; /* tokens sorted by expert */
    int64_t *begin; /* [n_experts + 1] */
    int64_t cap;
};

/* ---- originals ---- */

/* Bytes of one matrix of an uncompressed stack. */
uint64_t qmi_expert_source_bytes(const qmi_weight *stack);
/* Reads both matrices of an expert, with an error where the disk fails. */
qmoe_status qmi_expert_fetch(
    const qmi_expert_pass *p, int64_t expert, qmi_error *err);
/* Asks for them, without waiting. */
void qmi_expert_announce(const qmi_expert_pass *p, int64_t expert);
/* Drops them from memory. */
void qmi_expert_release(const qmi_expert_pass *p, int64_t expert);
/* One of them in f32 [n_rows, n_cols]; release with qmi_free. */
qmoe_status qmi_expert_weights(float **out, const qmi_expert_pass *p,
    qmi_expert_worker *w, int kind, int64_t expert);
/* Puts file, stack and expert before the error of a broken weight. */
qmoe_status qmi_expert_blame(const qmi_expert_pass *p, qmi_expert_worker *w,
    int kind, int64_t expert, qmoe_status status);

/* ---- outcomes of experts worked on at the same time ---- */

typedef struct qmi_expert_group {
    qmoe_status *status; /* [n] */
    qmi_error *errors;   /* [n] */
} qmi_expert_group;

/* Release with _close, unless it fails. */
qmoe_status qmi_expert_group_open(
    qmi_expert_group *group, int64_t n, qmi_error *err);
void qmi_expert_group_close(qmi_expert_group *group);
void qmi_expert_group_set(qmi_expert_group *group, int64_t i,
    const qmi_expert_worker *w, qmoe_status status);
/* The first failure in expert order, so that the message does not depend on
 * the threads. */
qmoe_status qmi_expert_group_status(
    const qmi_expert_group *group, int64_t n, qmi_error *err);

/* ---- tokens ---- */

/* Second moments of the inputs of wi or wo: the counted tokens (at most
 * `cap`) of an expert. */
qmoe_status qmi_expert_moments(const qmi_expert_pass *p, qmi_expert_worker *w,
    int kind, int64_t expert, qmi_hessian *hessian);
/* Takes all tokens of an expert through matrix `mat` of wi and wo. */
qmoe_status qmi_expert_apply(const qmi_expert_pass *p, qmi_expert_worker *w,
    const qmi_weight *wi, const qmi_weight *wo, int64_t mat, int64_t expert);

#endif
