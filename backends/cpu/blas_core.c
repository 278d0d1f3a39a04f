/* SPDX-License-Identifier: Apache-2.0
 * What OpenBLAS detected (blas_core.h). */
#include "blas_core.h"

#include <cblas.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "cpu_features.h"

/* Names of cores without AVX2, which it falls back to when it does not know a
 * newer processor. */
static bool is_old_core(const char *name)
{
    static const char *const old[] = {"Prescott", "Core2", "Penryn",
        "Dunnington", "Nehalem", "Atom", "Nano", "Opteron", "Opteron_SSE3",
        "Barcelona", "Bobcat", "Sandybridge", "Bulldozer", "Piledriver",
        "Steamroller", "Northwood", "Katmai", "Coppermine", "Banias", "Athlon"};
    for (size_t i = 0; i < sizeof old / sizeof *old; i++)
        if (strcasecmp(name, old[i]) == 0)
            return true;
    return false;
}

/* For tests, QMOE_TEST_BLAS_CORE stands for what OpenBLAS detects by itself. */
static const char *core_name(void)
{
    const char *simulated = getenv("QMOE_TEST_BLAS_CORE");
    if (simulated != NULL && getenv("OPENBLAS_CORETYPE") == NULL)
        return simulated;
    return openblas_get_corename();
}

const char *qcpu_blas_core_wanted(void)
{
    const unsigned features = qcpu_features();
    if ((features & QCPU_AVX2) == 0 || !is_old_core(core_name()))
        return NULL;
    return (features & QCPU_AVX512) != 0 ? "SkylakeX" : "Haswell";
}

void qcpu_blas_core_describe(char *text, size_t capacity)
{
    const char *name = core_name(), *wanted = qcpu_blas_core_wanted();
    const char *corrected = getenv("QMOE_BLAS_CORRECTED");
    const char *chosen = getenv("OPENBLAS_CORETYPE");
    if (wanted != NULL && chosen != NULL)
        snprintf(text, capacity,
            "OpenBLAS: %s, slow here, because OPENBLAS_CORETYPE is %s; %s "
            "would fit",
            name, chosen, wanted);
    else if (wanted != NULL)
        snprintf(text, capacity,
            "OpenBLAS: takes this processor for a %s, slow here; set "
            "OPENBLAS_CORETYPE=%s",
            name, wanted);
    else if (corrected != NULL && chosen != NULL)
        snprintf(text, capacity,
            "OpenBLAS: %s (takes this processor for an older one by itself; "
            "corrected)",
            name);
    else
        snprintf(text, capacity, "OpenBLAS: %s", name);
}
