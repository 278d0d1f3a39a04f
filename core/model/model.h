/* SPDX-License-Identifier: Apache-2.0
 * An open model: what it is (shape.h), its weights (mapped, in stored form) and
 * its computation (graph.h). */
#ifndef QMI_MODEL_H
#define QMI_MODEL_H

#include "chat.h"
#include "checkpoint.h"
#include "generation.h"
#include "graph.h"
#include "hooks.h"
#include "tokenizer.h"

typedef struct qmi_arch qmi_arch;

struct qmoe_model {
    qmi_hooks *hooks; /* of its context */
    int n_users;      /* the caller's handle, sessions, calls that run */
    qmi_checkpoint *checkpoint; /* NULL: a sketch */
    const qmi_format *sketch_format;
    qmi_chat_template *chat;  /* NULL: not asked for yet */
    qmi_tokenizer *tokenizer; /* NULL when there is none that we read */
    const qmi_arch *arch;
    qmi_shape shape;
    qmi_block *blocks; /* [n_blocks] in the order of execution */
    int32_t n_blocks, block_capacity;
    qmi_graph graph;
    qmi_sampling sampling;
    const cJSON *quantization; /* of config.json; NULL: not compressed */
    const char *expert_format; /* name of the experts' format */
    qmi_weight *weights;
    size_t n_weights, weight_capacity;
};

/* qmoe_model_open; `checked`: with qmi_digest_check, else for who checks more. */
qmoe_status qmi_model_open(
    qmoe_model **out, qmi_hooks *hooks, const char *directory, bool checked);
/* A model known by its config.json alone (`file` names it in errors): weights
 * have names, shapes and the dtype the config says (bf16 when it says none),
 * but no data.  It can be asked about, not run. */
qmoe_status qmi_model_sketch(
    qmoe_model **out, qmi_hooks *hooks, const cJSON *config, const char *file);

qmoe_status qmi_model_add_block(
    qmoe_model *model, qmi_block block, qmi_error *err);
/* Adds the matrix `name` [n_rows, n_cols] (n_rows 1 and a rank-1 tensor for a
 * vector), which may be compressed.  *index is its place in model->weights. */
qmoe_status qmi_model_add_matrix(qmoe_model *model, uint32_t *index,
    qmoe_role role, const char *name, int64_t n_rows, int64_t n_cols,
    qmi_error *err);
/* Whether matrices of a role may be compressed beside the experts: routers,
 * norms, vectors and tables of position biases stay as they are. */
bool qmi_model_may_compress(qmoe_role role, int64_t n_rows);
/* Whether the weights have a matrix of this name, plain or compressed. */
bool qmi_model_has_matrix(const qmoe_model *model, const char *name);

/* What the matrices of all experts of a block are called. */
typedef struct qmi_expert_names {
    const char *stack;  /* all of them, in a compressed model */
    const char *source; /* each of them, in an uncompressed one: a pattern of
                           expert_names.h */
    /* The tensor that holds all of them in this checkpoint; NULL: each has its
     * own.  Row, order: as of qmi_cut. */
    const qmi_tensor *fused;
    int64_t row;
    bool is_transposed;
} qmi_expert_names;
/* Adds the stack of n_experts matrices [n_rows, n_cols]. */
qmoe_status qmi_model_add_experts(qmoe_model *model, uint32_t *index,
    const qmi_expert_names *names, int64_t n_experts, int64_t n_rows,
    int64_t n_cols, qmi_error *err);

void qmi_model_retain(qmoe_model *model);
void qmi_model_release(qmoe_model *model);
/* As qmi_call_begin and qmi_call_end, with a model that may be closed in
 * between. */
qmoe_status qmi_model_call_begin(
    qmoe_model *model, const char *function, bool lacks);
qmoe_status qmi_model_call_end(qmoe_model *model, qmoe_status status);

/* E_NOT_FOUND naming the files when the model has no tokenizer; E_UNSUPPORTED
 * when it has one that we do not compute. */
qmoe_status qmi_model_need_tokenizer(const qmoe_model *model, qmi_error *err);
/* E_UNSUPPORTED naming the architecture when it was trained for another one. */
qmoe_status qmi_model_need_objective(
    const qmoe_model *model, qmi_objective objective, qmi_error *err);

int64_t qmi_model_block_count(const qmoe_model *model, qmi_program program);
int64_t qmi_model_sparse_count(const qmoe_model *model);
/* Of the sparse block that has most; 0: there is none. */
int64_t qmi_model_n_experts(const qmoe_model *model);

#endif
