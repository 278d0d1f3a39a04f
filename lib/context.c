/* SPDX-License-Identifier: Apache-2.0
 * Puts the parts together: the context with the built-in backends. */
#include "context.h"

#include <string.h>

#include "alloc.h"
#include "cpu.h"

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
    context->n_users = 1;
    context->n_threads =
        known.n_threads > 0 ? known.n_threads : qcpu_usable_processors();
    context->error.cancel = &context->cancel;
    context->progress = known.progress;
    context->message = known.message;
    context->user = known.user;
    const qmi_backend *const builtin[] = {
        qmi_backend_cpu(),
        qmi_backend_reference(),
    };
    qmoe_status status = qmi_registry_create(&context->registry, builtin,
        sizeof builtin / sizeof *builtin, known.backend_path, &context->error);
    if (status != QMOE_OK) {
        qmi_free(context);
        return status;
    }
    *out = context;
    return QMOE_OK;
}
