/* SPDX-License-Identifier: Apache-2.0
 * Where and from what a measurement comes.  In: the system.  Out: version,
 * commit, processor, BLAS: what a reader needs to judge a number, or "unknown"
 * and "none".  Nothing here fails. */
#include "qmoe/bench.h"

#include <stdio.h>
#include <string.h>

#include "blas.h"
#include "commit.h"
#include "room.h"

/* The value of the first "model name" line; other architectures than x86 may
 * have none. */
static void read_cpu_name(char *out, size_t capacity)
{
    char line[256];
    snprintf(out, capacity, "unknown");
    FILE *file = fopen("/proc/cpuinfo", "r");
    if (file == NULL)
        return;
    while (fgets(line, sizeof line, file) != NULL) {
        const char *value = strchr(line, ':');
        if (value == NULL || strncmp(line, "model name", 10) != 0)
            continue;
        value += strspn(value, ": \t");
        snprintf(out, capacity, "%.*s", (int)strcspn(value, "\n"), value);
        break;
    }
    fclose(file);
}

void qmoe_bench_describe_machine(qmoe_bench_machine *out)
{
    if (out == NULL)
        return;
    *out = (qmoe_bench_machine){
        .version = qmoe_version(),
        .commit = qmi_commit() != NULL ? qmi_commit() : "unknown",
        .n_processors = qmi_usable_processors(),
    };
    read_cpu_name(out->cpu, sizeof out->cpu);
    /* The kernels that OpenBLAS has chosen for this processor. */
    const bool blas = qmi_blas_load(1, NULL) == QMOE_OK;
    snprintf(out->blas_core, sizeof out->blas_core, "%s",
        blas ? qmi_blas_core() : "none");
}
