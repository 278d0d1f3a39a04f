/* SPDX-License-Identifier: Apache-2.0
 * The context behind the public handle. */
#ifndef QMI_CONTEXT_H
#define QMI_CONTEXT_H

#include "cancel.h"
#include "registry.h"

struct qmoe_context {
    qmi_error error; /* last failure; its `cancel` is the one below */
    struct qmi_cancel cancel;
    qmi_registry *registry;
    int n_threads; /* >= 1 */
    int (*progress)(void *user, const qmoe_progress *progress);
    void (*message)(void *user, const char *text);
    void *user;
    int n_users; /* the caller's handle, models, calls that run */
};

/* A context, a model and a session go when their last user does: the caller,
 * who holds one, may close them in any order and in a hook. */
void qmi_context_release(qmoe_context *context);

/* Every public call with a context, or an object of one, runs between these
 * two, unless it cannot fail.  Begin: E_INVALID when there is no context or
 * `lacks` says that a pointer it needs is NULL.  End: passes `status` on, after
 * success without an error's text. */
qmoe_status qmi_call_begin(
    qmoe_context *context, const char *function, bool lacks);
qmoe_status qmi_call_end(qmoe_context *context, qmoe_status status);

/* Reports progress, from the calling thread; E_CANCELLED when the user's hook
 * asks to stop, or qmoe_context_cancel did. */
qmoe_status qmi_progress(qmoe_context *context, const char *stage,
    const char *item, uint64_t done, uint64_t total);
/* A caller's options struct, whose first field is its size: copies what both
 * sides know into `known` (zeroed by the caller); NULL leaves it zero. */
void qmi_copy_options(void *known, size_t capacity, const void *options);
/* One line to the user's message hook. */
void qmi_message(qmoe_context *context, const char *format, ...)
    QMI_PRINTF(2, 3);

#endif
