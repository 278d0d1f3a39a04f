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

/* One pass over a list of steps. */
typedef struct qmi_pass {
    qmi_program program;
    int64_t n_tokens;
    int64_t n_spans; /* sequences of this pass */
    int64_t max_keys, max_cross_keys;
    int64_t n_cache_rows; /* of the caches stored to */
    bool reads_prompt;    /* without an encoder: several tokens of a sequence */
} qmi_pass;

/* Hooks at a step (probe.h).  The owner's, from attaching to detaching. */
typedef struct qmi_probe {
    /* After each step of each pass, and after the choice of the likeliest
     * tokens (QMI_OP_TOP_LOGITS), which is a step of no program; what it wrote
     * is on the device, perhaps not finished.  What is not QMOE_OK ends the
     * pass.  It may let a hook of the caller destroy the session, which goes
     * when the call ends. */
    qmoe_status (*after)(void *user, qmoe_session *session,
        const qmi_step *step, const qmi_pass *pass, qmi_error *err);
    /* NULL, or just before the step's operation, for those who measure it.  It
     * runs no hook of the caller. */
    qmoe_status (*before)(void *user, qmoe_session *session, qmi_error *err);
    void *user;
    struct qmi_probe *next; /* attached before */
} qmi_probe;

/* Time by role (profile.c). */
typedef struct qmi_profile {
    qmi_probe probe; /* attached when it is first switched on */
    bool is_on;
    double begin; /* of the operation that runs; 0: it is not measured */
    double seconds[QMI_N_PROGRAMS][QMOE_ROLE_COUNT];
} qmi_profile;

struct qmoe_session {
    qmoe_model *model;
    bool is_running;     /* a call runs: a hook may not make another */
    bool is_destroyed;   /* in a hook, to go when that call ends */
    qmi_stage stage;     /* all blocks are on one device */
    int64_t capacity;    /* expert capacity, 0 = none */
    qmi_kv_type kv_type; /* of all caches */
    qmi_growing top;     /* values, then ids of the likeliest tokens */
    void *top_host;      /* the same; room for n_top_host of each */
    size_t n_top_host;

    qmi_probe *probes; /* told of each step */
    qmi_profile profile;

    /* What was encoded together. */
    qmi_sequence *sequences;
    size_t n_sequences;
    int32_t *encoder_ids; /* [n_encoded], for second looks */
    int64_t n_encoded;    /* rows of the cross caches */
    int64_t longest_encoder;
    /* Tokens whose rows the self caches have, when that was one sequence; for a
     * later one that begins with them. */
    int32_t *cached_ids;
    size_t n_cached_ids;
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

#endif
