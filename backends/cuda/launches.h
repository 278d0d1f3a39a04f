/* SPDX-License-Identifier: Apache-2.0
 * Launches on a device: issued one by one, or held back and launched as a
 * graph.  docs/kernels/cuda.md, "Graphs".
 *
 * A *launch run* is what is launched between two points where the host reads,
 * writes or waits.  The first time, its launches are issued immediately and
 * recorded.  While a later run repeats a recorded one (the same kernels, copies
 * and fills in the same order, few of them with other sizes or arguments), it
 * is held back.  If it has repeated all of it when it ends, one graph is
 * launched, in which the differences were replaced.  Where it departs from it,
 * what was held is issued in order and the rest follows directly.  So
 * operations run in the order they were given, before anything the host does
 * later. */
#ifndef QCUDA_LAUNCHES_H
#define QCUDA_LAUNCHES_H

#include "backend.h"
#include "driver.h"

enum {
    QCUDA_MAX_LISTS = 32, /* runs recorded; the least recently used goes */
    QCUDA_MIN_NODES = 4   /* shorter runs are not recorded */
};

typedef struct qcuda_launches qcuda_launches;

/* Nothing recorded.  Graphs are used unless QMOE_CUDA_GRAPHS is "off" now;
 * E_INVALID when that is neither "on" nor "off".  `driver` must outlive it. */
qmoe_status qcuda_launches_create(
    qcuda_launches **out, qdrv_device *driver, qmi_error *err);
/* What is still held is not run.  Accepts NULL. */
void qcuda_launches_destroy(qcuda_launches *launches);

/* Nothing is launched when a grid has no blocks.  `args` is copied; its struct
 * has no padding (args.h), so that equal arguments are equal bytes.  An error
 * may be that of an earlier launch; it names the kernel. */
qmoe_status qcuda_launch(qmi_device *device, const qcuda_entry *kernel,
    qcuda_grid grid, const void *args, qmi_error *err);
qmoe_status qcuda_copy(qmi_device *device, void *dst, const void *src,
    uint64_t n_bytes, qmi_error *err);
qmoe_status qcuda_zero(
    qmi_device *device, void *dst, uint64_t n_bytes, qmi_error *err);

/* Ends the run: the driver has all that was launched, in order.
 * Before every read, write and wait of the host. */
qmoe_status qcuda_end_run(qmi_device *device, qmi_error *err);
/* The same in the middle of a run, for an operation that gives the driver work
 * itself (a library's call).  What follows is issued immediately, and the run
 * is not recorded, since a graph could not hold all of it. */
qmoe_status qcuda_flush(qmi_device *device, qmi_error *err);
/* The same where nobody can be told of an error: the next call of any function
 * above fails with it. */
void qcuda_flush_quietly(qmi_device *device);

void qcuda_launch_counts(const qmi_device *device, qmi_launch_counts *out);

#endif
