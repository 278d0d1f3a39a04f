/* SPDX-License-Identifier: Apache-2.0
 * The OpenCL functions this backend uses, found in libOpenCL at run time, and
 * the names of OpenCL's errors. */
#ifndef QOCL_CL_API_H
#define QOCL_CL_API_H

#define CL_TARGET_OPENCL_VERSION 120
#define CL_USE_DEPRECATED_OPENCL_1_2_APIS
#include <CL/cl.h>
#include <stdbool.h>
#include <stddef.h>

#define QOCL_MAP(X)                                                            \
    X(GetPlatformIDs)                                                          \
    X(GetPlatformInfo)                                                         \
    X(GetDeviceIDs)                                                            \
    X(GetDeviceInfo)                                                           \
    X(CreateContext)                                                           \
    X(ReleaseContext)                                                          \
    X(CreateCommandQueue)                                                      \
    X(ReleaseCommandQueue)                                                     \
    X(CreateBuffer)                                                            \
    X(ReleaseMemObject)                                                        \
    X(EnqueueWriteBuffer)                                                      \
    X(EnqueueReadBuffer)                                                       \
    X(EnqueueCopyBuffer)                                                       \
    X(CreateProgramWithSource)                                                 \
    X(CreateProgramWithBinary)                                                 \
    X(BuildProgram)                                                            \
    X(GetProgramInfo)                                                          \
    X(GetProgramBuildInfo)                                                     \
    X(ReleaseProgram)                                                          \
    X(CreateKernel)                                                            \
    X(GetKernelWorkGroupInfo)                                                  \
    X(ReleaseKernel)                                                           \
    X(SetKernelArg)                                                            \
    X(EnqueueNDRangeKernel)                                                    \
    X(Flush)                                                                   \
    X(WaitForEvents)                                                           \
    X(ReleaseEvent)                                                            \
    X(Finish)

typedef struct qocl_api {
#define X(name) __typeof__(&cl##name) name;
    QOCL_MAP(X)
#undef X
} qocl_api;

extern qocl_api qmi_cl;

/* Loads libOpenCL once; false with the reason when there is none. */
bool qocl_load(char *reason, size_t capacity);
/* "CL_OUT_OF_RESOURCES", ...; never NULL. */
const char *qocl_error_name(cl_int status);

#endif
