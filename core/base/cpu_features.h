/* SPDX-License-Identifier: Apache-2.0
 * Instruction sets of this processor that kernels may use. */
#ifndef QMI_CPU_FEATURES_H
#define QMI_CPU_FEATURES_H

#include "error.h"

enum {
    QMI_CPU_AVX2 = 1,       /* with FMA and F16C */
    QMI_CPU_AVX512 = 2,     /* F, BW, DQ, VL */
    QMI_CPU_AVX512VBMI = 4, /* with VBMI2 and VNNI, on top of AVX512 */
    QMI_CPU_NEON = 8
};

/* Detected and not masked.  For tests, the environment variable QMOE_CPU names
 * the highest level to use: "portable", "avx2", "avx512", "avx512vbmi" or
 * "neon"; one of another processor masks nothing.  Read once per process. */
unsigned qmi_cpu_features(void);
/* Name of the level in use, one of the above. */
const char *qmi_cpu_level(void);

/* E_INVALID with the known names where QMOE_CPU is none of them. */
qmoe_status qmi_cpu_check_level(qmi_error *err);

#endif
