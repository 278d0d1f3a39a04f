/* SPDX-License-Identifier: Apache-2.0 */
#ifndef QMOE_WRONG_KERNELS_H
#define QMOE_WRONG_KERNELS_H

#include "driver.h"

typedef struct toy_args {
    float *dst;       /* [threads of all blocks] */
    const float *src; /* the same */
    int mode;
} toy_args;

/* What toy_args.mode makes the kernel do. */
enum {
    TOY_RIGHT, /* reverses src within each block, then sums over warps */
    TOY_NO_BARRIER,
    TOY_UNWRITTEN_SHARED,
    TOY_HALF_A_BARRIER,
    TOY_MISSING_LANES,
    TOY_TWO_PLACES, /* lanes of a warp at different shuffles */
    TOY_EARLY_RETURN,
    TOY_PAST_SHARED,
    TOY_PAST_BUFFER,
    TOY_BLOCKS_RACE
};

extern "C" const qcuda_entry qcuda_kernel_toy;
/* a [16, 16] times b [16, 8] by one mma, all integers -3..3; dst [16, 8]. */
extern "C" const qcuda_entry qcuda_kernel_toy_mma;

#endif
