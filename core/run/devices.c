/* SPDX-License-Identifier: Apache-2.0
 * Comes in: a context and what its caller asks of its devices.  Goes out: the
 * list of devices with the reasons of backends that are missing, and the way to
 * tune one.  What goes wrong with a device is its description, so listing fails
 * only when it is cancelled. */
#include "place.h"

#include <stdio.h>

#include "cancel.h"

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
    /* Counted beyond the capacity, too, so that a caller can ask for the number
     * first. */
    for (int i = 0; i < n_devices; i++, (*n)++) {
        if (*n >= capacity)
            continue;
        qmi_error err = {0};
        if (qmi_place_describe(&out[*n], backend, i, &err) == QMOE_OK)
            continue;
        /* A device that cannot be described keeps its number. */
        out[*n] = (qmoe_device_info){.index = i};
        snprintf(out[*n].backend, sizeof out->backend, "%s", name);
        snprintf(out[*n].detail, sizeof out->detail, "%.255s", err.text);
    }
    /* One line for a backend without devices, which holds the reason. */
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
    QMI_TRY(qmi_call_begin(qmi_hooks_of(context), __func__,
        n == NULL || (out == NULL && capacity != 0)));
    /* In the order of preference, as the registry has them. */
    const size_t count = qmi_registry_count(context->registry);
    qmoe_status status = QMOE_OK;
    for (size_t i = 0; status == QMOE_OK && i < count; i++) {
        const char *name, *reason;
        const qmi_backend *backend;
        qmi_registry_at(context->registry, i, &name, &backend, &reason);
        list_backend(out, capacity, n, name, backend, reason);
        /* A driver may have taken long to start. */
        status = qmi_check_cancel(&context->hooks.error);
    }
    return qmi_call_end(&context->hooks, status);
}

/* ---- tuning ---- */

typedef struct tune_listener {
    qmoe_tune_fn *report;
    void *user;
} tune_listener;

/* The user's function may be absent; tuning goes on without it. */
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
    qmi_error *err = &context->hooks.error;
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
    QMI_TRY(qmi_call_begin(qmi_hooks_of(context), __func__, false));
    return qmi_call_end(
        &context->hooks, tune(context, backend, device, &listener));
}
