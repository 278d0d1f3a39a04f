/* SPDX-License-Identifier: Apache-2.0
 * Comes in: what a call has to say.  Goes out: to the caller's hooks, or into
 * the error it may ask for.  A context lives while n_users is not 0. */
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
    memcpy(&n, options, sizeof n);
    memcpy(known, options, n < capacity ? n : capacity);
}

void qmi_message(qmi_hooks *hooks, const char *format, ...)
{
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
    __atomic_add_fetch(&hooks->n_users, 1, __ATOMIC_RELAXED);
}

void qmi_hooks_release(qmi_hooks *hooks)
{
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
    qmi_hooks_retain(hooks);
    hooks->error = (qmi_error){.cancel = &hooks->cancel};
    return QMOE_OK;
}

qmoe_status qmi_call_end(qmi_hooks *hooks, qmoe_status status)
{
    if (status == QMOE_OK)
        hooks->error = (qmi_error){.cancel = &hooks->cancel};
    qmi_hooks_release(hooks);
    return status;
}
