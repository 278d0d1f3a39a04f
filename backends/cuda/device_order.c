/* SPDX-License-Identifier: Apache-2.0
 * In: what is known of each device.  Out: the driver's numbers in our order:
 * the best first, the rest as the driver has them.  Only the default moves, so
 * that other numbers mean what they mean elsewhere. */
#include "device_order.h"

static bool is_better(const qcuda_candidate *a, const qcuda_candidate *b)
{
    if (a->usable != b->usable)
        return a->usable;
    return a->free_bytes > b->free_bytes;
}

/* Of equals the first stays the best. */
void qcuda_order_devices(int *order, const qcuda_candidate *candidates, int n)
{
    int best = 0, at = 1;
    for (int i = 1; i < n; i++)
        if (is_better(&candidates[i], &candidates[best]))
            best = i;
    for (int i = 0; i < n; i++)
        order[i == best ? 0 : at++] = candidates[i].number;
}
