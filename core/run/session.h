/* SPDX-License-Identifier: Apache-2.0
 * A model on a device.  Sequences of different lengths are packed back to
 * back, without padding; caches keep keys and values per sequence. */
#ifndef QMI_SESSION_H
#define QMI_SESSION_H

#include "stage.h"

/* Its rows in the caches. */
typedef struct qmi_sequence {
    int32_t position;         /* tokens decoded: rows used in growing caches */
    int32_t begin, n_encoded; /* rows in the caches of the encoder's output */
} qmi_sequence;

struct qmoe_session {
    qmoe_model *model;
    bool is_running;   /* a call runs: a hook may not make another */
    bool is_destroyed; /* in a hook, to go when that call ends */
    qmi_stage stage;   /* all blocks are on one device */
    int64_t capacity;  /* expert capacity, 0 = none */
    qmi_growing top;   /* values, then ids of the likeliest tokens */
    void *top_host;    /* the same; room for n_top_host of each */
    size_t n_top_host;

    struct qmi_probe *probes; /* told of each step (probe.h); NULL: none */

    bool measures_roles;
    double role_seconds[QMI_N_PROGRAMS][QMOE_ROLE_COUNT];

    /* What was encoded together. */
    qmi_sequence *sequences;
    size_t n_sequences;
    int32_t *encoder_ids; /* [n_encoded], for second looks */
    int64_t n_encoded;    /* rows of the cross caches */
    int64_t longest_encoder;
    int64_t n_rows; /* each sequence's in the self caches, sequence by sequence;
                     * grows by doubling */
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

/* What a program left, after a pass. */
static inline qmi_view qmi_session_output(
    const qmoe_session *session, qmi_program program)
{
    const qmi_slot slot = session->model->graph.programs[program].output;
    return (qmi_view){.buffer = session->stage.slots[slot].buffer};
}

/* One pass over a list of steps. */
typedef struct qmi_pass {
    qmi_program program;
    int64_t n_tokens;
    int64_t n_spans; /* sequences of this pass */
    int64_t max_keys, max_cross_keys;
    int64_t n_cache_rows; /* of the caches stored to */
} qmi_pass;

#endif
