/* SPDX-License-Identifier: Apache-2.0
 * Arguments and launches of kernels.  In: a kernel, its arguments in order,
 * global sizes.  Out: the launch in the queue, cut where it would be long.  The
 * first error of an argument is kept and told at the launch.  `queued_seconds`
 * estimates what the device may still be doing; it is bounded, so that a wish
 * to end early is heard in time. */
#include "qocl_device.h"

#include <stdio.h>
#include <stdlib.h>

#include "cancel.h"
#include "clock.h"

/* A device is given this much before it is waited for: a wish to end early is
 * heard in time, and waiting costs little beside it. */
static const double portion_seconds = 0.02;

static const char *const base_names[] = {
#define X(name) #name,
    QOCL_BASE_KERNELS(X)};
static const char *const gemm_names[] = {QOCL_GEMM_KERNELS(X)};
static const char *const format_names[] = {QOCL_FORMAT_KERNELS(X)};
#undef X

qocl_call qocl_begin(qmi_device *device, int program, int kernel)
{
    return (qocl_call){
        .device = device,
        .kernel = device->programs[program].kernels[kernel],
        .unit_seconds = &device->programs[program].unit_seconds[kernel],
        .depth = 1,
        .name = program == QOCL_BASE_PROGRAM   ? base_names[kernel]
                : program == QOCL_GEMM_PROGRAM ? gemm_names[kernel]
                                               : format_names[kernel],
    };
}

static void set(qocl_call *call, const void *value, size_t size)
{
    cl_int status = qmi_cl.SetKernelArg(call->kernel, call->n++, size, value);
    /* Later errors follow from the first. */
    if (call->status == CL_SUCCESS)
        call->status = status;
}

void qocl_arg_int(qocl_call *call, int64_t value)
{
    const cl_int narrow = (cl_int)value;
    set(call, &narrow, sizeof narrow);
}

void qocl_arg_uint(qocl_call *call, uint32_t value)
{
    set(call, &value, sizeof value);
}

void qocl_arg_ulong(qocl_call *call, cl_ulong value)
{
    set(call, &value, sizeof value);
}

void qocl_arg_float(qocl_call *call, float value)
{
    set(call, &value, sizeof value);
}

void qocl_arg_mem(qocl_call *call, cl_mem mem)
{
    if (mem == NULL)
        /* A kernel's argument must be a buffer, even where it reads none. */
        mem = call->device->dummy;
    set(call, &mem, sizeof mem);
}

void qocl_arg_view(qocl_call *call, qmi_view view)
{
    qocl_arg_mem(call, view.buffer != NULL ? view.buffer->mem : NULL);
    /* Kernels count elements of 4 bytes. */
    qocl_arg_ulong(call, view.offset / 4);
}

void qocl_arg_vector(qocl_call *call, const qmi_bound_weight *weight)
{
    const qocl_weight *w = weight != NULL ? weight->device : NULL;
    qocl_arg_mem(call, w != NULL ? w->vector : NULL);
    qocl_arg_int(call, w != NULL);
}

/* ---- portions ---- */

static double estimate(const qocl_call *call, int64_t n_items)
{
    return *call->unit_seconds * (double)n_items * (double)call->depth;
}

/* Rows of y to enqueue next.  One, when nothing is known of the kernel. */
static int64_t portion_rows(const qocl_call *call, int64_t row_items, int64_t y)
{
    /* 0: never measured on this device. */
    const double row_seconds = estimate(call, row_items);
    if (row_seconds <= 0)
        return 1;
    const double n = portion_seconds / row_seconds;
    if (n >= (double)y)
        return y;
    return n >= 1 ? (int64_t)n : 1;
}

/* Waits for the queue, and learns how fast the kernel is that came last. */
static qmoe_status settle(qocl_call *call, int64_t n_items, qmi_error *err)
{
    qmi_device *device = call->device;
    /* What else is in the queue was estimated when it came. */
    const double others = device->queued_seconds - estimate(call, n_items);
    const cl_int status = qmi_cl.Finish(device->queue);
    if (status != CL_SUCCESS)
        return qocl_fail(device, "clFinish", status, err);
    const double taken = qmi_seconds() - device->queued_since;
    const double own = taken - others;
    /* Estimates of the others may be off: at least a part is its own. */
    *call->unit_seconds = (own > taken / 16 ? own : taken / 16) /
                          ((double)n_items * (double)call->depth);
    device->queued_seconds = 0;
    return qmi_check_cancel(err);
}

