/* SPDX-License-Identifier: Apache-2.0
 * The tokens of one expert, as its workers take them: gathered from the kept
 * states, summed up as second moments, moved on through an expert.
 * Inside of expert_pass.c. */
#ifndef QMI_EXPERT_TOKENS_H
#define QMI_EXPERT_TOKENS_H

#include <pthread.h>

#include "expert_types.h"
#include "parallel.h"

/* Tokens gathered at a time; fixed, so that sums have one order. */
enum { QMI_CHUNK_TOKENS = 256 };

/* One thread's device and device buffers. */
typedef struct qmi_expert_worker {
    qmi_device *device;
    qmi_buffer *residual, *input, *hidden, *gate, *expert, *weight;
    float *host;              /* [QMI_CHUNK_TOKENS, max(d_model, d_ff)] */
    _Atomic(int64_t) n_coded; /* weights of the matrix at hand */
    qmi_error error;
} qmi_expert_worker;

struct qmi_expert_pass {
    qmoe_model *model;
    qmi_forward *forward;
    qmi_expert_pass_options options;
    const qmi_backend *backend;
    qmi_expert_worker *workers;
    int n_workers;
    qmoe_status (*watch)(void *user);
    void *watcher;
    pthread_mutex_t lock; /* of tally */
    qmi_expert_tally tally;
    /* The current block. */
    qmi_program program;
    const qmi_step *step;
    qmi_expert_stacks stacks;
    qmi_stack_recipe recipes[QMI_MAX_EXPERT_MATRICES];
    qmi_bound_weight bound[QMI_MAX_EXPERT_MATRICES]; /* of the originals */
    int64_t *order;   /* routes, token * top_k + choice, sorted by expert */
    int64_t *begin;   /* [n_experts + 1] */
    int64_t cap;      /* counted tokens of an expert */
    float mean_route; /* root of the mean square of the routes' weights */
};

/* ---- originals ---- */

/* Bytes of one matrix of an uncompressed stack. */
uint64_t qmi_expert_source_bytes(const qmi_weight *stack);
/* Reads all matrices of an expert, with an error where the disk fails. */
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

/* ---- what is done ---- */

/* Adds to the tally. */
void qmi_expert_count(qmi_expert_pass *p, const qmi_expert_tally *more);
/* The matrix at hand of a worker is done. */
void qmi_expert_count_matrix(qmi_expert_pass *p, qmi_expert_worker *w, int kind,
    const qmi_quant_result *quality);

/* ---- experts at the same time ---- */

/* Items [0, n) of a call, by all workers. */
typedef struct qmi_expert_loop {
    qmi_expert_pass *pass;
    int64_t n;
    qmoe_status (*visit)(void *user, qmi_expert_worker *w, int64_t item);
    void *user;
} qmi_expert_loop;

/* The first failure in the order of the items, so that the
 * message does not depend on the threads. */
qmoe_status qmi_expert_loop_run(const qmi_expert_loop *loop, qmi_error *err);

/* ---- tokens ---- */

/* Second moments of an input: the *n_counted tokens (at most `cap`) of an expert
 * that have a weight, and those that it borrows. */
qmoe_status qmi_expert_moments(const qmi_expert_pass *p, qmi_expert_worker *w,
    qmi_expert_input input, int64_t expert, qmi_hessian *hessian,
    int64_t *n_counted);
/* Takes all tokens of an expert through matrix `mat` of stacks [p->stacks.n], by
 * all workers.  Called for one expert after the other in their order, which is
 * the order of the sums where a token has several. */
qmoe_status qmi_expert_apply(qmi_expert_pass *p, const qmi_weight *stacks,
    int64_t mat, int64_t expert, qmi_error *err);

#endif
