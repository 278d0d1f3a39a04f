/* SPDX-License-Identifier: Apache-2.0
 * Hooks of the context and questions to its backends. */
#include "place.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

qmoe_status qmi_progress(qmoe_context *context, const char *stage,
    const char *item, uint64_t done, uint64_t total)
{
    if (context->progress == NULL)
        return QMOE_OK;
    const qmoe_progress progress = {stage, item, done, total};
    if (context->progress(context->user, &progress) == 0)
        return QMOE_OK;
    return qmi_fail(&context->error, QMOE_E_CANCELLED, "cancelled");
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
    *n = 0;
    for (size_t i = 0; i < qmi_registry_count(context->registry); i++) {
        const char *name, *reason;
        const qmi_backend *backend;
        qmi_registry_at(context->registry, i, &name, &backend, &reason);
        list_backend(out, capacity, n, name, backend, reason);
    }
    return QMOE_OK;
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

qmoe_status qmoe_tune(qmoe_context *context, const char *backend,
    const char *device, qmoe_tune_fn *report, void *user)
{
    tune_listener listener = {report, user};
    qmi_place place;
    qmi_error *err = &context->error;
    QMI_TRY(qmi_place_find(&place, context, backend, device, err));
    if (place.backend->tune == NULL)
        return qmi_fail(err, QMOE_E_UNSUPPORTED,
            "backend %s has nothing to tune", place.info.backend);
    return place.backend->tune(place.info.index, pass_on, &listener, err);
}