/* Tests of which kernels ran set QMOE_OPENCL_LAUNCHES, for their build
 * alone. */
static void tell_launch(const qocl_call *call)
{
#ifdef QMOE_OPENCL_BREAK
    if (getenv("QMOE_OPENCL_LAUNCHES") != NULL)
        fprintf(stderr, "launched kernel '%s'\n", call->name);
#else
    (void)call;
#endif
}

static cl_int enqueue(qocl_call *call, const size_t locals[3], int64_t first_y,
    const size_t globals[3], bool is_last)
{
    const size_t first[3] = {0, (size_t)first_y, 0};
    qmi_device *device = call->device;
    /* The queue was empty: its time begins here. */
    if (device->queued_seconds == 0)
        device->queued_since = qmi_seconds();
    /* Only the last portion's end is the end of the launch. */
    return qmi_cl.EnqueueNDRangeKernel(device->queue, call->kernel, 3, first,
        globals, locals, call->after != NULL,
        call->after != NULL ? &call->after : NULL,
        is_last ? call->finish : NULL);
}

/* Enqueues rows [first_y, + n) and waits when that makes the queue long, or
 * when the kernel's speed is not known. */
static qmoe_status run_portion(qocl_call *call, const size_t locals[3],
    int64_t first_y, const size_t globals[3], bool is_last, qmi_error *err)
{
    qmi_device *device = call->device;
    const int64_t n_items = (int64_t)(globals[0] * globals[1] * globals[2]);
    const bool is_known = *call->unit_seconds > 0;
    /* Not known: this portion is waited for, so that the next can be
     * estimated. */
    const cl_int status = enqueue(call, locals, first_y, globals, is_last);
    if (status != CL_SUCCESS) {
        char what[64];
        snprintf(what, sizeof what, "kernel %s", call->name);
        return qocl_fail(device, what, status, err);
    }
    device->queued_seconds += estimate(call, n_items);
    if (is_known && device->queued_seconds < portion_seconds)
        return QMOE_OK;
    return settle(call, n_items, err);
}

qmoe_status qocl_run(qocl_call *call, int64_t local, int64_t x, int64_t y,
    int64_t z, qmi_error *err)
{
    /* OpenCL refuses empty ranges; no items is no work. */
    if (x <= 0 || y <= 0 || z <= 0)
        return QMOE_OK;
    const size_t locals[3] = {(size_t)local, 1, 1};
    size_t globals[3] = {
        (size_t)((x + local - 1) / local * local), (size_t)y, (size_t)z};
    if ((uint64_t)local > call->device->limits.max_group)
        return qmi_fail(err, QMOE_E_DEVICE,
            "OpenCL device '%s': kernel %s needs groups of %lld work-items, "
            "there are %zu",
            call->device->name, call->name, (long long)local,
            call->device->limits.max_group);
    /* Arguments have been set before; the launch is where it is told. */
    if (call->status != CL_SUCCESS)
        return qocl_fail(call->device, call->name, call->status, err);
    /* Along y: kernels take their row from the global id, so a cut changes no
     * bit. */
    for (int64_t begin = 0, n; begin < y; begin += n) {
        n = portion_rows(call, (int64_t)(globals[0] * globals[2]), y - begin);
        globals[1] = (size_t)n;
        tell_launch(call);
        QMI_TRY(run_portion(
            call, locals, call->first_y + begin, globals, begin + n == y, err));
    }
    return QMOE_OK;
}

void qocl_arg_chunk_place(qocl_call *call, const qocl_chunk *chunk)
{
    qocl_arg_int(call, chunk->first_mat);
    qocl_arg_int(call, chunk->n_mats);
    qocl_arg_int(call, chunk->first_row);
    qocl_arg_int(call, chunk->n_rows);
}

void qocl_arg_chunk_parts(
    qocl_call *call, const qocl_weight *weight, const qocl_chunk *chunk)
{
    /* A format's parts come first in its kernels' arguments; what others have
     * is left out. */
    for (int i = 0; i < QMI_MAX_PARTS && chunk->parts[i] != NULL; i++)
        qocl_arg_mem(call, chunk->parts[i]);
    if (weight->dict != NULL)
        qocl_arg_mem(call, weight->dict);
    if (weight->tile_bytes != 0)
        qocl_arg_ulong(call, weight->tile_bytes);
}
