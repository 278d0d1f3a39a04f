/* SPDX-License-Identifier: Apache-2.0
 * Arguments and launches of kernels. */
#include "opencl.h"

#include <stdio.h>

static const char *const base_names[] = {
#define X(name) #name,
    QMI_CL_BASE_KERNELS(X)};
static const char *const gemm_names[] = {QMI_CL_GEMM_KERNELS(X)};
static const char *const format_names[] = {QMI_CL_FORMAT_KERNELS(X)};
#undef X

ocl_call ocl_begin(qmi_device *device, int program, int kernel)
{
    return (ocl_call){
        .device = device,
        .kernel = device->programs[program].kernels[kernel],
        .name = program == OCL_BASE_PROGRAM   ? base_names[kernel]
                : program == OCL_GEMM_PROGRAM ? gemm_names[kernel]
                                              : format_names[kernel],
    };
}

static void set(ocl_call *call, const void *value, size_t size)
{
    cl_int status = qmi_cl.SetKernelArg(call->kernel, call->n++, size, value);
    if (call->status == CL_SUCCESS)
        call->status = status;
}

void ocl_arg_int(ocl_call *call, int64_t value)
{
    const cl_int narrow = (cl_int)value;
    set(call, &narrow, sizeof narrow);
}

void ocl_arg_uint(ocl_call *call, uint32_t value)
{
    set(call, &value, sizeof value);
}

void ocl_arg_ulong(ocl_call *call, cl_ulong value)
{
    set(call, &value, sizeof value);
}

void ocl_arg_float(ocl_call *call, float value)
{
    set(call, &value, sizeof value);
}

void ocl_arg_mem(ocl_call *call, cl_mem mem)
{
    if (mem == NULL)
        mem = call->device->dummy;
    set(call, &mem, sizeof mem);
}

void ocl_arg_view(ocl_call *call, qmi_view view)
{
    ocl_arg_mem(call, view.buffer != NULL ? view.buffer->mem : NULL);
    ocl_arg_ulong(call, view.offset / 4);
}

qmoe_status ocl_run(ocl_call *call, int64_t local, int64_t x, int64_t y,
    int64_t z, qmi_error *err)
{
    if (x <= 0 || y <= 0 || z <= 0)
        return QMOE_OK;
    const size_t locals[3] = {(size_t)local, 1, 1};
    const size_t globals[3] = {
        (size_t)((x + local - 1) / local * local), (size_t)y, (size_t)z};
    const size_t first[3] = {0, (size_t)call->first_y, 0};
    cl_int status = call->status;
    if ((uint64_t)local > call->device->limits.max_group)
        return qmi_fail(err, QMOE_E_DEVICE,
            "OpenCL device '%s': kernel %s needs groups of %lld work-items, "
            "there are %zu",
            call->device->name, call->name, (long long)local,
            call->device->limits.max_group);
    if (status == CL_SUCCESS)
        status = qmi_cl.EnqueueNDRangeKernel(call->device->queue, call->kernel,
            3, first, globals, locals, call->after != NULL,
            call->after != NULL ? &call->after : NULL, call->finish);
    if (status == CL_SUCCESS)
        return QMOE_OK;
    char what[64];
    snprintf(what, sizeof what, "kernel %s", call->name);
    return ocl_fail(call->device, what, status, err);
}

void ocl_arg_chunk_place(ocl_call *call, const ocl_chunk *chunk)
{
    ocl_arg_int(call, chunk->first_mat);
    ocl_arg_int(call, chunk->n_mats);
    ocl_arg_int(call, chunk->first_row);
    ocl_arg_int(call, chunk->n_rows);
}

void ocl_arg_chunk_parts(
    ocl_call *call, const ocl_weight *weight, const ocl_chunk *chunk)
{
    for (int i = 0; i < QMI_MAX_PARTS && chunk->parts[i] != NULL; i++)
        ocl_arg_mem(call, chunk->parts[i]);
    if (weight->format == OCL_TERNARY_DICT)
        ocl_arg_mem(call, weight->dict);
    if (weight->format == OCL_PVQ || weight->format == OCL_PVQ8)
        ocl_arg_ulong(call, weight->tile_bytes);
}
