/* SPDX-License-Identifier: Apache-2.0
 * In: nothing.  Out: bytes that the system would give without swapping, or 0
 * when it does not say. */
#include "available_memory.h"

#include <stdio.h>

/* MemAvailable of /proc/meminfo. */
uint64_t qmi_available_memory(void)
{
    unsigned long long kib = 0;
    char line[128];
    FILE *file = fopen("/proc/meminfo", "r");
    if (file == NULL)
        return 0;
    while (fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
            break;
    fclose(file);
    return kib * 1024;
}
