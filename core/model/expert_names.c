/* SPDX-License-Identifier: Apache-2.0
 * In: a pattern with one asterisk, in place of an expert's number.  Out: names,
 * and whether one is among them.  Patterns come from an architecture and always
 * have the asterisk; names come from files and may be anything. */
#include "expert_names.h"

#include <stdio.h>
#include <string.h>

void qmi_expert_tensor(
    char *name, size_t capacity, const char *pattern, int64_t expert)
{
    const char *star = strchr(pattern, '*');
    snprintf(name, capacity, "%.*s%lld%s", (int)(star - pattern), pattern,
        (long long)expert, star + 1);
}

bool qmi_expert_tensor_fits(const qmi_weight *stack, const char *name)
{
    const char *pattern = stack->source;
    const char *star = strchr(pattern, '*');
    const size_t n = (size_t)(star - pattern);
    if (stack->fused != NULL && strcmp(name, stack->fused) == 0)
        return true;
    if (strncmp(name, pattern, n) != 0)
        return false;
    /* Any number of digits: whether such an expert exists is not asked here. */
    const size_t n_digits = strspn(name + n, "0123456789");
    return n_digits != 0 && strcmp(name + n + n_digits, star + 1) == 0;
}

void qmi_expert_name(
    char *name, size_t capacity, const qmi_weight *stack, int64_t expert)
{
    static const char end[] = ".weight";
    /* In texts for people an expert is named without the tensor's last word. */
    qmi_expert_tensor(name, capacity, stack->source, expert);
    const size_t n = strlen(name), n_end = sizeof end - 1;
    if (n >= n_end && strcmp(name + n - n_end, end) == 0)
        name[n - n_end] = '\0';
}
