/* SPDX-License-Identifier: Apache-2.0
 * Instruction sets of this processor that kernels may use. */
#ifndef QCPU_CPU_FEATURES_H
#define QCPU_CPU_FEATURES_H

#include "error.h"

enum {
    QCPU_AVX2 = 1,       /* with FMA and F16C */
    QCPU_AVX512 = 2,     /* F, BW, DQ, VL */
    QCPU_AVX512VBMI = 4, /* on top of QCPU_AVX512 */
    QCPU_NEON = 8
};

/* Detected and not masked.  For tests, the environment variable QMOE_CPU names
 * the highest level to use: "portable", "avx2", "avx512", "avx512vbmi" or
 * "neon"; one of another processor masks nothing.  Read once per process. */
unsigned qcpu_features(void);
/* Name of the level in use, one of the above. */
const char *qcpu_level(void);

/* E_INVALID with the known names where QMOE_CPU is none of them. */
qmoe_status qcpu_check_level(qmi_error *err);

#endif
