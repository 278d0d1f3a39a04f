/* SPDX-License-Identifier: Apache-2.0
 * Detection of instruction sets (cpu_features.h).  In: the processor, and
 * QMOE_CPU.  Out: the features that kernels may use, fixed at the first
 * question.  Levels contain each other, so masking is a cut in the table
 * below. */
#include "cpu_features.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct level {
    const char *name;
    unsigned features; /* of this level and those below */
} level;

/* Those of other processors are names to mask with, too. */
static const level levels[] = {
    {"portable", 0},
    {"avx2", QMI_CPU_AVX2},
    {"avx512", QMI_CPU_AVX2 | QMI_CPU_AVX512},
    {"avx512vbmi", QMI_CPU_AVX2 | QMI_CPU_AVX512 | QMI_CPU_AVX512VBMI},
    {"neon", QMI_CPU_NEON},
};

enum { N_LEVELS = sizeof levels / sizeof *levels };

/* Kernels are chosen once per process: all devices compute alike. */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static const level *used;

static unsigned detect(void)
{
    unsigned found = 0;
#if defined(__x86_64__)
    /* The compiler's own test: it asks the system about the registers, too. */
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        found |= QMI_CPU_AVX2;
    if (__builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        found |= QMI_CPU_AVX512;
    if (__builtin_cpu_supports("avx512vbmi") &&
        __builtin_cpu_supports("avx512vbmi2") &&
        __builtin_cpu_supports("avx512vnni"))
        found |= QMI_CPU_AVX512VBMI;
#elif defined(__aarch64__)
    found |= QMI_CPU_NEON; /* part of the architecture */
#endif
    return found;
}

/* The best level found up to the limit.  Names of another processor's levels,
 * and unknown ones, limit nothing here; qmi_cpu_check_level has refused the
 * unknown. */
static void choose(void)
{
    const char *limit = getenv("QMOE_CPU");
    unsigned found = detect();
    used = &levels[0];
    for (int i = 0; i < N_LEVELS; i++) {
        if ((levels[i].features & ~found) == 0)
            used = &levels[i];
        if (limit != NULL && strcmp(limit, levels[i].name) == 0)
            break;
    }
}

/* Asked by every opening of a device, since choose() cannot fail. */
qmoe_status qmi_cpu_check_level(qmi_error *err)
{
    const char *limit = getenv("QMOE_CPU");
    char known[128] = "";
    if (limit == NULL)
        return QMOE_OK;
    for (int i = 0; i < N_LEVELS; i++) {
        const size_t n = strlen(known);
        if (strcmp(limit, levels[i].name) == 0)
            return QMOE_OK;
        snprintf(known + n, sizeof known - n, "%s%s", i != 0 ? ", " : "",
            levels[i].name);
    }
    return qmi_fail(err, QMOE_E_INVALID,
        "QMOE_CPU: '%.40s' is not one of the instruction sets %s", limit,
        known);
}

unsigned qmi_cpu_features(void)
{
    pthread_once(&once, choose);
    return used->features;
}

const char *qmi_cpu_level(void)
{
    pthread_once(&once, choose);
    return used->name;
}
