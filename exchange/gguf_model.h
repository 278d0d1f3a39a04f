/* SPDX-License-Identifier: Apache-2.0
 * What a GGUF file says of its model, and what that is in a checkpoint of
 * Hugging Face. */
#ifndef QMI_GGUF_MODEL_H
#define QMI_GGUF_MODEL_H

#include "gguf_source.h"
#include "json_writer.h"

/* Norms of queries and keys. */
typedef enum qmi_gguf_norm {
    QMI_GGUF_NO_NORM,
    QMI_GGUF_HEAD_NORM,  /* of each head */
    QMI_GGUF_WHOLE_NORM, /* of all heads together */
} qmi_gguf_norm;

/* One architecture of GGUF files, with or without experts. */
typedef struct qmi_gguf_family {
    const char *arch; /* general.architecture */
    bool has_experts;
    const char *model_type, *model_class; /* of config.json */
    qmi_gguf_norm norm;
    bool has_bias;    /* queries, keys and values always have one */
    bool may_be_bias; /* they and the output have one, or none of them */
    /* Rows of queries and keys were put in another order: those of the two
     * halves of a head alternate. */
    bool is_permuted;
    bool has_block_sparse_moe; /* names of Mixtral */
    bool has_shared_expert;
    bool has_head_dim;            /* config.json may say head_dim */
    bool has_clip;                /* config.json may say clip_qkv */
    const char *experts_key;      /* how many there are */
    const char *expert_width_key; /* NULL: intermediate_size is theirs */
    int norm_topk; /* norm_topk_prob: 0, 1, or -1: config.json does not say */
} qmi_gguf_family;

/* Sizes, all at least 1 where they apply and 0 where not. */
typedef struct qmi_gguf_model {
    const qmi_gguf_family *family;
    int64_t n_blocks, d_model, n_heads, n_kv_heads, head_dim, n_positions;
    int64_t n_tokens; /* rows of the embedding */
    int64_t d_ff;     /* of the dense network; experts without a width of
                         their own have it, too */
    int64_t n_experts, top_k, d_expert, d_shared;
    bool has_bias, is_tied;
    double epsilon, theta;
} qmi_gguf_model;

/* E_UNSUPPORTED names an architecture, key or value that cannot be expressed;
 * E_FORMAT. */
qmoe_status qmi_gguf_model_read(qmi_gguf_model *out, qmi_gguf_source *source);
/* Writes the members of config.json that come from the model, into the object
 * that is open. */
qmoe_status qmi_gguf_config(
    qmi_json_writer *w, const qmi_gguf_model *model, qmi_gguf_source *source);

#endif
