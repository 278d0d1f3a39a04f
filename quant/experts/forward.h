/* SPDX-License-Identifier: Apache-2.0
 * Takes all calibration tokens through the model block by block.  The dense
 * part of a block runs here, in chunks of whole sequences.  A sparse block stops
 * before its experts, whose input and every token's choice of them are kept; the
 * experts are applied by expert_pass.h, and then the block goes on. */
#ifndef QMI_FORWARD_H
#define QMI_FORWARD_H

#include "calibration.h"
#include "pass.h"
#include "token_states.h"

/* Tokens of a chunk, unless one sequence alone is longer.  Fixed, so that
 * results do not depend on memory or threads. */
enum { QMI_FORWARD_TOKENS = 4096 };
/* States moved at a time between their storage and the device. */
enum { QMI_PIECE_TOKENS = 256 };

/* A chunk that went through the steps [first, last) of its program once more. */
typedef struct qmi_revisit {
    qmi_program program;
    size_t first, last;
    int64_t first_token;         /* of its set */
    int64_t first_encoder_token; /* of the same sequences; 0: no encoder */
    const qmi_pass *pass;
} qmi_revisit;
typedef qmoe_status qmi_revisit_fn(
    void *user, const qmi_revisit *chunk, qmi_error *err);

typedef struct qmi_forward {
    qmoe_session *session;
    bool is_whole; /* the session has the experts, too: no block stops */
    const qmi_calibration *calibration;
    /* Residual stream per program; the encoder's becomes its output at the end.
     * CROSS has none. */
    qmi_states states[QMI_N_PROGRAMS];
    float *piece; /* [QMI_PIECE_TOKENS, d_model] on their way to the device */
    /* Of the current sparse block: the experts' input by token, and the top_k
     * experts of each token with their weights.  As long as the longest set. */
    qmi_states inputs;
    int32_t *expert;
    float *weight;
    int64_t n_passed;        /* tokens of the pass at hand that are through */
    size_t first_sequence;   /* of the chunk at hand */
    qmi_revisit_fn *revisit; /* NULL: states are saved */
    void *user;              /* its */
} qmi_forward;

/* Number of sequences from `first` on that make one chunk of encoder and
 * decoder. */
size_t qmi_forward_chunk(const qmi_calibration *calibration, size_t first);
/* Most experts of a token in any block. */
int64_t qmi_forward_top_k(const qmoe_model *model);

/* `model` must outlive it.  `work_dir`: see token_states.h.  `place`: backend
 * and device, and the memory to use there. */
qmoe_status qmi_forward_create(qmi_forward *out, qmoe_model *model,
    const qmi_calibration *calibration, const char *work_dir,
    const qmoe_session_options *place, qmi_error *err);
/* With the experts, which are bound like other weights: blocks run whole, and
 * `inputs`, `expert` and `weight` are empty. */
qmoe_status qmi_forward_create_whole(qmi_forward *out, qmoe_model *model,
    const qmi_calibration *calibration, const char *work_dir,
    const qmoe_session_options *place, qmi_error *err);
void qmi_forward_destroy(qmi_forward *forward);

/* Runs the steps before the blocks of a program: embeds its tokens. */
qmoe_status qmi_forward_embed(
    qmi_forward *forward, qmi_program program, qmi_error *err);
/* Runs block number `block` of the model: all of a dense block, the part before
 * the experts of a sparse one. */
qmoe_status qmi_forward_block(
    qmi_forward *forward, int32_t block, qmi_error *err);
/* Runs the part of a sparse block behind its experts, if there is one. */
qmoe_status qmi_forward_after_experts(
    qmi_forward *forward, int32_t block, qmi_error *err);
/* Runs what follows the last block of the encoder (the final norm). */
qmoe_status qmi_forward_finish_encoder(qmi_forward *forward, qmi_error *err);
/* Runs what follows the last block of the decoder up to the head, whose input
 * takes the place of the states. */
qmoe_status qmi_forward_before_head(qmi_forward *forward, qmi_error *err);
/* Runs a block, or what comes after all of them up to the head, from the states
 * at hand, which stay: `visit` has each chunk instead. */
qmoe_status qmi_forward_revisit(qmi_forward *forward, qmi_program program,
    int32_t block, qmi_revisit_fn *visit, void *user, qmi_error *err);
/* The product that makes logits: the last step of the decoder. */
const qmi_step *qmi_head_step(const qmoe_model *model);

/* Bytes of dense weights in memory at a time: a block's, whose pages are given
 * back after it; all of a checkpoint that is made up (core/model/synth.h). */
uint64_t qmi_forward_dense_bytes(const qmoe_model *model);

#endif
