/* SPDX-License-Identifier: Apache-2.0
 * Experts that do not all fit the device: matrices of streamed stacks are
 * uploaded when they are needed and stay until the memory is wanted, least
 * recently used first.  Uploads go through a queue of their own while kernels
 * work on what is there; every kernel waits for its matrix by an event, and a
 * matrix is given up when the last kernel that reads it has ended, so that the
 * device's memory never holds more than its limit. */
#ifndef QOCL_STREAM_H
#define QOCL_STREAM_H

#include "qocl_device.h"

/* NULL when there is no memory. */
qocl_entry *qocl_entries_create(size_t n, qmi_error *err);
/* Waits for what still reads them. */
void qocl_entries_destroy(qmi_device *device, qocl_entry *entries, size_t n);

/* Gives up the matrix not used for the longest time; *evicted false when there
 * is none that could be. */
qmoe_status qocl_evict(qmi_device *device, bool *evicted, qmi_error *err);

/* A matrix of a streamed stack that a kernel is to read.  All uses of a phase
 * are launched before those of the next. */
typedef struct qocl_use {
    const qmi_bound_weight *weight;
    int64_t mat, first_tile, n_tiles;
    int phase;
} qocl_use;

/* Enqueues what reads `use`: `chunk` holds the matrix alone.  Its last kernel
 * has to wait for `after` and set *finish, as qocl_call does. */
typedef qmoe_status (*qocl_launch_use)(void *user, const qocl_use *use,
    const qocl_chunk *chunk, cl_event after, cl_event *finish, qmi_error *err);

/* Launches all uses: those whose matrix is there first, uploads begun as early
 * as the memory allows.  `uses` is reordered within its phases. */
qmoe_status qocl_stream(qmi_device *device, qocl_use *uses, size_t n,
    qocl_launch_use launch, void *user, qmi_error *err);

#endif
