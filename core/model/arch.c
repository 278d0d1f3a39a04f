/* SPDX-License-Identifier: Apache-2.0
 * In: the model_type of a config.json, or a tensor's name.  Out: its
 * architecture, and what that calls the tensor else.  The list of architectures
 * is that of arch_table.c; nothing here knows one of them. */
#include "arch.h"

#include <string.h>

qmoe_status qmi_arch_find(const qmi_arch **out, const char *model_type,
    const char *file, qmi_error *err)
{
    char known[256] = "";
    for (const qmi_arch *const *a = qmi_architectures; *a != NULL; a++) {
        if (strcmp((*a)->model_type, model_type) == 0) {
            *out = *a;
            return QMOE_OK;
        }
        /* For the message; a name that does not fit is cut, and nothing behind
         * the text is written. */
        strncat(known, known[0] == '\0' ? "" : ", ",
            sizeof known - strlen(known) - 1);
        strncat(known, (*a)->model_type, sizeof known - strlen(known) - 1);
    }
    return qmi_fail(err, QMOE_E_UNSUPPORTED,
        "%s: model_type '%s' is not supported (supported: %s)", file,
        model_type, known);
}

const char *qmi_arch_other_name(const qmi_arch *arch, const char *name)
{
    for (size_t i = 0;
         arch->other_names != NULL && arch->other_names[i][0] != NULL; i++)
        if (strcmp(arch->other_names[i][0], name) == 0)
            return arch->other_names[i][1];
    return NULL;
}
