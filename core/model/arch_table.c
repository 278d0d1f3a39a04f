/* SPDX-License-Identifier: Apache-2.0
 * The table of architectures, and nothing else.  In: the objects of arch_*.c.
 * Out: an array that ends with NULL.  A test that adds an architecture links a
 * table of its own in place of this file. */
#include "arch.h"

#define QMI_ARCHITECTURES(X)                                                   \
    X(switch)                                                                  \
    X(olmoe)                                                                   \
    X(mixtral)                                                                 \
    X(qwen2_moe)                                                               \
    X(qwen3_moe)                                                               \
    X(llama)                                                                   \
    X(mistral)                                                                 \
    X(qwen2)                                                                   \
    X(qwen3)

#define X(symbol) extern const qmi_arch qmi_arch_##symbol;
QMI_ARCHITECTURES(X)
#undef X

const qmi_arch *const qmi_architectures[] = {
#define X(symbol) &qmi_arch_##symbol,
    QMI_ARCHITECTURES(X)
#undef X
        NULL,
};
