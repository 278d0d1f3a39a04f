/* SPDX-License-Identifier: Apache-2.0
 * The context behind the public handle. */
#ifndef QMI_CONTEXT_H
#define QMI_CONTEXT_H

#include "registry.h"

struct qmoe_context {
    qmi_error error; /* last failure */
    qmi_registry *registry;
    int n_threads; /* >= 1 */
    int (*progress)(void *user, const qmoe_progress *progress);
    void (*message)(void *user, const char *text);
    void *user;
};

/* Reports progress; E_CANCELLED when the user's hook asks to stop. */
qmoe_status qmi_progress(qmoe_context *context, const char *stage,
    const char *item, uint64_t done, uint64_t total);
/* A caller's options struct, whose first field is its size: copies what both
 * sides know into `known` (zeroed by the caller); NULL leaves it zero. */
void qmi_copy_options(void *known, size_t capacity, const void *options);
/* One line to the user's message hook. */
void qmi_message(qmoe_context *context, const char *format, ...)
    QMI_PRINTF(2, 3);

#endif
