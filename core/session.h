/* SPDX-License-Identifier: Apache-2.0
 * A model on a device.  Sequences of different lengths are packed back to
 * back, without padding; caches keep keys and values per sequence. */
#ifndef QMI_SESSION_H
#define QMI_SESSION_H

#include "model.h"
#include "routing.h"

/* A device buffer that grows on demand. */
typedef struct qmi_growing {
    qmi_buffer *buffer;
    uint64_t n_bytes;
} qmi_growing;

struct qmoe_session {
    qmoe_model *model;
    bool is_running;   /* a call runs: a hook may not make another */
    bool is_destroyed; /* in a hook, to go when that call ends */
    const qmi_backend *backend;
    qmi_device *device;
    qmoe_device_info info;
    int64_t capacity;        /* expert capacity, 0 = none */
    qmi_bound_weight *bound; /* [model->n_weights] */
    size_t n_bound;
    qmi_growing slots[QMI_SLOT_COUNT];
    qmi_growing *caches[QMI_CACHE_COUNT]; /* [n decoder blocks] */
    qmi_growing ids, sequence, rows, spans, cross_spans;
    qmi_growing expert, route_weight;
    qmi_growing top; /* values, then ids of the likeliest tokens */
    void *top_host;  /* the same; room for n_top_host of each */
    size_t n_top_host;
    /* Position bias up to the largest distance that occurred so far. */
    qmi_growing bias[QMI_N_STACKS]; /* f32 [n_heads, 2 * reach + 1] */
    int64_t reach[QMI_N_STACKS];

    /* Called after each step of a pass, to show how far it is; NULL: nothing is.
     * What is not QMOE_OK ends the pass. */
    qmoe_status (*watch)(void *user, const qmi_step *step);
    void *watcher;

    bool measures_parts;
    double part_seconds[QMI_N_STACKS][QMOE_PART_COUNT];
    qmi_routing *routing; /* NULL: the router's choice stands */
    bool looks;           /* each step's result is checked (second_look.c) */

    /* The encoded batch. */
    size_t n_sequences;
    int32_t *encoder_begin; /* [n_sequences + 1] rows of the cross caches */
    int32_t *encoder_ids;   /* [encoder_begin[n_sequences]], for second looks */
    int32_t *position;      /* [n_sequences] decoder tokens so far */
    int64_t max_decoder;    /* rows per sequence in the self caches */
    int64_t longest_encoder;
};

/* qmoe_session_create, with or without the experts' stacks: without them their
 * steps cannot run and take no memory of the device. */
qmoe_status qmi_session_create(qmoe_session **out, qmoe_model *model,
    const qmoe_session_options *options, bool with_experts);

/* As qmi_model_call_begin and _end for calls that use the session: one at a
 * time.  After each hook that such a call runs it looks whether that destroyed
 * the session (E_INVALID). */
qmoe_status qmi_session_call_begin(
    qmoe_session *session, const char *function, bool lacks);
qmoe_status qmi_session_call_end(qmoe_session *session, qmoe_status status);
qmoe_status qmi_session_check(const qmoe_session *session, qmi_error *err);

/* One pass over a list of steps. */
typedef struct qmi_pass {
    int stack; /* whose position bias */
    int64_t n_tokens;
    int64_t n_spans; /* sequences of this pass */
    int64_t max_keys, max_cross_keys;
    int64_t n_cache_rows; /* of the caches stored to */
} qmi_pass;

/* Makes room for n_bytes; contents are lost when it grows. */
qmoe_status qmi_grow(
    qmoe_session *session, qmi_growing *g, uint64_t n_bytes, qmi_error *err);
/* Makes room and writes. */
qmoe_status qmi_upload(qmoe_session *session, qmi_growing *g, const void *data,
    uint64_t n_bytes, qmi_error *err);

/* Runs steps [first, last) in order (steps.c).  Inputs are uploaded. */
qmoe_status qmi_session_run(qmoe_session *session, const qmi_steps *steps,
    size_t first, size_t last, const qmi_pass *pass, qmi_error *err);

/* Floats per token of a slot. */
int64_t qmi_slot_width(const qmi_config *c, qmi_slot slot);

