/* SPDX-License-Identifier: Apache-2.0
 * What a model is, in terms common to architectures: a shape, one per model,
 * and blocks, one per block.  Neither has a field for one family of models; what
 * an architecture lacks stays zero. */
#ifndef QMI_SHAPE_H
#define QMI_SHAPE_H

#include "error.h"

/* The lists of steps that a model may have.  One without an encoder has DECODE
 * alone. */
typedef enum qmi_program {
    QMI_ENCODE, /* ids of the encoder -> its output */
    QMI_CROSS,  /* its output -> keys and values that the decoder reads */
    QMI_DECODE, /* ids of the decoder -> logits */
    QMI_N_PROGRAMS
} qmi_program;

/* What the model was trained to predict, and so what text means to it. */
typedef enum qmi_objective {
    QMI_NEXT_TOKEN,
    QMI_SPAN_CORRUPTION /* the encoder reads text with gaps, the decoder writes
                           what is missing */
} qmi_objective;

enum { QMI_MAX_END_IDS = 8 };

typedef struct qmi_shape {
    int64_t vocab_size, d_model;
    qmi_objective objective;
    int32_t start_id; /* before the first token of the decoder */
    int32_t end_ids[QMI_MAX_END_IDS]; /* [n_end_ids] any of which ends a text */
    int n_end_ids;
} qmi_shape;

typedef struct qmi_attention {
    int64_t n_heads, n_kv_heads; /* of queries; of keys and values */
    int64_t d_key, d_value;      /* of one head */
} qmi_attention;

typedef struct qmi_ffn {
    int64_t d_ff;      /* of one expert, or of the dense feed-forward */
    int64_t n_experts; /* 0: dense */
    int64_t top_k;     /* experts per token */
} qmi_ffn;

/* Blocks stand in the order of execution: those of ENCODE, then those of
 * DECODE. */
typedef struct qmi_block {
    qmi_program program;
    int32_t number; /* in its program, from 0 */
    qmi_attention attention;
    qmi_ffn ffn;
} qmi_block;

static inline bool qmi_block_is_sparse(const qmi_block *block)
{
    return block->ffn.n_experts != 0;
}

/* "encoder" or "decoder". */
const char *qmi_program_name(qmi_program program);
bool qmi_shape_is_end(const qmi_shape *shape, int32_t id);

#endif
