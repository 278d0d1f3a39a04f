/* SPDX-License-Identifier: Apache-2.0
 * Which stacks are worth the larger of two formats, within a number of bytes. */
#ifndef QMI_ALLOCATE_BITS_H
#define QMI_ALLOCATE_BITS_H

#include "expert_pass.h"

/* The formats to choose from, the smaller first. */

typedef struct qmi_bits_choice {
    int kind;                    /* QMI_WI or QMI_WO */
    double error[QMI_N_SIZES];   /* what each format would cost */
    uint64_t bytes[QMI_N_SIZES]; /* equal for equal kinds, small <= large */
    int size;                    /* out: QMI_SMALL or QMI_LARGE */
} qmi_bits_choice;

/* Sets the sizes that make the sum of errors least while the sum of bytes is
 * at most `budget`, which must be enough for QMI_SMALL everywhere; of equal
 * sums the one of fewer bytes, then the first stacks.  Exact, because stacks
 * of a kind differ in what they gain alone. */
qmoe_status qmi_allocate_bits(
    qmi_bits_choice *stacks, int64_t n, uint64_t budget, qmi_error *err);

#endif
