/* SPDX-License-Identifier: Apache-2.0
 * Hooks of the context and questions to its backends. */
#include "place.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "alloc.h"

qmoe_status qmi_progress(qmoe_context *context, const char *stage,
    const char *item, uint64_t done, uint64_t total)
{
    QMI_TRY(qmi_check_cancel(&context->error));
    if (context->progress == NULL)
        return QMOE_OK;
    const qmoe_progress progress = {stage, item, done, total};
    if (context->progress(context->user, &progress) == 0)
        return QMOE_OK;
    return qmi_fail(&context->error, QMOE_E_CANCELLED, "cancelled");
}

void qmoe_context_cancel(qmoe_context *context, bool wanted)
{
    if (context != NULL)
        atomic_store(&context->cancel.wanted, wanted);
}

void qmi_copy_options(void *known, size_t capacity, const void *options)
{
    size_t n = 0;
    if (options == NULL)
        return;
    memcpy(&n, options, sizeof n);
    memcpy(known, options, n < capacity ? n : capacity);
}

void qmi_message(qmoe_context *context, const char *format, ...)
{
    char text[512];
    if (context->message == NULL)
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    context->message(context->user, text);
}

const char *qmoe_context_error(const qmoe_context *context)
{
    return context == NULL ? "" : context->error.text;
}

/* ---- users ---- */

void qmi_context_release(qmoe_context *context)
{
    if (__atomic_sub_fetch(&context->n_users, 1, __ATOMIC_ACQ_REL) != 0)
        return;
    qmi_registry_destroy(context->registry);
    qmi_free(context);
}

void qmoe_context_destroy(qmoe_context *context)
{
    if (context != NULL)
        qmi_context_release(context);
}

qmoe_status qmi_call_begin(
    qmoe_context *context, const char *function, bool lacks)
{
    if (context == NULL)
        return QMOE_E_INVALID;
    if (lacks)
        return qmi_fail(&context->error, QMOE_E_INVALID,
            "%s: an argument that is needed is NULL", function);
    __atomic_add_fetch(&context->n_users, 1, __ATOMIC_RELAXED);
    context->error = (qmi_error){.cancel = &context->cancel};
    return QMOE_OK;
}

qmoe_status qmi_call_end(qmoe_context *context, qmoe_status status)
{
    if (status == QMOE_OK)
        context->error = (qmi_error){.cancel = &context->cancel};
    qmi_context_release(context);
    return status;
}

/* ---- devices ---- */

/* Entries of one backend, appended at *n. */
static void list_backend(qmoe_device_info *out, size_t capacity, size_t *n,
    const char *name, const qmi_backend *backend, const char *reason)
{
    int n_devices = 0;
    char why[256] = "";
    if (backend == NULL)
        snprintf(why, sizeof why, "%s", reason);
    else if (backend->probe(&n_devices, why, sizeof why) != QMOE_OK)
        n_devices = 0;
    for (int i = 0; i < n_devices; i++, (*n)++) {
        if (*n >= capacity)
            continue;
        qmi_error err = {0};
        if (qmi_place_describe(&out[*n], backend, i, &err) == QMOE_OK)
            continue;
        out[*n] = (qmoe_device_info){.index = i};
        snprintf(out[*n].backend, sizeof out->backend, "%s", name);
        snprintf(out[*n].detail, sizeof out->detail, "%.255s", err.text);
    }
    if (n_devices > 0)
        return;
    if (*n < capacity) {
        out[*n] = (qmoe_device_info){.index = -1};
        snprintf(out[*n].backend, sizeof out->backend, "%s", name);
        snprintf(out[*n].detail, sizeof out->detail, "%s", why);
    }
    (*n)++;
}

qmoe_status qmoe_devices(
    qmoe_context *context, qmoe_device_info *out, size_t capacity, size_t *n)
{
    if (n != NULL)
        *n = 0;
    QMI_TRY(qmi_call_begin(
        context, __func__, n == NULL || (out == NULL && capacity != 0)));
    for (size_t i = 0; i < qmi_registry_count(context->registry); i++) {
        const char *name, *reason;
        const qmi_backend *backend;
        qmi_registry_at(context->registry, i, &name, &backend, &reason);
        list_backend(out, capacity, n, name, backend, reason);
    }
    return qmi_call_end(context, QMOE_OK);
}

/* ---- tuning ---- */

typedef struct tune_listener {
    qmoe_tune_fn *report;
    void *user;
} tune_listener;

static qmoe_status pass_on(void *user, const char *format, int64_t n_tokens,
    const char *candidate, double seconds)
{
    const tune_listener *listener = user;
    if (listener->report != NULL)
        listener->report(listener->user, format, n_tokens, candidate, seconds);
    return QMOE_OK;
}

static qmoe_status tune(qmoe_context *context, const char *backend,
    const char *device, tune_listener *listener)
{
    qmi_place place;
    qmi_error *err = &context->error;
    QMI_TRY(qmi_place_find(&place, context, backend, device, err));
    if (place.backend->tune == NULL)
        return qmi_fail(err, QMOE_E_UNSUPPORTED,
            "backend %s has nothing to tune", place.info.backend);
    return place.backend->tune(place.info.index, pass_on, listener, err);
}

qmoe_status qmoe_tune(qmoe_context *context, const char *backend,
    const char *device, qmoe_tune_fn *report, void *user)
{
    tune_listener listener = {report, user};
    QMI_TRY(qmi_call_begin(context, __func__, false));
    return qmi_call_end(context, tune(context, backend, device, &listener));
}
