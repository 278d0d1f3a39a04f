/* SPDX-License-Identifier: Apache-2.0
 * Puts the parts together: the context with the built-in backends.  In: the
 * options of a caller, of whatever size his header had (qmi_copy_options).
 * Out: a context with hooks and a registry of backends, or nothing. */
#include "context.h"

#include <string.h>

#include "alloc.h"
#include "cpu.h"
#include "team.h"

/* Called when the last user leaves (hooks.h): models and jobs may outlive the
 * caller's own reference. */
static void destroy(qmi_hooks *hooks)
{
    qmoe_context *context = qmi_context_of(hooks);
    qmi_registry_destroy(context->registry);
    qmi_free(context);
}

/* The context's error carries the cancel flag, so that every call below can
 * hear it. */
static void set_hooks(qmi_hooks *hooks, const qmoe_context_options *o)
{
    hooks->n_users = 1;
    hooks->destroy = destroy;
    hooks->n_threads = o->n_threads > 0 ? o->n_threads : qmi_default_threads();
    hooks->error.cancel = &hooks->cancel;
    hooks->progress = o->progress;
    hooks->message = o->message;
    hooks->user = o->user;
}

qmoe_status qmoe_context_create(
    qmoe_context **out, const qmoe_context_options *options)
{
    if (out == NULL)
        return QMOE_E_INVALID;
    *out = NULL;
    qmoe_context_options known = {0};
    qmi_copy_options(&known, sizeof known, options);
    if (known.n_threads < 0)
        return QMOE_E_INVALID;
    qmoe_context *context = qmi_calloc(1, sizeof *context, "a context", NULL);
    if (context == NULL)
        return QMOE_E_NOMEM;
    set_hooks(&context->hooks, &known);
    /* The others are modules; the registry knows the order of preference. */
    const qmi_backend *const builtin[] = {
        qmi_backend_cpu(),
        qmi_backend_reference(),
    };
    qmoe_status status = qmi_registry_create(&context->registry, builtin,
        sizeof builtin / sizeof *builtin, known.backend_path,
        &context->hooks.error);
    if (status != QMOE_OK) {
        qmi_free(context);
        return status;
    }
    *out = context;
    return QMOE_OK;
}
