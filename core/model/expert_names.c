/* SPDX-License-Identifier: Apache-2.0 */
#include "expert_names.h"

#include <stdio.h>
#include <string.h>

void qmi_expert_name(
    char *name, size_t capacity, const qmi_weight *stack, int64_t expert)
{
    const char *dot = strrchr(stack->name, '.');
    snprintf(name, capacity, "%.*s.expert_%lld.%s", (int)(dot - stack->name),
        stack->name, (long long)expert, dot + 1);
}
