/* SPDX-License-Identifier: Apache-2.0
 * In: what a call has to say.  Out: to the caller's hooks, or into the error it
 * may ask for.  A context lives while n_users is not 0, so that hooks may close
 * it. */
#include "hooks.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

qmi_hooks *qmi_hooks_of(qmoe_context *context)
{
    return (qmi_hooks *)context;
}

qmoe_status qmi_progress(qmi_hooks *hooks, const char *stage, const char *item,
    uint64_t done, uint64_t total)
{
    /* Before the hook: a wish that came between two reports is not missed. */
    QMI_TRY(qmi_check_cancel(&hooks->error));
    if (hooks->progress == NULL)
        return QMOE_OK;
    const qmoe_progress progress = {stage, item, done, total};
    if (hooks->progress(hooks->user, &progress) == 0)
        return QMOE_OK;
    return qmi_fail(&hooks->error, QMOE_E_CANCELLED, "cancelled");
}

void qmoe_context_cancel(qmoe_context *context, bool wanted)
{
    if (context != NULL)
        atomic_store(&qmi_hooks_of(context)->cancel.wanted, wanted);
}

void qmi_copy_options(void *known, size_t capacity, const void *options)
{
    size_t n = 0;
    if (options == NULL)
        return;
    /* The size comes first in every options struct.  A caller of an older
     * version knows fewer fields, one of a newer version more: the rest stays
     * zero or is ignored. */
    memcpy(&n, options, sizeof n);
    memcpy(known, options, n < capacity ? n : capacity);
}

void qmi_message(qmi_hooks *hooks, const char *format, ...)
{
    /* Longer messages are cut: they are for people. */
    char text[512];
    if (hooks->message == NULL)
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    hooks->message(hooks->user, text);
}

const char *qmoe_context_error(const qmoe_context *context)
{
    return context == NULL ? "" : ((const qmi_hooks *)context)->error.text;
}

/* ---- users ---- */

void qmi_hooks_retain(qmi_hooks *hooks)
{
    /* Relaxed: whoever adds a user is one already. */
    __atomic_add_fetch(&hooks->n_users, 1, __ATOMIC_RELAXED);
}

void qmi_hooks_release(qmi_hooks *hooks)
{
    /* The last user sees all that the others wrote. */
    if (__atomic_sub_fetch(&hooks->n_users, 1, __ATOMIC_ACQ_REL) == 0)
        hooks->destroy(hooks);
}

void qmoe_context_destroy(qmoe_context *context)
{
    if (context != NULL)
        qmi_hooks_release(qmi_hooks_of(context));
}

qmoe_status qmi_call_begin(qmi_hooks *hooks, const char *function, bool lacks)
{
    if (hooks == NULL)
        return QMOE_E_INVALID;
    if (lacks)
        return qmi_fail(&hooks->error, QMOE_E_INVALID,
            "%s: a required argument is NULL", function);
    /* The call itself is a user: a hook may destroy the context while it
     * runs. */
    qmi_hooks_retain(hooks);
    hooks->error = (qmi_error){.cancel = &hooks->cancel};
    return QMOE_OK;
}

qmoe_status qmi_call_end(qmi_hooks *hooks, qmoe_status status)
{
    if (status == QMOE_OK)
        /* A failure on the way that was made good leaves no text behind. */
        hooks->error = (qmi_error){.cancel = &hooks->cancel};
    qmi_hooks_release(hooks);
    return status;
}
