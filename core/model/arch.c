/* SPDX-License-Identifier: Apache-2.0
 * The table of architectures. */
#include "arch.h"

#include <string.h>

extern const qmi_arch qmi_arch_switch;

const qmi_arch *qmi_arch_find(const char *model_type)
{
    static const qmi_arch *const table[] = {&qmi_arch_switch};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(table[i]->model_type, model_type) == 0)
            return table[i];
    return NULL;
}
