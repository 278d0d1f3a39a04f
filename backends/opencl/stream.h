/* SPDX-License-Identifier: Apache-2.0
 * Experts that do not all fit the device: matrices of streamed stacks are
 * uploaded when they are needed and stay until the memory is wanted, least
 * recently used first.  Uploads go through a queue of their own while kernels
 * work on what is there; every kernel waits for its matrix by an event, and a
 * matrix is given up when the last kernel that reads it has ended, so that the
 * device's memory never holds more than its limit. */
#ifndef QMI_OPENCL_STREAM_H
#define QMI_OPENCL_STREAM_H

#include "qocl_device.h"

/* NULL when there is no memory. */
ocl_entry *ocl_entries_create(size_t n, qmi_error *err);
/* Waits for what still reads them. */
void ocl_entries_destroy(qmi_device *device, ocl_entry *entries, size_t n);

/* Gives up the matrix not used for the longest time; *evicted false when there
 * is none that could be. */
qmoe_status ocl_evict(qmi_device *device, bool *evicted, qmi_error *err);

/* A matrix of a streamed stack that a kernel is to read.  All uses of phase 0
 * are launched before those of phase 1. */
typedef struct ocl_use {
    const qmi_bound_weight *weight;
    int64_t mat, first_tile, n_tiles;
    int phase;
} ocl_use;

/* Enqueues what reads `use`: `chunk` holds the matrix alone.  Its last kernel
 * has to wait for `after` and set *finish, as ocl_call does. */
typedef qmoe_status (*ocl_launch_use)(void *user, const ocl_use *use,
    const ocl_chunk *chunk, cl_event after, cl_event *finish, qmi_error *err);

/* Launches all uses: those whose matrix is there first, uploads begun as early
 * as the memory allows.  `uses` is reordered within its phases. */
qmoe_status ocl_stream(qmi_device *device, ocl_use *uses, size_t n,
    ocl_launch_use launch, void *user, qmi_error *err);

#endif
