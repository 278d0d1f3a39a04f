/* SPDX-License-Identifier: Apache-2.0
 * Comes in: the model_type of a config.json.  Goes out: its architecture. */
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
        strncat(known, known[0] == '\0' ? "" : ", ",
            sizeof known - strlen(known) - 1);
        strncat(known, (*a)->model_type, sizeof known - strlen(known) - 1);
    }
    return qmi_fail(err, QMOE_E_UNSUPPORTED,
        "%s: model_type '%s' is not supported (supported: %s)", file,
        model_type, known);
}
