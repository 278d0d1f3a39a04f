/* SPDX-License-Identifier: Apache-2.0
 * Private to the decoder-only architectures: one skeleton (pre-norm blocks,
 * RMS norm, rotary positions, grouped-query attention, gated feed-forwards,
 * dense or of experts) and a table of what tells the families apart.  A dense
 * model is the case without experts.  Definitions: transformers 4.57,
 * models/<model_type>/modeling_<model_type>.py. */
#ifndef QMI_ARCH_DECODER_H
#define QMI_ARCH_DECODER_H

#include "model.h"

/* What is normed of queries and keys before they are rotated. */
typedef enum qmi_qk_norm {
    QMI_QK_NONE,
    QMI_QK_HEADS, /* each head by itself, with one vector for all */
    QMI_QK_WHOLE  /* all heads together */
} qmi_qk_norm;

/* When `sliding_window` of a config counts. */
typedef enum qmi_window_rule {
    QMI_WINDOW_NEVER,
    QMI_WINDOW_GIVEN, /* a number: every block */
    QMI_WINDOW_ASKED  /* use_sliding_window: blocks from max_window_layers on,
                         or those of layer_types */
} qmi_window_rule;

/* One line of the table: arch_decoder_families.c. */
typedef struct qmi_decoder_family {
    const char *model_type;
    /* The feed-forward of a sparse block behind "model.layers.N.": "mlp" when
     * its tensors are "mlp.gate" and "mlp.experts"; NULL: dense. */
    const char *sparse;
    const char *gate, *up, *down; /* of an expert: "gate_proj" */
    /* The key that has the width of an expert. */
    const char *expert_width_key;
    qmi_qk_norm qk_norm;
    qmi_window_rule window;
    int64_t default_window; /* when QMI_WINDOW_GIVEN and the key is absent */
    /* Biases of q, k, v: those of a key, whose default this is; o has one when
     * bias_of_o and the key say so. */
    const char *bias_key; /* NULL: fixed */
    bool bias_default, bias_of_o;
    bool normalises; /* weights of the chosen, whatever norm_topk_prob is */
    bool has_shared; /* an expert that every token takes, with a gate */
    int64_t default_head; /* head_dim when absent; 0: d_model / n_heads */
    double default_base, default_epsilon;
} qmi_decoder_family;

enum { QMI_DECODER_MAX_BLOCKS = 4096 };

/* What a config.json says, checked. */
typedef struct qmi_decoder {
    const qmi_decoder_family *family;
    qmi_shape shape;
    int64_t n_blocks, n_heads, n_kv_heads, d_head;
    int64_t d_ff; /* of dense blocks */
    int64_t n_experts, top_k, d_expert;
    int64_t d_shared; /* 0: no shared expert */
    int64_t sparse_step;
    bool is_dense[QMI_DECODER_MAX_BLOCKS];  /* although it could have experts */
    int64_t window[QMI_DECODER_MAX_BLOCKS]; /* 0: none */
    bool qkv_bias, o_bias, mlp_bias;
    bool normalises, tied_head;
    double epsilon;
    qmi_rotary_spec rotary;
} qmi_decoder;

/* E_FORMAT, E_UNSUPPORTED: names file and key. */
qmoe_status qmi_decoder_configure(qmi_decoder *out,
    const qmi_decoder_family *family, const cJSON *config, const char *file,
    qmi_error *err);
bool qmi_decoder_is_sparse(const qmi_decoder *d, int64_t block);
/* Its last step: E_UNSUPPORTED names a key that asks for what is not
 * computed. */
qmoe_status qmi_decoder_refuse(const qmi_decoder *d, const cJSON *config,
    const char *file, qmi_error *err);

/* qmi_arch.build of a family. */
qmoe_status qmi_decoder_build(qmoe_model *model,
    const qmi_decoder_family *family, const cJSON *config, const char *file,
    qmi_error *err);

#endif
