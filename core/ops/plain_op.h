/* SPDX-License-Identifier: Apache-2.0
 * What an operation asks for beyond the plain forms of T5: for backends that do
 * not have it, and say so in `supports`. */
#ifndef QMI_PLAIN_OP_H
#define QMI_PLAIN_OP_H

#include "ops.h"

/* One head of keys per head of queries, all of one width, in f32. */
static inline bool qmi_is_plain_attention(const qmi_op_attention *o)
{
    return o->n_kv_heads == o->n_heads && o->d_key == o->d_value &&
           o->kv_type == QMI_KV_F32 && o->window == 0 && o->sinks == NULL;
}

#endif