/* Runs one operation, whose time counts as `part` of `stack`. */
qmoe_status qmi_session_run_op(qmoe_session *session, const qmi_op *op,
    int stack, qmoe_part part, qmi_error *err);

/* Makes the position bias of a stack reach over `distance` (position_bias.c).
 */
qmoe_status qmi_session_reach(
    qmoe_session *session, int stack, int64_t distance, qmi_error *err);

/* Starts a batch: sequence s has lengths[s] >= 1 encoder tokens; caches for at
 * most max_decoder decoder tokens per sequence. */
qmoe_status qmi_session_start(qmoe_session *session, const int32_t *lengths,
    size_t n_sequences, int64_t max_decoder, qmi_error *err);
/* Uploads the lists of a pass over the encoder tokens of the batch.  `ids` may
 * be NULL when no step embeds. */
qmoe_status qmi_session_prepare_encoder(
    qmoe_session *session, qmi_pass *pass, const int32_t *ids, qmi_error *err);
/* The same for lengths[i] >= 1 more decoder tokens of each of the n_active
 * sequences active[i] (ascending). */
qmoe_status qmi_session_prepare_decoder(qmoe_session *session, qmi_pass *pass,
    const int32_t *ids, const int32_t *active, const int32_t *lengths,
    size_t n_active, qmi_error *err);

/* Encodes a batch: sequence s has lengths[s] >= 1 ids, packed in `ids`.
 * Prepares caches for at most max_decoder decoder tokens per sequence. */
qmoe_status qmi_session_encode(qmoe_session *session, const int32_t *ids,
    const int32_t *lengths, size_t n_sequences, int64_t max_decoder,
    qmi_error *err);

/* Its pass alone, over the ids of the batch. */
qmoe_status qmi_session_encode_pass(qmoe_session *session, qmi_error *err);

/* Feeds lengths[i] >= 1 more decoder ids to each of the n_active sequences
 * active[i] (ascending), packed in `ids`.  logits: host f32
 * [sum of lengths, vocab_size], finite. */
qmoe_status qmi_session_decode(qmoe_session *session, float *logits,
    const int32_t *ids, const int32_t *active, const int32_t *lengths,
    size_t n_active, qmi_error *err);

/* The k largest logits of each position of a pass with their ids, in the order
 * of operation top-logits.  The session's, valid until its next pass. */
typedef struct qmi_top {
    const float *logits; /* [n_tokens, k] */
    const int32_t *ids;  /* [n_tokens, k], in [0, vocab_size) */
} qmi_top;

/* The same pass as qmi_session_decode, of whose logits the device gives back
 * the largest ones only (session_top.c).
 * 1 <= k <= min(QMI_TOP_LOGITS_MAX, vocab_size). */
qmoe_status qmi_session_decode_top(qmoe_session *session, qmi_top *out,
    int64_t k, const int32_t *ids, const int32_t *active,
    const int32_t *lengths, size_t n_active, qmi_error *err);

/* What both do first: the logits are then in their slot, of *n_tokens rows. */
qmoe_status qmi_session_decode_pass(qmoe_session *session, int64_t *n_tokens,
    const int32_t *ids, const int32_t *active, const int32_t *lengths,
    size_t n_active, qmi_error *err);

/* ---- second_look.c: where values stop being finite ---- */

/* Index of the first of n floats of a buffer that is not finite; n if none. */
qmoe_status qmi_buffer_non_finite(qmoe_session *session, int64_t *at,
    const qmi_growing *g, int64_t n, qmi_error *err);
/* E_FORMAT naming the step when its result is not finite. */
qmoe_status qmi_step_check(qmoe_session *session, const qmi_step *step,
    const qmi_pass *pass, qmi_error *err);
/* After a decoder pass whose logits are not finite: runs the batch's encoder
 * and that pass again, looking at each step.  Never QMOE_OK. */
qmoe_status qmi_session_find_fault(qmoe_session *session, const int32_t *ids,
    const int32_t *active, const int32_t *lengths, size_t n_active,
    qmi_error *err);

#endif
