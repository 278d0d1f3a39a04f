/* SPDX-License-Identifier: Apache-2.0
 * How work reports to the program that asked for it: the last error, progress,
 * messages, the wish to end early.  All code below the table of backends knows
 * a context by these alone. */
#ifndef QMI_HOOKS_H
#define QMI_HOOKS_H

#include "cancel.h"

typedef struct qmi_hooks {
    qmi_error error; /* last failure; its `cancel` is the one below */
    struct qmi_cancel cancel;
    int n_threads; /* >= 1 */
    int (*progress)(void *user, const qmoe_progress *progress);
    void (*message)(void *user, const char *text);
    void *user;
    int n_users; /* the caller's handle, models, calls that run */
    void (*destroy)(struct qmi_hooks *hooks); /* by the last of them */
} qmi_hooks;

/* A context begins with its hooks.  NULL for NULL. */
qmi_hooks *qmi_hooks_of(qmoe_context *context);

/* A context, a model and a session go when their last user does: the caller,
 * who holds one, may close them in any order and in a hook. */
void qmi_hooks_retain(qmi_hooks *hooks);
void qmi_hooks_release(qmi_hooks *hooks);

/* Every public call with a context, or an object of one, runs between these
 * two, unless it cannot fail.  Begin: E_INVALID when there is no context or
 * `lacks` says that a pointer it needs is NULL.  End: passes `status` on, after
 * success without an error's text. */
qmoe_status qmi_call_begin(qmi_hooks *hooks, const char *function, bool lacks);
qmoe_status qmi_call_end(qmi_hooks *hooks, qmoe_status status);

/* Reports progress, from the calling thread; E_CANCELLED when the user's hook
 * asks to stop, or qmoe_context_cancel did. */
qmoe_status qmi_progress(qmi_hooks *hooks, const char *stage, const char *item,
    uint64_t done, uint64_t total);
/* One line to the user's message hook. */
void qmi_message(qmi_hooks *hooks, const char *format, ...) QMI_PRINTF(2, 3);

/* A caller's options struct, whose first field is its size: copies what both
 * sides know into `known` (zeroed by the caller); NULL leaves it zero. */
void qmi_copy_options(void *known, size_t capacity, const void *options);

#endif
