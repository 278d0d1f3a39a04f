/* SPDX-License-Identifier: Apache-2.0
 * What the parts of driver.h by the CUDA runtime share. */
#ifndef QCUDA_DRIVER_CUDA_H
#define QCUDA_DRIVER_CUDA_H

#include "driver.h"
#include "driver_cublas.h"

#include <cuda_runtime_api.h>

enum { N_STAGING = 2, MAX_LARGE = 8 };

struct qdrv_device {
    int number;
    cudaStream_t stream;
    /* Pinned; the block being filled, and how far. */
    void *staging[N_STAGING];
    int filling;
    size_t filled;
    cudaEvent_t sent[N_STAGING]; /* staging[i] may be filled again */
    /* Kernels that were allowed all the shared memory a block may have. */
    const void *large[MAX_LARGE];
    int n_large;
    qcublas *cublas; /* NULL before it is needed */
    bool asked_cublas;
};

/* NULL for success. */
static inline const char *text_of(cudaError_t status)
{
    return status == cudaSuccess ? NULL : cudaGetErrorString(status);
}

/* Every entry point may be called from another thread than the last. */
static inline cudaError_t enter(const qdrv_device *d)
{
    return cudaSetDevice(d->number);
}

/* Before a kernel is launched or put into a graph with so much shared memory. */
cudaError_t qdrv_allow_shared(
    qdrv_device *device, const qcuda_entry *kernel, uint32_t n_bytes);

#endif
