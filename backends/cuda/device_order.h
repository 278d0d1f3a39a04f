/* SPDX-License-Identifier: Apache-2.0
 * Numbering of devices: number 0, the default, is the one with the most free
 * memory; the others follow in the driver's order. */
#ifndef QCUDA_DEVICE_ORDER_H
#define QCUDA_DEVICE_ORDER_H

#include <stdbool.h>
#include <stdint.h>

typedef struct qcuda_candidate {
    int number; /* the driver's */
    bool usable;
    uint64_t free_bytes;
} qcuda_candidate;

/* order [n]: the driver's numbers.  Of equals the first leads. */
void qcuda_order_devices(int *order, const qcuda_candidate *candidates, int n);

#endif
