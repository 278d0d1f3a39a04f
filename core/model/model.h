/* SPDX-License-Identifier: Apache-2.0
 * An open model: its weights (mapped, in stored form) and its computation as
 * lists of steps.  A step is one operation of ops.h on named places; the
 * session turns it into an operation for the batch at hand (steps.h). */
#ifndef QMI_MODEL_H
#define QMI_MODEL_H

#include "checkpoint.h"
#include "config.h"
#include "hooks.h"
#include "ops.h"
#include "ternary_dict.h"
#include "tokenizer.h"

typedef struct qmi_arch qmi_arch;

/* Activations of a pass, all f32 [tokens, width]. */
typedef enum qmi_slot {
    QMI_SLOT_NONE,
    QMI_SLOT_RESIDUAL, /* d_model */
    QMI_SLOT_NORMED,   /* d_model */
    QMI_SLOT_Q,        /* n_heads * d_kv */
    QMI_SLOT_K,
    QMI_SLOT_V,
    QMI_SLOT_ATTENDED,
    QMI_SLOT_HIDDEN,        /* d_ff */
    QMI_SLOT_ROUTER_LOGITS, /* n_experts */
    QMI_SLOT_LOGITS,        /* vocab_size */
    QMI_SLOT_COUNT
} qmi_slot;

/* Per decoder block: rows kept between passes, f32 [rows, n_heads * d_kv]. */
typedef enum qmi_cache {
    QMI_CACHE_SELF_K,
    QMI_CACHE_SELF_V,
    QMI_CACHE_CROSS_K,
    QMI_CACHE_CROSS_V,
    QMI_CACHE_COUNT
} qmi_cache;

typedef enum qmi_attention_kind {
    QMI_ATTEND_ENCODER, /* Q over the K and V slots, both directions */
    QMI_ATTEND_SELF,    /* causal, over the self caches */
    QMI_ATTEND_CROSS    /* over the cross caches, no position bias */
} qmi_attention_kind;

typedef struct qmi_step {
    qmi_op_kind kind;
    /* Of the stack; -1 before the first block, n_blocks after the last. */
    int32_t block;
    qmi_slot dst, src, residual;
    uint32_t weight, weight2; /* indices into the model's weights */
    float alpha;              /* LINEAR */
    bool relu;                /* LINEAR */
    qmi_cache cache;          /* KV_STORE */
    qmi_attention_kind attention;
} qmi_step;

typedef struct qmi_steps {
    qmi_step *items;
    size_t n, capacity;
} qmi_steps;

enum { QMI_MAX_DICTIONARIES = 8 };

struct qmoe_model {
    qmi_hooks *hooks; /* of its context */
    int n_users;      /* the caller's handle, sessions, calls that run */
    qmi_checkpoint *checkpoint; /* NULL: a sketch */
    const qmi_format *sketch_format;
    qmi_tokenizer *tokenizer; /* NULL when there is no spiece.model */
    const qmi_arch *arch;
    qmi_config config;
    const cJSON *quantization; /* of config.json; NULL: not compressed */
    const char *expert_format; /* name of the experts' format */
    qmi_weight *weights;
    size_t n_weights, weight_capacity;
    /* Dictionaries other than the generic one, each used by some stacks. */
    qmi_dict *dictionaries[QMI_MAX_DICTIONARIES];
    double dictionary_p0[QMI_MAX_DICTIONARIES];
    size_t n_dictionaries;
    uint32_t relative_bias[QMI_N_STACKS]; /* weights [n_buckets, n_heads] */
    qmi_steps encoder;                    /* ids -> NORMED = encoder output */
    qmi_steps cross;                      /* encoder output -> cross caches */
    qmi_steps decoder;                    /* ids -> LOGITS */
};

/* qmoe_model_open; `checked`: with qmi_digest_check, else for who checks more. */
qmoe_status qmi_model_open(
    qmoe_model **out, qmi_hooks *hooks, const char *directory, bool checked);
/* A model known by its config.json alone (`file` names it in errors): weights
 * have names, shapes and the dtype the config says (bf16 when it says none),
 * but no data.  It can be asked about, not run. */
qmoe_status qmi_model_sketch(
    qmoe_model **out, qmi_hooks *hooks, const cJSON *config, const char *file);

/* Adds the matrix `name` [n_rows, n_cols] (n_rows 1 and a rank-1 tensor for a
 * vector).  *index is its place in model->weights. */
qmoe_status qmi_model_add_matrix(qmoe_model *model, uint32_t *index,
    const char *name, int64_t n_rows, int64_t n_cols, qmi_error *err);
/* Adds the stack of all experts' matrices "<prefix>.expert_<e>.<kind>.weight"
 * of an uncompressed checkpoint, or "<prefix>.<kind>" of a compressed one. */
qmoe_status qmi_model_add_experts(qmoe_model *model, uint32_t *index,
    const char *prefix, const char *kind, int64_t n_rows, int64_t n_cols,
    qmi_error *err);
qmoe_status qmi_steps_add(qmi_steps *steps, qmi_step step, qmi_error *err);

void qmi_model_retain(qmoe_model *model);
void qmi_model_release(qmoe_model *model);
/* As qmi_call_begin and qmi_call_end, with a model that may be closed in
 * between. */
qmoe_status qmi_model_call_begin(
    qmoe_model *model, const char *function, bool lacks);
qmoe_status qmi_model_call_end(qmoe_model *model, qmoe_status status);

/* E_NOT_FOUND naming spiece.model when the model has no tokenizer. */
qmoe_status qmi_model_need_tokenizer(const qmoe_model *model, qmi_error *err);

/* Floats per token of a slot. */
int64_t qmi_slot_width(const qmi_config *c, qmi_slot slot);

#endif
