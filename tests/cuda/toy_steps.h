/* SPDX-License-Identifier: Apache-2.0
 * Kernels whose results tell in which order and with what they ran. */
#ifndef QMOE_TOY_STEPS_H
#define QMOE_TOY_STEPS_H

#include "driver.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { TOY_THREADS = 32 };

/* dst[i] = 3 dst[i] + src[i] + add, all modulo 2^32, by a thread each. */
typedef struct toy_step_args {
    uint32_t *dst;
    const uint32_t *src;
    uint32_t add;
    uint32_t fails; /* the emulator finds an error in it */
} toy_step_args;

/* More arguments than are noted. */
typedef struct toy_wide_args {
    toy_step_args step;
    uint64_t unused[64];
} toy_wide_args;

extern const qcuda_entry qcuda_kernel_toy_step;
/* The same with 5 in place of 3. */
extern const qcuda_entry qcuda_kernel_toy_other;
/* toy_step. */
extern const qcuda_entry qcuda_kernel_toy_wide;

#ifdef __cplusplus
}
#endif

#endif
