/* SPDX-License-Identifier: Apache-2.0
 * Which stacks are worth the larger of two formats, within a number of bytes. */
#ifndef QMI_ALLOCATE_BITS_H
#define QMI_ALLOCATE_BITS_H

#include "expert_pass.h"

/* The formats to choose from, the smaller first. */

typedef struct qmi_bits_choice {
    double error[QMI_N_SIZES];   /* what each format would cost */
    uint64_t bytes[QMI_N_SIZES]; /* small <= large */
    int size;                    /* out: QMI_SMALL or QMI_LARGE */
} qmi_bits_choice;

/* Sets the sizes that make the sum of errors least while the sum of bytes is
 * at most `budget`, which must be enough for QMI_SMALL everywhere; of equal
 * sums the one of fewer bytes, then the first stacks.  Exact, because stacks
 * of equal bytes differ in what they gain alone.  E_UNSUPPORTED: there are more
 * than QMI_MAX_STACK_SIZES different pairs of bytes. */
enum { QMI_MAX_STACK_SIZES = 4 };
qmoe_status qmi_allocate_bits(
    qmi_bits_choice *stacks, int64_t n, uint64_t budget, qmi_error *err);

#endif
