/* SPDX-License-Identifier: Apache-2.0
 * What an operation asks for beyond the plain forms of T5: for backends that do
 * not have it, and say so in `supports`. */
#ifndef QMI_PLAIN_OP_H
#define QMI_PLAIN_OP_H

#include "ops.h"

static inline bool qmi_is_plain_linear(const qmi_op_linear *o)
{
    return o->bias == NULL &&
           (o->act == QMI_ACT_NONE || o->act == QMI_ACT_RELU);
}

/* One head of keys per head of queries, all of one width, in f32. */
static inline bool qmi_is_plain_attention(const qmi_op_attention *o)
{
    return o->n_kv_heads == o->n_heads && o->d_key == o->d_value &&
           o->kv_type == QMI_KV_F32 && o->window == 0 && o->sinks == NULL;
}

static inline bool qmi_is_plain_route(const qmi_op_route *o)
{
    return o->bias == NULL && o->router.scoring == QMI_SOFTMAX &&
           o->router.n_groups == 0 && !o->router.normalises &&
           (o->router.scale == 0 || o->router.scale == 1);
}

static inline bool qmi_is_plain_expert_ffn(const qmi_op_expert_ffn *o)
{
    return o->gate == NULL && o->act == QMI_ACT_RELU;
}

#endif
