/* SPDX-License-Identifier: Apache-2.0 */
#include "toy_steps.h"

#include "kernels/device.cuh"

DEVICE void toy_run(const toy_step_args &p, uint32_t factor)
{
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (p.fails != 0 && threadIdx.x < 16)
        __syncthreads();
    p.dst[i] = factor * p.dst[i] + p.src[i] + p.add;
}

QCUDA_KERNEL(toy_step, toy_step_args, 32, 1)
{
    toy_run(p, 3);
}

QCUDA_KERNEL(toy_other, toy_step_args, 32, 1)
{
    toy_run(p, 5);
}

QCUDA_KERNEL(toy_wide, toy_wide_args, 32, 1)
{
    toy_run(p.step, 3);
}
