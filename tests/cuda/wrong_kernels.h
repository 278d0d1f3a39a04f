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
    TOY_BLOCKS_RACE,
    TOY_MISALIGNED, /* a vector at an odd word */
    TOY_SHIFT,      /* by 32 */
    TOY_OVERFLOW    /* of a signed product */
};

/* What a block does before the last one adds up all blocks' sums. */
enum {
    SUM_RIGHT,
    SUM_NO_RELEASE,  /* adds without a fence */
    SUM_EARLY_FENCE, /* fences before the barrier only */
    SUM_NO_ACQUIRE,  /* reads without a fence */
    SUM_LATE_FENCE   /* each thread fences, but not the one that added */
};

extern "C" const qcuda_entry qcuda_kernel_toy;
/* dst[0]: the sum of src; dst[1 + block]: the blocks' own; the word behind
 * counts. */
extern "C" const qcuda_entry qcuda_kernel_toy_sum;
/* a [16, 16] times b [16, 8] by one mma, all integers -3..3; dst [16, 8]. */
extern "C" const qcuda_entry qcuda_kernel_toy_mma;
/* One mma of fragments as they are: src [32 lanes, 4 + 2 registers], dst
 * [32, 4]. */
extern "C" const qcuda_entry qcuda_kernel_toy_fragments;

#endif
