/* SPDX-License-Identifier: Apache-2.0
 * Compresses a group of experts of one sparse block: per expert, its tokens
 * are gathered, second moments accumulated and its matrices quantised; then the
 * tokens run through the compressed experts (paper section 3.2).  Experts of a
 * group are compressed at the same time, each by one thread in one order, and
 * applied one after the other, so results depend neither on threads nor on the
 * group size. */
#ifndef QMI_EXPERT_PASS_H
#define QMI_EXPERT_PASS_H

#include "expert_types.h"

/* An encoded matrix as a stack of one, whose offsets, if it has any, are in
 * `offsets`. */
qmi_weight qmi_encoded_weight(const qmi_encoded *encoded, uint64_t offsets[2],
    const qmi_quant_options *options);

/* `forward` may be NULL: no calibration, experts are only rounded. */
qmoe_status qmi_expert_pass_create(qmi_expert_pass **out, qmoe_model *model,
    qmi_forward *forward, const qmi_expert_pass_options *options,
    qmi_error *err);
void qmi_expert_pass_destroy(qmi_expert_pass *pass);

/* Starts a sparse block, a number of the model's: sorts its tokens by expert. */
qmoe_status qmi_expert_pass_block(
    qmi_expert_pass *pass, int32_t block, qmi_error *err);
/* How that block's stack of a kind is to be compressed. */
void qmi_expert_pass_recipe(
    qmi_expert_pass *pass, int kind, const qmi_stack_recipe *recipe);
/* While experts are worked on, `watch` is called by the calling thread, some ten
 * times a second, until it does not return QMOE_OK.  NULL: nothing is.  The
 * tally begins anew. */
void qmi_expert_pass_watch(
    qmi_expert_pass *pass, qmoe_status (*watch)(void *user), void *user);
void qmi_expert_pass_tally(qmi_expert_pass *pass, qmi_expert_tally *out);
/* Compresses experts [first, first + n): results[n], whose `encoded` the
 * caller frees.  Updates the token states when there is a forward pass. */
qmoe_status qmi_expert_pass_run(qmi_expert_pass *pass,
    qmi_expert_result *results, int64_t first, int64_t n, qmi_error *err);
/* Takes the tokens of experts that are compressed already (resumed runs)
 * through them: `stacks`, one per kind, hold the experts [first, first + n) as
 * their matrices 0 .. n - 1. */
qmoe_status qmi_expert_pass_replay(qmi_expert_pass *pass,
    const qmi_weight *stacks, int64_t first, int64_t n, qmi_error *err);

/* Peak bytes one worker needs for an expert of stacks like these, by `recipes`, one per
 * kind; `trials`: with several formats one after the other (expert_trial.h). */
uint64_t qmi_expert_pass_worker_bytes(const qmoe_model *model,
    const qmi_expert_stacks *stacks, const qmi_stack_recipe *recipes,
    bool calibrated, bool trials);

#endif
