/* SPDX-License-Identifier: Apache-2.0
 * The context behind the public handle: hooks and backends. */
#ifndef QMI_CONTEXT_H
#define QMI_CONTEXT_H

#include "hooks.h"
#include "registry.h"

struct qmoe_context {
    qmi_hooks hooks; /* first: what is below sees these alone (hooks.h) */
    qmi_registry *registry;
};

/* The context that begins with `hooks`, of an object that has no more of it. */
static inline qmoe_context *qmi_context_of(qmi_hooks *hooks)
{
    return (qmoe_context *)hooks;
}

#endif
