/* SPDX-License-Identifier: Apache-2.0
 * Long operations in portions.  A launch cannot be interrupted, nor can what
 * waits behind it, so an operation of many items is cut into launches of
 * bounded work, and the host does not run ahead of the device by more than a
 * portion: the wish to end early (core/base/cancel.h) is seen in between.  What
 * a portion is depends on shape and device alone. */
#ifndef QCUDA_PORTIONS_H
#define QCUDA_PORTIONS_H

#include "backend.h"

/* Operations of up to so many items are neither cut nor counted: decode steps,
 * whose launches are held back for a graph. */
enum { QCUDA_STEP_ITEMS = 128 };

typedef struct qcuda_work {
    int64_t n_items; /* tokens, queries, pairs of token and choice */
    int64_t n_units; /* what it can be cut into, of about equal cost */
    double cost;     /* of all, in multiplications of a product */
} qcuda_work;

/* Call before launching units from `first` on: *n of them, at least one, may be
 * launched.  Waits for the device if it was given a portion since it was last
 * waited for.  E_CANCELLED: nothing more is launched. */
qmoe_status qcuda_begin_portion(int64_t *n, qmi_device *device,
    const qcuda_work *work, int64_t first, qmi_error *err);

/* All that the driver was given is done. */
qmoe_status qcuda_wait(qmi_device *device, qmi_error *err);

#endif
